//! What a core can do at most: the figure that those of the kernels are compared with.

use super::Isa;
#[cfg(target_arch = "x86_64")]
use super::amx::Tiles;
use candle_core::DType;
use std::hint::black_box;

/// Sums that do not wait for one another: enough to hide the latency of a fused multiply-add on two ports.
const CHAINS: usize = 12;

/// Multiplies numbers that are stored as `dtype`, and adds in `f32`, in registers alone, `rounds` times, on the calling
/// thread. Returns how many floating-point operations that were; of AMX, which multiplies halves of `f32`, three products of
/// halves count as one.
///
/// # Panics
/// Where this CPU lacks `isa`.
pub fn multiply_add(isa: Isa, dtype: DType, rounds: usize) -> u64 {
    assert!(Isa::available().contains(&isa), "this CPU has no {}", isa.name());
    let lanes = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => {
            let _tiles = Tiles::hold();
            let rounds = if dtype == DType::BF16 { rounds } else { 3 * rounds };
            // SAFETY: the CPU has the instructions (asserted), and this thread the registers.
            unsafe { amx(rounds) };
            return (2 * 16 * 16 * 32 * TILES * rounds / if dtype == DType::BF16 { 1 } else { 3 }) as u64;
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 if dtype == DType::BF16 => {
            // SAFETY: the CPU has the instructions (asserted).
            unsafe { avx512bf16(rounds) };
            32
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512 => {
            // SAFETY: the CPU has the instructions (asserted).
            unsafe { avx512(rounds) };
            16
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            // SAFETY: the CPU has the instructions (asserted).
            unsafe { avx2(rounds) };
            8
        }
        _ => {
            portable(rounds);
            4
        }
    };
    2 * (lanes * CHAINS * rounds) as u64
}

/// Tiles of sums: their registers are half of all.
#[cfg(target_arch = "x86_64")]
const TILES: usize = 4;

/// # Safety
/// The thread holds the tile registers.
#[cfg(target_arch = "x86_64")]
unsafe fn amx(rounds: usize) {
    if rounds == 0 {
        return;
    }
    // SAFETY: the caller's promise; no memory is touched.
    unsafe {
        std::arch::asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", "tilezero tmm4", "tilezero tmm5",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm5",
            "tdpbf16ps tmm1, tmm4, tmm5",
            "tdpbf16ps tmm2, tmm4, tmm5",
            "tdpbf16ps tmm3, tmm4, tmm5",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
            options(nomem, nostack),
        );
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn avx512bf16(rounds: usize) {
    use std::arch::x86_64::{_mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_set1_ps};
    let x = _mm512_set1_ps(black_box(0.999));
    let pairs = _mm512_cvtne2ps_pbh(x, x);
    let mut sums = [x; CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, pairs, pairs);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(rounds: usize) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps};
    let (x, y) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(1e-3)));
    let mut sums = [x; CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, x, y);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(rounds: usize) {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps};
    let (x, y) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1e-3)));
    let mut sums = [x; CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, x, y);
        }
    }
    black_box(sums);
}

fn portable(rounds: usize) {
    let (x, y) = (black_box(0.999f32), black_box(1e-3f32));
    let mut sums = [[x; 4]; CHAINS];
    for _ in 0..rounds {
        for sum in sums.as_flattened_mut() {
            // As the portable kernels do.
            *sum = if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
                sum.mul_add(x, y)
            } else {
                *sum * x + y
            };
        }
    }
    black_box(sums);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_it_does() {
        for isa in Isa::available() {
            for dtype in [DType::F32, DType::BF16] {
                let one = multiply_add(isa, dtype, 1);
                assert!(one >= 2 * 4 * CHAINS as u64, "{isa:?}: {one}");
                assert_eq!(multiply_add(isa, dtype, 1000), 1000 * one, "{isa:?}");
            }
        }
    }
}
