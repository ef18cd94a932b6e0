//! What the log says about requests, and what it never says.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails, also in its own functions")]

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::Full;
use httvps_backend::{Backend, GatewaySecret, NewDevice, ServeOptions, Store, serve};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Collects what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One test in a process of its own, since the subscriber is for the whole process.
#[tokio::test]
async fn the_log_names_devices_and_reasons_but_no_secret() {
    let lines = Lines::default();
    let writer = lines.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();

    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path().join("devices.json"));
    let anna = NewDevice { device_id: Some("anna".parse().unwrap()), ..NewDevice::default() };
    let token = store.add(anna).unwrap().1.expose().to_owned();
    let backend = Arc::new(Backend::load(store.path()).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = ServeOptions {
        gateway_secret: Some(GatewaySecret::new("gateway-secret").unwrap()),
        ..ServeOptions::default()
    };
    tokio::spawn(serve(listener, Arc::clone(&backend), options, CancellationToken::new()));

    let question = |id: &str, token: &str| format!(r#"{{"device_id":"{id}","token":"{token}"}}"#);
    for (secret, body) in [
        ("wrong-secret", question("anna", &token)),
        ("wrong-secret", question("anna", &token)),
        ("gateway-secret", question("anna", &token)),
        ("gateway-secret", question("anna", "wrong-token")),
        ("gateway-secret", question(&"x".repeat(1000), &token)),
        ("gateway-secret", question("anna", &token).replace('}', "")),
    ] {
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("/api/v1/auth/validate-device")
            .header("host", "backend")
            .header("x-internal-secret", secret)
            .body(Full::<Bytes>::from(body))
            .unwrap();
        sender.send_request(request).await.unwrap();
    }
    // Renamed into place, so that the server's own look at the file finds no half of it.
    let fresh = directory.path().join("fresh.json");
    std::fs::write(&fresh, format!("{{\"devices\": [{{\"token\": \"{token}\"}}]}}")).unwrap();
    std::fs::rename(&fresh, store.path()).unwrap();
    backend.reload_if_changed();
    backend.reload_if_changed();

    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for (event, times) in [
        ("gateway_secret_refused", 1),
        ("device_allowed", 1),
        ("device_refused", 2),
        ("invalid_token", 1),
        ("devices_reload_failed", 1),
    ] {
        assert_eq!(log.matches(event).count(), times, "{event} in:\n{log}");
    }
    for secret in [&token, "wrong-token", "gateway-secret", "wrong-secret", &"x".repeat(129)] {
        assert!(!log.contains(secret), "{secret} in:\n{log}");
    }
}
