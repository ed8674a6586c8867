//! Vector registers of the instruction sets.

use super::Isa;
use super::activation::cpu::rectify;
use super::number::Number;
use half::bf16;

/// A vector register.
pub(in crate::ops) trait Lanes: Copy {
    const WIDTH: usize;
    /// Steps of a product in one turn of the micro-kernel's loop. Where registers are few and narrow, a step's
    /// multiplications take no longer than what else there is to do in a turn.
    const STEPS: usize;
    /// So many of them fetch one line that the next calls will read: with few rows, and so few calls, each has much to fetch.
    const STEPS_A_FETCH: usize;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// [`Number::wide`] of each.
    unsafe fn widen(from: *const bf16) -> Self;
    /// [`Number::narrow`] of each.
    unsafe fn narrow(self, to: *mut bf16);
    /// As [`Self::narrow`], into every second place, the first ones (`side` 0) or the others. The first ones come first:
    /// they make the others zero.
    unsafe fn narrow_beside(self, to: *mut bf16, side: usize);
    /// As [`Self::narrow`], past the caches. Nobody may read it before [`Self::fence`].
    unsafe fn stream_narrow(self, to: *mut bf16);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// ReLU. A NaN stays one.
    unsafe fn rectify(self) -> Self;
    /// The first `n` numbers at `from`, `WIDTH` at the most, and zeros.
    unsafe fn load_first(from: *const f32, n: usize) -> Self;
    /// Stores the first `n` numbers, `WIDTH` at the most.
    unsafe fn store_first(self, to: *mut f32, n: usize);
    /// As [`Self::store_first`], past the caches. Nobody may read it before [`Self::fence`].
    unsafe fn stream_first(self, to: *mut f32, n: usize);
    /// Makes what was streamed visible to other threads.
    unsafe fn fence();
    /// `self` where `other` is above 0 or not a number, else 0.
    unsafe fn where_positive(self, other: Self) -> Self;
    /// `best` and its tap, except where `candidate` is greater, or not a number: there it is that and `tap`.
    unsafe fn greater(best: (Self, Self), candidate: Self, tap: Self) -> (Self, Self);
    /// `self` where the byte at the same place of `taps` is `tap`, else 0; there are `n` bytes, or `WIDTH`.
    unsafe fn where_tap(self, taps: *const u8, n: usize, tap: u8) -> Self;
    /// Stores the first `n` numbers, `WIDTH` at the most, which are whole and from 0 to 255, as bytes.
    unsafe fn store_taps(self, to: *mut u8, n: usize);
    /// Fetches the cache line at `at`, which will be written; any address will do.
    unsafe fn prefetch(at: *const f32);
    /// Fetches the cache line at `at`, which will be read soon, into the second-level cache; any address will do.
    unsafe fn prefetch_far(at: *const f32);
    /// `self + x * y`.
    unsafe fn add_product(self, x: Self, y: Self) -> Self;
    /// Of the first `WIDTH` rows of a block, the columns.
    unsafe fn transpose(rows: [Self; WIDEST]) -> [Self; WIDEST];
}

/// Numbers of the widest register.
pub(in crate::ops) const WIDEST: usize = 16;

/// A number that vectors are read from and written to.
pub(in crate::ops) trait Element: Number {
    /// # Safety
    /// The CPU has the instructions of `L`, and a vector's numbers lie at `from`.
    unsafe fn load<L: Lanes>(from: *const Self) -> L;

    /// # Safety
    /// The CPU has the instructions of `L`, and a vector's numbers fit at `to`.
    unsafe fn store<L: Lanes>(vector: L, to: *mut Self);

    /// See [`Lanes::load_first`].
    ///
    /// # Safety
    /// The CPU has the instructions of `L`, and so many numbers lie at `from`.
    unsafe fn load_first<L: Lanes>(from: *const Self, n: usize) -> L;

    /// See [`Lanes::store_first`].
    ///
    /// # Safety
    /// The CPU has the instructions of `L`, and so many numbers fit at `to`.
    unsafe fn store_first<L: Lanes>(vector: L, to: *mut Self, n: usize);

