//! The upstream without a network.

use crate::{
    BoxFuture, ConnectError, Connector, DatagramDial, DatagramUpstream, NoDatagrams, OpenRequest,
    Upstream,
};

/// A connector without connections: each stream is echoed or discarded. The target is ignored; it never fails.
#[derive(Clone, Copy, Debug)]
pub struct Fake {
    blackhole: bool,
}

impl Fake {
    /// Every byte and every datagram is sent back.
    pub const fn echo() -> Self {
        Self { blackhole: false }
    }

    /// Every byte and every datagram is dropped.
    pub const fn blackhole() -> Self {
        Self { blackhole: true }
    }
}

impl Connector for Fake {
    fn connect(&self, _request: OpenRequest) -> BoxFuture<'static, Result<Upstream, ConnectError>> {
        let upstream = if self.blackhole { Upstream::Blackhole } else { Upstream::Echo };
        Box::pin(std::future::ready(Ok(upstream)))
    }

    fn connect_datagrams(&self, _request: OpenRequest) -> Result<DatagramDial, NoDatagrams> {
        let upstream =
            if self.blackhole { DatagramUpstream::Blackhole } else { DatagramUpstream::Echo };
        Ok(Box::pin(std::future::ready(Ok(upstream))))
    }

    fn uses_target(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        if self.blackhole { "blackhole" } else { "echo" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LookupShare;
    use std::time::Duration;

    #[tokio::test]
    async fn opens_at_once_with_and_without_a_target() {
        for target in [None, "10.0.0.1:1".parse().ok()] {
            let request =
                OpenRequest { target, deadline: Duration::ZERO, lookups: LookupShare::default() };
            let echo = Fake::echo().connect(request.clone()).await;
            assert!(matches!(echo, Ok(Upstream::Echo)));
            let blackhole = Fake::blackhole().connect(request.clone()).await;
            assert!(matches!(blackhole, Ok(Upstream::Blackhole)));
            let echo = Fake::echo().connect_datagrams(request.clone()).unwrap().await;
            assert!(matches!(echo, Ok(DatagramUpstream::Echo)));
            let blackhole = Fake::blackhole().connect_datagrams(request).unwrap().await;
            assert!(matches!(blackhole, Ok(DatagramUpstream::Blackhole)));
        }
        assert_eq!((Fake::echo().name(), Fake::blackhole().name()), ("echo", "blackhole"));
    }
}
