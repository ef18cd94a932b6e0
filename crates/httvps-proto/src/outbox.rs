//! Where a session puts the messages it wants sent.

/// Accepts complete messages for the peer.
///
/// The length is given before the bytes so that a carrier can write its own header first and let
/// the frame be encoded straight into the outgoing buffer, without a copy in between.
pub trait Outbox {
    /// Queues one text message of exactly `len` bytes, which `fill` appends.
    fn text(&mut self, len: usize, fill: impl FnOnce(&mut Vec<u8>));
}

/// Collects messages; for tests and for carriers without a buffer of their own.
impl Outbox for Vec<Vec<u8>> {
    fn text(&mut self, len: usize, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut message = Vec::with_capacity(len);
        fill(&mut message);
        debug_assert_eq!(message.len(), len, "a frame must be as long as announced");
        self.push(message);
    }
}