    /// See [`Lanes::stream_first`].
    ///
    /// # Safety
    /// As of [`Self::store_first`], and nobody reads it before [`Lanes::fence`].
    unsafe fn stream_first<L: Lanes>(vector: L, to: *mut Self, n: usize);
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load(from) }
    }

    #[inline(always)]
    unsafe fn store<L: Lanes>(vector: L, to: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { vector.store(to) }
    }

    #[inline(always)]
    unsafe fn load_first<L: Lanes>(from: *const Self, n: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_first(from, n) }
    }

    #[inline(always)]
    unsafe fn store_first<L: Lanes>(vector: L, to: *mut Self, n: usize) {
        // SAFETY: the caller's promise.
        unsafe { vector.store_first(to, n) }
    }

    #[inline(always)]
    unsafe fn stream_first<L: Lanes>(vector: L, to: *mut Self, n: usize) {
        // SAFETY: the caller's promise.
        unsafe { vector.stream_first(to, n) }
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::widen(from) }
    }

    #[inline(always)]
    unsafe fn store<L: Lanes>(vector: L, to: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { vector.narrow(to) }
    }

    #[inline(always)]
    unsafe fn load_first<L: Lanes>(from: *const Self, n: usize) -> L {
        // SAFETY: the caller's promise; a line holds a vector of any width.
        unsafe {
            if n >= L::WIDTH {
                return L::widen(from);
            }
            let mut line = [bf16::ZERO; 16];
            std::ptr::copy_nonoverlapping(from, line.as_mut_ptr(), n);
            L::widen(line.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store_first<L: Lanes>(vector: L, to: *mut Self, n: usize) {
        // SAFETY: the caller's promise; a line holds a vector of any width.
        unsafe {
            if n >= L::WIDTH {
                return vector.narrow(to);
            }
            let mut line = [bf16::ZERO; 16];
            vector.narrow(line.as_mut_ptr());
            std::ptr::copy_nonoverlapping(line.as_ptr(), to, n);
        }
    }

    #[inline(always)]
    unsafe fn stream_first<L: Lanes>(vector: L, to: *mut Self, n: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match n >= L::WIDTH {
                true => vector.stream_narrow(to),
                false => Self::store_first(vector, to, n),
            }
        }
    }
}

/// Code that is written once for all registers.
pub(in crate::ops) trait Kernel {
    /// # Safety
    /// The CPU has the instructions of `L`; what else, the implementation says.
    unsafe fn run<L: Lanes>(self);
}

/// Runs `kernel` with the registers of `isa`.
///
/// # Safety
/// The CPU has `isa`, and what the kernel asks for.
pub(in crate::ops) unsafe fn run<K: Kernel>(isa: Isa, kernel: K) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512<K: Kernel>(kernel: K) {
        // SAFETY: this function has the instructions; the rest is the caller's promise.
        unsafe { kernel.run::<std::arch::x86_64::__m512>() }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<K: Kernel>(kernel: K) {
        // SAFETY: as above.
        unsafe { kernel.run::<std::arch::x86_64::__m256>() }
    }
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 => avx512(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(kernel),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => unreachable!("an instruction set of x86-64"),
            Isa::Portable => kernel.run::<[f32; 4]>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lanes, WIDEST};
    use half::bf16;
    use std::arch::x86_64::*;

    /// The lowest `n` bits, of 16 at the most.
    #[inline(always)]
    fn first(n: usize) -> __mmask16 {
        ((1u32 << n.min(16)) - 1) as __mmask16
    }

    /// `value`, of which the compiler does not know that it was loaded. Otherwise it loads under a mask that is applied
    /// later; such a load waits for the mask, and where both come from main memory that takes twice the time.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn loaded(mut value: __m512) -> __m512 {
        // SAFETY: no instruction at all.
        unsafe { std::arch::asm!("/* {} */", inout(zmm_reg) value, options(pure, nomem, nostack, preserves_flags)) };
        value
    }

    /// All bits of the first `n` of 8 lanes.
    #[inline(always)]
    unsafe fn first_of_8(n: usize) -> __m256i {
        const LANES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: eight lanes lie behind each of the first nine; the caller has AVX2.
        unsafe { _mm256_loadu_si256(LANES.as_ptr().add(8 - n.min(8)).cast()) }
    }

    /// The first `n` bytes, 16 at the most, and zeros.
    #[inline(always)]
    unsafe fn padded(bytes: *const u8, n: usize) -> [u8; 16] {
        let mut padded = [0; 16];
        // SAFETY: as many bytes lie there.
        unsafe { std::ptr::copy_nonoverlapping(bytes, padded.as_mut_ptr(), n.min(16)) };
        padded
    }

    /// [`Number::narrow`](super::Number::narrow) of each.
    ///
    /// # Safety
    /// The CPU has AVX-512F.
    #[inline(always)]
    unsafe fn narrow_16(values: __m512) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = _mm512_castps_si512(values);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
            let bits = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000));
            _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits))
        }
    }

    /// As [`narrow_16`].
    ///
    /// # Safety
    /// The CPU has AVX2.
    #[inline(always)]
    unsafe fn narrow_8(values: __m256) -> __m128i {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = _mm256_castps_si256(values);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
            let bits = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
            _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256::<1>(bits))
        }
    }

    // SAFETY of both: only called inlined into a function with the instructions, on memory that is there.
    impl Lanes for __m512 {
        const WIDTH: usize = 16;
        const STEPS: usize = 4;
        const STEPS_A_FETCH: usize = 1;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above, and 16 numbers lie at `from`.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above, and 16 numbers fit at `to`.
            unsafe { _mm512_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn widen(from: *const bf16) -> Self {
            // SAFETY: as above, and 16 numbers lie at `from`.
            unsafe {
                let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
            }
        }
        #[inline(always)]
        unsafe fn narrow(self, to: *mut bf16) {
            // SAFETY: as above, and 16 numbers fit at `to`.
            unsafe { _mm256_storeu_si256(to.cast(), narrow_16(self)) }
        }
        #[inline(always)]
        unsafe fn narrow_beside(self, to: *mut bf16, side: usize) {
            // SAFETY: as above, and 32 numbers fit at `to`.
            unsafe {
                let numbers = _mm512_cvtepu16_epi32(narrow_16(self));
                let both = match side {
                    0 => numbers,
                    _ => _mm512_or_si512(_mm512_loadu_si512(to.cast()), _mm512_slli_epi32::<16>(numbers)),
                };
                _mm512_storeu_si512(to.cast(), both);
            }
        }
        #[inline(always)]
        unsafe fn stream_narrow(self, to: *mut bf16) {
            // SAFETY: as above, and it is aligned as asked for.
            unsafe {
                if !to.cast::<__m128i>().is_aligned() {
                    return self.narrow(to);
                }
                let numbers = narrow_16(self);
                _mm_stream_si128(to.cast(), _mm256_castsi256_si128(numbers));
                _mm_stream_si128(to.add(8).cast(), _mm256_extracti128_si256::<1>(numbers));
            }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_add_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_sub_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_mul_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn rectify(self) -> Self {
            // SAFETY: as above. Where one operand is a NaN the second is the result.
            unsafe { _mm512_max_ps(_mm512_setzero_ps(), self) }
        }
        #[inline(always)]
        unsafe fn load_first(from: *const f32, n: usize) -> Self {
            // SAFETY: the caller has AVX-512F, and the numbers lie at `from`.
            unsafe {
                match n {
                    ..16 => _mm512_maskz_loadu_ps(first(n), from),
                    _ => Self::load(from),
                }
            }
        }
        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, n: usize) {
            // SAFETY: the caller has AVX-512F, and the numbers fit at `to`.
            unsafe {
                match n {
                    ..16 => _mm512_mask_storeu_ps(to, first(n), self),
                    _ => self.store(to),
                }
            }
        }
        #[inline(always)]
        unsafe fn stream_first(self, to: *mut f32, n: usize) {
            // SAFETY: the caller has AVX-512F, and the numbers fit at `to`, which is aligned as asked for.
            unsafe {
                if n < 16 || !to.cast::<__m128>().is_aligned() {
                    return self.store_first(to, n);
                }
                // The allocator aligns to 16 bytes, and the line is written at once all the same.
                _mm_stream_ps(to, _mm512_extractf32x4_ps::<0>(self));
                _mm_stream_ps(to.add(4), _mm512_extractf32x4_ps::<1>(self));
                _mm_stream_ps(to.add(8), _mm512_extractf32x4_ps::<2>(self));
                _mm_stream_ps(to.add(12), _mm512_extractf32x4_ps::<3>(self));
            }
        }
        #[inline(always)]
        unsafe fn fence() {
            // SAFETY: every x86-64 has it.
            unsafe { _mm_sfence() }
        }
        #[inline(always)]
        unsafe fn where_positive(self, other: Self) -> Self {
            // SAFETY: the caller has AVX-512F.
            unsafe {
                let positive = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(other, _mm512_setzero_ps());
                _mm512_maskz_mov_ps(positive, loaded(self))
            }
        }
        #[inline(always)]
        unsafe fn greater(best: (Self, Self), candidate: Self, tap: Self) -> (Self, Self) {
            // SAFETY: the caller has AVX-512F.
            unsafe {
                let wins = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(candidate, best.0)
                    | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(candidate, candidate);
                (_mm512_mask_mov_ps(best.0, wins, candidate), _mm512_mask_mov_ps(best.1, wins, tap))
            }
        }
        #[inline(always)]
        unsafe fn where_tap(self, taps: *const u8, n: usize, tap: u8) -> Self {
            // SAFETY: the caller has AVX-512F, and the bytes lie at `taps`.
            unsafe {
                let taps = match n {
                    ..16 => _mm_loadu_si128(padded(taps, n).as_ptr().cast()),
                    _ => _mm_loadu_si128(taps.cast()),
                };
                let equal = _mm512_cmpeq_epi32_mask(_mm512_cvtepu8_epi32(taps), _mm512_set1_epi32(i32::from(tap)));
                _mm512_maskz_mov_ps(equal, self)
            }
        }
        #[inline(always)]
        unsafe fn store_taps(self, to: *mut u8, n: usize) {
            // SAFETY: the caller has AVX-512F, and the bytes fit at `to`.
            unsafe {
                let mut bytes = [0u8; 16];
                _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(self)));
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, n.min(16));
            }
        }
        #[inline(always)]
        unsafe fn prefetch(at: *const f32) {
            // SAFETY: a hint, which every x86-64 knows or ignores, and which never faults.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) }
        }
        #[inline(always)]
        unsafe fn prefetch_far(at: *const f32) {
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
        }
        #[inline(always)]
        unsafe fn add_product(self, x: Self, y: Self) -> Self {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_fmadd_ps(x, y, self) }
        }
        #[inline(always)]
        unsafe fn transpose(mut rows: [Self; WIDEST]) -> [Self; WIDEST] {
            // SAFETY: the caller has AVX-512F.
            unsafe {
                // Squares of four, in each quarter of the registers.
                for four in rows.as_chunks_mut::<4>().0 {
                    let [low, high] = [_mm512_unpacklo_ps(four[0], four[1]), _mm512_unpackhi_ps(four[0], four[1])];
                    let [below, above] = [_mm512_unpacklo_ps(four[2], four[3]), _mm512_unpackhi_ps(four[2], four[3])];
                    let (low, below) = (_mm512_castps_pd(low), _mm512_castps_pd(below));
                    let (high, above) = (_mm512_castps_pd(high), _mm512_castps_pd(above));
                    *four = [
                        _mm512_castpd_ps(_mm512_unpacklo_pd(low, below)),
                        _mm512_castpd_ps(_mm512_unpackhi_pd(low, below)),
                        _mm512_castpd_ps(_mm512_unpacklo_pd(high, above)),
                        _mm512_castpd_ps(_mm512_unpackhi_pd(high, above)),
                    ];
                }
                // Quarters, of which row `4 i + j` has those of columns `j`, `4 + j`, ..
                let mut columns = rows;
                for j in 0..4 {
                    let (a, b, c, d) = (rows[j], rows[4 + j], rows[8 + j], rows[12 + j]);
                    let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                    let (even_2, odd_2) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                    columns[j] = _mm512_shuffle_f32x4::<0x88>(even, even_2);
                    columns[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd, odd_2);
                    columns[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even, even_2);
                    columns[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd, odd_2);
                }
                columns
            }
        }
    }

    impl Lanes for __m256 {
        const WIDTH: usize = 8;
        const STEPS: usize = 8;
        const STEPS_A_FETCH: usize = 2;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller has AVX2 and FMA.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above, and 8 numbers lie at `from`.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above, and 8 numbers fit at `to`.
            unsafe { _mm256_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn widen(from: *const bf16) -> Self {
            // SAFETY: as above, and 8 numbers lie at `from`.
            unsafe {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            }
        }
        #[inline(always)]
        unsafe fn narrow(self, to: *mut bf16) {
            // SAFETY: as above, and 8 numbers fit at `to`.
            unsafe { _mm_storeu_si128(to.cast(), narrow_8(self)) }
        }
        #[inline(always)]
        unsafe fn narrow_beside(self, to: *mut bf16, side: usize) {
            // SAFETY: as above, and 16 numbers fit at `to`.
            unsafe {
                let numbers = _mm256_cvtepu16_epi32(narrow_8(self));
                let both = match side {
                    0 => numbers,
                    _ => _mm256_or_si256(_mm256_loadu_si256(to.cast()), _mm256_slli_epi32::<16>(numbers)),
                };
                _mm256_storeu_si256(to.cast(), both);
            }
        }
        #[inline(always)]
        unsafe fn stream_narrow(self, to: *mut bf16) {
            // SAFETY: as above, and it is aligned as asked for.
            unsafe {
                match to.cast::<__m128i>().is_aligned() {
                    true => _mm_stream_si128(to.cast(), narrow_8(self)),
                    false => self.narrow(to),
                }
            }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the caller has AVX2 and FMA.
            unsafe { _mm256_add_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            // SAFETY: the caller has AVX2 and FMA.
            unsafe { _mm256_sub_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: the caller has AVX2 and FMA.
            unsafe { _mm256_mul_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn rectify(self) -> Self {
            // SAFETY: as above. Where one operand is a NaN the second is the result.
            unsafe { _mm256_max_ps(_mm256_setzero_ps(), self) }
        }
        #[inline(always)]
        unsafe fn load_first(from: *const f32, n: usize) -> Self {
            // SAFETY: the caller has AVX2 and FMA, and the numbers lie at `from`.
            unsafe {
                match n {
                    ..8 => _mm256_maskload_ps(from, first_of_8(n)),
                    _ => Self::load(from),
                }
            }
        }
        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, n: usize) {
            // SAFETY: the caller has AVX2 and FMA, and the numbers fit at `to`.
            unsafe {
                match n {
                    ..8 => _mm256_maskstore_ps(to, first_of_8(n), self),
                    _ => self.store(to),
                }
            }
        }
        #[inline(always)]
        unsafe fn stream_first(self, to: *mut f32, n: usize) {
            // SAFETY: the caller has AVX2 and FMA, and the numbers fit at `to`, which is aligned as asked for.
            unsafe {
                if n < 8 || !to.cast::<__m128>().is_aligned() {
                    return self.store_first(to, n);
                }
                _mm_stream_ps(to, _mm256_castps256_ps128(self));
                _mm_stream_ps(to.add(4), _mm256_extractf128_ps::<1>(self));
            }
        }
        #[inline(always)]
        unsafe fn fence() {
            // SAFETY: every x86-64 has it.
            unsafe { _mm_sfence() }
        }
        #[inline(always)]
        unsafe fn where_positive(self, other: Self) -> Self {
            // SAFETY: the caller has AVX2 and FMA.
            unsafe { _mm256_and_ps(self, _mm256_cmp_ps::<_CMP_NLE_UQ>(other, _mm256_setzero_ps())) }
        }
        #[inline(always)]
        unsafe fn greater(best: (Self, Self), candidate: Self, tap: Self) -> (Self, Self) {
            // SAFETY: the caller has AVX2 and FMA.
            unsafe {
                let wins = _mm256_or_ps(
                    _mm256_cmp_ps::<_CMP_GT_OQ>(candidate, best.0),
                    _mm256_cmp_ps::<_CMP_UNORD_Q>(candidate, candidate),
                );
                (_mm256_blendv_ps(best.0, candidate, wins), _mm256_blendv_ps(best.1, tap, wins))
            }
        }
        #[inline(always)]
        unsafe fn where_tap(self, taps: *const u8, n: usize, tap: u8) -> Self {
            // SAFETY: the caller has AVX2 and FMA, and the bytes lie at `taps`.
            unsafe {
                let taps = match n {
                    ..8 => _mm_loadl_epi64(padded(taps, n).as_ptr().cast()),
                    _ => _mm_loadl_epi64(taps.cast()),
                };
                let equal = _mm256_cmpeq_epi32(_mm256_cvtepu8_epi32(taps), _mm256_set1_epi32(i32::from(tap)));
                _mm256_and_ps(self, _mm256_castsi256_ps(equal))
            }
        }
        #[inline(always)]
        unsafe fn store_taps(self, to: *mut u8, n: usize) {
            // SAFETY: the caller has AVX2 and FMA, and the bytes fit at `to`.
            unsafe {
                let whole = _mm256_cvttps_epi32(self);
                let words = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256::<1>(whole));
                let mut bytes = [0u8; 16];
                _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm_packus_epi16(words, words));
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, n.min(8));
            }
        }
        #[inline(always)]
        unsafe fn prefetch(at: *const f32) {
            // SAFETY: a hint, which every x86-64 knows or ignores, and which never faults.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) }
        }
        #[inline(always)]
        unsafe fn prefetch_far(at: *const f32) {
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
        }
        #[inline(always)]
        unsafe fn add_product(self, x: Self, y: Self) -> Self {
            // SAFETY: the caller has AVX2 and FMA.
            unsafe { _mm256_fmadd_ps(x, y, self) }
        }
        #[inline(always)]
        unsafe fn transpose(mut rows: [Self; WIDEST]) -> [Self; WIDEST] {
            // SAFETY: the caller has AVX2.
            unsafe {
                // Squares of four, in each half of the registers.
                for four in rows[..8].as_chunks_mut::<4>().0 {
                    let [low, high] = [_mm256_unpacklo_ps(four[0], four[1]), _mm256_unpackhi_ps(four[0], four[1])];
                    let [below, above] = [_mm256_unpacklo_ps(four[2], four[3]), _mm256_unpackhi_ps(four[2], four[3])];
                    let (low, below) = (_mm256_castps_pd(low), _mm256_castps_pd(below));
                    let (high, above) = (_mm256_castps_pd(high), _mm256_castps_pd(above));
                    *four = [
                        _mm256_castpd_ps(_mm256_unpacklo_pd(low, below)),
                        _mm256_castpd_ps(_mm256_unpackhi_pd(low, below)),
                        _mm256_castpd_ps(_mm256_unpacklo_pd(high, above)),
                        _mm256_castpd_ps(_mm256_unpackhi_pd(high, above)),
                    ];
                }
                let mut columns = rows;
                for j in 0..4 {
                    columns[j] = _mm256_permute2f128_ps::<0x20>(rows[j], rows[4 + j]);
                    columns[4 + j] = _mm256_permute2f128_ps::<0x31>(rows[j], rows[4 + j]);
                }
                columns
            }
        }
    }
}

