//! The backend client against a real HTTP process that answers in every way a backend can.

use httvps_gateway::backend::{
    AssignOutlineResult, BackendClient, BackendError, BackendSettings, ValidateDeviceResult,
};
use httvps_gateway::config::Secret;
use httvps_gateway::metrics::Metrics;
use httvps_testkit::backend::{Answer, ScriptedBackend};
use std::time::{Duration, Instant};

/// Long enough for a loopback call on a busy machine; the slow answer is far slower.
const TIMEOUT: Duration = Duration::from_secs(2);

fn settings(url: String) -> BackendSettings {
    BackendSettings {
        base_url: url,
        timeout: TIMEOUT,
        secret: None,
        max_concurrent: 8,
        max_body: 64 * 1024,
        breaker_failures: 0,
        breaker_cooldown: Duration::from_secs(1),
        ca_path: None,
    }
}

fn client(settings: &BackendSettings) -> BackendClient {
    BackendClient::new(settings, Metrics::new()).expect("the settings are sound")
}

/// A handshake deadline that does not matter here.
fn far() -> Instant {
    Instant::now() + TIMEOUT * 30
}

async fn ask(client: &BackendClient, device: &str) -> Result<ValidateDeviceResult, BackendError> {
    client.validate_device(device, "tok", far()).await
}

#[tokio::test]
async fn only_a_clear_yes_lets_a_device_in_and_every_failure_has_its_code() {
    let backend = ScriptedBackend::start(Answer::Allow).await;
    let client = client(&settings(backend.url()));
    let allowed = ask(&client, "dev").await.unwrap();
    assert!(allowed.allowed);
    assert_eq!(allowed.user_id.as_deref(), Some("7"));

    for wrapped in [false, true] {
        backend.set(Answer::Refuse403 { reason: "invalid_token".into(), wrapped });
        let refused = ask(&client, "dev").await.unwrap();
        assert!(!refused.allowed);
        assert_eq!(refused.reason.as_deref(), Some("invalid_token"));
    }
    backend.set(Answer::Allowed200False);
    assert!(!ask(&client, "dev").await.unwrap().allowed);

    for (answer, code) in [
        (Answer::Status(500), "http_5xx"),
        (Answer::Status(401), "http_4xx"),
        (Answer::Status(204), "http_other"),
        (Answer::Redirect, "http_3xx"),
        (Answer::Garbage, "bad_body"),
        (Answer::Huge, "body_too_large"),
        (Answer::ResetConnection, "broken"),
        (Answer::CloseWithoutAnswer, "broken"),
        (Answer::Raw(b"SSH-2.0-OpenSSH\r\n".to_vec()), "broken"),
        (Answer::Slow(TIMEOUT * 30), "timeout"),
    ] {
        backend.set(answer.clone());
        let error = ask(&client, "dev").await.unwrap_err();
        assert_eq!(error.code(), code, "{answer:?}");
    }
    backend.set(Answer::Allow);
    assert!(ask(&client, "dev").await.unwrap().allowed, "it recovers by itself");
}

#[tokio::test]
async fn a_backend_that_is_gone_is_unreachable_and_found_again() {
    let backend = ScriptedBackend::start(Answer::Allow).await;
    let client = client(&settings(backend.url()));
    let address = backend.stop().await;
    let error = ask(&client, "dev").await.unwrap_err();
    assert_eq!(error, BackendError::Unreachable);
    let _backend = ScriptedBackend::start_on(address, Answer::Allow).await;
    assert!(ask(&client, "dev").await.unwrap().allowed);
}

#[tokio::test]
async fn the_request_is_the_one_of_the_founding_page() {
    let backend = ScriptedBackend::start(Answer::Allow).await;
    let mut settings = settings(format!("{}/prefix/", backend.url()));
    settings.secret = Some(Secret::new("s3cret".into()));
    // This backend knows only the founding path; what counts is what was asked.
    let _ = client(&settings).validate_device("dev-1", "to\"ken", far()).await;
    let request = backend.requests().remove(0);
    assert_eq!(request.method, "POST");
    assert_eq!(request.path, "/prefix/api/v1/auth/validate-device");
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("X-Internal-Secret"), Some("s3cret"));
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body, serde_json::json!({"device_id": "dev-1", "token": "to\"ken"}));
}

