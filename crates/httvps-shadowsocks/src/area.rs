//! Pooled buffers for chunks. They belong to a worker thread; a stream has one only while it holds bytes.

use std::cell::RefCell;
use std::ops::Range;

/// Length of an area: the longest chunk that a node may send (65,535 bytes and their tag) and the length
/// block of the next one, or the first packet of a stream with such a chunk in it.
pub(crate) const AREA_LEN: usize = 66 * 1024;

/// Unused areas that a thread keeps; further ones are freed.
const AREAS: usize = 4;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Takes an area. Its content is unspecified.
pub(crate) fn take() -> Box<[u8]> {
    // While a thread ends, its thread-local storage is gone: allocate.
    let pooled = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
    pooled.unwrap_or_else(|| vec![0; AREA_LEN].into_boxed_slice())
}

/// Returns an area to the pool of the thread.
pub(crate) fn give_back(area: Box<[u8]>) {
    if area.len() != AREA_LEN {
        return;
    }
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < AREAS {
            pool.push(area);
        }
    });
}

/// Pending bytes: in an area while there are many of them, otherwise in an allocation of their size.
#[derive(Default)]
pub(crate) struct Waiting {
    bytes: Box<[u8]>,
    used: Range<usize>,
}

impl Waiting {
    /// Takes ownership of an area whose first `len` bytes are pending.
    pub(crate) fn whole(area: Box<[u8]>, len: usize) -> Self {
        Self { bytes: area, used: 0..len }
    }

    pub(crate) fn len(&self) -> usize {
        self.used.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.used.clone()]
    }

    pub(crate) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.used.clone()]
    }

    /// Drops `count` bytes at the front.
    pub(crate) fn consume(&mut self, count: usize) {
        self.used.start = self.used.end.min(self.used.start + count);
    }

    /// Room for `count` more bytes after the pending ones, or all room with `None`. Moves the pending bytes to the front of an area.
    pub(crate) fn room(&mut self, count: Option<usize>) -> &mut [u8] {
        if self.bytes.len() < AREA_LEN {
            let mut area = take();
            area[..self.used.len()].copy_from_slice(&self.bytes[self.used.clone()]);
            self.bytes = area;
        } else if self.used.start > 0 {
            self.bytes.copy_within(self.used.clone(), 0);
        }
        self.used = 0..self.used.len();
        let end = count.map_or(AREA_LEN, |count| AREA_LEN.min(self.used.end + count));
        &mut self.bytes[self.used.end..end]
    }

    /// Appends `count` bytes that were written to the room.
    pub(crate) fn fill(&mut self, count: usize) {
        self.used.end = self.bytes.len().min(self.used.end + count);
    }

    /// Returns the area to the pool unless half of it is in use.
    pub(crate) fn park(&mut self) {
        if self.bytes.len() == AREA_LEN && self.used.len() < AREA_LEN / 2 {
            let few = self.bytes[self.used.clone()].into();
            give_back(std::mem::replace(&mut self.bytes, few));
            self.used = 0..self.used.len();
        } else if self.used.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
impl Waiting {
    /// Bytes of memory held.
    pub(crate) fn held(&self) -> usize {
        self.bytes.len()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_returns_to_its_thread_and_few_are_kept() {
        let first = take();
        let address = first.as_ptr();
        give_back(first);
        let again = take();
        assert_eq!(again.as_ptr(), address);
        for _ in 0..AREAS * 2 {
            give_back(vec![0; AREA_LEN].into());
        }
        give_back(vec![0; 1].into());
        POOL.with(|pool| assert_eq!(pool.borrow().len(), AREAS));
    }

    #[test]
    fn what_waits_keeps_its_order_and_little_of_it_keeps_no_area() {
        let mut waiting = Waiting::default();
        waiting.room(None)[..10].copy_from_slice(b"0123456789");
        waiting.fill(10);
        waiting.consume(4);
        waiting.park();
        assert_eq!((waiting.filled(), waiting.bytes.len()), (&b"456789"[..], 6));
        assert_eq!(waiting.room(Some(2)).len(), 2);
        waiting.room(Some(2)).copy_from_slice(b"ab");
        waiting.fill(2);
        assert_eq!(waiting.filled(), b"456789ab");
        assert_eq!(waiting.room(None).len(), AREA_LEN - 8);
        waiting.fill(AREA_LEN);
        waiting.park();
        assert_eq!((waiting.len(), waiting.bytes.len()), (AREA_LEN, AREA_LEN));
        waiting.consume(usize::MAX >> 1);
        waiting.park();
        assert!(waiting.is_empty() && waiting.bytes.is_empty());
    }
}
