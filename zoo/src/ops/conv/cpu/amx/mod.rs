//! The micro-kernel for AMX: 32 rows and 32 columns in four tile registers, 32 steps of the reduction an instruction
//! (`tdpbf16ps`). Denormal numbers count as zero.

mod blocks;
mod number;
pub(super) mod weight_gradient;
mod window;

use super::finish::{finished_vector, write_one};
use super::panel::{Map, Of, Panel};
use super::round::Round;
use super::tile::Tile;
use super::walk::Walk;
use super::{Operands, Pass, Problem, Slabs};
use crate::ops::Isa;
use crate::ops::amx::Tiles;
use crate::ops::lanes::{Element, Lanes};
use candle_core::DType;
use half::bf16;
pub(super) use number::Parts;
use number::ROW_BYTES;
use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;
use window::Window;

/// Steps of the reduction that one instruction takes: a row of a tile.
const STEPS: usize = 32;

/// Rows, and columns, of a tile register.
const SIDE: usize = 16;

/// Rows, and columns, of the largest product.
const EDGE: usize = 2 * SIDE;

/// `sums[32, 32] (+)= a[32, depth] * b[depth, 32]`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(in super::super) struct Product<'a, P> {
    /// Tiles of rows, one or two; what lies in `sums` behind them becomes any number.
    row_tiles: usize,
    a: Rows<P>,
    /// Lines of [`EDGE`] columns.
    b: *const P,
    /// What of both is multiplied, one after the other.
    steps: &'a [Steps],
    sums: Sums,
    /// Add to the sums rather than overwrite them.
    accumulate: bool,
    ahead: Ahead<'a>,
}

/// Where the sums of two tiles of rows lie.
#[derive(Clone, Copy)]
#[repr(C)]
struct Sums {
    above: *mut f32,
    below: *mut f32,
    /// Bytes from one row to the next.
    pitch: usize,
}

impl Sums {
    /// From `first` on, `pitch` numbers a row.
    fn at(first: *mut f32, pitch: usize) -> Self {
        Sums { above: first, below: first.wrapping_add(SIDE * pitch), pitch: pitch * size_of::<f32>() }
    }
}

/// Cache lines that are fetched meanwhile, two of either place a step: the sums leave the memory idle.
#[derive(Clone, Copy)]
#[repr(C)]
struct Ahead<'a> {
    /// Where they lie in both places, in bytes: two for each step.
    lines: &'a [usize],
    places: [*const u8; 2],
}

impl Ahead<'_> {
    /// What the longest call fetches of a place.
    const MOST: usize = 2 * ROW_BYTES / (STEPS * size_of::<bf16>());

    /// A line that is there anyway.
    fn nothing(at: *const u8) -> Self {
        Ahead { lines: &[0; Self::MOST], places: [at; 2] }
    }
}

/// Two tiles of rows, wherever they lie: all distances are bytes.
#[derive(Clone, Copy)]
#[repr(C)]
struct Rows<P> {
    first: *const P,
    /// From the first tile's first row to that of the second.
    below: isize,
    /// From one row to the next.
    pitch: usize,
    /// From the first parts of numbers to the second ones.
    part: usize,
}

/// Where [`STEPS`] steps of the reduction lie, in bytes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(in super::super) struct Steps {
    /// From the beginning of a row.
    a: usize,
    /// From the first line.
    b: usize,
}

/// A number of panels that AMX multiplies.
pub(in super::super) trait Tiled: Panel {
    /// Steps that follow one another in rows at [`Panel::PITCH`], and in lines.
    const IN_ORDER: &'static [Steps];

    /// Rows of `a` that are read again and again should be `KEPT` in the first-level cache.
    ///
    /// # Safety
    /// The thread holds [`Tiles`], the pointers are good for all rows and columns of the tiles, and there are lines to fetch for
    /// all steps.
    unsafe fn run<const KEPT: bool>(product: Product<Self>);
}

/// Panels of which the numbers of `N` are laid out.
pub(in super::super) trait TiledOf<N: Map>: Tiled + Of<N> {
    /// Writes a line of `b`: 32 numbers of two pixels side by side, the first four, the third, and so on, and then the second
    /// four, the fourth, and so on.
    ///
    /// # Safety
    /// The CPU has AMX-BF16 and what comes with it; 32 numbers lie at each pixel, and a line fits at `to`.
    unsafe fn line(pixels: [*const N; 2], to: *mut Self);

