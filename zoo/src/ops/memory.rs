//! What the allocator does with memory that was given back.

/// Tells the allocator to keep freed memory rather than return it to the system, for a process that trains or
/// predicts. The maps of a network are made anew at every step, and the page faults of fresh memory cost a fifth
/// of a step. The peak of resident memory stays what it is.
///
/// It concerns glibc's allocator; elsewhere, and under an allocator of the program's own, nothing happens. Call it
/// once, before the first large allocation.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn mallopt(parameter: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
        }
        const M_TRIM_THRESHOLD: std::ffi::c_int = -1;
        const M_MMAP_MAX: std::ffi::c_int = -4;
        // SAFETY: glibc's function, with its signature (malloc.h); both parameters take any value: -1 turns
        // trimming off, and with no mappings of their own large blocks come from the heap, which is kept.
        unsafe {
            mallopt(M_TRIM_THRESHOLD, -1);
            mallopt(M_MMAP_MAX, 0);
        }
    }
}