/// Four numbers: one register of SSE2 and of NEON.
impl Lanes for [f32; 4] {
    const WIDTH: usize = 4;
    const STEPS: usize = 1;
    const STEPS_A_FETCH: usize = 1;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: four numbers lie at `from`; an array of f32 needs no more alignment than they have.
        unsafe { *from.cast::<[f32; 4]>() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: four numbers fit at `to`.
        unsafe { *to.cast::<[f32; 4]>() = self }
    }
    #[inline(always)]
    unsafe fn widen(from: *const bf16) -> Self {
        // SAFETY: four numbers lie at `from`; an array of bf16 needs no more alignment than they have.
        unsafe { *from.cast::<[bf16; 4]>() }.map(Number::wide)
    }
    #[inline(always)]
    unsafe fn narrow(self, to: *mut bf16) {
        // SAFETY: four numbers fit at `to`.
        unsafe { *to.cast::<[bf16; 4]>() = self.map(Number::narrow) }
    }
    #[inline(always)]
    unsafe fn narrow_beside(self, to: *mut bf16, side: usize) {
        for (i, value) in self.into_iter().enumerate() {
            // SAFETY: eight numbers fit at `to`.
            unsafe {
                if side == 0 {
                    *to.add(2 * i + 1) = bf16::ZERO;
                }
                *to.add(2 * i + side) = bf16::narrow(value);
            }
        }
    }
    #[inline(always)]
    unsafe fn stream_narrow(self, to: *mut bf16) {
        // SAFETY: the caller's promise.
        unsafe { self.narrow(to) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] + other[i])
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] - other[i])
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] * other[i])
    }
    #[inline(always)]
    unsafe fn rectify(self) -> Self {
        self.map(rectify)
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        // SAFETY: as many numbers lie at `from`.
        std::array::from_fn(|i| if i < n { unsafe { *from.add(i) } } else { 0. })
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        // SAFETY: as many numbers fit at `to`.
        unsafe { std::ptr::copy_nonoverlapping(self.as_ptr(), to, n.min(4)) }
    }
    #[inline(always)]
    unsafe fn stream_first(self, to: *mut f32, n: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.store_first(to, n) }
    }
    #[inline(always)]
    unsafe fn fence() {}
    #[inline(always)]
    unsafe fn where_positive(self, other: Self) -> Self {
        std::array::from_fn(|i| if other[i] <= 0. { 0. } else { self[i] })
    }
    #[inline(always)]
    unsafe fn greater(best: (Self, Self), candidate: Self, tap: Self) -> (Self, Self) {
        let wins: [bool; 4] = std::array::from_fn(|i| (candidate[i] > best.0[i]) | candidate[i].is_nan());
        let choose = |best: Self, other: Self| std::array::from_fn(|i| if wins[i] { other[i] } else { best[i] });
        (choose(best.0, candidate), choose(best.1, tap))
    }
    #[inline(always)]
    unsafe fn where_tap(self, taps: *const u8, n: usize, tap: u8) -> Self {
        // SAFETY: as many bytes lie at `taps`.
        std::array::from_fn(|i| if i < n && unsafe { *taps.add(i) } == tap { self[i] } else { 0. })
    }
    #[inline(always)]
    unsafe fn store_taps(self, to: *mut u8, n: usize) {
        for (i, tap) in self.into_iter().enumerate().take(n) {
            // SAFETY: as many bytes fit at `to`.
            unsafe { *to.add(i) = tap as u8 };
        }
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const f32) {}
    #[inline(always)]
    unsafe fn prefetch_far(_: *const f32) {}
    #[inline(always)]
    unsafe fn add_product(self, x: Self, y: Self) -> Self {
        // Where the target has no fused multiply-add, `mul_add` would be a call into the maths library.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            std::array::from_fn(|i| x[i].mul_add(y[i], self[i]))
        } else {
            std::array::from_fn(|i| self[i] + x[i] * y[i])
        }
    }
    #[inline(always)]
    unsafe fn transpose(rows: [Self; WIDEST]) -> [Self; WIDEST] {
        let mut columns = rows;
        for (j, column) in columns.iter_mut().take(4).enumerate() {
            *column = [rows[0][j], rows[1][j], rows[2][j], rows[3][j]];
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 16 numbers and the first of more, with zeros, infinities and a NaN among them.
    const X: [f32; 20] = [
        1.,
        -2.,
        0.,
        f32::NAN,
        4.,
        -0.,
        f32::INFINITY,
        f32::NEG_INFINITY,
        8.,
        9.,
        -10.,
        11.,
        0.5,
        -0.5,
        1e-40,
        3.,
        17.,
        18.,
        -19.,
        20.,
    ];

    /// What each operation makes of the first `n` of [`X`], lane by lane.
    struct Operations {
        n: usize,
    }

    impl Kernel for Operations {
        unsafe fn run<L: Lanes>(self) {
            let n = self.n.min(L::WIDTH);
            let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            // SAFETY: the test runs what the CPU has; all buffers have 20 numbers, of which 17 at the most are touched.
            unsafe {
                let stored = |value: L| {
                    let mut all = [7f32; 20];
                    value.store_first(all.as_mut_ptr().add(1), self.n);
                    let mut streamed = [7f32; 20];
                    value.stream_first(streamed.as_mut_ptr().add(1), self.n);
                    L::fence();
                    assert!(std::iter::zip(all, streamed).all(|(a, b)| same(a, b)));
                    assert!(all[0] == 7. && all[n + 1..].iter().all(|&x| x == 7.), "{n}: {all:?}");
                    all[1..n + 1].to_vec()
                };
                let expect = |value: L, expected: &dyn Fn(usize) -> f32| {
                    for (i, found) in stored(value).into_iter().enumerate() {
                        assert!(same(found, expected(i)), "lane {i} of {n}: {found}, not {}", expected(i));
                    }
                };
                let x = L::load_first(X.as_ptr(), self.n);
                let mut padded = [7f32; 20];
                x.store(padded.as_mut_ptr());
                assert!(padded[n..L::WIDTH].iter().all(|&x| x == 0.), "{n}: {padded:?}");
                expect(x, &|i| X[i]);
                let y = L::load_first(X.as_ptr().add(3), self.n);
                expect(y.where_positive(x), &|i| if X[i] <= 0. { 0. } else { X[i + 3] });
                let best = L::greater((x, L::splat(3.)), y, L::splat(250.));
                let wins = |i: usize| X[i + 3] > X[i] || X[i + 3].is_nan();
                expect(best.0, &|i| if wins(i) { X[i + 3] } else { X[i] });
                let mut taps = [9u8; 20];
                best.1.store_taps(taps.as_mut_ptr(), self.n);
                for (i, &tap) in taps.iter().enumerate() {
                    assert_eq!(
                        tap,
                        if i >= n {
                            9
                        } else if wins(i) {
                            250
                        } else {
                            3
                        },
                        "lane {i} of {n}"
                    );
                }
                expect(x.where_tap(taps.as_ptr(), self.n, 250), &|i| if wins(i) { X[i] } else { 0. });
            }
        }
    }

    #[test]
    fn every_instruction_set_does_the_same() {
        for isa in Isa::available() {
            for n in 0..=17 {
                // SAFETY: the CPU has it.
                unsafe { run(isa, Operations { n }) };
            }
        }
    }

    /// Rounds `values` in every way that there is.
    struct Rounding<'a> {
        values: &'a [f32],
        stored: &'a mut [bf16],
        streamed: &'a mut [bf16],
        beside: &'a mut [bf16],
        widened: &'a mut [f32],
    }

    impl Kernel for Rounding<'_> {
        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            for at in (0..self.values.len()).step_by(L::WIDTH) {
                let n = self.values.len() - at;
                // SAFETY: the caller's promise, and no more than `n` numbers are touched; `beside` has as many vectors
                // twice.
                unsafe {
                    let vector = L::load_first(self.values.as_ptr().add(at), n);
                    bf16::store_first(vector, self.stored.as_mut_ptr().add(at), n);
                    bf16::stream_first(vector, self.streamed.as_mut_ptr().add(at), n);
                    bf16::load_first::<L>(self.stored.as_ptr().add(at), n)
                        .store_first(self.widened.as_mut_ptr().add(at), n);
                    vector.narrow_beside(self.beside.as_mut_ptr().add(2 * at), 0);
                    L::splat(1.).narrow_beside(self.beside.as_mut_ptr().add(2 * at), 1);
                }
            }
            // SAFETY: the caller's promise.
            unsafe { L::fence() };
        }
    }

    #[test]
    fn vectors_are_rounded_as_numbers_are() {
        let mut values: Vec<f32> =
            (0..1003u32).map(|i| f32::from_bits(0x3f7f_0000 + i * 0x1357_9bdf % 0x0200_0000)).collect();
        values.extend([0., -0., f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1.0039062, 1.0117188, -2.5]);
        values.extend([f32::NAN, f32::from_bits(0x7f80_0001)]);
        let expected: Vec<u16> = values.iter().map(|value| bf16::narrow(*value).to_bits()).collect();
        for isa in Isa::available() {
            let len = values.len();
            let [mut stored, mut streamed] = [(); 2].map(|()| vec![bf16::ZERO; len]);
            let (mut beside, mut widened) = (vec![bf16::ZERO; 2 * len + 32], vec![0f32; len]);
            let rounding = Rounding {
                values: &values,
                stored: &mut stored,
                streamed: &mut streamed,
                beside: &mut beside,
                widened: &mut widened,
            };
            // SAFETY: the CPU has the instructions.
            unsafe { run(isa, rounding) };
            let bits = |numbers: &[bf16]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&stored), expected, "{isa:?}");
            assert_eq!(bits(&streamed), expected, "{isa:?}");
            assert_eq!(
                widened.iter().map(|value| value.to_bits() >> 16).collect::<Vec<_>>(),
                expected.iter().map(|bits| u32::from(*bits)).collect::<Vec<_>>(),
                "{isa:?}"
            );
            for (i, pair) in beside[..2 * len].chunks_exact(2).enumerate() {
                assert_eq!((pair[0].to_bits(), pair[1]), (expected[i], bf16::ONE), "{isa:?}");
            }
        }
    }
}
