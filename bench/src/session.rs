//! One session with a gateway.

use crate::frames::{BINARY, Frames, message_frame, text_frame};
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The key exchange that the client offers.
#[derive(Clone, Copy)]
pub(crate) enum KeyExchange {
    /// What clients without post-quantum cryptography offer.
    X25519,
    /// What today's browsers offer.
    X25519MlKem768,
}

impl KeyExchange {
    pub(crate) const ALL: [Self; 2] = [Self::X25519, Self::X25519MlKem768];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X25519 => "X25519",
            Self::X25519MlKem768 => "X25519MLKEM768",
        }
    }

    fn group(self) -> &'static dyn SupportedKxGroup {
        match self {
            Self::X25519 => kx_group::X25519,
            Self::X25519MlKem768 => kx_group::X25519MLKEM768,
        }
    }
}

/// Where a TLS server is and how to speak to it: TLS 1.3, AES-128-GCM, no resumption.
#[derive(Clone)]
pub(crate) struct Endpoint {
    address: SocketAddr,
    source: Option<Ipv4Addr>,
    tls: TlsConnector,
}

impl Endpoint {
    pub(crate) fn new(
        address: SocketAddr,
        certificate: CertificateDer<'static>,
        key_exchange: KeyExchange,
    ) -> io::Result<Self> {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![key_exchange.group()];
        // One cipher for the gateway and for the relay next to it, or their figures would not compare.
        provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(io::Error::other)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { address, source: None, tls: TlsConnector::from(Arc::new(config)) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same server, reached from another address of this machine.
    pub(crate) fn from(mut self, source: Ipv4Addr) -> Self {
        self.source = Some(source);
        self
    }

    /// A TCP connection, nothing more.
    pub(crate) async fn reach(&self) -> io::Result<TcpStream> {
        let Some(source) = self.source else { return TcpStream::connect(self.address).await };
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        socket.connect(self.address).await
    }

    pub(crate) async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let tcp = self.reach().await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").expect("localhost is a valid name");
        self.tls.connect(name, tcp).await
    }
}

/// An authenticated session.
pub(crate) struct Session {
    stream: TlsStream<TcpStream>,
    frames: Frames,
    messages: VecDeque<Vec<u8>>,
}

impl Session {
    /// TCP, TLS, upgrade, `hello`, until `auth_result` lets the device in.
    pub(crate) async fn open(endpoint: &Endpoint, device: &str) -> io::Result<Self> {
        let mut session = Self::upgraded(endpoint).await?;
        session.hello(device, &[]).await?;
        Ok(session)
    }

    async fn upgraded(endpoint: &Endpoint) -> io::Result<Self> {
        let stream = endpoint.connect().await?;
        let frames = Frames::new(false, usize::MAX);
        let mut session = Self { stream, frames, messages: VecDeque::new() };
        session.upgrade().await?;
        Ok(session)
    }

    /// Gives the `auth_result` that lets the device in.
    async fn hello(&mut self, device: &str, capabilities: &[&str]) -> io::Result<Value> {
        let mut hello = json!({"type": "hello", "device_id": device, "token": "bench"});
        if !capabilities.is_empty() {
            hello["capabilities"] = json!(capabilities);
        }
        self.send(&hello).await?;
        let answer: Value = serde_json::from_slice(&self.message().await?)?;
        if answer["type"] != "auth_result" || answer["allowed"] != true {
            return Err(io::Error::other(format!("the gateway does not let us in: {answer}")));
        }
        Ok(answer)
    }

    async fn upgrade(&mut self) -> io::Result<()> {
        let request = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
                       Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       Sec-WebSocket-Version: 13\r\n\r\n";
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await?;
        let mut head = Vec::with_capacity(1024);
        while !head.ends_with(b"\r\n\r\n") {
            // A gateway says nothing more before `hello`, so nothing can follow the head.
            if self.stream.read_buf(&mut head).await? == 0 || head.len() > 16 * 1024 {
                return Err(io::Error::other("no answer to the upgrade request"));
            }
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            return Err(io::Error::other("the gateway does not upgrade"));
        }
        Ok(())
    }

    pub(crate) async fn send(&mut self, message: &Value) -> io::Result<()> {
        self.write(&text_frame(message.to_string().as_bytes())).await
    }

    /// Sends binary frames as one message.
    pub(crate) async fn send_binary(&mut self, frames: &[u8]) -> io::Result<()> {
        self.write(&message_frame(BINARY, frames)).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next whole message.
    pub(crate) async fn message(&mut self) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; 16 * 1024];
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(message);
            }
            let length = self.stream.read(&mut piece).await?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let messages = &mut self.messages;
            self.frames.feed(&piece[..length], |message| {
                messages.push_back(message.start.to_vec());
                Ok(())
            })?;
        }
    }

    /// Opens a stream, sends `data` (base64) over it and compares what comes back.
    pub(crate) async fn echo_once(&mut self, stream_id: &str, data: &str) -> io::Result<()> {
        self.open_stream(stream_id, "echo:7").await?;
        let sent = json!({"type": "stream_data", "stream_id": stream_id, "data": data});
        self.send(&sent).await?;
        let received: Value = serde_json::from_slice(&self.message().await?)?;
        if received != sent {
            let words = received.get("message").unwrap_or(&received["type"]);
            return Err(io::Error::other(format!("the echo differs: {words}")));
        }
        Ok(())
    }

    /// As [`open`](Self::open), and both sides send binary frames from then on.
    pub(crate) async fn open_v2(endpoint: &Endpoint, device: &str) -> io::Result<Self> {
        let mut session = Self::upgraded(endpoint).await?;
        let answer = session.hello(device, &["v2"]).await?;
        if answer["capabilities"] != json!(["v2"]) {
            return Err(io::Error::other(format!("the gateway does not speak v2: {answer}")));
        }
        Ok(session)
    }

    pub(crate) async fn open_stream(&mut self, stream_id: &str, target: &str) -> io::Result<()> {
        self.send(&json!({"type": "stream_open", "stream_id": stream_id, "target": target})).await
    }

    /// Sends `data` (base64) over a stream and reads as much payload of it back, in whatever pieces.
    pub(crate) async fn echo_bytes(&mut self, stream_id: &str, data: &str) -> io::Result<()> {
        let sent = json!({"type": "stream_data", "stream_id": stream_id, "data": data});
        self.send(&sent).await?;
        let length = |text: &str| base64_turbo::STANDARD.decode(text).map_or(0, |data| data.len());
        let mut missing = length(data);
        while missing > 0 {
            let received: Value = serde_json::from_slice(&self.message().await?)?;
            match received["data"].as_str() {
                Some(data) if received["stream_id"] == stream_id => {
                    missing = missing.saturating_sub(length(data));
                }
                _ => return Err(io::Error::other(format!("not an echo: {received}"))),
            }
        }
        Ok(())
    }

    /// The bare stream and the reader of its frames; no message may be under way.
    pub(crate) fn into_parts(self) -> (TlsStream<TcpStream>, Frames) {
        (self.stream, self.frames)
    }
}
