//! The dynamic keys that the backend names by URLs, as they were last fetched, and when they are fetched again.

use super::lock;
use crate::BoxFuture;
use crate::nodes::assignment::SessionKey;
use crate::nodes::fetch::{self, FetchError};
use crate::nodes::key::KeyUrl;
use crate::nodes::protocol::NodeProtocol;
use httvps_shadowsocks::AccessKey;
use prometheus_client::metrics::counter::Counter;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// How soon a key is fetched again at the earliest.
pub(super) const REFETCH: Duration = Duration::from_secs(5);

/// URLs that are remembered.
const MAX_SLOTS: usize = 4096;
/// Fetches that run at one time.
const MAX_FETCHES: usize = 64;
/// Those of them that are of one server, so that one that hangs leaves places for the others.
const MAX_FETCHES_OF_SERVER: usize = 16;
/// How long one waits for a newer key with a copy at hand that may be of no use any more.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a failure is told without another try, where there is no copy.
const FAILURE_KEPT: Duration = Duration::from_secs(1);

type Outcome = Result<AccessKey, FetchError>;
/// Has the outcome of a fetch when it has ended.
type Told = watch::Receiver<Option<Outcome>>;
type Fetch = dyn Fn(&KeyUrl) -> BoxFuture<'static, Outcome> + Send + Sync;

/// The keys behind the URLs that the backend names.
///
/// One fetch of a URL runs at a time, in a task of its own: a caller that waits for it may be cancelled. It
/// takes at most 10 s, its wait for a turn included. With a copy a caller does not wait for a
/// server that hangs, except 2 s where the copy may be of no use.
pub(super) struct KeyCache {
    fetch: Box<Fetch>,
    failures: Counter,
    /// How soon after a try the next one comes at the earliest.
    spacing: Duration,
    /// How long after a try a copy is good enough to go on with; 15 s at least.
    refresh: Duration,
    slots: Mutex<HashMap<KeyUrl, Slot>>,
    turns: Semaphore,
    /// Turns of the servers that are asked now.
    turns_of_server: Mutex<HashMap<Box<str>, Weak<Semaphore>>>,
}

struct Slot {
    /// The last good copy, or why there is none; none while the first fetch runs.
    known: Option<Outcome>,
    /// What the sessions of this URL go by, changed when the key does.
    protocol: Option<SessionKey>,
    /// When the last fetch ended.
    tried_at: Instant,
    used_at: Instant,
    fetch: Option<Told>,
}

impl Slot {
    /// The fetch that runs. One that panicked has left its channel closed.
    fn running(&self) -> Option<&Told> {
        self.fetch.as_ref().filter(|told| told.has_changed().is_ok())
    }
}

/// What the cache has for a caller that wants a key.
enum Found {
    Copy(AccessKey),
    /// A fetch runs; the copy stands in if that fails or takes long.
    Coming(Told, Option<AccessKey>),
}

impl KeyCache {
    pub(super) fn new(refresh: Duration, failures: Counter, fetch: Box<Fetch>) -> Arc<Self> {
        Arc::new(Self {
            fetch,
            failures,
            spacing: refresh.min(REFETCH),
            refresh,
            slots: Mutex::default(),
            turns: Semaphore::new(MAX_FETCHES),
            turns_of_server: Mutex::default(),
        })
    }

    /// The key behind a URL. A copy is had at once, and renewed behind when it is due. Without one
    /// this waits for the fetch until `deadline`, and for at most 2 s when the copy is
    /// `suspect` or was not renewed for `refresh` (at least 15 s). Cancelling it leaves the fetch alone.
    pub(super) async fn get(
        self: &Arc<Self>,
        url: &KeyUrl,
        suspect: Option<&AccessKey>,
        deadline: Instant,
    ) -> Outcome {
        let (mut told, stand_in) = match self.find(url, suspect)? {
            Found::Copy(key) => return Ok(key),
            Found::Coming(told, stand_in) => (told, stand_in),
        };
        let patience = Instant::now() + PATIENCE;
        let until = if stand_in.is_some() { deadline.min(patience) } else { deadline };
        let outcome = async {
            let outcome = told.wait_for(Option::is_some).await;
            outcome.ok().and_then(|outcome| outcome.clone()).unwrap_or(Err(FetchError::Broken))
        };
        let outcome = tokio::time::timeout_at(until, outcome).await;
        outcome.unwrap_or(Err(FetchError::Timeout)).or_else(|error| stand_in.ok_or(error))
    }

    /// What a session goes by that was given this key of a URL: a newer key takes the place of this one
    /// there, for as long as the URL is remembered.
    pub(super) fn follow(&self, url: &KeyUrl, key: AccessKey) -> SessionKey {
        let mut slots = lock(&self.slots);
        let Some(slot) = slots.get_mut(url) else {
            return SessionKey::new(NodeProtocol::of_key(key));
        };
        let newest = slot.known.clone().and_then(Result::ok).unwrap_or(key);
        slot.protocol.get_or_insert_with(|| SessionKey::new(NodeProtocol::of_key(newest))).clone()
    }

