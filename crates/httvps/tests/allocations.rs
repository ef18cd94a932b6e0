//! Moving payload allocates next to nothing: the real gateway and the real client, over TLS and sockets, in
//! the second wire format.
//!
//! Each runs on a thread of its own whose allocations are counted; programs, targets and the
//! backend are on others. What is counted is everything that the side does meanwhile: TLS,
//! WebSocket, frames, credit, sockets and timers.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test ends with a panic")]

use counting::Counter;
use httvps_client::proxy::Accept;
use httvps_client::{Bind, Client, Config, Secret, Trust, forward};
use httvps_config::{Config as GatewayConfig, Sources};
use httvps_gateway::{Gateway, Signals};
use httvps_testkit::backend::{Answer, ScriptedBackend};
use httvps_testkit::certificates;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// An allocator that counts the allocations of the threads that asked for it.
#[expect(
    unsafe_code,
    reason = "an allocator is an unsafe trait; this one only counts and delegates"
)]
mod counting {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Allocations of the threads that were given it.
    #[derive(Default)]
    pub(super) struct Counter(AtomicUsize);

    thread_local! {
        static COUNTER: Cell<Option<&'static Counter>> = const { Cell::new(None) };
    }

    struct Counting;

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    impl Counter {
        /// Counts the allocations of this thread from now on.
        pub(super) fn count_this_thread(&'static self) {
            COUNTER.set(Some(self));
        }

        pub(super) fn get(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn note() {
        if let Some(counter) = COUNTER.get() {
            counter.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    // SAFETY: every call is handed on to the system's allocator as it came. What counts is a plain
    // cell without a destructor, so that counting does not itself allocate.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            note();
            // SAFETY: the caller's promises are passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the caller's promises are passed on.
            unsafe { System.dealloc(block, layout) }
        }

        unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
            note();
            // SAFETY: the caller's promises are passed on.
            unsafe { System.realloc(block, layout, new_size) }
        }
    }
}

/// Largest payload of a DATA frame: so many bytes are at least one frame.
const FRAME: usize = 64 * 1024;

/// Frames that are moved before anything is counted: windows and buffers have grown by then.
const WARM: usize = 1000;
/// Frames that are counted together, and how often. The least counts: what the code does for each
/// frame is in all of them, what a busy machine brings about is not.
const COUNTED: usize = 500;
const TIMES: usize = 5;

/// Allocations for each frame that is sent, and for each small message in either direction: none,
/// but for what happens now and then whatever moves, such as a measured round trip.
const SENDING: f64 = 0.02;

/// Allocations for each frame of bulk that is received, fewer than one: when the transport has no
/// more for now, half a record or half a message moves from the large buffer into one of its own size;
/// and what the next hop does not take at once is kept. How often that is depends on who is faster.
const RECEIVING: f64 = 0.9;

/// One measurement at a time: side by side they would take the processor from each other.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a side of the tunnel on a thread of its own for as long as the test lives; gives what it
/// says first, and what it allocates.
fn side<T, F>(run: impl FnOnce(mpsc::SyncSender<T>) -> F + Send + 'static) -> (T, &'static Counter)
where
    T: Send + 'static,
    F: Future<Output = ()>,
{
    let counter: &'static Counter = Box::leak(Box::default());
    let (ready, is_ready) = mpsc::sync_channel(1);
    thread::spawn(move || {
        counter.count_this_thread();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(ready));
    });
    (is_ready.recv().expect("it starts"), counter)
}

async fn gateway(folder: &Path, backend: &str, ready: mpsc::SyncSender<SocketAddr>) {
    let path = |name: &str| folder.join(name).into_os_string();
    let sources = Sources::default()
        .with("listen_addr", "127.0.0.1:0")
        .with("tls_cert_path", path("cert.pem"))
        .with("tls_key_path", path("key.pem"))
        .with("backend_base_url", backend)
        .with("upstream_mode", "direct")
        .with("egress_allow", "127.0.0.0/8");
    let gateway = Gateway::bind(GatewayConfig::load(&sources).unwrap().0).await.unwrap();
    ready.send(gateway.local_addr().unwrap()).unwrap();
    gateway.run(Signals::default()).await.unwrap();
}

