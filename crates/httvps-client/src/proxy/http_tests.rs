//! The plain HTTP proxy between a program and origins in memory.

use super::tests::{Scene, failed, head, scene};
use httvps_proto::StreamEnd;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, advance, timeout};

const GET: &str = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// Reads exactly until `end`.
async fn until(from: &mut DuplexStream, end: &str) -> String {
    let mut got = Vec::new();
    while !got.ends_with(end.as_bytes()) {
        let byte = timeout(Duration::from_hours(1), from.read_u8()).await.expect("nothing comes");
        got.push(byte.unwrap_or_else(|_| panic!("{:?}", String::from_utf8_lossy(&got))));
    }
    String::from_utf8(got).unwrap()
}

async fn write(to: &mut DuplexStream, bytes: impl AsRef<[u8]>) {
    to.write_all(bytes.as_ref()).await.unwrap();
}

/// Everything that the program gets until the end.
async fn rest(scene: &mut Scene) -> String {
    let mut got = Vec::new();
    let read = timeout(Duration::from_hours(1), scene.program.read_to_end(&mut got));
    read.await.expect("no end comes").unwrap();
    String::from_utf8(got).unwrap()
}

#[tokio::test(start_paused = true)]
async fn requests_for_one_origin_share_its_connection() {
    let mut scene = scene(None);
    let mut origin = scene.target();
    for _ in 0..20 {
        scene.say(GET).await;
        assert!(head(&mut origin).await.starts_with("GET / HTTP/1.1\r\nHost: a.example\r\n"));
        write(&mut origin, OK).await;
        let answer = scene.response().await;
        assert!(
            answer.contains("Connection: keep-alive\r\nKeep-Alive: timeout=60\r\n"),
            "{answer}"
        );
    }
    assert_eq!(scene.asked(), ["a.example:80"]);
}

#[tokio::test(start_paused = true)]
async fn another_origin_closes_the_connection_of_the_one_before() {
    let mut scene = scene(None);
    let (mut first, mut second) = (scene.target(), scene.target());
    // Sent ahead, all at once.
    scene.say([GET, &GET.replace("a.example", "b.example")].concat()).await;
    assert!(head(&mut first).await.contains("Host: a.example\r\n"));
    assert_eq!(scene.asked(), ["a.example:80"], "a request waits for the answer before it");
    write(&mut first, OK).await;
    scene.response().await;
    assert!(head(&mut second).await.contains("Host: b.example\r\n"));
    assert_eq!(first.read(&mut [0; 1]).await.unwrap(), 0);
    write(&mut second, OK).await;
    scene.response().await;
    assert_eq!(scene.asked(), ["a.example:80", "b.example:80"]);
}