    /// The copy, if it is another key than the suspect one; that is renewed behind when it is due.
    pub(super) fn newer(self: &Arc<Self>, url: &KeyUrl, suspect: &AccessKey) -> Option<AccessKey> {
        let mut slots = lock(&self.slots);
        let slot = slots.get_mut(url)?;
        match &slot.known {
            Some(Ok(key)) if key != suspect => return Some(key.clone()),
            Some(Ok(_)) => self.renew(url, slot),
            // The next caller that wants it fetches it.
            Some(Err(_)) | None => {}
        }
        None
    }

    fn find(
        self: &Arc<Self>,
        url: &KeyUrl,
        suspect: Option<&AccessKey>,
    ) -> Result<Found, FetchError> {
        let now = Instant::now();
        let mut slots = lock(&self.slots);
        if slots.len() >= MAX_SLOTS && !slots.contains_key(url) {
            make_room(&mut slots)?;
        }
        let new = Slot { known: None, protocol: None, tried_at: now, used_at: now, fetch: None };
        let slot = slots.entry(url.clone()).or_insert(new);
        slot.used_at = now;
        let age = now - slot.tried_at;
        match slot.known.clone() {
            Some(Ok(key)) => {
                self.renew(url, slot);
                // While a server hangs, that the last try is a while ago says nothing.
                let is_young = age < self.refresh.max(REFETCH + fetch::DEADLINE);
                let is_trusted = is_young && suspect != Some(&key);
                Ok(match slot.running() {
                    Some(told) if !is_trusted => Found::Coming(told.clone(), Some(key)),
                    _ => Found::Copy(key),
                })
            }
            Some(Err(error)) if slot.running().is_none() && age < FAILURE_KEPT => Err(error),
            Some(Err(_)) | None => {
                let told = slot.running().cloned();
                Ok(Found::Coming(told.unwrap_or_else(|| self.start(url, slot)), None))
            }
        }
    }

    /// Starts a fetch behind if it is due.
    fn renew(self: &Arc<Self>, url: &KeyUrl, slot: &mut Slot) {
        if slot.running().is_none() && slot.tried_at.elapsed() >= self.spacing {
            self.start(url, slot);
        }
    }

    fn start(self: &Arc<Self>, url: &KeyUrl, slot: &mut Slot) -> Told {
        let (tell, told) = watch::channel(None);
        slot.fetch = Some(told.clone());
        let (key_cache, url) = (self.clone(), url.clone());
        tokio::spawn(async move {
            let outcome = key_cache.fetch_in_turn(&url).await;
            key_cache.note(&url, &outcome);
            tell.send_replace(Some(outcome));
        });
        told
    }

    async fn fetch_in_turn(&self, url: &KeyUrl) -> Outcome {
        let until = Instant::now() + fetch::DEADLINE;
        let of_server = self.turns_of(url);
        // The server's own turn first: a fetch that waits for it takes none from other servers.
        let turns = async { (of_server.acquire().await, self.turns.acquire().await) };
        let turns = tokio::time::timeout_at(until, turns).await;
        if turns.is_err() || Instant::now() >= until {
            return Err(FetchError::Busy);
        }
        let outcome = tokio::time::timeout_at(until, (self.fetch)(url)).await;
        outcome.unwrap_or(Err(FetchError::Timeout))
    }

    fn turns_of(&self, url: &KeyUrl) -> Arc<Semaphore> {
        let server = url.uri().authority().map_or("", |authority| authority.as_str());
        let mut servers = lock(&self.turns_of_server);
        if let Some(turns) = servers.get(server).and_then(Weak::upgrade) {
            return turns;
        }
        servers.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(MAX_FETCHES_OF_SERVER));
        servers.insert(server.into(), Arc::downgrade(&turns));
        turns
    }

    fn note(&self, url: &KeyUrl, outcome: &Outcome) {
        if outcome.is_err() {
            self.failures.inc();
        }
        let mut slots = lock(&self.slots);
        let Some(slot) = slots.get_mut(url) else { return };
        slot.tried_at = Instant::now();
        slot.fetch = None;
        match (outcome, &slot.known) {
            (Err(error), Some(Ok(_))) => {
                let problem = error.to_string();
                tracing::warn!(problem, "outline_key_refresh_failed");
            }
            _ => slot.known = Some(outcome.clone()),
        }
        if let (Ok(key), Some(protocol)) = (outcome, &slot.protocol) {
            protocol.set(NodeProtocol::of_key(key.clone()));
        }
    }
}

/// Forgets the least recently used URL. Looks at all of them.
fn make_room(slots: &mut HashMap<KeyUrl, Slot>) -> Result<(), FetchError> {
    let idle = slots.iter().filter(|(_, slot)| slot.running().is_none());
    let oldest = idle.min_by_key(|(_, slot)| slot.used_at).map(|(url, _)| url.clone());
    slots.remove(&oldest.ok_or(FetchError::Busy)?);
    Ok(())
}

#[cfg(test)]
#[path = "key_cache_tests.rs"]
mod tests;
