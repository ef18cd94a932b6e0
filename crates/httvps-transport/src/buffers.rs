//! Buffers that belong to a worker thread and are lent to connections while bytes move.
//!
//! Two kinds: *areas* for TLS records, which a connection holds across polls only while they are
//! in use, and a *pool* of growable buffers for WebSocket messages, which are held across polls
//! only while they are not empty. Bounds per thread for what nobody has borrowed: [`AREAS`] areas
//! of [`AREA_LEN`], and [`POOL_BUFFERS`] buffers of at most [`RESERVED`] each, most of which have
//! seen [`POOLED_FILL`] bytes at the most.

use std::cell::RefCell;

/// Bytes moved by one read or one write at the most.
pub(crate) const BULK: usize = 128 * 1024;

/// Length of an area: eight of the largest records that a peer may send (16,413 bytes each), or
/// [`BULK`] bytes sealed, with a key update before each of their records.
pub(crate) const AREA_LEN: usize = BULK + 2 * 1024;

/// Areas kept per thread.
const AREAS: usize = 8;

/// Bytes of a pooled buffer that are filled in the usual case, so that few of its pages are touched.
pub(crate) const POOLED_FILL: usize = 2 * BULK;

/// Capacity reserved for every area and every fresh pooled buffer. Only the touched part of it is
/// memory. An allocator that sorts blocks by size (mimalloc: those up to 512 KiB, by eights and
/// more) keeps all of a page of such blocks while one of them is in use; larger ones go back to the
/// kernel one by one, whichever thread frees them.
pub(crate) const RESERVED: usize = 544 * 1024;

/// Buffers kept per thread.
const POOL_BUFFERS: usize = 8;

thread_local! {
    static AREA_POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Takes an area: [`AREA_LEN`] bytes, left over from earlier uses. The one given back last comes
/// first, because it is still in the processor's cache.
pub(crate) fn take_area() -> Vec<u8> {
    AREA_POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten().unwrap_or_else(fresh_area)
}

fn fresh_area() -> Vec<u8> {
    let mut area = Vec::with_capacity(RESERVED);
    area.resize(AREA_LEN, 0);
    area
}

/// Gives an area back. One too many is freed, and so is what is no area.
pub(crate) fn give_back_area(area: Vec<u8>) {
    if area.len() != AREA_LEN {
        return;
    }
    // While the thread ends its storage is gone; the area is then simply freed.
    let _ = AREA_POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < AREAS {
            pool.push(area);
        }
    });
}

/// Takes an empty buffer of [`RESERVED`] bytes, [`POOLED_FILL`] of which should be used.
pub(crate) fn take() -> Vec<u8> {
    POOL.try_with(|pool| pool.borrow_mut().pop())
        .ok()
        .flatten()
        .unwrap_or_else(|| Vec::with_capacity(RESERVED))
}

/// Gives a buffer back. One that has shrunk or grown, and one too many, is freed.
pub(crate) fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() != RESERVED {
        return;
    }
    buffer.clear();
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < POOL_BUFFERS {
            pool.push(buffer);
        }
    });
}

/// Empties `buffer` if it holds nothing from `start` on, or moves the little that it holds into
/// an allocation of exactly that size; either way a large buffer goes back to the pool.
///
/// Returns true if the content was moved to the front (`start` is then 0). A buffer with a quarter
/// of its usual fill is in use and stays as it is.
pub(crate) fn park(buffer: &mut Vec<u8>, start: usize) -> bool {
    let held = buffer.len() - start;
    if held > 0 && held * 4 >= buffer.capacity().min(POOLED_FILL) {
        return false;
    }
    let small = buffer[start..].to_vec();
    give_back(std::mem::replace(buffer, small));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_returns_to_its_thread_and_few_are_kept() {
        let first = take_area();
        let address = first.as_ptr();
        let second = take_area();
        assert_ne!(second.as_ptr(), address);
        assert_eq!(second.len(), AREA_LEN);
        give_back_area(second);
        give_back_area(first);
        let again = take_area();
        assert_eq!(again.as_ptr(), address);
        for _ in 0..AREAS * 2 {
            give_back_area(vec![0; AREA_LEN]);
        }
        give_back_area(vec![0; AREA_LEN - 1]);
        AREA_POOL.with(|pool| assert_eq!(pool.borrow().len(), AREAS));
    }

    #[test]
    fn the_pool_keeps_few_buffers_of_bounded_size() {
        for _ in 0..POOL_BUFFERS * 2 {
            give_back(Vec::with_capacity(RESERVED));
        }
        give_back(Vec::with_capacity(RESERVED * 2));
        give_back(Vec::with_capacity(16));
        POOL.with(|pool| {
            let pool = pool.borrow();
            assert_eq!(pool.len(), POOL_BUFFERS);
            assert!(pool.iter().all(|b| b.capacity() == RESERVED));
        });
    }

    #[test]
    fn parking_keeps_the_bytes_and_frees_the_room() {
        let mut buffer = take();
        buffer.extend_from_slice(b"0123456789");
        assert!(park(&mut buffer, 4));
        assert_eq!(buffer, b"456789");
        assert!(buffer.capacity() < 64);

        let mut full = take();
        full.resize(POOLED_FILL / 4, 7);
        assert!(!park(&mut full, 0));
        assert_eq!((full.len(), full.capacity()), (POOLED_FILL / 4, RESERVED));
        assert!(park(&mut full, 1));
        assert_eq!(full.capacity(), POOLED_FILL / 4 - 1);

        let mut empty = take();
        assert!(park(&mut empty, 0));
        assert_eq!(empty.capacity(), 0);
    }
}
