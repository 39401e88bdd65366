//! Asking for memory before it is read.

/// Bytes of a cache line.
const LINE: usize = 64;

/// A level of the cache.
#[derive(Clone, Copy)]
pub(super) enum Level {
    #[cfg(target_arch = "x86_64")]
    First,
    Second,
}

/// Asks a level of the cache for the lines of some bytes, which need not be there.
#[inline(always)]
#[allow(unsafe_code)]
pub(super) fn prefetch<T>(level: Level, first: *const T, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for byte in (0..bytes).step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        let line = first.cast::<i8>().wrapping_add(byte);
        #[allow(unused_unsafe, reason = "safe in later versions of Rust")]
        // SAFETY: a prefetch reads nothing and may name any address.
        unsafe {
            match level {
                Level::First => _mm_prefetch::<_MM_HINT_T0>(line),
                Level::Second => _mm_prefetch::<_MM_HINT_T1>(line),
            }
        };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (level, first, bytes, LINE);
}
