//! Strangers who never get in: what do they cost those who do?

use crate::session::{Endpoint, Session};
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

/// How long a backend takes for each answer while strangers say `hello`: 40 a second.
pub(super) const SLOW: Duration = Duration::from_millis(25);

/// How long a stranger holds a connection.
const HELD: Duration = Duration::from_secs(5);

/// What strangers do.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Stranger {
    /// 200 at once say `hello`, to a backend that takes its time for each.
    Hellos,
    /// 400 at once send half a `ClientHello`.
    ClientHellos,
    /// 100 a second connect and say nothing, from the address of the honest ones, as behind a proxy.
    Silent,
}

impl Stranger {
    pub(super) const ALL: [Self; 3] = [Self::Hellos, Self::ClientHellos, Self::Silent];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Hellos => "hellos",
            Self::ClientHellos => "client-hellos",
            Self::Silent => "silent",
        }
    }

    /// How many there are.
    pub(super) const fn count(self) -> usize {
        match self {
            Self::Hellos => 200,
            Self::ClientHellos => 400,
            Self::Silent => 500,
        }
    }
}

/// The stranger of this number, until it is cancelled.
pub(super) async fn run(stranger: Stranger, number: usize, endpoint: Endpoint) {
    match stranger {
        Stranger::Hellos => {
            let endpoint = endpoint.from(Ipv4Addr::new(127, 0, 0, 2));
            loop {
                // Let in or refused: it comes again.
                let _ = Session::open(&endpoint, &format!("stranger-{number}")).await;
                sleep(Duration::from_millis(5)).await;
            }
        }
        Stranger::ClientHellos => {
            let endpoint = endpoint.from(Ipv4Addr::new(127, 0, 0, 3));
            loop {
                let _ = hold(&endpoint, &half_client_hello()).await;
                sleep(Duration::from_millis(5)).await;
            }
        }
        Stranger::Silent => {
            // Spread over the time that each holds its connection.
            sleep(HELD * number as u32 / stranger.count() as u32).await;
            loop {
                let _ = hold(&endpoint, b"").await;
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// The head of a record that announces 16 KiB, and a little of it.
fn half_client_hello() -> Vec<u8> {
    let mut bytes = vec![0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3];
    bytes.resize(8 * 1024, 0x5a);
    bytes
}

/// Connects, says something, and waits for the end or for [`HELD`].
async fn hold(endpoint: &Endpoint, words: &[u8]) -> io::Result<()> {
    let mut stream = endpoint.reach().await?;
    stream.write_all(words).await?;
    let mut end = [0; 64];
    let _ = timeout(HELD, async { while matches!(stream.read(&mut end).await, Ok(1..)) {} }).await;
    Ok(())
}