    /// Writes 16 rows of `a`, which are `channels` (16 at most) numbers of [`STEPS`] pixels; rows behind them are zeros.
    ///
    /// # Safety
    /// The CPU has AMX-BF16 and what comes with it; so many numbers lie at each pixel, and rows at [`Panel::PITCH`] fit at
    /// `to`.
    unsafe fn turn(pixels: &[*const N; STEPS], channels: usize, to: *mut Self);

    /// Writes `numbers` as those from `at` on, where all first parts lie together, and all second ones.
    fn place(numbers: &[N], at: usize, to: &mut [Self]);

    /// Writes zeros there.
    fn clear(range: Range<usize>, to: &mut [Self]);

    /// Where the first part of number `at` lies.
    fn first_part(numbers: &[Self], at: usize) -> *const Self;
}

/// 0, `distance`, twice as much, and so on.
const fn multiples<const N: usize>(distance: usize) -> [usize; N] {
    let mut multiples = [0; N];
    let mut i = 0;
    while i < N {
        multiples[i] = i * distance;
        i += 1;
    }
    multiples
}

/// As many as one call takes, of numbers of `size` bytes.
const fn in_order<const N: usize>(size: usize) -> [Steps; N] {
    let mut steps = [Steps { a: 0, b: 0 }; N];
    let mut i = 0;
    while i < N {
        steps[i] = Steps::of(size, i * STEPS, i * STEPS);
        i += 1;
    }
    steps
}

impl Steps {
    /// From number `a` of a row, and line `b`, on, of numbers of `size` bytes.
    const fn of(size: usize, a: usize, b: usize) -> Steps {
        Steps { a: a * size, b: b * EDGE * size }
    }
}

/// Writes all channels of the positions that `walk` visits.
pub(super) fn pass<N: Map, P: TiledOf<N> + Of<f32>>(
    isa: Isa,
    problem: &Problem,
    pass: Pass,
    walk: &Walk,
    operands: Operands<N>,
) {
    let slabs = Slabs::new(isa, problem, pass);
    match Window::of(walk, &slabs, size_of::<P>()) {
        Some(window) => window::pass::<N, P>(isa, problem, pass, &slabs, &window, operands),
        None => super::pass::dense::<N, P>(isa, problem, pass, walk, operands),
    }
}

