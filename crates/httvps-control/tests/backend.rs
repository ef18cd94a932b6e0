//! The backend client against a real HTTP process that answers in every way a backend can.

use httvps_config::Secret;
use httvps_control::backend::{
    Asker, AssignOutlineResult, BackendClient, BackendError, BackendSettings, ValidateDeviceResult,
};
use httvps_telemetry::metrics::Metrics;
use httvps_testkit::backend::{Answer, ScriptedBackend};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, Notify};

/// Long enough for a loopback call on a busy machine; the slow answer is far slower.
const TIMEOUT: Duration = Duration::from_secs(2);

fn settings(url: String) -> BackendSettings {
    BackendSettings {
        base_url: url,
        timeout: TIMEOUT,
        secret: None,
        max_concurrent: 8,
        idle_timeout: Duration::from_mins(1),
        max_body: 64 * 1024,
        breaker_failures: 0,
        breaker_cooldown: Duration::from_secs(1),
        ca_path: None,
        gateway_id: String::new(),
    }
}

fn client(settings: &BackendSettings) -> BackendClient {
    BackendClient::new(settings, Metrics::new()).expect("the settings are sound")
}

fn asker(device_id: &str) -> Asker<'_> {
    Asker { peer: [192, 0, 2, 1].into(), device_id }
}

/// A handshake deadline that does not matter here.
fn far() -> Instant {
    Instant::now() + TIMEOUT * 30
}

async fn ask(client: &BackendClient, device: &str) -> Result<ValidateDeviceResult, BackendError> {
    client.validate_device(asker(device), "tok", far()).await
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
        assert_eq!(error.code().as_str(), code, "{answer:?}");
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
    assert_eq!(error, BackendError::Unreachable("the connection was refused"));
    let _backend = ScriptedBackend::start_on(address, Answer::Allow).await;
    assert!(ask(&client, "dev").await.unwrap().allowed);
}

#[tokio::test]
async fn the_request_is_the_one_of_the_founding_page() {
    let backend = ScriptedBackend::start(Answer::Allow).await;
    let mut settings = settings(format!("{}/prefix/", backend.url()));
    settings.secret = Some(Secret::new("s3cret".into()));
    // This backend knows only the founding path; what counts is what was asked.
    let _ = client(&settings).validate_device(asker("dev-1"), "to\"ken", far()).await;
    let request = backend.requests().remove(0);
    assert_eq!(request.method, "POST");
    assert_eq!(request.path, "/prefix/api/v1/auth/validate-device");
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert!(request.header("user-agent").is_some_and(|agent| agent.starts_with("httvps-gateway/")));
    assert_eq!(request.header("X-Internal-Secret"), Some("s3cret"));
    assert_eq!(request.body, br#"{"device_id":"dev-1","token":"to\"ken"}"#);
    assert_eq!(request.header("X-Httvps-Features"), Some("grant/1"));
    assert_eq!(request.header("X-Gateway-Id"), None, "this gateway has no name");
}

#[tokio::test]
async fn a_gateway_names_itself_where_grants_are_asked_for() {
    let backend = ScriptedBackend::start(Answer::Allow).await;
    let mut settings = settings(backend.url());
    settings.gateway_id = "gw-1.example".into();
    let client = client(&settings);
    assert!(ask(&client, "dev").await.unwrap().allowed);
    let _ = client.assign_outline(asker("dev"), None, far()).await;
    let requests = backend.requests();
    assert_eq!(requests[0].header("X-Gateway-Id"), Some("gw-1.example"));
    assert_eq!(requests[1].header("X-Gateway-Id"), None);
    assert_eq!(requests[1].header("X-Httvps-Features"), None);
    for bad in ["a b", "tab\t", "naïve", "line\r\nX-Internal-Secret: x", &"x".repeat(129)] {
        settings.gateway_id = bad.into();
        let error = BackendClient::new(&settings, Metrics::new()).err().expect(bad);
        assert!(error.to_string().starts_with("gateway_id"), "{error}");
    }
    settings.gateway_id = "x".repeat(128);
    assert!(BackendClient::new(&settings, Metrics::new()).is_ok());
}

#[tokio::test]
async fn a_grant_comes_with_the_yes_and_a_bad_one_is_an_error_of_the_backend() {
    let answer = |grant: &str| {
        let body = format!(r#"{{"allowed":true,"grant":{grant}}}"#);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        Answer::Raw((head + &body).into_bytes())
    };
    let backend = ScriptedBackend::start(answer(r#"{"ttl_seconds":300}"#)).await;
    let client = client(&settings(backend.url()));
    let grant = ask(&client, "dev").await.unwrap().grant.unwrap();
    assert_eq!(grant.ttl, Some(Duration::from_mins(5)));
    backend.set(answer(r#"{"ttl_seconds":"300"}"#));
    let error = ask(&client, "dev").await.unwrap_err();
    assert_eq!(error.code().as_str(), "bad_body");
    assert!(error.problem().unwrap().contains("ttl_seconds"));
}

#[tokio::test]
async fn an_open_breaker_spares_the_backend_and_admits_no_device() {
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
async fn a_slow_call_does_not_delay_others() {
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
    let error = client.validate_device(asker("dev"), "tok", Instant::now()).await.unwrap_err();
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
    let assign = async || client.assign_outline(asker("dev"), Some("eu"), far()).await;
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
        assert_eq!(assign().await.unwrap_err().code().as_str(), code);
    }
    backend.set(Answer::Allow);
    assert_eq!(assign().await.unwrap_err(), BackendError::CircuitOpen);
    assert!(ask(&client, "dev").await.unwrap().allowed, "devices are still asked about");
}

/// A backend of one's own making: `serve` has each connection and its number.
async fn listen<F: Future<Output = std::io::Result<()>> + Send + 'static>(
    serve: impl Fn(TcpStream, usize) -> F + Send + 'static,
) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("a listener has an address");
    let url = format!("http://{address}");
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let number = count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(stream, number));
        }
    });
    (url, connections)
}