#[tokio::test(start_paused = true)]
async fn what_an_origin_says_unasked_is_no_answer() {
    for unasked in [&b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"[..], b"x"] {
        let mut scene = scene(None);
        let (mut first, mut second) = (scene.target(), scene.target());
        scene.say(GET).await;
        head(&mut first).await;
        write(&mut first, [OK, unasked].concat()).await;
        assert!(scene.response().await.ends_with("hi"));
        scene.say(GET).await;
        head(&mut second).await;
        write(&mut second, OK).await;
        assert!(scene.response().await.ends_with("hi"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_ended_while_idle_is_opened_again() {
    let mut scene = scene(None);
    for _ in 0..3 {
        let mut origin = scene.target();
        // A request that is not repeated.
        scene.say(GET.replace("GET", "POST")).await;
        head(&mut origin).await;
        write(&mut origin, OK).await;
        scene.response().await;
        drop(origin);
    }
    assert_eq!(scene.asked().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_repeated_only_where_that_is_harmless() {
    for (method, is_repeated) in [("GET", true), ("POST", false)] {
        let mut scene = scene(None);
        let (mut first, mut second) = (scene.target(), scene.target());
        scene.say(GET).await;
        head(&mut first).await;
        write(&mut first, OK).await;
        scene.response().await;
        scene.say(GET.replace("GET", method)).await;
        head(&mut first).await;
        drop(first);
        if is_repeated {
            head(&mut second).await;
            drop(second);
            // A fresh connection is no stale one.
            assert!(scene.response().await.starts_with("HTTP/1.1 502 "));
        } else {
            assert_eq!(rest(&mut scene).await, "");
            assert_eq!(scene.asked().len(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn few_connections_to_origins_are_kept_without_a_request_but_logins_are() {
    // The scene has places of its own, so these are used up by hand.
    for (login, asked) in [("", 2), ("WWW-Authenticate: NTLM\r\n", 1)] {
        let mut scene = scene(None);
        let places = scene.idle_origins.clone();
        let _all = places.acquire_many(16).await.unwrap();
        let (mut first, mut second) = (scene.target(), scene.target());
        scene.say(GET).await;
        head(&mut first).await;
        write(&mut first, format!("HTTP/1.1 401 No\r\n{login}Content-Length: 0\r\n\r\n")).await;
        assert!(scene.response().await.contains("401"));
        scene.say(GET).await;
        let again = if asked == 1 { &mut first } else { &mut second };
        head(again).await;
        write(again, OK).await;
        scene.response().await;
        assert_eq!(scene.asked().len(), asked);
    }
}

#[tokio::test(start_paused = true)]
async fn an_expectation_waits_for_the_origin() {
    let mut scene = scene(None);
    let mut origin = scene.target();
    scene
        .say("PUT http://a.example/ HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert!(head(&mut origin).await.contains("Expect: 100-continue\r\n"));
    write(&mut origin, "HTTP/1.1 100 Continue\r\n\r\n").await;
    scene.expect(b"HTTP/1.1 100 Continue\r\n\r\n").await;
    scene.say("body").await;
    assert_eq!(until(&mut origin, "body").await, "body");
    write(&mut origin, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    scene.expect(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    write(&mut origin, OK).await;
    assert!(scene.response().await.ends_with("hi"));
}

#[tokio::test(start_paused = true)]
async fn a_program_of_http_1_0_gets_what_it_can_read() {
    let mut scene = scene(None);
    let mut origin = scene.target();
    scene.say("GET http://a.example/ HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\n").await;
    let asked = head(&mut origin).await;
    assert!(asked.starts_with("GET / HTTP/1.1\r\n") && !asked.contains("Expect"), "{asked}");
    write(
        &mut origin,
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    .await;
    write(&mut origin, "2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n").await;
    let answer = rest(&mut scene).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhi"),
        "{answer}"
    );
    assert!(answer.contains("Connection: close\r\n"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn trailers_are_passed_on_in_both_directions() {
    let mut scene = scene(None);
    let mut origin = scene.target();
    scene
        .say(
            "POST http://a.example/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTrailer: X-Up\r\n\r\n\
              3;ext\r\nabc\r\n0\r\nX-Up: 1\r\nHost: b.example\r\n\r\n",
        )
        .await;
    assert!(until(&mut origin, "\r\n\r\n").await.contains("Trailer: X-Up\r\n"));
    assert_eq!(until(&mut origin, "\r\n\r\n").await, "3\r\nabc\r\n0\r\nX-Up: 1\r\n\r\n");
    write(
        &mut origin,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Down: 2\r\n\r\n",
    )
    .await;
    until(&mut scene.program, "\r\n\r\n").await;
    assert_eq!(until(&mut scene.program, "\r\n\r\n").await, "2\r\nhi\r\n0\r\nX-Down: 2\r\n\r\n");
}

#[tokio::test(start_paused = true)]
async fn an_answer_begins_before_the_request_ends_and_the_connection_goes_on() {
    let mut scene = scene(None);
    let mut origin = scene.target();
    scene.say("POST http://a.example/ HTTP/1.1\r\nContent-Length: 10\r\n\r\n01234").await;
    assert!(until(&mut origin, "01234").await.contains("Content-Length: 10\r\n"));
    write(&mut origin, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234").await;
    until(&mut scene.program, "01234").await;
    // The answer is over before the request is.
    write(&mut origin, "56789").await;
    scene.expect(b"56789").await;
    scene.say("56789").await;
    until(&mut origin, "56789").await;
    scene.say(GET).await;
    head(&mut origin).await;
    write(&mut origin, OK).await;
    assert!(scene.response().await.ends_with("hi"));
    assert_eq!(scene.asked().len(), 1);
}

/// Sends 5 MB before it reads anything, as many programs do; what it gets then.
async fn large_upload(mut scene: Scene, request: &str) -> String {
    scene.say(request).await;
    let body = vec![b'x'; 5_000_000];
    timeout(Duration::from_mins(1), scene.say(&body)).await.expect("the body is not read");
    rest(&mut scene).await
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_is_not_lost_under_a_large_body() {
    let put = "PUT http://a.example/ HTTP/1.1\r\nContent-Length: 5000000\r\n\r\n";
    // The origin reads the head alone, answers and leaves.
    let scene_of_origin = scene(None);
    let mut origin = scene_of_origin.target();
    let upload = tokio::spawn(large_upload(scene_of_origin, put));
    head_only(&mut origin).await;
    write(
        &mut origin,
        "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
    )
    .await;
    drop(origin);
    let answer = upload.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("no"), "{answer}");
    assert!(answer.contains("Connection: close\r\n"), "{answer}");

    // The origin stays and reads nothing.
    let scene_of_origin = scene(None);
    let mut origin = scene_of_origin.target();
    let upload = tokio::spawn(large_upload(scene_of_origin, put));
    head_only(&mut origin).await;
    write(
        &mut origin,
        "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
    )
    .await;
    assert!(upload.await.unwrap().starts_with("HTTP/1.1 413 "));
    drop(origin);

    for (end, status) in [(StreamEnd::Denied, 403), (StreamEnd::Refused, 502)] {
        let scene = scene(None);
        scene.fails(failed(end));
        let answer = large_upload(scene, put).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    let answer = large_upload(scene(Some(("ann", "s3cret"))), put).await;
    assert!(answer.starts_with("HTTP/1.1 407 "), "{answer}");
    let doubtful = put.replace("Content", "Transfer-Encoding: chunked\r\nContent");
    let answer = large_upload(scene(None), &doubtful).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

/// Reads the head of a request and nothing behind it.
async fn head_only(origin: &mut DuplexStream) {
    until(origin, "\r\n\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn reading_on_behind_an_early_answer_is_bounded_in_time_and_size() {
    // A program that never stops sending.
    let put = "PUT http://a.example/ HTTP/1.1\r\nContent-Length: 5000000000\r\n\r\n";
    let mut scene = scene(None);
    scene.fails(failed(StreamEnd::Denied));
    scene.say(put).await;
    let block = vec![b'x'; 64 * 1024];
    let mut sent = 0;
    while scene.program.write_all(&block).await.is_ok() {
        sent += block.len();
        assert!(sent < 100 * 1024 * 1024, "{sent}");
    }
    // A program that pauses.
    let mut scene = super::tests::scene(None);
    scene.fails(failed(StreamEnd::Denied));
    scene.say(put).await;
    let begin = Instant::now();
    while scene.program.write_all(b"x").await.is_ok() {
        advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_rest_does_not_cost_the_connection() {
    let mut scene = scene(None);
    let mut origin = scene.target();
    scene.fails_first(failed(StreamEnd::Refused));
    scene
        .say(format!("POST http://a.example/ HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc{GET}"))
        .await;
    assert!(scene.response().await.starts_with("HTTP/1.1 502 "));
    head(&mut origin).await;
    write(&mut origin, OK).await;
    assert!(scene.response().await.ends_with("hi"));
}

#[tokio::test(start_paused = true)]
async fn large_heads_pass_in_both_directions() {
    let mut scene = scene(None);
    let mut origin = scene.target();
    let large = "x".repeat(200_000);
    let many = "X-Many: y\r\n".repeat(990);
    for fields in [format!("Cookie: {large}\r\n"), many.clone()] {
        scene.say(format!("GET http://a.example/ HTTP/1.1\r\n{fields}\r\n")).await;
        assert!(until(&mut origin, "\r\n\r\n").await.contains(&fields));
        write(&mut origin, format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{fields}\r\n")).await;
        assert!(until(&mut scene.program, "\r\n\r\n").await.contains(&fields));
    }
    scene.say(format!("GET http://a.example/{large} HTTP/1.1\r\n\r\n")).await;
    assert!(
        until(&mut origin, "\r\n\r\n").await.starts_with(&format!("GET /{large} HTTP/1.1\r\n"))
    );
    let too_much = "x".repeat(263_000);
    for answer in [
        format!("HTTP/1.1 200 OK\r\nX: {too_much}\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\n{many}{many}\r\n"),
    ] {
        let mut scene = super::tests::scene(None);
        let mut origin = scene.target();
        scene.say(GET).await;
        head(&mut origin).await;
        write(&mut origin, answer).await;
        let told = scene.response().await;
        assert!(
            told.starts_with("HTTP/1.1 502 ") && told.contains("did not answer in HTTP"),
            "{told}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_for_a_minute() {
    let mut scene = scene(None);
    let mut origin = scene.target();
    for wait in [0, 60] {
        advance(Duration::from_secs(wait)).await;
        scene.say(GET).await;
        head(&mut origin).await;
        write(&mut origin, OK).await;
        scene.response().await;
    }
    let begin = Instant::now();
    assert_eq!(rest(&mut scene).await, "");
    let kept = begin.elapsed().as_secs();
    assert!((60..70).contains(&kept), "{kept}");
    assert_eq!(origin.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_program_that_ends_its_half_gets_its_answer() {
    let mut scene = scene(None);
    let mut origin = scene.target();
    scene.say(GET).await;
    scene.program.shutdown().await.unwrap();
    head(&mut origin).await;
    advance(Duration::from_secs(30)).await;
    write(&mut origin, OK).await;
    assert!(rest(&mut scene).await.ends_with("hi"));
    scene.proxy.await.unwrap().unwrap();
    assert_eq!(origin.read(&mut [0; 1]).await.unwrap(), 0);
    // But an origin that says nothing is not waited for without an end.
    let mut scene = super::tests::scene(None);
    let mut origin = scene.target();
    scene.say(GET).await;
    scene.program.shutdown().await.unwrap();
    head(&mut origin).await;
    assert_eq!(rest(&mut scene).await, "");
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_is_passed_through() {
    let mut scene = scene(None);
    let mut origin = scene.target();
    scene.say("GET http://a.example/ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nahead").await;
    let asked = until(&mut origin, "\r\n\r\n").await;
    assert!(asked.contains("Upgrade: websocket\r\nConnection: Upgrade\r\n"), "{asked}");
    write(&mut origin, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nframe").await;
    let answer = until(&mut scene.program, "frame").await;
    assert!(answer.contains("Upgrade: websocket\r\nConnection: Upgrade\r\n"), "{answer}");
    assert_eq!(until(&mut origin, "ahead").await, "ahead");
    scene.say("more").await;
    until(&mut origin, "more").await;
    // One that was not asked for is no answer.
    let mut scene = super::tests::scene(None);
    let mut origin = scene.target();
    scene.say(GET).await;
    head(&mut origin).await;
    write(&mut origin, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n").await;
    assert!(scene.response().await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_does_not_look_whole() {
    for fields in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut scene = scene(None);
        let mut origin = scene.target();
        scene.say(GET).await;
        head(&mut origin).await;
        write(&mut origin, format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n5\r\nhello\r\n")).await;
        drop(origin);
        let got = rest(&mut scene).await;
        assert!(got.contains("hello") && !got.ends_with("0\r\n\r\n"), "{got}");
        assert!(scene.proxy.await.unwrap().is_err());
        assert!(scene.was_reset.load(std::sync::atomic::Ordering::SeqCst));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_neither_http_nor_socks5_is_told_at_once() {
    let mut scene = scene(None);
    let begin = Instant::now();
    scene.say(b"\x16\x03\x01\x02\0\x01").await;
    let answer = scene.response().await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("without TLS"), "{answer}");
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn small_chunks_go_together() {
    let mut scene = scene(None);
    let mut origin = scene.target();
    scene.say(GET).await;
    head(&mut origin).await;
    let chunks = "1\r\nx\r\n".repeat(1000);
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    write(&mut origin, answer).await;
    let mut reads = 0;
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n0\r\n\r\n") {
        assert!(scene.program.read_buf(&mut got).await.unwrap() > 0);
        got.reserve(64 * 1024);
        reads += 1;
    }
    assert!(reads < 10, "{reads}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_its_format_behind_an_early_answer_puts_no_answer_into_it() {
    let mut scene = scene(None);
    let mut origin = scene.target();
    scene.say("POST http://a.example/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    head(&mut origin).await;
    write(&mut origin, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhi").await;
    until(&mut scene.program, "hi").await;
    scene.say("no chunk\r\n").await;
    assert_eq!(rest(&mut scene).await, "");
    assert!(scene.was_reset.load(std::sync::atomic::Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_ahead_into_a_tunnel_that_is_refused_is_no_request() {
    for (port, status, asked) in [("80", 502, 1), ("none", 400, 0)] {
        let mut scene = scene(None);
        scene.fails(failed(StreamEnd::Refused));
        let _origin = scene.target();
        let connect = format!("CONNECT a.example:{port} HTTP/1.1\r\n\r\n");
        scene.say([&connect, GET].concat()).await;
        let got = rest(&mut scene).await;
        assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{got}");
        assert!(got.matches("HTTP/1.1").count() == 1, "{got}");
        assert!(got.contains("Connection: close\r\n"), "{got}");
        assert_eq!(scene.asked().len(), asked, "the tunnel alone");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_doubtful_end_opens_nothing() {
    for request in [
        "POST http://a.example/ HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST http://a.example/ HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n",
        "CONNECT a.example:80 HTTP/1.1\r\nContent-Length: 44\r\n\r\n",
    ] {
        let mut scene = scene(None);
        scene.say([request, GET].concat()).await;
        let got = rest(&mut scene).await;
        assert!(got.starts_with("HTTP/1.1 400 ") && got.matches("HTTP/1.1").count() == 1, "{got}");
        assert!(scene.asked().is_empty());
    }
    // Chunks that are none end the request, and what follows them is no request.
    let mut scene = scene(None);
    let mut origin = scene.target();
    let chunked = "POST http://a.example/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello";
    scene.say([chunked, GET].concat()).await;
    let got = rest(&mut scene).await;
    assert!(got.starts_with("HTTP/1.1 400 ") && got.matches("HTTP/1.1").count() == 1, "{got}");
    let mut seen = String::new();
    origin.read_to_string(&mut seen).await.unwrap();
    assert!(seen.matches("HTTP/1.1").count() <= 1, "{seen}");
}
