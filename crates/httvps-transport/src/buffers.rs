//! Buffers that belong to a worker thread and are lent to connections while bytes move.
//!
//! Two kinds: *stores* for WebSocket messages that arrive, and growable *buffers* for those that leave, both held
//! across polls only while they are not empty. Bounds per thread for what no connection has borrowed: [`POOLED`]
//! stores and as many buffers of at most [`RESERVED`] each, most of which have seen [`POOLED_FILL`] bytes at most.

use std::cell::RefCell;
use std::thread::LocalKey;

/// Bytes moved by one read or one write at most.
pub(crate) const BULK: usize = 128 * 1024;

/// Bytes of a pooled buffer that are filled in the usual case, so that few of its pages are touched.
pub(crate) const POOLED_FILL: usize = 2 * BULK;

/// Capacity reserved for every fresh store or buffer. Only the touched part of it is
/// memory. An allocator that sorts blocks by size (mimalloc: those up to 512 KiB, by eights and
/// more) keeps all of a page of such blocks while one of them is in use; larger ones go back to the
/// kernel one by one, whichever thread frees them.
pub(crate) const RESERVED: usize = 544 * 1024;

/// Stores, and buffers, kept per thread.
const POOLED: usize = 8;

type Pool = RefCell<Vec<Vec<u8>>>;

thread_local! {
    static STORE_POOL: Pool = const { RefCell::new(Vec::new()) };
    static BUFFER_POOL: Pool = const { RefCell::new(Vec::new()) };
}

/// What was given back last comes first, because it is still in the processor's cache.
fn pop(pool: &'static LocalKey<Pool>) -> Option<Vec<u8>> {
    pool.try_with(|pool| pool.borrow_mut().pop()).ok().flatten()
}

/// One too many is freed, and so is everything while the thread ends and its pools are gone.
fn push(pool: &'static LocalKey<Pool>, most: usize, returned: Vec<u8>) {
    let _ = pool.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < most {
            pool.push(returned);
        }
    });
}

/// Takes a store: [`RESERVED`] bytes, [`POOLED_FILL`] of which should be used. As many bytes as it
/// is long are left over from earlier uses, so that they need not be initialised again.
pub(crate) fn take_store() -> Vec<u8> {
    pop(&STORE_POOL).unwrap_or_else(|| Vec::with_capacity(RESERVED))
}

/// Returns a store. One that has shrunk or grown is freed.
pub(crate) fn give_back_store(store: Vec<u8>) {
    if store.capacity() == RESERVED {
        push(&STORE_POOL, POOLED, store);
    }
}

/// Takes an empty buffer of [`RESERVED`] bytes, [`POOLED_FILL`] of which should be used.
pub(crate) fn take() -> Vec<u8> {
    pop(&BUFFER_POOL).unwrap_or_else(|| Vec::with_capacity(RESERVED))
}

/// Returns a buffer. One that has shrunk or grown is freed.
pub(crate) fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() == RESERVED {
        buffer.clear();
        push(&BUFFER_POOL, POOLED, buffer);
    }
}

/// Empties `buffer` if it holds nothing from `start` on, or moves the little that it holds into
/// an allocation of exactly that size; either way a large buffer goes back to the pool.
///
/// Returns true if the content was moved to the front (`start` is then 0). A buffer with a quarter
/// of its usual fill is in use and stays as it is.
pub(crate) fn park(buffer: &mut Vec<u8>, start: usize) -> bool {
    if is_in_use(buffer.len() - start, buffer.capacity()) {
        return false;
    }
    let small = buffer[start..].to_vec();
    give_back(std::mem::replace(buffer, small));
    true
}

/// Whether what is held is worth the room that is kept for it.
pub(crate) fn is_in_use(held: usize, capacity: usize) -> bool {
    held > 0 && held * 4 >= capacity.min(POOLED_FILL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_keeps_few_buffers_of_bounded_size() {
        for (pool, give_back) in
            [(&BUFFER_POOL, give_back as fn(Vec<u8>)), (&STORE_POOL, give_back_store)]
        {
            for _ in 0..POOLED * 2 {
                give_back(Vec::with_capacity(RESERVED));
            }
            give_back(Vec::with_capacity(RESERVED * 2));
            give_back(Vec::with_capacity(16));
            pool.with(|pool| {
                let pool = pool.borrow();
                assert_eq!(pool.len(), POOLED);
                assert!(pool.iter().all(|b| b.capacity() == RESERVED));
            });
        }
    }

    #[test]
    fn a_store_keeps_what_is_initialised_and_a_buffer_is_empty() {
        let mut store = take_store();
        store.resize(1000, 7);
        give_back_store(store);
        assert_eq!(take_store(), [7; 1000]);
        let mut buffer = take();
        buffer.resize(1000, 7);
        give_back(buffer);
        assert!(take().is_empty());
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
