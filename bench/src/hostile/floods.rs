//! Sessions that send as much as they can of what costs a gateway more than its bytes.

use crate::frames::{BINARY, message_frame, text_frame};
use crate::plain;
use crate::session::{Endpoint, Session};
use crate::tunnel::{Tunnel, frame};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::sleep;

/// Bytes of a message.
const MESSAGE: usize = 1 << 20;
/// What hostile sessions say they are.
const DEVICE: &str = "hostile";

/// What a flood consists of.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Flood {
    /// DATA without a byte.
    Empty,
    /// CREDIT of one byte.
    Credit,
    /// PONG that answers nothing.
    Pong,
    /// PING, whose answers are read.
    Ping,
    /// Frames of an unknown type, 64 KiB each.
    Extension,
    /// DATA of one byte, to a target that takes them.
    Drip,
    /// Empty datagrams, to a target that does not read.
    Datagrams,
    /// RFC 6455 messages without payload.
    Messages,
    /// JSON frames with 170,000 members.
    Members,
    /// JSON frames with 340,000 arrays.
    Arrays,
}

impl Flood {
    pub(super) const ALL: [Self; 10] = [
        Self::Empty,
        Self::Credit,
        Self::Pong,
        Self::Ping,
        Self::Extension,
        Self::Drip,
        Self::Datagrams,
        Self::Messages,
        Self::Members,
        Self::Arrays,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Credit => "credit",
            Self::Pong => "pong",
            Self::Ping => "ping",
            Self::Extension => "extension",
            Self::Drip => "drip",
            Self::Datagrams => "datagrams",
            Self::Messages => "messages",
            Self::Members => "members",
            Self::Arrays => "arrays",
        }
    }

    /// What is sent over and over, as it goes over the wire. Stream 1 is a stream of bytes, stream 2 one of datagrams.
    fn bytes(self) -> Vec<u8> {
        const UNKNOWN: u8 = 0x90;
        let many = |frame: &[u8]| message_frame(BINARY, &frame.repeat(MESSAGE / frame.len()));
        let json = |member: &str| {
            let text =
                format!(r#"{{"type":"pong"{}}}"#, member.repeat((MESSAGE - 20) / member.len()));
            text_frame(text.as_bytes())
        };
        match self {
            Self::Empty => many(&frame(0x03, 1, b"")),
            Self::Credit => many(&frame(0x06, 1, &1_u32.to_be_bytes())),
            Self::Pong => many(&frame(0x09, 0, b"nothing!")),
            Self::Ping => many(&frame(0x08, 0, b"whatever")),
            Self::Extension => many(&frame(UNKNOWN, 7, &vec![b'z'; 65_536])),
            Self::Datagrams => many(&frame(0x07, 2, b"")),
            Self::Messages => message_frame(BINARY, b"").repeat(100_000),
            Self::Members => json(r#","a":1"#),
            Self::Arrays => json(r#","a":[[[[[[[[1]]]]]]]]"#),
            // It depends on the credit.
            Self::Drip => Vec::new(),
        }
    }
}

/// Where the streams of the honest and of the hostile lead.
#[derive(Clone)]
pub(super) struct Targets {
    pub(super) echo: SocketAddr,
    sink: SocketAddr,
    datagrams: SocketAddr,
}

impl Targets {
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let sink = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut piece = vec![0; 256 * 1024];
                    while matches!(stream.read(&mut piece).await, Ok(length) if length > 0) {}
                });
            }
        });
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let datagrams = socket.local_addr()?;
        tokio::spawn(async move {
            let _open = socket;
            std::future::pending::<()>().await;
        });
        Ok(Self { echo: plain::start_echo().await?, sink, datagrams })
    }
}

/// Floods until it is cancelled; comes back when the gateway ends the session.
pub(super) async fn run(flood: Flood, endpoint: Endpoint, targets: Targets) {
    let bytes = flood.bytes();
    loop {
        let ended = match flood {
            Flood::Drip => drip(&endpoint, targets.sink).await,
            _ => pour(flood, &bytes, &endpoint, &targets).await,
        };
        if ended.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn pour(
    flood: Flood,
    bytes: &[u8],
    endpoint: &Endpoint,
    targets: &Targets,
) -> io::Result<()> {
    let session = match flood {
        Flood::Members | Flood::Arrays => Session::open(endpoint, DEVICE).await?,
        _ => {
            let mut tunnel = Tunnel::open(endpoint, DEVICE).await?;
            tunnel.echo(targets.sink, 0).await?;
            tunnel.open_datagrams(targets.datagrams).await?;
            tunnel.into_session()
        }
    };
    let (mut reader, mut writer) = tokio::io::split(session.into_parts().0);
    let read = async {
        let mut piece = vec![0; 256 * 1024];
        while reader.read(&mut piece).await? > 0 {}
        Err(io::ErrorKind::UnexpectedEof.into())
    };
    let write = async {
        loop {
            writer.write_all(bytes).await?;
            writer.flush().await?;
        }
    };
    tokio::select! { ended = read => ended, ended = write => ended }
}

async fn drip(endpoint: &Endpoint, sink: SocketAddr) -> io::Result<()> {
    let mut tunnel = Tunnel::open(endpoint, DEVICE).await?;
    let stream = tunnel.echo(sink, 0).await?;
    loop {
        tunnel.drip(stream).await?;
    }
}
