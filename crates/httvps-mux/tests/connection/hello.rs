//! How a session comes to be, or does not.

use crate::gateway::{Gateway, OFF, greet, limits, pair, pipe};
use crate::within;
use httvps_mux::{HelloError, Settings};
use httvps_proto::{ErrorCode, Verdict, json};

#[tokio::test(start_paused = true)]
async fn an_admitted_client_knows_its_session() {
    let (connection, _gateway) = within(pair(4096, limits(5), Settings::default())).await;
    assert_eq!(connection.session_id(), "s-1");
    assert_eq!(connection.subscription_status(), Some("active"));
    assert_eq!(connection.max_streams(), 5);
    assert!(connection.has_open_ack());
    assert!(connection.end().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_tells_reason_and_subscription() {
    let (near, far) = pipe(4096, OFF);
    let mut gateway = Gateway::new(far, limits(8));
    let verdict = Verdict::Refused {
        reason: "no_active_subscription",
        subscription_status: Some("exp\u{1b}[31mired"),
    };
    let (result, ()) =
        within(async { tokio::join!(greet(near, Settings::default()), gateway.answer(&verdict)) })
            .await;
    let Err(HelloError::Refused { reason, subscription_status }) = result else {
        panic!("{result:?}");
    };
    assert_eq!(&*reason, "no_active_subscription");
    assert_eq!(subscription_status.as_deref(), Some("exp\u{fffd}[31mired"));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_without_a_node_says_why() {
    let (near, far) = pipe(4096, OFF);
    let mut gateway = Gateway::new(far, limits(8));
    let verdict = Verdict::Unavailable { reason: "no_outline_nodes_available" };
    let (result, ()) =
        within(async { tokio::join!(greet(near, Settings::default()), gateway.answer(&verdict)) })
            .await;
    let Err(HelloError::NoNode { reason }) = result else { panic!("{result:?}") };
    assert_eq!(&*reason, "no_outline_nodes_available");
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_is_not_taken_is_told_apart_from_a_closed_connection() {
    for (code, is_bad_hello) in [(Some(ErrorCode::BadHello), true), (None, false)] {
        let (near, far) = pipe(4096, OFF);
        let mut gateway = Gateway::new(far, limits(8));
        let script = async {
            gateway.hello().await;
            if let Some(code) = code {
                json::error(&mut gateway.link.outbox(), code, "device_id is too long", None, None);
            }
            gateway.link.queue_close(1008, "");
            gateway.flush().await.unwrap();
            gateway
        };
        let (result, _gateway) =
            within(async { tokio::join!(greet(near, Settings::default()), script) }).await;
        match result {
            Err(HelloError::BadHello(words)) if is_bad_hello => {
                assert_eq!(&*words, "device_id is too long");
            }
            Err(HelloError::Closed { code: Some(1008), words: None }) if !is_bad_hello => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_never_answers_is_given_up() {
    let (near, _far) = pipe(4096, OFF);
    let settings = Settings::default();
    let limit = settings.hello_timeout;
    let start = tokio::time::Instant::now();
    assert!(matches!(within(greet(near, settings)).await, Err(HelloError::Timeout)));
    assert!(start.elapsed() >= limit);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_is_an_error_of_the_link() {
    let (near, far) = pipe(4096, OFF);
    drop(far);
    assert!(matches!(within(greet(near, Settings::default())).await, Err(HelloError::Link(_))));
}
