//! Areas that belong to a worker thread and are lent to connections while their records move.
//!
//! Bounds per thread for what no connection has borrowed: [`AREAS`] areas of [`AREA_LEN`].

use std::cell::RefCell;

/// Bytes moved by one read or one write at most.
const BULK: usize = 128 * 1024;

/// Length of an area: eight of the largest records that a peer may send (16,413 bytes each), or
/// [`BULK`] bytes sealed, with a key update before each of their records.
pub(crate) const AREA_LEN: usize = BULK + 2 * 1024;

/// Areas kept per thread.
const AREAS: usize = 8;

/// Capacity reserved for every area. Only the touched part of it is memory. An allocator that sorts blocks by size
/// (mimalloc: those up to 512 KiB, by eights and more) keeps all of a page of such blocks while one of them is in use;
/// larger ones go back to the kernel one by one, whichever thread frees them.
const RESERVED: usize = 544 * 1024;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Takes an area: [`AREA_LEN`] bytes, left over from earlier uses. What was given back last comes first, because it is
/// still in the processor's cache.
pub(crate) fn take_area() -> Vec<u8> {
    POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten().unwrap_or_else(fresh_area)
}

fn fresh_area() -> Vec<u8> {
    let mut area = Vec::with_capacity(RESERVED);
    area.resize(AREA_LEN, 0);
    area
}

/// Returns an area. One too many is freed, and so is what is no area, and everything while the thread ends and its
/// pool is gone.
pub(crate) fn give_back_area(area: Vec<u8>) {
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
        POOL.with(|pool| assert_eq!(pool.borrow().len(), AREAS));
    }
}
