//! The source of connections: an address or an interface that the operator chose.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use rustix::io::Errno;
use socket2::{Domain, SockRef, Socket, Type};

/// The source of connections and datagrams of [`Direct`](crate::Direct). By default the system chooses it.
///
/// With an address of one family only, the other family is not used, since its source address would not be the operator's
/// choice. The system picks a port at the bind, and no two connections share one, so a source
/// address has as many connections at once as `net.ipv4.ip_local_port_range` has ports (28,232 by default), whatever
/// their targets. An interface alone has no such limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    four: Option<Ipv4Addr>,
    six: Option<Ipv6Addr>,
    interface: Option<Box<str>>,
    /// Sockets with this descriptor or a higher one are not used.
    first_reserved: Option<u64>,
}

/// Why a source cannot be used. `Display` has the source and the cause, not the setting.
#[derive(Debug)]
pub enum SourceError {
    /// The system does not bind to the address.
    Address(IpAddr, io::Error),
    /// The system does not bind to the interface.
    Interface(Box<str>, io::Error),
}

impl Source {
    /// A source of at most one address of each family (the last one counts), and an interface by its name.
    pub fn new(addresses: &[IpAddr], interface: Option<&str>) -> Self {
        let mut source = Self { interface: interface.map(Into::into), ..Self::default() };
        for address in addresses {
            match address {
                IpAddr::V4(four) => source.four = Some(*four),
                IpAddr::V6(six) => source.six = Some(*six),
            }
        }
        source
    }

    /// The same source without sockets whose descriptor is `first` or higher: the last ones below the limit of the
    /// process are for others. Opening such a socket fails as it does without any descriptor left.
    #[must_use]
    pub fn below_descriptor(self, first: Option<u64>) -> Self {
        Self { first_reserved: first, ..self }
    }

    /// Checks with sockets of its own whether this process can use the source now.
    pub fn check(&self) -> Result<(), SourceError> {
        if let Some(interface) = &self.interface {
            Socket::new(Domain::IPV4, Type::DGRAM, None)
                .or_else(|_| Socket::new(Domain::IPV6, Type::DGRAM, None))
                .and_then(|socket| socket.bind_device(Some(interface.as_bytes())))
                .map_err(|error| SourceError::Interface(interface.clone(), error))?;
        }
        let addresses = [self.four.map(IpAddr::V4), self.six.map(IpAddr::V6)];
        for address in addresses.into_iter().flatten() {
            let there = SocketAddr::new(address, 0);
            Socket::new(Domain::for_address(there), Type::DGRAM, None)
                .and_then(|socket| socket.bind(&there.into()))
                .map_err(|error| SourceError::Address(address, error))?;
        }
        Ok(())
    }

    /// The address that connections to `target` leave from; an error when the family of the target is not used.
    fn address_for(&self, target: IpAddr) -> io::Result<Option<IpAddr>> {
        let (own, other) = (self.four.map(IpAddr::V4), self.six.map(IpAddr::V6));
        let (own, other) = if target.is_ipv4() { (own, other) } else { (other, own) };
        if own.is_none() && other.is_some() {
            return Err(Errno::AFNOSUPPORT.into());
        }
        Ok(own)
    }

    /// Binds a fresh socket to the source. True when it was bound to an address, so that it may receive before
    /// it is connected.
    pub(crate) fn apply(&self, socket: &SockRef<'_>, target: IpAddr) -> io::Result<bool> {
        // The kernel hands out the lowest number that is free.
        if self.first_reserved.is_some_and(|first| socket.as_raw_fd() as u64 >= first) {
            return Err(Errno::MFILE.into());
        }
        if let Some(interface) = &self.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        let Some(address) = self.address_for(target)? else { return Ok(false) };
        socket.bind(&SocketAddr::new(address, 0).into())?;
        Ok(true)
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address, error) => match Errno::from_io_error(error) {
                Some(Errno::ADDRNOTAVAIL) => write!(f, "{address} is no address of this host"),
                _ => write!(f, "{address} cannot be used: {error}"),
            },
            Self::Interface(name, error) => match Errno::from_io_error(error) {
                Some(Errno::NODEV) => write!(f, "this host has no interface {name}"),
                Some(Errno::PERM | Errno::ACCESS) => write!(
                    f,
                    "no permission to bind to the interface {name}: give the process CAP_NET_RAW, or use Linux 5.7 or newer"
                ),
                _ => write!(f, "the interface {name} cannot be used: {error}"),
            },
        }
    }
}

impl std::error::Error for SourceError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_this_host_has_can_be_used_and_the_rest_is_named() {
        assert!(Source::default().check().is_ok());
        assert!(Source::new(&[ip("127.0.0.1")], Some("lo")).check().is_ok());
        let words = Source::new(&[ip("192.0.2.1")], None).check().unwrap_err().to_string();
        assert_eq!(words, "192.0.2.1 is no address of this host");
        let words = Source::new(&[], Some("nosuch0")).check().unwrap_err().to_string();
        assert_eq!(words, "this host has no interface nosuch0");
        let denied = io::Error::from_raw_os_error(Errno::PERM.raw_os_error());
        let words = SourceError::Interface("lo".into(), denied).to_string();
        assert!(words.contains("CAP_NET_RAW"), "{words}");
    }

    #[test]
    fn a_socket_with_one_of_the_last_descriptors_is_refused_as_if_there_were_none() {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        let number = socket.as_raw_fd() as u64;
        let apply = |first| {
            let source = Source::default().below_descriptor(first);
            source.apply(&SockRef::from(&socket), ip("127.0.0.1"))
        };
        assert!(apply(None).is_ok() && apply(Some(number + 1)).is_ok());
        let error = apply(Some(number)).unwrap_err();
        assert_eq!(crate::ConnectError::from(&error), crate::ConnectError::Overload);
    }

    #[test]
    fn a_family_without_an_address_is_not_used() {
        let four = Source::new(&[ip("127.0.0.2")], None);
        assert_eq!(four.address_for(ip("192.0.2.1")).unwrap(), Some(ip("127.0.0.2")));
        assert!(four.address_for(ip("2001:db8::1")).is_err());
        let both = Source::new(&[ip("127.0.0.2"), ip("::1")], None);
        assert_eq!(both.address_for(ip("2001:db8::1")).unwrap(), Some(ip("::1")));
        assert_eq!(Source::default().address_for(ip("::1")).unwrap(), None);
    }
}
