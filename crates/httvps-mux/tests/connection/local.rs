//! Local connections for the driver to carry, with what a test sees of them and does to them.

use crate::gateway_v2::{GatewayV2, pair};
use crate::within;
use futures_util::task::AtomicWaker;
use httvps_mux::{Connection, Local, Settings, Stream};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf};
use tokio::task::JoinHandle;

pub(crate) type HandedBack = (Box<dyn Local>, Stream, Option<io::Error>);

/// What the test sees of, and does to, the near side of a local connection.
#[derive(Default)]
pub(crate) struct Watched {
    read: AtomicUsize,
    was_reset: AtomicBool,
    is_broken: AtomicBool,
    reader: AtomicWaker,
    writes: Mutex<Writes>,
    /// Largest number of bytes that a read gives; 0 is no bound.
    pub(crate) most_read: AtomicUsize,
}

/// What becomes of a write.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) enum Writes {
    #[default]
    Sound,
    Broken,
    /// They take nothing and do not say that they wait.
    Empty,
}

impl Watched {
    pub(crate) fn read(&self) -> usize {
        self.read.load(Ordering::SeqCst)
    }

    pub(crate) fn was_reset(&self) -> bool {
        self.was_reset.load(Ordering::SeqCst)
    }

    /// What becomes of writes from now on; no task is woken by it.
    pub(crate) fn set_writes(&self, writes: Writes) {
        *self.writes.lock().unwrap() = writes;
    }

    /// Lets reads fail from now on.
    pub(crate) fn break_reads(&self) {
        self.is_broken.store(true, Ordering::SeqCst);
        self.reader.wake();
    }
}

/// The near side of a local connection.
pub(crate) struct Near(DuplexStream, Arc<Watched>);

impl AsyncRead for Near {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.1.reader.register(cx.waker());
        if self.1.is_broken.load(Ordering::SeqCst) {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        let room = match self.1.most_read.load(Ordering::SeqCst) {
            0 => buf.remaining(),
            most => most.min(buf.remaining()),
        };
        let mut part = vec![0; room];
        let mut limited = ReadBuf::new(&mut part);
        let poll = Pin::new(&mut self.0).poll_read(cx, &mut limited);
        self.1.read.fetch_add(limited.filled().len(), Ordering::SeqCst);
        buf.put_slice(limited.filled());
        poll
    }
}

impl AsyncWrite for Near {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let writes = *self.1.writes.lock().unwrap();
        match writes {
            Writes::Sound => {}
            Writes::Broken => return Poll::Ready(Err(ErrorKind::ConnectionAborted.into())),
            Writes::Empty => return Poll::Ready(Ok(0)),
        }
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Local for Near {
    fn reset_on_drop(&self) {
        self.1.was_reset.store(true, Ordering::SeqCst);
    }

    fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        Some((([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into()))
    }
}

/// A local connection that holds `capacity` bytes in each direction, and the program at its end.
pub(crate) fn local(capacity: usize) -> (Near, DuplexStream, Arc<Watched>) {
    let (near, program) = tokio::io::duplex(capacity);
    let watched = Arc::new(Watched::default());
    (Near(near, watched.clone()), program, watched)
}

/// A stream that the driver carries.
pub(crate) struct Carried {
    pub(crate) key: u32,
    pub(crate) program: DuplexStream,
    pub(crate) watched: Arc<Watched>,
    pub(crate) carry: JoinHandle<HandedBack>,
}

pub(crate) async fn open(connection: &Connection, gateway: &mut GatewayV2) -> (Stream, u32) {
    let (stream, key) = tokio::join!(connection.open("target:1"), gateway.open());
    (stream.unwrap(), key)
}

pub(crate) async fn carried(
    connection: &Connection,
    gateway: &mut GatewayV2,
    capacity: usize,
) -> Carried {
    let (stream, key) = within(open(connection, gateway)).await;
    let (near, program, watched) = local(capacity);
    let carry = tokio::spawn(stream.carry(Box::new(near)));
    Carried { key, program, watched, carry }
}

pub(crate) async fn start(capacity: usize) -> (Connection, GatewayV2, Carried) {
    let (connection, mut gateway) = within(pair(1 << 20, Settings::default())).await;
    let carried = carried(&connection, &mut gateway, capacity).await;
    (connection, gateway, carried)
}

pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Lets every task run until all of them wait: paused time moves on only then.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// What lies in a local connection for its program.
pub(crate) async fn lying(program: &mut DuplexStream) -> Vec<u8> {
    let mut got = Vec::new();
    let mut part = [0; 4096];
    while let Ok(Ok(count @ 1..)) =
        tokio::time::timeout(Duration::from_millis(1), program.read(&mut part)).await
    {
        got.extend(&part[..count]);
    }
    got
}
