//! TLS records behind the handshake, in both versions and roles.
//!
//! The input is a list of what a peer and an attacker on the way do: records of any kind and content,
//! bits that change, records that are lost, repeated, cut or made up. Whatever happens, a reader gets
//! what the peer sealed as data, from its start and in its order, all of it without an attack; and
//! memory is bounded.

use super::behaviour;
use super::pieces::{Pieces, read_all};
use crate::run::Decoder;
use httvps_tls::fuzzing::{Format, Peer, start_over};
use httvps_tls::{CertSource, ClientTls, Roots, ServerTls, TlsStream, server_name};
use tokio::io::DuplexStream;

/// Content types of records.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// What may be in a message of the protocol itself, and what may not.
const HANDSHAKES: [&[u8]; 9] = [
    &[24, 0, 0, 1, 0],
    &[24, 0, 0, 1, 1],
    &[24, 0, 0, 1, 2],
    &[24, 0, 0],
    &[4, 0, 0, 16, 0, 0, 0, 9, 0, 0, 0, 1, 1, 7, 0, 4, 1, 2, 3, 4],
    &[0, 0, 0, 0],
    &[1, 0, 0, 1, 0],
    &[4, 0xff, 0xff, 0xff],
    &[],
];
const ALERTS: [&[u8]; 6] = [&[1, 0], &[1, 90], &[1, 100], &[2, 40], &[1], &[3, 3, 3]];

/// Heap that a connection may hold whatever its peer does: see `TlsStream`.
const MAX_HELD: usize = 450 * 1024;

/// Bytes from which on nothing is repeated any more.
const MAX_WIRE: usize = 4 * 1024 * 1024;

/// What the peer and the one on the way have done.
struct Script {
    peer: Peer,
    wire: Vec<u8>,
    /// Where the last record begins.
    last: usize,
    /// All data that was sealed.
    good: Vec<u8>,
    /// Nothing but data was sealed, and nothing was changed.
    is_plain: bool,
}

impl Script {
    fn seal(&mut self, typ: u8, content: &[u8]) {
        let Some(record) = self.peer.seal(typ, content) else { return };
        self.last = self.wire.len();
        self.wire.extend_from_slice(&record);
        self.is_plain &= typ == DATA;
    }

    fn data(&mut self, len: usize) -> Vec<u8> {
        let start = self.good.len();
        let content: Vec<u8> =
            (start..start + len).map(|at| ((at * 31) ^ (at >> 8)) as u8).collect();
        self.good.extend_from_slice(&content);
        content
    }

    /// One thing that happens; returns what is left of the list.
    fn act<'i>(&mut self, format: Format, op: u8, arg: u8, rest: &'i [u8]) -> &'i [u8] {
        let number = usize::from(arg);
        match op % 16 {
            0..4 => {
                let content = self.data(number);
                self.seal(DATA, &content);
            }
            4 => {
                let content = self.data(number * if op == 4 { 64 } else { 8 });
                self.seal(DATA, &content);
            }
            5 | 6 => self.seal(HANDSHAKE, HANDSHAKES[number % HANDSHAKES.len()]),
            7 => self.seal(ALERT, ALERTS[number % ALERTS.len()]),
            8 if op ^ arg != DATA => self.seal(op ^ arg, &[arg]),
            9 if format == Format::Tls13 => {
                // Padding: the real type stands before zeros.
                let mut content = self.data(number);
                content.push(DATA);
                content.resize(content.len() + usize::from(op >> 4), 0);
                self.seal(0, &content);
            }
            10 if self.last < self.wire.len() => {
                let at = self.last + number % (self.wire.len() - self.last);
                self.wire[at] ^= 1 << (op >> 4 & 7);
                self.is_plain = false;
            }
            11 => {
                self.wire.truncate(self.last);
                self.is_plain = false;
            }
            12 if self.wire.len() < MAX_WIRE => {
                let record = self.wire[self.last..].to_vec();
                // The copy is the last one then: repeats of repeats would double what is there each time.
                self.last = self.wire.len();
                self.wire.extend_from_slice(&record);
                self.is_plain = false;
            }
            13 => {
                let end = self.wire.len().saturating_sub(number).max(self.last);
                self.wire.truncate(end);
                self.is_plain = false;
            }
            14 => {
                let (garbage, after) = rest.split_at(number.min(rest.len()));
                self.wire.extend_from_slice(garbage);
                self.is_plain = false;
                return after;
            }
            _ => {}
        }
        rest
    }
}

/// One handshake for each version and role, whose connection starts over for every run.
pub(super) struct Records {
    /// Servers, then clients; each for 1.3, then 1.2.
    streams: [Option<TlsStream<DuplexStream>>; 4],
    restarted: [Option<TlsStream<Pieces>>; 4],
}

impl Records {
    pub(super) fn new() -> Self {
        let ((a, b), (c, d)) = (handshake(), handshake());
        Self { streams: [Some(a), Some(c), Some(b), Some(d)], restarted: [None, None, None, None] }
    }

