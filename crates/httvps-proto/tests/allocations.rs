//! The steady state of a bulk transfer allocates nothing.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test ends with a panic")]

use httvps_proto::json::{self, Frame};
use httvps_proto::{ClientInput, ClientSession, Input, Limits, Outbox, Session, Verdict};
use std::sync::Arc;
use std::time::Instant;

/// An allocator that counts, by thread, so that the test harness does not disturb the figures.
#[expect(
    unsafe_code,
    reason = "an allocator is an unsafe trait; this one only counts and delegates"
)]
mod counting {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        static COUNT: Cell<usize> = const { Cell::new(0) };
    }

    struct Counting;

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    // SAFETY: every call is handed on to the system's allocator as it came. The counter is a plain
    // cell without a destructor, so that counting does not itself allocate.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            COUNT.set(COUNT.get() + 1);
            // SAFETY: the caller's promises are passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the caller's promises are passed on.
            unsafe { System.dealloc(block, layout) }
        }

        unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
            COUNT.set(COUNT.get() + 1);
            // SAFETY: the caller's promises are passed on.
            unsafe { System.realloc(block, layout, new_size) }
        }
    }

    /// Allocations of this thread while `act` ran.
    pub(super) fn during(act: impl FnOnce()) -> usize {
        let before = COUNT.get();
        act();
        COUNT.get() - before
    }
}

use counting::during;

/// A carrier's outgoing buffer: messages are appended to it and taken from it in place.
#[derive(Default)]
struct Buffer(Vec<u8>);

impl Outbox for Buffer {
    fn text(&mut self, _: usize, fill: impl FnOnce(&mut Vec<u8>)) {
        fill(&mut self.0);
    }
}

const SIZES: [usize; 5] = [0, 1, 1024, 16 * 1024, 64 * 1024];

#[test]
fn the_counter_counts() {
    assert_eq!(during(|| drop(std::hint::black_box(Box::new(7)))), 1);
    assert_eq!(during(|| ()), 0);
}

#[test]
fn a_warm_codec_allocates_nothing_for_stream_data() {
    let payload = vec![0xA5; 64 * 1024];
    let (mut buffer, mut scratch) = (Buffer::default(), Vec::new());
    let mut round = |size: usize| {
        buffer.0.clear();
        json::stream_data(&mut buffer, "stream-1", &payload[..size]);
        let frame = json::decode(&buffer.0, &mut scratch);
        assert!(matches!(frame, Ok(Frame::StreamData { data, .. }) if data == &payload[..size]));
    };
    round(payload.len());
    for size in SIZES {
        assert_eq!(during(|| (0..10).for_each(|_| round(size))), 0, "at {size} bytes");
    }
}

#[test]
fn a_ping_is_read_without_an_allocation() {
    let mut scratch = Vec::new();
    let mut decode = |message: &str| {
        assert!(json::decode(message.as_bytes(), &mut scratch).is_ok());
    };
    assert_eq!(during(|| decode(r#"{"type":"ping"}"#)), 0);
    assert_eq!(during(|| decode(r#"{ "type" : "pong" }"#)), 0);
}

#[test]
fn warm_sessions_allocate_nothing_while_payload_goes_both_ways() {
    let (now, payload) = (Instant::now(), vec![0x5A; 64 * 1024]);
    let (mut up, mut down) = (Buffer::default(), Buffer::default());
    let (mut at_client, mut at_gateway) = (Vec::new(), Vec::new());
    let mut gateway = Session::new(Arc::new(Limits::default()));
    let mut client = ClientSession::hello("d", "t", "v", None, false, &mut up);
    gateway.handle_text(now, &up.0, &mut at_gateway, &mut down);
    let verdict = Verdict::Allowed { session_id: "s", subscription_status: None };
    gateway.handle_verdict(now, &verdict, &mut down);
    client.handle_text(&down.0, &mut at_client, &mut up);
    let streams = [(); 3].map(|()| {
        up.0.clear();
        let key = client.open(None, &mut up).unwrap();
        gateway.handle_text(now, &up.0, &mut at_gateway, &mut down);
        key
    });
    let mut echo = |size: usize| {
        for key in streams {
            up.0.clear();
            assert!(client.write(key, &payload[..size], &mut up));
            down.0.clear();
            match gateway.handle_text(now, &up.0, &mut at_gateway, &mut down) {
                Input::Data { stream, data } => assert!(gateway.write(stream, data, &mut down)),
                other => panic!("{other:?}"),
            }
            match client.handle_text(&down.0, &mut at_client, &mut up) {
                ClientInput::Data { data, .. } => assert_eq!(data.len(), size),
                other => panic!("{other:?}"),
            }
        }
    };
    echo(payload.len());
    for size in SIZES {
        assert_eq!(during(|| (0..10).for_each(|_| echo(size))), 0, "at {size} bytes");
    }
}
