//! Datagrams as a SOCKS5 proxy has them (RFC 1928 section 7).

use std::io;
use std::ops::Range;

use httvps_proto::Target;
use httvps_proto::address;
use rustix::io::Errno;

/// Two reserved bytes and the number of the fragment, which is 0 for a whole datagram.
const START: [u8; 3] = [0; 3];

/// Longest packet that UDP takes, in bytes.
const PACKET_MAX: usize = 0xffff;

/// Datagrams to and from one target through a SOCKS5 proxy; without a target each payload begins with its address
/// header, in both directions.
#[derive(Debug)]
pub struct Packets {
    /// What each packet to the proxy begins with.
    header: Box<[u8]>,
    target: Option<Target>,
}

impl Packets {
    /// Datagrams to and from `target`.
    pub fn new(target: Option<&Target>) -> Self {
        let mut header = START.to_vec();
        if let Some(target) = target {
            address::encode(target, &mut header);
        }
        Self { header: header.into(), target: target.cloned() }
    }

    /// Writes the packet for one payload over what is in `packet`.
    ///
    /// An error costs this datagram only: too long, or no address header where it must have one.
    pub fn wrap(&self, payload: &[u8], packet: &mut Vec<u8>) -> io::Result<()> {
        if payload.len() > PACKET_MAX - self.header.len() {
            return Err(Errno::MSGSIZE.into());
        }
        if self.target.is_none() && address::split(payload).is_none() {
            return Err(Errno::DESTADDRREQ.into());
        }
        packet.clear();
        packet.extend_from_slice(&self.header);
        packet.extend_from_slice(payload);
        Ok(())
    }

    /// Where the payload of a packet is. `None` for a fragment, for what is no packet, and for what does not come from
    /// the target.
    pub fn unwrap(&self, packet: &[u8]) -> Option<Range<usize>> {
        // The reserved bytes mean nothing; fragments may be dropped (RFC 1928 section 7).
        let (start, rest) = packet.split_first_chunk::<3>()?;
        let (source, payload) = address::split(rest)?;
        if start[2] != 0 {
            return None;
        }
        match &self.target {
            None => Some(START.len()..packet.len()),
            Some(target) => source.fits(target).then(|| packet.len() - payload.len()..packet.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_datagram_has_its_target_in_front() {
        let target = Target::parse("192.0.2.7:53").unwrap();
        let packets = Packets::new(Some(&target));
        let mut packet = vec![9; 3];
        packets.wrap(b"hello", &mut packet).unwrap();
        assert_eq!(packet, b"\0\0\0\x01\xc0\0\x02\x07\0\x35hello");
        assert_eq!(packets.unwrap(&packet).map(|at| &packet[at]), Some(&b"hello"[..]));
        packets.wrap(b"", &mut packet).unwrap();
        assert_eq!(packets.unwrap(&packet), Some(10..10), "no bytes are a datagram too");
        let fragment = [&[0, 0, 1], &packet[3..]].concat();
        assert_eq!(packets.unwrap(&fragment), None);
        let elsewhere = [&packet[..9], &[54]].concat();
        assert_eq!(packets.unwrap(&elsewhere), None);
        assert!(packets.wrap(&vec![0; PACKET_MAX], &mut packet).is_err());
    }

    #[test]
    fn without_a_target_the_payload_has_the_header() {
        let packets = Packets::new(None);
        let mut packet = Vec::new();
        packets.wrap(b"\x01\xc0\0\x02\x07\0\x35hi", &mut packet).unwrap();
        assert_eq!(packet, b"\0\0\0\x01\xc0\0\x02\x07\0\x35hi");
        assert_eq!(packets.unwrap(&packet), Some(3..12));
        let error = packets.wrap(b"GET /", &mut packet).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::DESTADDRREQ));
    }

    proptest! {
        #[test]
        fn any_packet_is_judged_without_a_panic(bytes in any::<Vec<u8>>(), kind in 0_u8..6) {
            let target = Target::parse("a.example:53").unwrap();
            let near = [&[0, 0, 0, kind][..], &bytes].concat();
            for packets in [Packets::new(Some(&target)), Packets::new(None)] {
                for packet in [&bytes, &near] {
                    if let Some(payload) = packets.unwrap(packet) {
                        prop_assert!(payload.end == packet.len() && payload.start >= 3);
                    }
                }
            }
        }
    }
}
