//! The table of a session's streams: by the id on the wire and by a small key.

use crate::json::escaped;
use slab::Slab;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::Arc;

/// Names a stream of one session inside this process.
///
/// Keys are reused after a stream has ended; they are small numbers, so a table indexed by them
/// stays as long as the most streams that were open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey(pub u32);

impl StreamKey {
    /// The key as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The open streams of a session.
///
/// The ids are chosen by the peer, so the map is keyed by the standard library's random hasher.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    by_id: HashMap<Arc<str>, StreamKey>,
    entries: Slab<Entry>,
    /// The stream looked up last: bulk transfers look up the same one repeatedly.
    recent: Option<StreamKey>,
    /// The streams that were taken from the peer last: frames about them may be on their way.
    taken: VecDeque<Taken>,
}

/// A stream that was ended or refused on this side.
#[derive(Debug)]
struct Taken {
    /// Of the id, by the random hasher of the map. Should two ids share it, an error goes unsent.
    hash: u64,
    is_told: bool,
}

/// A frame about a stream that the peer cannot have known to be over when it sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crossing {
    /// The first frame about that stream.
    First,
    /// A further one.
    Again,
}

#[derive(Debug)]
struct Entry {
    id: Arc<str>,
    /// The id escaped for a JSON string, where that differs.
    escaped: Option<Box<str>>,
}

impl Entry {
    fn wire(&self) -> &str {
        self.escaped.as_deref().unwrap_or(&self.id)
    }
}

impl Streams {
    /// Streams that are remembered after they were taken from the peer: four sessions' worth by
    /// default, 512 bytes.
    const MAX_TAKEN: usize = 32;

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// Adds a stream; the id must not be in use.
    pub(crate) fn insert(&mut self, id: &str) -> StreamKey {
        let id: Arc<str> = id.into();
        self.forget_taken(&id);
        let entry = Entry { id: id.clone(), escaped: escaped(&id) };
        let key = StreamKey(self.entries.insert(entry) as u32);
        self.by_id.insert(id, key);
        key
    }

    pub(crate) fn find(&mut self, id: &str) -> Option<StreamKey> {
        if let Some(key) = self.recent
            && self.entries.get(key.index()).is_some_and(|entry| *entry.id == *id)
        {
            return Some(key);
        }
        self.recent = self.by_id.get(id).copied();
        self.recent
    }

    /// The id escaped for a JSON string.
    pub(crate) fn wire_id(&self, key: StreamKey) -> Option<&str> {
        self.entries.get(key.index()).map(Entry::wire)
    }

    /// The id as the peer chose it.
    pub(crate) fn id(&self, key: StreamKey) -> Option<&Arc<str>> {
        self.entries.get(key.index()).map(|entry| &entry.id)
    }

    /// Removes a stream; true when it was there.
    pub(crate) fn remove(&mut self, key: StreamKey) -> bool {
        match self.entries.try_remove(key.index()) {
            Some(entry) => self.by_id.remove(&entry.id).is_some(),
            None => false,
        }
    }

    /// Records that the peer was notified that this stream is not open.
    pub(crate) fn note_taken(&mut self, id: &str) {
        let hash = self.forget_taken(id);
        if self.taken.len() == Self::MAX_TAKEN {
            self.taken.pop_front();
        }
        self.taken.push_back(Taken { hash, is_told: false });
    }

    /// Whether a frame about a stream that is not open crossed the news of that.
    pub(crate) fn crossing(&mut self, id: &str) -> Option<Crossing> {
        if self.taken.is_empty() {
            return None;
        }
        let hash = self.by_id.hasher().hash_one(id);
        let taken = self.taken.iter_mut().find(|taken| taken.hash == hash)?;
        let crossing = if taken.is_told { Crossing::Again } else { Crossing::First };
        taken.is_told = true;
        Some(crossing)
    }

    fn forget_taken(&mut self, id: &str) -> u64 {
        let hash = self.by_id.hasher().hash_one(id);
        self.taken.retain(|taken| taken.hash != hash);
        hash
    }
}
