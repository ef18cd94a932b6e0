//! Where the tunnels lead: sinks, sources and an echo in this process.

use crate::plain;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// What is read and written at once.
const PIECE: usize = 256 * 1024;

/// What the bulk target does with a connection; its first byte says it.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Direction {
    /// The target takes bytes.
    Up,
    /// The target sends bytes.
    Down,
    /// Both at once.
    Both,
}

impl Direction {
    pub(crate) const ONE_WAY: [Self; 2] = [Self::Up, Self::Down];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Both => "both",
        }
    }

    fn command(self) -> u8 {
        self.name().as_bytes()[0]
    }
}

/// Payload bytes that have arrived so far, of all connections.
#[derive(Default)]
pub(crate) struct Moved {
    up: AtomicU64,
    down: AtomicU64,
}

impl Moved {
    pub(crate) fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    pub(crate) fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }
}

/// The targets, for as long as the program runs.
pub(crate) struct Targets {
    pub(crate) bulk: SocketAddr,
    pub(crate) echo: SocketAddr,
    pub(crate) moved: Arc<Moved>,
}

impl Targets {
    /// The echo has a thread of its own, so that small messages do not wait for bulk in here.
    pub(crate) async fn start() -> io::Result<Self> {
        let moved = Arc::new(Moved::default());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let bulk = listener.local_addr()?;
        let counted = moved.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                // The peer's end of it is the end of the measurement.
                tokio::spawn(serve(stream, counted.clone()));
            }
        });
        let (ready, echo) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                // The receiver is gone when the benchmark has ended.
                let _ = ready.send(plain::start_echo().await);
                std::future::pending::<io::Result<()>>().await
            })
        });
        let echo = echo.await.map_err(io::Error::other)??;
        Ok(Self { bulk, echo, moved })
    }
}

/// The target's side of a bulk connection.
pub(crate) async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    moved: Arc<Moved>,
) -> io::Result<()> {
    let command = stream.read_u8().await?;
    match [Direction::Up, Direction::Down, Direction::Both].iter().find(|d| d.command() == command)
    {
        Some(Direction::Up) => take(stream, &moved.up).await,
        Some(Direction::Down) => pour(stream).await,
        Some(Direction::Both) => {
            let (reader, writer) = tokio::io::split(stream);
            tokio::try_join!(take(reader, &moved.up), pour(writer)).map(drop)
        }
        None => Err(io::Error::other("no such direction")),
    }
}

/// The client's side; ends only with an error, since the peer never does.
pub(crate) async fn load(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    direction: Direction,
    moved: &Moved,
) -> io::Result<()> {
    stream.write_u8(direction.command()).await?;
    stream.flush().await?;
    match direction {
        Direction::Up => pour(stream).await?,
        Direction::Down => take(stream, &moved.down).await?,
        Direction::Both => {
            let (reader, writer) = tokio::io::split(stream);
            tokio::try_join!(take(reader, &moved.down), pour(writer)).map(drop)?;
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn pattern() -> Vec<u8> {
    (0..PIECE).map(|at| (at * 131 % 251) as u8).collect()
}

async fn pour(mut writer: impl AsyncWrite + Unpin) -> io::Result<()> {
    let piece = pattern();
    loop {
        writer.write_all(&piece).await?;
        writer.flush().await?;
    }
}

/// Takes bytes until the end and counts them; the first piece is compared.
async fn take(mut reader: impl AsyncRead + Unpin, counted: &AtomicU64) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    reader.read_exact(&mut piece).await?;
    if piece != pattern() {
        return Err(io::Error::other("the tunnel changed what it carried"));
    }
    counted.fetch_add(PIECE as u64, Ordering::Relaxed);
    loop {
        let length = reader.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        counted.fetch_add(length as u64, Ordering::Relaxed);
    }
}
