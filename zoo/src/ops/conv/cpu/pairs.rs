//! The micro-kernel for panels of bf16 (`vdpbf16ps`): in each lane two numbers are multiplied with two, and both products
//! are added to a sum in f32. Denormal numbers count as zero.

use super::panel::Panel;
use super::tile::{Targets, Tile, rows};
use crate::ops::lanes::{Element, Lanes};
use half::bf16;
use std::arch::x86_64::*;

/// See [`super::tile::multiply`].
///
/// # Safety
/// The pointers of `tile` are good for `m` rows, and the CPU has AVX512-BF16.
pub(super) unsafe fn multiply<C: Element, const TRANSPOSED: bool>(m: usize, tile: &Tile<bf16, C>) {
    // SAFETY: the caller's promise.
    unsafe { rows!(run, 16, m, tile; 1 2 3 4 5 6 7 8 9 10 11 12 13 14) }
}

/// `M` rows and `V` vectors of columns.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn run<C: Element, const M: usize, const V: usize, const TRANSPOSED: bool>(tile: &Tile<bf16, C>) {
    // SAFETY: this function has the instructions, and `tile` describes memory that is there: `a` and `b` for `depth`
    // steps, an even number, and `c` for the rows and columns.
    unsafe {
        let (pitch, step) = if TRANSPOSED { (2, tile.step) } else { (bf16::PITCH, 2) };
        let mut sums = [[_mm512_setzero_ps(); V]; M];
        let (mut a, mut b, mut ahead) = (tile.a, tile.b, tile.ahead.start);
        let targets = Targets::of(tile);
        for k in 0..tile.depth / 2 {
            let line: [__m512bh; V] = std::array::from_fn(|v| pairs(_mm512_loadu_si512(b.add(v * 32).cast())));
            for (i, row) in sums.iter_mut().enumerate() {
                let x = pairs(_mm512_set1_epi32(a.add(i * pitch).cast::<i32>().read_unaligned()));
                for (sum, y) in row.iter_mut().zip(line) {
                    *sum = _mm512_dpbf16_ps(*sum, x, y);
                }
            }
            a = a.add(step);
            b = b.add(64);
            __m512::prefetch_far(ahead.cast());
            ahead = ahead.wrapping_add(2 * tile.ahead.step);
            targets.prefetch::<__m512, M, V>(k);
        }
        super::tile::write::<__m512, C, M, V, bf16>(sums, tile);
    }
}

/// Numbers as the instruction takes them.
#[inline(always)]
fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits, and any bits are numbers.
    unsafe { std::mem::transmute(bits) }
}