/// Reads one request; the questions of these tests come in one piece.
async fn read_question(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut bytes = [0; 4096];
    match stream.read(&mut bytes).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

async fn allow(stream: &mut TcpStream) -> std::io::Result<()> {
    let body = r#"{"allowed":true}"#;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await
}

/// Fills the pool with `count` connections, by as many questions at one time.
async fn fill_pool(client: &BackendClient, count: usize) {
    let asking = (0..count).map(|_| ask(client, "dev"));
    for answer in futures_util::future::join_all(asking).await {
        assert!(answer.is_ok_and(|answer| answer.allowed));
    }
}

#[tokio::test]
async fn a_kept_connection_that_ends_as_it_is_used_costs_no_login() {
    for is_reset in [false, true] {
        let (url, connections) = listen(move |mut stream, _| async move {
            read_question(&mut stream).await?;
            allow(&mut stream).await?;
            read_question(&mut stream).await?;
            if is_reset {
                stream.set_zero_linger()?;
            }
            Ok(())
        })
        .await;
        let mut settings = settings(url);
        settings.breaker_failures = 1;
        let client = client(&settings);
        for _ in 0..10 {
            assert!(ask(&client, "dev").await.unwrap().allowed);
        }
        let connections = connections.load(Ordering::SeqCst);
        assert!(connections >= 5, "{connections}: every other question is one too many for them");
    }
}

#[tokio::test]
async fn a_kept_connection_that_breaks_takes_all_others_with_it() {
    let (is_restarted, on_old) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (flag, count) = (is_restarted.clone(), on_old.clone());
    let barrier = Arc::new(Barrier::new(8));
    let (url, _) = listen(move |mut stream, number| {
        let (flag, count, barrier) = (flag.clone(), count.clone(), barrier.clone());
        async move {
            let is_old = number < 8;
            read_question(&mut stream).await?;
            if is_old {
                // All at one time, so that each has a connection of its own.
                barrier.wait().await;
            }
            loop {
                allow(&mut stream).await?;
                read_question(&mut stream).await?;
                if is_old && flag.load(Ordering::SeqCst) {
                    count.fetch_add(1, Ordering::SeqCst);
                    return Ok(());
                }
            }
        }
    })
    .await;
    let client = client(&settings(url));
    fill_pool(&client, 8).await;
    is_restarted.store(true, Ordering::SeqCst);
    for _ in 0..20 {
        assert!(ask(&client, "dev").await.unwrap().allowed);
    }
    assert_eq!(on_old.load(Ordering::SeqCst), 1, "the seven others were not tried");
}

#[tokio::test]
async fn a_kept_connection_that_is_silent_costs_no_login_and_is_not_used_again() {
    let (url, connections) = listen(|mut stream, number| async move {
        read_question(&mut stream).await?;
        allow(&mut stream).await?;
        loop {
            read_question(&mut stream).await?;
            // The first one reads on, so that its kernel takes whatever comes, and never answers.
            if number > 0 {
                allow(&mut stream).await?;
            }
        }
    })
    .await;
    let mut settings = settings(url);
    settings.timeout = TIMEOUT * 2;
    settings.breaker_failures = 1;
    let client = client(&settings);
    for _ in 0..5 {
        assert!(ask(&client, "dev").await.unwrap().allowed);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_backend_that_is_only_slow_is_not_taken_for_dead() {
    let is_asked_again = Arc::new(Notify::new());
    let notify = is_asked_again.clone();
    let (url, _) = listen(move |mut stream, number| {
        let notify = notify.clone();
        async move {
            read_question(&mut stream).await?;
            if number > 0 {
                notify.notify_one();
                return std::future::pending().await;
            }
            allow(&mut stream).await?;
            read_question(&mut stream).await?;
            notify.notified().await;
            allow(&mut stream).await
        }
    })
    .await;
    let mut settings = settings(url);
    settings.timeout = TIMEOUT * 2;
    let client = client(&settings);
    assert!(ask(&client, "dev").await.unwrap().allowed);
    assert!(ask(&client, "dev").await.unwrap().allowed, "the first answer counts");
}

#[tokio::test]
async fn interim_answers_without_end_are_bounded() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let (url, _) = listen(move |mut stream, _| {
        let count = count.clone();
        async move {
            read_question(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            if count.load(Ordering::SeqCst) == 0 {
                stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await?;
                count.store(1, Ordering::SeqCst);
                return allow(&mut stream).await;
            }
            loop {
                let interim = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(100);
                stream.write_all(&interim).await?;
                count.fetch_add(interim.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let mut settings = settings(url);
    settings.timeout = TIMEOUT * 30;
    settings.idle_timeout = Duration::ZERO;
    let client = client(&settings);
    assert!(ask(&client, "dev").await.unwrap().allowed, "a few are nothing");
    let error = ask(&client, "dev").await.unwrap_err();
    assert_eq!(error.code().as_str(), "broken");
    assert!(error.problem().unwrap().contains("interim"), "{error:?}");
    // What the kernels of both ends hold comes on top of what was read.
    assert!(sent.load(Ordering::SeqCst) < 64 * 1024 * 1024);
}

#[tokio::test]
async fn a_call_that_is_dropped_gives_up_its_place_and_ends_its_request() {
    let is_asked = Arc::new(Notify::new());
    let notify = is_asked.clone();
    let (ended, mut is_ended) = tokio::sync::mpsc::channel(1);
    let (url, _) = listen(move |mut stream, number| {
        let (ended, notify) = (ended.clone(), notify.clone());
        async move {
            read_question(&mut stream).await?;
            if number > 0 {
                return allow(&mut stream).await;
            }
            notify.notify_one();
            let end = read_question(&mut stream).await;
            let _ = ended.send(end.is_err()).await;
            Ok(())
        }
    })
    .await;
    let mut settings = settings(url);
    settings.max_concurrent = 1;
    let client = client(&settings);
    tokio::select! {
        answer = ask(&client, "gone") => panic!("{answer:?}"),
        () = is_asked.notified() => {}
    }
    assert!(ask(&client, "next").await.unwrap().allowed);
    assert_eq!(is_ended.recv().await, Some(true));
}

#[tokio::test]
async fn a_stranger_whose_questions_fail_does_not_close_the_backend_to_others() {
    let backend = ScriptedBackend::start(Answer::Allow).await;
    let mut settings = settings(backend.url());
    settings.breaker_failures = 4;
    settings.breaker_cooldown = Duration::from_hours(1);
    let client = client(&settings);
    assert!(ask(&client, "dev").await.unwrap().allowed);
    let stranger = Asker { peer: [198, 51, 100, 7].into(), device_id: "touchy" };
    backend.set(Answer::Status(500));
    for _ in 0..50 {
        let error = client.validate_device(stranger, "tok", far()).await.unwrap_err();
        assert_eq!(error, BackendError::Status(500), "it was asked");
    }
    backend.set(Answer::Allow);
    assert!(ask(&client, "dev").await.unwrap().allowed);
}