#[tokio::test]
async fn an_open_breaker_spares_the_backend_and_still_lets_nobody_in() {
    let backend = ScriptedBackend::start(Answer::Status(503)).await;
    let mut settings = settings(backend.url());
    settings.breaker_failures = 3;
    settings.breaker_cooldown = Duration::from_hours(1);
    let client = client(&settings);
    for _ in 0..3 {
        let error = ask(&client, "dev").await.unwrap_err();
        assert_eq!(error, BackendError::Status(503));
    }
    backend.set(Answer::Allow);
    let error = ask(&client, "dev").await.unwrap_err();
    assert_eq!(error, BackendError::CircuitOpen);
    assert_eq!(backend.request_count(), 3, "the fourth was not sent");
}

#[tokio::test]
async fn one_slow_call_holds_up_nobody_else() {
    let backend = ScriptedBackend::start(Answer::Slow(TIMEOUT * 30)).await;
    let client = std::sync::Arc::new(client(&settings(backend.url())));
    let slow = tokio::spawn({
        let client = client.clone();
        async move { ask(&client, "slow").await }
    });
    backend.wait_for_requests(1).await;
    backend.set(Answer::Allow);
    assert!(ask(&client, "quick").await.unwrap().allowed);
    assert_eq!(slow.await.unwrap().unwrap_err(), BackendError::Timeout);
}

#[tokio::test]
async fn answers_that_a_client_can_provoke_do_not_open_the_breaker() {
    let backend = ScriptedBackend::start(Answer::Status(422)).await;
    let mut settings = settings(backend.url());
    settings.breaker_failures = 2;
    let client = client(&settings);
    for _ in 0..5 {
        assert_eq!(ask(&client, "dev").await.unwrap_err(), BackendError::Status(422));
    }
    assert_eq!(backend.request_count(), 5, "every one was asked");
}

#[tokio::test]
async fn the_deadline_of_the_handshake_ends_a_call_and_is_counted() {
    let backend = ScriptedBackend::start(Answer::Slow(TIMEOUT * 30)).await;
    let metrics = Metrics::new();
    let client = BackendClient::new(&settings(backend.url()), metrics.clone()).unwrap();
    let error = client.validate_device("dev", "tok", Instant::now()).await.unwrap_err();
    assert_eq!(error, BackendError::Timeout);
    let (_, text) = metrics.encode(None);
    assert!(text.contains("httvps_gateway_backend_errors_total{code=\"timeout\"} 1"), "{text}");
}

#[tokio::test]
async fn an_assignment_has_the_bounds_of_a_verdict_and_a_breaker_of_its_own() {
    let node = r#"{"node_id":"n","host":"h","port":1,"password":"p"}"#;
    let raw = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{node}", node.len());
    let backend = ScriptedBackend::start(Answer::Raw(raw.into_bytes())).await;
    let mut settings = settings(backend.url());
    settings.breaker_failures = 2;
    settings.breaker_cooldown = TIMEOUT * 30;
    let client = client(&settings);
    let assign = async || client.assign_outline("dev", Some("eu"), far()).await;
    let given = assign().await.unwrap();
    assert!(matches!(given, AssignOutlineResult::Node(node) if node.node_id == "n"));
    let asked = String::from_utf8(backend.requests()[0].body.clone()).unwrap();
    assert_eq!(asked, r#"{"device_id":"dev","region_code":"eu"}"#);

    backend.set(Answer::Allow);
    assert!(matches!(assign().await.unwrap(), AssignOutlineResult::NoneAvailable));
    for (answer, code) in [
        (Answer::Status(404), "http_4xx"),
        (Answer::Garbage, "bad_body"),
        (Answer::Huge, "body_too_large"),
        (Answer::Redirect, "http_3xx"),
        (Answer::Status(500), "http_5xx"),
        (Answer::CloseWithoutAnswer, "broken"),
    ] {
        backend.set(answer);
        assert_eq!(assign().await.unwrap_err().code(), code);
    }
    backend.set(Answer::Allow);
    assert_eq!(assign().await.unwrap_err(), BackendError::CircuitOpen);
    assert!(ask(&client, "dev").await.unwrap().allowed, "devices are still asked about");
}
