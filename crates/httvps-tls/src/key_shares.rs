//! Which servers a client greets without the post-quantum key share.
//!
//! The share of X25519MLKEM768 makes a `ClientHello` of more than 1,500 bytes, which needs a second
//! segment. Some paths lose or reset connections that begin so. A client cannot see why, but it can
//! see that its attempts alternate between failure with the share and success without.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::time::Instant;

/// Most servers that are remembered; the oldest gives way.
const MAX_SERVERS: usize = 256;

/// How long a server is greeted without the share before it is tried again.
const REMEMBERED: Duration = Duration::from_hours(1);

/// A handshake that is given up after so long counts as lost. One that is given up sooner was not
/// wanted any more.
const SILENCE: Duration = Duration::from_secs(1);

/// The memory of one client; clones share it.
#[derive(Clone, Default)]
pub struct KeyShares(Arc<Mutex<HashMap<ServerName<'static>, Instant>>>);

impl KeyShares {
    /// Begins a handshake with `server`. What comes of it must be said, or it counts as given up
    /// when the attempt is dropped.
    pub fn begin(&self, server: &ServerName<'static>) -> Attempt {
        let now = Instant::now();
        let is_small = match self.servers().get(server) {
            Some(since) => now.duration_since(*since) < REMEMBERED,
            None => false,
        };
        Attempt { shares: self.clone(), server: Some(server.clone()), is_small, begun: now }
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<ServerName<'static>, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next attempt is made in the other way.
    fn lost(&self, server: ServerName<'static>, is_small: bool) {
        let mut servers = self.servers();
        if is_small {
            // The share was not what this path did not like.
            servers.remove(&server);
            return;
        }
        if servers.len() >= MAX_SERVERS && !servers.contains_key(&server) {
            let oldest = servers.iter().min_by_key(|(_, since)| **since);
            if let Some(oldest) = oldest.map(|(server, _)| server.clone()) {
                servers.remove(&oldest);
            }
        }
        servers.insert(server, Instant::now());
    }
}

impl fmt::Debug for KeyShares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyShares").finish_non_exhaustive()
    }
}

/// One handshake of a client.
#[must_use = "what comes of the handshake has to be said"]
pub struct Attempt {
    shares: KeyShares,
    /// None when it was said what came of it.
    server: Option<ServerName<'static>>,
    is_small: bool,
    begun: Instant,
}

impl Attempt {
    /// Whether the post-quantum key share is left out.
    pub fn is_small(&self) -> bool {
        self.is_small
    }

    /// The server has answered, whatever it was.
    pub fn answered(mut self) {
        self.server = None;
    }

    /// The connection broke, or no answer came in time.
    pub fn lost(mut self) {
        if let Some(server) = self.server.take() {
            self.shares.lost(server, self.is_small);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(server) = self.server.take()
            && self.begun.elapsed() >= SILENCE
        {
            self.shares.lost(server, self.is_small);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServerName<'static> {
        ServerName::try_from(text.to_owned()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_alternate_until_one_is_answered_and_the_share_comes_back_in_time() {
        let (shares, server) = (KeyShares::default(), name("a.example"));
        for _ in 0..2 {
            let attempt = shares.begin(&server);
            assert!(!attempt.is_small());
            attempt.lost();
            let attempt = shares.begin(&server);
            assert!(attempt.is_small());
            attempt.lost();
        }
        shares.begin(&server).lost();
        for _ in 0..2 {
            let attempt = shares.begin(&server);
            assert!(attempt.is_small());
            attempt.answered();
        }
        assert!(!shares.begin(&name("b.example")).is_small());
        tokio::time::advance(REMEMBERED).await;
        assert!(!shares.begin(&server).is_small());
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_attempt_that_was_waited_for_counts_when_it_is_given_up() {
        let (shares, server) = (KeyShares::default(), name("a.example"));
        let attempt = shares.begin(&server);
        tokio::time::advance(SILENCE / 2).await;
        drop(attempt);
        assert!(!shares.begin(&server).is_small());
        let attempt = shares.begin(&server);
        tokio::time::advance(SILENCE).await;
        drop(attempt);
        assert!(shares.begin(&server).is_small());
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded_and_the_oldest_gives_way() {
        let shares = KeyShares::default();
        for number in 0..=MAX_SERVERS {
            shares.begin(&name(&format!("s{number}.example"))).lost();
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(shares.servers().len(), MAX_SERVERS);
        assert!(!shares.begin(&name("s0.example")).is_small());
        assert!(shares.begin(&name("s1.example")).is_small());
    }
}
