//! How the process treats memory that it no longer uses.

#![expect(unsafe_code, reason = "the allocator's options can be set through its C interface only")]

use std::ffi::{c_int, c_long};

/// `mi_option_purge_delay` of mimalloc, whose Rust binding does not name it.
const PURGE_DELAY: c_int = 15;

/// After a burst of clients the process shall hold what it uses, not what it once used.
///
/// Huge pages stay resident for one small buffer in them (a just started gateway took 28 MiB instead
/// of 14), and freed pages are given back at once instead of at some later allocation (after 32
/// clients that never read, 47 MiB stayed). The buffers of the data path are pooled, so that bulk
/// traffic frees few pages, and so large that each has pages of its own. Call it first: it holds for memory that is taken afterwards.
pub(crate) fn give_back_promptly() {
    // Where the kernel does not allow it, it only costs memory.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let at_once: c_long = 0;
    // SAFETY: the function takes two integers and stores the second; an option that does not exist
    // is ignored by it.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, at_once) };
}
