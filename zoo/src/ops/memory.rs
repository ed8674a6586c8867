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
        const M_TOP_PAD: std::ffi::c_int = -2;
        const M_MMAP_MAX: std::ffi::c_int = -4;
        // SAFETY: glibc's function, with its signature (malloc.h); the parameters take any value: -1 turns
        // trimming off, with no mappings of their own large blocks come from the heap, which is kept, and the heap grows by
        // 64 MiB of addresses, so that few huge pages lie across what is not there yet.
        unsafe {
            mallopt(M_TRIM_THRESHOLD, -1);
            mallopt(M_MMAP_MAX, 0);
            mallopt(M_TOP_PAD, 64 << 20);
        }
    }
}

/// The system's allocator, whose large blocks begin at a cache line and lie in huge pages, for a program that trains or
/// predicts:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: zoo::ops::MapAllocator = zoo::ops::MapAllocator;
/// ```
///
/// A vector of AVX-512 is as long as a cache line, and one that lies across two of them is read and written twice as slowly:
/// convolutions of maps that begin anywhere take 2 to 10 % longer. In pages of 4 KiB the weights and maps of a network are
/// more than a CPU keeps addresses of: one image takes 8 % longer. Linux is asked for huge pages
/// (`/sys/kernel/mm/transparent_hugepage/enabled` has to say `madvise` or `always`) for the heap, which has all large blocks
/// after [`keep_freed_memory`]. It concerns glibc's allocator; elsewhere blocks lie as the system puts them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[derive(Debug, Clone, Copy, Default)]
pub struct MapAllocator;

/// The system's allocator, as it is: only glibc's is known to put large blocks behind a cache line's beginning.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub use std::alloc::System as MapAllocator;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod maps {
    use super::MapAllocator;
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// glibc's functions, with their signatures (malloc.h).
    mod glibc {
        unsafe extern "C" {
            pub fn malloc(size: usize) -> *mut u8;
            pub fn calloc(count: usize, size: usize) -> *mut u8;
            pub fn realloc(block: *mut u8, size: usize) -> *mut u8;
            pub fn memalign(alignment: usize, size: usize) -> *mut u8;
            pub fn free(block: *mut u8);
            /// Of unistd.h: where the heap ends, if it grows by 0.
            pub fn sbrk(increment: isize) -> *mut u8;
            /// Of sys/mman.h.
            pub fn madvise(start: *mut u8, len: usize, advice: std::ffi::c_int) -> std::ffi::c_int;
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

    /// `block`, or where it is large and crosses lines, a new one in its place; huge pages are asked for under it.
    ///
    /// # Safety
    /// `block` came from glibc for `size` bytes, or is null.
    unsafe fn placed(block: *mut u8, size: usize) -> *mut u8 {
        if size < LARGE {
            return block;
        }
        let block = match block.addr().is_multiple_of(LINE) {
            true => block,
            // SAFETY: the caller's promise; nobody has seen the block yet.
            false => unsafe {
                glibc::free(block);
                glibc::memalign(LINE, size)
            },
        };
        if block.addr() + size > HUGE_UP_TO.load(Ordering::Relaxed) {
            ask_for_huge_pages(block);
        }
        block
    }

    /// Up to this address huge pages were asked for in the heap.
    static HUGE_UP_TO: AtomicUsize = AtomicUsize::new(0);

    /// Asks for huge pages up to the end of the heap, if that is where `block` lies: in one piece with what was asked for
    /// before, since pieces would have edges without.
    fn ask_for_huge_pages(block: *mut u8) {
        const HUGE_PAGE: usize = 2 << 20;
        const MADV_HUGEPAGE: std::ffi::c_int = 14;
        // SAFETY: the heap stays as it is.
        let heap_end = unsafe { glibc::sbrk(0) };
        let before = HUGE_UP_TO.load(Ordering::Relaxed);
        if block.is_null() || block >= heap_end || heap_end.addr() <= before {
            return;
        }
        // Threads that come here at once ask for the same.
        HUGE_UP_TO.store(heap_end.addr(), Ordering::Relaxed);
        let first = block.map_addr(|block| if before == 0 { block.next_multiple_of(HUGE_PAGE) } else { before });
        if let Some(len) = heap_end.addr().checked_sub(first.addr()) {
            // SAFETY: whatever lies there keeps what it holds; an answer that says no changes nothing.
            unsafe { glibc::madvise(first, len, MADV_HUGEPAGE) };
        }
    }

    // SAFETY: blocks with an alignment that glibc gives come from it and go back to it; the others are the system's.
    unsafe impl GlobalAlloc for MapAllocator {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if layout.align() > ALIGN {
                // SAFETY: the caller's promise, here and below.
                return unsafe { System.alloc(layout) };
            }
            let size = asked(layout.size());
            // SAFETY: any size will do.
            unsafe { placed(glibc::malloc(size), size) }
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
                let block = placed(zeroed, size);
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
        let allocator = MapAllocator;
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
