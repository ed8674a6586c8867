//! Where the allocator puts memory, and what it does with memory that was given back.

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

/// The system's allocator, whose large blocks begin at a cache line, for a program that trains or predicts:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: zoo::ops::LineAllocator = zoo::ops::LineAllocator;
/// ```
///
/// A vector of AVX-512 is as long as a cache line, and one that lies across two of them is read and written twice as slowly:
/// convolutions of maps that begin anywhere take 2 to 10 % longer. It concerns glibc's allocator; elsewhere blocks
/// lie as the system puts them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[derive(Debug, Clone, Copy, Default)]
pub struct LineAllocator;

/// The system's allocator, as it is: only glibc's is known to put large blocks behind a cache line's beginning.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub use std::alloc::System as LineAllocator;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod lines {
    use super::LineAllocator;
    use std::alloc::{GlobalAlloc, Layout, System};

    /// glibc's functions, with their signatures (malloc.h).
    mod glibc {
        unsafe extern "C" {
            pub fn malloc(size: usize) -> *mut u8;
            pub fn calloc(count: usize, size: usize) -> *mut u8;
            pub fn realloc(block: *mut u8, size: usize) -> *mut u8;
            pub fn memalign(alignment: usize, size: usize) -> *mut u8;
            pub fn free(block: *mut u8);
        }
    }

    const LINE: usize = 64;
    /// From so many bytes on a block is large.
    const LARGE: usize = 1 << 14;
    /// Any block of glibc's is that far aligned, and has that many bytes of its neighbour's before it.
    const ALIGN: usize = 16;
    const HEADER: usize = 8;

    /// What is asked of glibc for `size` bytes. With its header a large block takes whole lines, so that the blocks between
    /// which memory is split, and those that are used again, stay aligned: `memalign` alone would look for a block that is
    /// larger by a line, find none of those that were freed, and tear others apart.
    fn asked(size: usize) -> usize {
        match size {
            ..LARGE => size,
            _ => size.saturating_add(HEADER).checked_next_multiple_of(LINE).map_or(size, |whole| whole - HEADER),
        }
    }

    /// `block`, or where it is large and crosses lines, a new one in its place.
    ///
    /// # Safety
    /// `block` came from glibc for `size` bytes, or is null.
    unsafe fn at_line(block: *mut u8, size: usize) -> *mut u8 {
        if size < LARGE || block.addr().is_multiple_of(LINE) {
            return block;
        }
        // SAFETY: the caller's promise; nobody has seen the block yet.
        unsafe {
            glibc::free(block);
            glibc::memalign(LINE, size)
        }
    }

    // SAFETY: blocks with an alignment that glibc gives come from it and go back to it; the others are the system's.
    unsafe impl GlobalAlloc for LineAllocator {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if layout.align() > ALIGN {
                // SAFETY: the caller's promise, here and below.
                return unsafe { System.alloc(layout) };
            }
            let size = asked(layout.size());
            // SAFETY: any size will do.
            unsafe { at_line(glibc::malloc(size), size) }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            if layout.align() > ALIGN {
                // SAFETY: as above.
                return unsafe { System.alloc_zeroed(layout) };
            }
            let size = asked(layout.size());
            // SAFETY: any size will do, and so many bytes are there to be zeroed.
            unsafe {
                let zeroed = glibc::calloc(1, size);
                let block = at_line(zeroed, size);
                if block != zeroed && !block.is_null() {
                    block.write_bytes(0, size);
                }
                block
            }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            match layout.align() > ALIGN {
                // SAFETY: as above.
                true => unsafe { System.dealloc(block, layout) },
                // SAFETY: it came from glibc.
                false => unsafe { glibc::free(block) },
            }
        }

        /// A block that grows is no map: it lies where glibc puts it.
        unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            match layout.align() > ALIGN {
                // SAFETY: as above.
                true => unsafe { System.realloc(block, layout, size) },
                // SAFETY: it came from glibc.
                false => unsafe { glibc::realloc(block, asked(size)) },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::{GlobalAlloc, Layout};

    #[test]
    fn large_blocks_begin_at_a_line_zeroed_ones_too_and_keep_what_they_hold() {
        let allocator = LineAllocator;
        let mut blocks = Vec::new();
        for (i, size) in [1, 100, 16_383, 16_384, 16_385, 1 << 20, (1 << 20) + 12, 3_211_264].into_iter().enumerate() {
            for align in [1, 4, 16, 64, 256] {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: blocks of this layout, written inside, and freed with the layout that they have.
                unsafe {
                    let block = allocator.alloc(layout);
                    block.write_bytes(i as u8 + 1, size);
                    let zeroed = allocator.alloc_zeroed(layout);
                    assert!(std::slice::from_raw_parts(zeroed, size).iter().all(|byte| *byte == 0));
                    let least = if cfg!(target_env = "gnu") && size >= 1 << 14 { align.max(64) } else { align };
                    assert_eq!((block.addr() % least, zeroed.addr() % least), (0, 0), "{layout:?}");
                    zeroed.write_bytes(0xff, size);
                    allocator.dealloc(zeroed, layout);
                    let grown = allocator.realloc(block, layout, size * 2);
                    assert!(std::slice::from_raw_parts(grown, size).iter().all(|byte| *byte == i as u8 + 1));
                    blocks.push((grown, Layout::from_size_align(size * 2, align).unwrap()));
                }
            }
        }
        // SAFETY: as above.
        blocks.into_iter().for_each(|(block, layout)| unsafe { allocator.dealloc(block, layout) });
    }
}
