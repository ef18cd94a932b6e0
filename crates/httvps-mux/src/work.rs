//! The bound on the work of a session in one turn of its task.

use httvps_proto::v2::Event;

/// What a gateway's session moves in one turn before other tasks have the processor, in bytes: a third of a millisecond or
/// so. Received bytes and the work on them have a turn each.
pub const TURN: usize = 512 * 1024;

/// The same for a client, which shares its threads with few other sessions.
pub(crate) const CLIENT_TURN: usize = 2 * 1024 * 1024;

/// The rest of a turn, in bytes that are moved. Other operations count as the number of bytes that cost about the same.
///
/// A bound in messages or frames would not hold: a message may hold a hundred thousand frames, and a frame may cost a call of
/// the system or next to nothing.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    left: usize,
}

impl Work {
    /// A message, whatever is in it: it was looked for and counted.
    pub const MESSAGE: usize = 1024;
    /// A frame of the second format: it was found, and its stream looked up.
    pub const FRAME: usize = 64;
    /// A turn of a stream, or payload for its next hop: a call of the system.
    pub const CALL: usize = 4 * 1024;
    /// What a turn of a stream of datagrams takes beyond that: up to 16 calls.
    pub const DATAGRAMS: usize = 16 * 1024;
    /// A new stream: a socket, and perhaps a lookup.
    pub const OPEN: usize = 32 * 1024;

    /// A whole turn of so many bytes.
    pub const fn of_turn(bytes: usize) -> Self {
        Self { left: bytes }
    }

    /// Whether the turn is over.
    pub const fn is_spent(self) -> bool {
        self.left == 0
    }

    /// Bytes that a step may still move: what is left, and never less than half a turn of [`TURN`].
    pub const fn step_limit(self) -> usize {
        if self.left > TURN / 2 { self.left } else { TURN / 2 }
    }

    /// Whether less than half a turn was spent since `then`.
    pub const fn is_within_half_since(self, then: Self) -> bool {
        let turn = if then.left < TURN { then.left } else { TURN };
        // Rounded up, so that a turn that has begun moves something.
        then.left - self.left < turn.div_ceil(2)
    }

    /// Subtracts the cost of an operation.
    pub const fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// Subtracts the cost of a frame of the second format.
    pub const fn spend_frame(&mut self, event: &Event<'_>) {
        let more = match event {
            Event::Data { data, .. } | Event::Datagram { data, .. } => Self::CALL + data.len(),
            Event::Open { .. } => Self::OPEN,
            Event::Refused(_) | Event::Finish(_) | Event::Reset { .. } => Self::CALL,
            _ => 0,
        };
        self.spend(Self::FRAME + more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these events one turn has room for.
    fn events_of_a_turn(event: &Event<'_>) -> usize {
        let mut work = Work::of_turn(TURN);
        std::iter::from_fn(|| (!work.is_spent()).then(|| work.spend_frame(event))).count()
    }

    #[test]
    fn a_turn_has_fewer_of_what_costs_more() {
        let (small, large) = ([0; 1], vec![0; 65_536]);
        let data = |data| Event::Data { stream: 1, data };
        assert_eq!(events_of_a_turn(&Event::Nothing), 8192);
        assert_eq!(events_of_a_turn(&Event::Credit(1)), 8192);
        assert_eq!(events_of_a_turn(&data(&small)), 127);
        assert_eq!(events_of_a_turn(&Event::Datagram { stream: 1, data: &small }), 127);
        assert_eq!(events_of_a_turn(&data(&large)), 8);
    }

    #[test]
    fn half_a_turn_is_left_to_others() {
        let (begun, mut work) = (Work::of_turn(TURN), Work::of_turn(TURN));
        work.spend(TURN / 2 - 1);
        assert!(work.is_within_half_since(begun));
        work.spend(1);
        assert!(!work.is_within_half_since(begun) && !work.is_spent());
        work.spend(TURN);
        assert!(work.is_spent());
        // A short turn has a half of its own: else its streams would leave nothing to the client.
        let (begun, mut work) = (Work::of_turn(TURN / 4), Work::of_turn(TURN / 4));
        work.spend(TURN / 8);
        assert!(!work.is_within_half_since(begun) && !work.is_spent());
        let last = Work::of_turn(1);
        assert!(last.is_within_half_since(last));
    }
}