/// The registers 0 to 3 are the sums, those of the second rows from 2 on; 4 and 5 are tiles of `a`, 6 and 7 of `b`. The lines that
/// are given take one step, of which the first tile of `a` lies at `t`, and `b` at `b_t`.
macro_rules! product {
    ($product:ident, $b_line:literal, $step:expr) => {
        asm!(
            "mov {b_t}, [{product} + {row}]",
            "test {t:e}, {t:e}",
            "jnz 3f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 2f",
            "3:",
            "mov {t}, [{product} + {above_sums}]",
            "tileloadd tmm0, [{t} + {b_t}]",
            "tileloadd tmm1, [{t} + {b_t} + 64]",
            "mov {t}, [{product} + {below_sums}]",
            "tileloadd tmm2, [{t} + {b_t}]",
            "tileloadd tmm3, [{t} + {b_t} + 64]",
            "2:",
            "mov {t}, [{steps}]",
            "add {t}, {a}",
            "mov {b_t}, [{steps} + 8]",
            "add {b_t}, {b}",
            $step,
            "mov {t}, [{ahead}]",
            "prefetcht0 [{place} + {t}]",
            "prefetcht0 [{other} + {t}]",
            "mov {t}, [{ahead} + 8]",
            "prefetcht0 [{place} + {t}]",
            "prefetcht0 [{other} + {t}]",
            // What some steps have no use for.
            "/* {below} {part} */",
            "add {ahead}, 16",
            "add {steps}, 16",
            "dec {count}",
            "jnz 2b",
            "mov {b_t}, [{product} + {row}]",
            "mov {t}, [{product} + {above_sums}]",
            "tilestored [{t} + {b_t}], tmm0",
            "tilestored [{t} + {b_t} + 64], tmm1",
            "mov {t}, [{product} + {below_sums}]",
            "tilestored [{t} + {b_t}], tmm2",
            "tilestored [{t} + {b_t} + 64], tmm3",
            product = in(reg) &raw const $product,
            below = const std::mem::offset_of!(Product<Self>, a.below),
            part = const std::mem::offset_of!(Product<Self>, a.part),
            above_sums = const std::mem::offset_of!(Product<Self>, sums.above),
            below_sums = const std::mem::offset_of!(Product<Self>, sums.below),
            row = const std::mem::offset_of!(Product<Self>, sums.pitch),
            a = in(reg) $product.a.first,
            pitch = in(reg) $product.a.pitch,
            b = in(reg) $product.b,
            ahead = inout(reg) $product.ahead.lines.as_ptr() => _,
            place = in(reg) $product.ahead.places[0],
            other = in(reg) $product.ahead.places[1],
            steps = inout(reg) $product.steps.as_ptr() => _,
            count = inout(reg) $product.steps.len() => _,
            line = in(reg) const { $b_line as usize },
            t = inout(reg) u64::from($product.accumulate) => _,
            b_t = out(reg) _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// Loads one or two tiles of `a`; `t` is at the last one then.
macro_rules! load_a {
    ($load:literal, 1) => {
        concat!($load, " tmm4, [{t} + {pitch}]\n")
    };
    ($load:literal, 2) => {
        concat!($load, " tmm4, [{t} + {pitch}]\nadd {t}, [{product} + {below}]\n", $load, " tmm5, [{t} + {pitch}]\n")
    };
}

/// From the last tile of `a` to the first one, of the parts before.
macro_rules! parts_before {
    (1) => {
        "sub {t}, [{product} + {part}]\n"
    };
    (2) => {
        "sub {t}, [{product} + {below}]\nsub {t}, [{product} + {part}]\n"
    };
}

/// Loads both tiles of `b`, from some bytes on.
macro_rules! load_b {
    ($at:literal) => {
        concat!("tileloadd tmm6, [{b_t} + {line} + ", $at, "]\ntileloadd tmm7, [{b_t} + {line} + ", $at, " + 64]\n")
    };
}

/// Multiplies what is loaded.
macro_rules! multiply {
    (1) => {
        "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm1, tmm4, tmm7\n"
    };
    (2) => {
        concat!(multiply!(1), "tdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7\n")
    };
}

macro_rules! one_part {
    ($load:literal, $rows:tt) => {
        concat!(load_b!(0), load_a!($load, $rows), multiply!($rows))
    };
}

/// The smallest products are summed first. Each part is loaded once.
macro_rules! two_parts {
    ($load:literal, $rows:tt) => {
        concat!(
            "add {t}, [{product} + {part}]\n",
            load_b!(0),
            load_a!($load, $rows),
            multiply!($rows),
            parts_before!($rows),
            load_a!($load, $rows),
            multiply!($rows),
            load_b!(128),
            multiply!($rows),
        )
    };
}

macro_rules! tiled {
    ($parts:literal, $b_line:literal, $step:ident) => {
        impl Tiled for Parts<$parts> {
            const IN_ORDER: &'static [Steps] = &const { in_order::<{ Self::DEPTH / STEPS }>(size_of::<Self>()) };

            unsafe fn run<const KEPT: bool>(product: Product<Self>) {
                // `tileloaddt1` takes tiles from the second-level cache and does not keep them in the first one, where a
                // panel of `b` stays while all rows are multiplied with it.
                // SAFETY: the caller's promise.
                unsafe {
                    match (product.row_tiles, KEPT) {
                        (1, true) => product!(product, $b_line, $step!("tileloadd", 1)),
                        (1, false) => product!(product, $b_line, $step!("tileloaddt1", 1)),
                        (_, true) => product!(product, $b_line, $step!("tileloadd", 2)),
                        (_, false) => product!(product, $b_line, $step!("tileloaddt1", 2)),
                    }
                }
            }
        }
    };
}

tiled!(1, 128, one_part);
tiled!(2, 256, two_parts);

impl<P: Tiled> Rows<P> {
    /// At [`Panel::PITCH`].
    fn at_pitch(first: *const P) -> Self {
        let (pitch, part) = (P::PITCH * size_of::<P>(), STEPS * size_of::<bf16>());
        Rows { first, below: (SIDE * pitch) as isize, pitch, part }
    }
}

/// See [`super::tile::multiply`]. Tiles of rows are read whole, and where there is a distance between the rows of `c`,
/// written whole.
///
/// # Safety
/// The pointers of `tile` are good for that, and the CPU has AMX-BF16.
///
/// # Panics
/// Where the thread does not hold [`Tiles`].
unsafe fn multiply<P: Tiled, C: Element>(m: usize, tile: &Tile<P, C>) {
    assert!(Tiles::are_held(), "tile registers are held while products are summed");
    assert!(!tile.accumulate || tile.pitch.is_some(), "sums of several calls are kept as they are");
    let mut product = Product {
        row_tiles: m.div_ceil(SIDE),
        a: Rows::at_pitch(tile.a),
        b: tile.b,
        steps: &P::IN_ORDER[..tile.depth / STEPS],
        ahead: Ahead::nothing(tile.b.cast()),
        sums: Sums::at(std::ptr::null_mut(), EDGE),
        accumulate: false,
    };
    // SAFETY: the caller's promise: there are rows.
    if let Some((c, pitch)) = unsafe { tile.sums() } {
        // SAFETY: the caller's promise, and the registers are held (asserted).
        return unsafe {
            P::run::<false>(Product { sums: Sums::at(c, pitch), accumulate: tile.accumulate, ..product })
        };
    }
    // SAFETY: the caller's promise.
    let rows = unsafe { std::slice::from_raw_parts(tile.rows, m) };
    let mut lines = [0; Ahead::MOST];
    lines.iter_mut().zip(rows).for_each(|(line, row)| *line = row * size_of::<C>());
    let residual = tile.finish.and_then(|finish| finish.residual()).unwrap_or(tile.c);
    product.ahead = Ahead { lines: &lines, places: [tile.c.cast(), residual.cast()] };
    #[repr(C, align(64))]
    struct Own([MaybeUninit<f32>; EDGE * EDGE]);
    let mut sums = Own([MaybeUninit::uninit(); EDGE * EDGE]);
    // SAFETY: as above; there is space for four tiles of sums, of which the rows and columns are written.
    unsafe {
        P::run::<false>(Product { sums: Sums::at(sums.0.as_mut_ptr().cast(), EDGE), ..product });
        write(Round {
            sums: sums.0.as_ptr().cast(),
            lines: &LINES[..m],
            target: tile.c,
            rows,
            columns: tile.columns,
            finish: tile.finish,
        });
    }
}

/// Where rows of sums begin that follow one another.
const LINES: [usize; EDGE] = multiples(EDGE);

/// As [`Round`] with other instructions, which take longer to round.
///
/// # Safety
/// As of [`Round`], and the CPU has AMX-BF16, with which comes AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn write<C: Element>(round: Round<C>) {
    let Round { sums, lines, target, rows, columns, finish } = round;
    let whole = columns / SIDE * SIDE;
    // SAFETY: this function has the instructions, and the rest is the caller's promise.
    unsafe {
        for (line, row) in lines.iter().zip(rows) {
            let sums = sums.add(*line);
            if columns == EDGE && C::DTYPE == DType::BF16 {
                // A line at once.
                let low = finished_vector(&finish, __m512::load(sums), 0, *row);
                let high = finished_vector(&finish, __m512::load(sums.add(SIDE)), SIDE, row + SIDE);
                let y = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(target.add(*row).cast(), y);
                continue;
            }
            for column in (0..whole).step_by(SIDE) {
                let at = row + column;
                let y = finished_vector(&finish, __m512::load(sums.add(column)), column, at);
                match C::DTYPE {
                    DType::BF16 => {
                        let y = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(y));
                        _mm256_storeu_si256(target.add(at).cast(), y);
                    }
                    _ => C::store(y, target.add(at)),
                }
            }
            for column in whole..columns {
                write_one(&finish, *sums.add(column), column, row + column, target);
            }
        }
    }
}