async fn client(
    folder: &Path,
    at: SocketAddr,
    target: SocketAddr,
    ready: mpsc::SyncSender<SocketAddr>,
) {
    let url = format!("wss://localhost:{}/ws", at.port()).parse().unwrap();
    let mut config = Config::new(url, "device", Secret::new("token".to_owned()));
    config.trust = Trust::from_pem_file(&folder.join("ca.pem")).unwrap();
    let client = Client::start(config, Box::new(|_| {})).unwrap();
    let places = Arc::new(Semaphore::new(Accept::DEFAULT_CONNECTIONS));
    let bind = Bind::Address(SocketAddr::from(([127, 0, 0, 1], 0)));
    let accept = Accept::bind(bind, places, Arc::new(|_| {})).unwrap();
    ready.send(accept.local_addr().unwrap()).unwrap();
    let target = target.to_string().parse().unwrap();
    forward::serve(accept, target, Arc::new(client), CancellationToken::new()).await;
}

/// A tunnel, and a program's and a target's end of a connection through it.
struct Tunnel {
    program: TcpStream,
    target: TcpStream,
    at_gateway: &'static Counter,
    at_client: &'static Counter,
    _files: TempDir,
}

fn tunnel() -> Tunnel {
    let folder = tempfile::tempdir().unwrap();
    certificates::make(folder.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    let (backend, _) = side(|ready: mpsc::SyncSender<String>| async move {
        let backend = ScriptedBackend::start(Answer::Allow).await;
        ready.send(backend.url()).unwrap();
        std::future::pending::<()>().await;
    });
    let files = folder.path().to_owned();
    let (at, at_gateway) = side(move |ready| async move { gateway(&files, &backend, ready).await });
    let files = folder.path().to_owned();
    let (local, at_client) =
        side(move |ready| async move { client(&files, at, target, ready).await });
    let program = TcpStream::connect(local).unwrap();
    let (target, _) = listener.accept().unwrap();
    for end in [&program, &target] {
        end.set_nodelay(true).unwrap();
    }
    Tunnel { program, target, at_gateway, at_client, _files: folder }
}

impl Tunnel {
    /// Allocations of gateway and client for each frame; `act` moves [`COUNTED`] of them.
    fn for_each_frame(&self, mut act: impl FnMut()) -> [f64; 2] {
        let counters = [self.at_gateway, self.at_client];
        let mut least = [f64::INFINITY; 2];
        for _ in 0..TIMES {
            let before = counters.map(Counter::get);
            act();
            for (side, least) in least.iter_mut().enumerate() {
                let count = counters[side].get() - before[side];
                *least = least.min(count as f64 / COUNTED as f64);
            }
        }
        least
    }
}

/// Moves bytes from one end to the other, as fast as they go; gives what was allocated.
fn bulk(tunnel: &Tunnel, from: &TcpStream, to: &TcpStream) -> [f64; 2] {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let writer = thread::spawn(move || {
        let piece = vec![0x5a; FRAME];
        (0..WARM + TIMES * COUNTED).for_each(|_| from.write_all(&piece).unwrap());
    });
    let mut piece = vec![0; FRAME];
    let mut take = |count: usize| (0..count).for_each(|_| to.read_exact(&mut piece).unwrap());
    take(WARM);
    let each = tunnel.for_each_frame(|| take(COUNTED));
    writer.join().unwrap();
    each
}

fn assert_bounds(what: &str, [gateway, client]: [f64; 2], bounds: [f64; 2]) {
    assert!(
        gateway <= bounds[0] && client <= bounds[1],
        "{what}: the gateway allocates {gateway} times for each frame, the client {client} times; \
         at most {bounds:?} are allowed"
    );
}

#[test]
fn the_counter_counts() {
    let counter: &'static Counter = Box::leak(Box::default());
    counter.count_this_thread();
    let before = counter.get();
    drop(std::hint::black_box(Box::new(7)));
    assert_eq!(counter.get() - before, 1);
}

#[test]
fn bulk_towards_the_target() {
    let _turn = alone();
    let tunnel = tunnel();
    let each = bulk(&tunnel, &tunnel.program, &tunnel.target);
    assert_bounds("up", each, [RECEIVING, SENDING]);
}

#[test]
fn bulk_towards_the_program() {
    let _turn = alone();
    let tunnel = tunnel();
    let each = bulk(&tunnel, &tunnel.target, &tunnel.program);
    assert_bounds("down", each, [SENDING, RECEIVING]);
}

#[test]
fn small_messages_there_and_back() {
    let _turn = alone();
    let tunnel = tunnel();
    let trip = |count: usize| {
        let mut message = [7; 64];
        for _ in 0..count {
            (&tunnel.program).write_all(&message).unwrap();
            (&tunnel.target).read_exact(&mut message).unwrap();
            (&tunnel.target).write_all(&message).unwrap();
            (&tunnel.program).read_exact(&mut message).unwrap();
        }
    };
    trip(WARM);
    // Each is a frame in either direction.
    let each = tunnel.for_each_frame(|| trip(COUNTED / 2));
    assert_bounds("small", each, [SENDING, SENDING]);
}