    fn stream(
        &mut self,
        format: Format,
        is_client: bool,
        wire: Pieces,
    ) -> (TlsStream<Pieces>, Peer) {
        let place = 2 * usize::from(is_client) + usize::from(format != Format::Tls13);
        let pair = match (self.restarted[place].take(), self.streams[place].take()) {
            (Some(stream), _) => start_over(stream, wire, format),
            (None, Some(stream)) => start_over(stream, wire, format),
            // The run before has panicked and taken the connection with it.
            (None, None) => {
                let (server, client) = handshake();
                start_over(if is_client { client } else { server }, wire, format)
            }
        };
        pair.expect("the keys are of the right length")
    }
}

/// A connection between our server and our client, in memory.
fn handshake() -> (TlsStream<DuplexStream>, TlsStream<DuplexStream>) {
    let dir = tempfile::tempdir().expect("there is room for two small files");
    let files =
        CertSource { cert_path: dir.path().join("cert.pem"), key_path: dir.path().join("key.pem") };
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a good name");
    std::fs::write(&files.cert_path, own.cert.pem()).expect("the folder is ours");
    std::fs::write(&files.key_path, own.signing_key.serialize_pem()).expect("the folder is ours");
    let server = ServerTls::new(&files).expect("certificate and key belong together");
    let client = ClientTls::new(Roots::Insecure).expect("no roots are needed");
    let name = server_name("localhost").expect("a good name");
    let (near, far) = tokio::io::duplex(64 * 1024);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a plain runtime");
    let (server, client) =
        runtime.block_on(async { tokio::join!(server.accept(near), client.connect(name, far)) });
    (server.expect("they are made for each other"), client.expect("they are made for each other"))
}

impl Decoder for Records {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let scripts: [&[u8]; 8] = [
            b"\xff\xff\x00\x10\x00\x20\x04\xff\x00\x00",
            b"\x08\x03\x04\x80\x00\x05\x07\x00\x00\x05",
            b"\x40\x20\x00\x10\x0a\x07\x00\x08",
            b"\x40\x20\x00\x10\x05\x01\x00\x08\x05\x00",
            b"\x40\x20\x00\x10\x05\x04\x00\x08\x07\x01\x00\x05",
            b"\x01\x01\x29\x10\x09\x00\x00\x03\x0c\x00",
            b"\x40\x20\x00\x10\x0b\x00\x00\x08\x0d\x03",
            b"\x40\x20\x00\x10\x0e\x08\x17\x03\x03\x00\x20abc\x08\x14\x00\x04",
        ];
        super::seeds::led_by(&scripts, &[0, 1, 2, 3, 4, 5])
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"\x17\x03\x03\x00\x11",
            b"\x17\x03\x03\x41\x00",
            b"\x15\x03\x03\x00\x02\x01\x00",
            b"\x16\x03\x03",
            b"\x14\x03\x03\x00\x01\x01",
            b"\x05\x00\x05\x00\x05\x00",
            b"\x00\x00\x00\x00\x00\x00\x00\x00",
            b"\x05\x03",
            b"\x07\x01\x07\x01\x07\x01\x07\x01\x07\x01",
            b"\x04\xff\x04\xff",
        ]
    }

    fn longest(&self) -> usize {
        120
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let [first, room, piece, list @ ..] = input else { return 0 };
        let mut rest = list;
        let format =
            [Format::Tls13, Format::Tls12Explicit, Format::Tls12Implicit][usize::from(first % 3)];
        let is_client = first / 3 % 2 == 1;
        let (mut stream, peer) = self.stream(format, is_client, Pieces::new(Vec::new(), 1));
        let mut script =
            Script { peer, wire: Vec::new(), last: 0, good: Vec::new(), is_plain: true };
        while let [op, arg, after @ ..] = rest {
            rest = script.act(format, *op, *arg, after);
        }
        let Script { wire, good, is_plain, .. } = script;
        let total = wire.len();
        *stream.get_mut() = Pieces::new(wire, 1 + usize::from(*piece) * 16);
        let (received, end) = read_all(&mut stream, 1 + usize::from(*room) * 80, |stream| {
            let held = stream.buffered_capacity();
            assert!(held <= MAX_HELD, "{held} bytes held");
        });
        assert!(good.starts_with(&received), "{} bytes that were not sealed", received.len());
        if is_plain {
            let is_whole = received == good && end.as_deref() == Some("unexpected end of file");
            // The bound on records without content is the one thing that ends good data.
            let is_busy =
                end.as_deref().is_some_and(|words| words.contains("TooManyEmptyFragments"));
            assert!(is_whole || is_busy, "{} of {} bytes, {end:?}", received.len(), good.len());
        }
        let place = 2 * usize::from(is_client) + usize::from(format != Format::Tls13);
        self.restarted[place] = Some(stream);
        behaviour((first % 6, end, received.len() / 1024, total / 2048))
    }
}
