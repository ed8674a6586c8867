//! The weight gradient for AMX: rows are output channels, columns are taps and input channels, the reduction runs over
//! pixels. A row of `a` holds its steps side by side, so one operand has to be turned: `dy`, which has no taps.

use super::super::pack::Pass;
use super::super::panel::Map;
use super::super::walk::{Piece, Reduction, Row, Walk};
use super::super::weight_gradient::{add_splits, piece_parts};
use super::super::{Problem, SPLIT_SUMS, Slabs, TASKS};
use super::{Ahead, EDGE, Product, Rows, SIDE, STEPS, Sums, TiledOf, multiples};
use crate::ops::Isa;
use crate::ops::parallel::{Disjoint, LINE, part, with_scratch, with_scratch_of};
use crate::ops::tasks;
use crate::ops::transpose::transpose;
use std::ops::Range;

/// Columns of a piece at most.
const COLUMNS: usize = 256;

/// What one call sums up.
const TILE: usize = EDGE * EDGE;

/// Lines that follow one another.
const IN_TURN: [usize; Ahead::MOST] = multiples(LINE);

/// Numbers from one gathered panel of `depth` steps to the next: a line more, so that the lines of a pixel, which are written
/// one after the other, do not fall into one cache set.
fn panel_len(depth: usize) -> usize {
    (depth + 2) * EDGE
}

/// Writes `dw[O, C / G, taps]`, summed up from panels of `P`.
pub(in super::super) fn dense<N: Map, P: TiledOf<N>>(
    isa: Isa,
    problem: &Problem,
    walk: &Walk,
    x: &[N],
    dy: &[N],
    dw: Disjoint,
) {
    let slabs = Slabs::new(isa, problem, Pass::Forward);
    let pieces = walk.pieces(slabs.source, slabs.count == 1, COLUMNS, EDGE);
    let reduction = walk.reduction(problem.kernel, slabs.source, &pieces);
    let panels = [slabs.target.div_ceil(EDGE), reduction.len / EDGE];
    let slab_len = panels[0] * panels[1] * TILE;
    let len = slabs.count * slab_len;

    // Ranges of pixels, chosen by the shape alone: they fix the order of the sums.
    let blocks = walk.len().div_ceil(walk.block(P::DEPTH)).max(1);
    let splits = 1 << (SPLIT_SUMS / len.max(1)).min(blocks).clamp(1, TASKS).ilog2();
    let even = walk.len().div_ceil(blocks.next_multiple_of(splits)).max(1);
    let block = walk.block(even.next_multiple_of(STEPS).min(P::DEPTH));
    let pixel_blocks = walk.len().div_ceil(block);
    let piece_parts = piece_parts(splits * slabs.count, pieces.len());
    let gradient = Gradient { walk, block, slabs: &slabs, dy, rows_len: panels[0] * EDGE * P::PITCH };

    let compute = |sums: Disjoint, turned: Option<&[P]>| {
        tasks::for_each_init(
            splits * slabs.count * piece_parts,
            || isa.registers(),
            |_registers, task| {
                let (piece_part, task) = (task % piece_parts, task / piece_parts);
                let (slab, split) = (task % slabs.count, task / slabs.count);
                let task = Task {
                    gradient: &gradient,
                    pieces: &pieces[part(pieces.len(), piece_parts, piece_part)],
                    slab,
                    x,
                    turned,
                    panels,
                    sums,
                    sums_start: split * len + slab * slab_len,
                };
                task.run(part(pixel_blocks, splits, split));
            },
        );
    };
    with_scratch(splits * len, |sums| {
        match piece_parts {
            1 => compute(Disjoint::new(sums), None),
            // Several tasks read the same rows of dy: turn them once for all.
            _ => with_scratch_of(slabs.count * pixel_blocks * gradient.rows_len, |turned: &mut [P]| {
                tasks::for_each_chunk_init(turned, gradient.rows_len, Vec::new, |rows, i, turned| {
                    gradient.rows(i % pixel_blocks, rows);
                    gradient.turn(i / pixel_blocks, rows, turned);
                });
                compute(Disjoint::new(sums), Some(turned));
            }),
        }
        let sums = add_splits(sums, len);
        unpack(isa, problem, &slabs, panels, &reduction, sums, dw);
    });
}

/// The gradient of the result, by blocks of pixels.
struct Gradient<'a, N> {
    walk: &'a Walk,
    /// Pixels of a block.
    block: usize,
    slabs: &'a Slabs,
    dy: &'a [N],
    /// Numbers of the rows that are a block.
    rows_len: usize,
}

impl<N: Map> Gradient<'_, N> {
    fn rows(&self, block: usize, rows: &mut Vec<Row>) {
        self.walk.rows(block * self.block..((block + 1) * self.block).min(self.walk.len()), rows);
    }

    /// Turns the slab's channels of the pixels `rows` into rows at [`PITCH`](super::Panel::PITCH). Steps up to a multiple of [`STEPS`] are
    /// zeros.
    fn turn<P: TiledOf<N>>(&self, slab: usize, rows: &[Row], turned: &mut [P]) {
        // SAFETY: such panels are made where there is AMX-BF16.
        unsafe { self.turn_rows(slab, rows, turned) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn turn_rows<P: TiledOf<N>>(&self, slab: usize, rows: &[Row], turned: &mut [P]) {
        let zeros = [N::narrow(0.0); 16];
        let pitch = self.slabs.target * self.slabs.count;
        let turned = &mut turned[..self.rows_len];
        for (step, rows) in rows.chunks(STEPS).enumerate() {
            let mut pixels = [zeros.as_ptr(); STEPS];
            for first in (0..self.slabs.target).step_by(16) {
                let channels = (self.slabs.target - first).min(16);
                for (pixel, row) in pixels.iter_mut().zip(rows) {
                    *pixel = self.dy[row.target * pitch + slab * self.slabs.target + first..][..channels].as_ptr();
                }
                let to = turned[first * P::PITCH + step * STEPS..].as_mut_ptr();
                // SAFETY: this function has the instructions; 16 rows of `turned` begin at `first`, of which each has
                // `STEPS` numbers from here on.
                unsafe { P::turn(&pixels, channels, to) }
            }
        }
    }
}

/// The sums of one slab under some pieces.
struct Task<'a, N, P> {
    gradient: &'a Gradient<'a, N>,
    pieces: &'a [Piece],
    slab: usize,
    x: &'a [N],
    /// All of `dy`, where it was turned before.
    turned: Option<&'a [P]>,
    /// Panels of output channels, and of taps and input channels.
    panels: [usize; 2],
    /// `[output channel, tap x channel]` in tiles from `sums_start` on.
    sums: Disjoint<'a>,
    sums_start: usize,
}

impl<N: Map, P: TiledOf<N>> Task<'_, N, P> {
    /// Sums over the pixels of `blocks`.
    fn run(&self, blocks: Range<usize>) {
        let Gradient { walk, block: block_len, rows_len, .. } = *self.gradient;
        let longest = self.pieces.iter().map(|piece| piece.room).max().unwrap_or(0);
        let room = block_len.next_multiple_of(STEPS);
        let own_len = if self.turned.is_none() { rows_len } else { 0 };
        let mut started = vec![false; self.pieces.len()];
        let mut rows = Vec::new();
        with_scratch_of(own_len + longest / EDGE * panel_len(room), |scratch: &mut [P]| {
            let (own, gathered) = scratch.split_at_mut(own_len);
            for block in blocks {
                self.gradient.rows(block, &mut rows);
                let depth = rows.len().next_multiple_of(STEPS);
                let turned = match self.turned {
                    Some(turned) => {
                        let blocks = walk.len().div_ceil(block_len);
                        &turned[(self.slab * blocks + block) * rows_len..][..rows_len]
                    }
                    None => {
                        self.gradient.turn(self.slab, &rows, own);
                        &*own
                    }
                };
                for (piece, started) in self.pieces.iter().zip(&mut started) {
                    let gathered = &mut gathered[..piece.room / EDGE * panel_len(depth)];
                    // SAFETY: such panels are made where there is AMX-BF16.
                    if unsafe { self.gather(piece, &rows, gathered) } {
                        self.multiply(piece, depth, turned, gathered, *started);
                        *started = true;
                    }
                }
            }
        });
        for (piece, _) in self.pieces.iter().zip(started).filter(|(_, started)| !started) {
            for target in 0..self.panels[0] {
                let start = self.tile(target, piece.start / EDGE);
                // SAFETY: no other task has these sums.
                unsafe { self.sums.slice(start..start + piece.room / EDGE * TILE) }.fill(0.0);
            }
        }
    }

    /// Where the sums of two panels begin.
    fn tile(&self, target: usize, source: usize) -> usize {
        self.sums_start + (target * self.panels[1] + source) * TILE
    }

    /// Adds the products of a block of pixels.
    fn multiply(&self, piece: &Piece, depth: usize, turned: &[P], gathered: &[P], started: bool) {
        for (i, b) in gathered.chunks_exact(panel_len(depth)).enumerate() {
            let sums_of = |target: usize, i: usize| self.sums.at(self.tile(target, piece.start / EDGE + i), TILE);
            for target in 0..self.panels[0] {
                let sums = sums_of(target, i);
                let next = match target + 1 < self.panels[0] {
                    true => sums_of(target + 1, i),
                    false => sums_of(0, (i + 1) % (piece.room / EDGE)),
                };
                let a = turned[target * EDGE * P::PITCH..][..EDGE * P::PITCH].as_ptr();
                let product = Product {
                    row_tiles: 2,
                    a: Rows::at_pitch(a),
                    b: b.as_ptr(),
                    steps: &P::IN_ORDER[..depth / STEPS],
                    ahead: Ahead { lines: &IN_TURN, places: [next.cast(), next.wrapping_add(TILE / 2).cast()] },
                    sums: Sums::at(sums, EDGE),
                    accumulate: started,
                };
                // SAFETY: `a` has 32 rows and `b` 32 columns, both for `depth` steps; no other task has these sums; whoever
                // runs the task holds the registers.
                unsafe { P::run::<false>(product) }
            }
        }
    }

    /// Gathers what `rows` read under `piece` into lines `[panel, pixels, column]` of two pixels each, up to a multiple of
    /// [`STEPS`]. Returns whether they read anything.
    ///
    /// # Safety
    /// The CPU has AMX-BF16 and what comes with it.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn gather(&self, piece: &Piece, rows: &[Row], gathered: &mut [P]) -> bool {
        let Gradient { walk, slabs, .. } = *self.gradient;
        let (pitch, channel) = (slabs.source * slabs.count, self.slab * slabs.source);
        let panel_len = gathered.len() / (piece.room / EDGE);
        let steps = rows.len().next_multiple_of(STEPS);
        let mut reads = false;
        // What does not lie in the source as it is read.
        let mut edges = [[N::narrow(0.0); COLUMNS]; 2];
        for (i, lines) in (0..steps * EDGE).step_by(2 * EDGE).enumerate() {
            let pixels: [*const N; 2] = std::array::from_fn(|side| {
                let read = rows.get(2 * i + side).and_then(|row| walk.read(row, piece, pitch, channel));
                reads |= read.is_some();
                // What lies behind a piece goes into columns that nobody reads.
                let whole = read.as_ref().filter(|(_, range)| range.len() == piece.len);
                let whole = whole.and_then(|(_, range)| self.x.get(range.start..range.start + piece.room));
                match read {
                    _ if whole.is_some() => whole.map_or(std::ptr::null(), <[N]>::as_ptr),
                    read => {
                        let edge = &mut edges[side];
                        edge[..piece.room].fill(N::narrow(0.0));
                        if let Some((start, range)) = read {
                            edge[start..start + range.len()].copy_from_slice(&self.x[range]);
                        }
                        edge.as_ptr()
                    }
                }
            });
            for panel in 0..piece.room / EDGE {
                let to = gathered[panel * panel_len + lines..][..2 * EDGE].as_mut_ptr();
                // SAFETY: this function has the instructions, each pixel has the piece's numbers, and `to` is a line.
                unsafe { P::line(pixels.map(|pixel| pixel.add(panel * EDGE)), to) }
            }
        }
        reads
    }
}

/// In which column [`TiledOf::line`] lays number `of` of a pixel.
fn column(of: usize) -> usize {
    of % 4 + of / 8 * 4 + of / 4 % 2 * SIDE
}

/// Writes the weight gradient `[O, C / G, taps]` from its sums, which are tiles of `[output channel, tap x channel]`; taps that
/// always lie in the padding have none.
fn unpack(
    isa: Isa,
    problem: &Problem,
    slabs: &Slabs,
    panels: [usize; 2],
    reduction: &Reduction,
    sums: &[f32],
    gradient: Disjoint,
) {
    let (channels, group_out, volume) = (problem.group_channels(), problem.group_out_channels(), problem.taps());
    let len = channels * volume;
    let in_order = |(i, tap): (usize, &(usize, usize))| *tap == (i, i * channels);
    let whole = slabs.merged == 1
        && channels.is_multiple_of(EDGE)
        && reduction.taps.len() == volume
        && reduction.taps.iter().enumerate().all(in_order);
    tasks::for_each(slabs.count * panels[0], |task| {
        let (slab, panel) = (task / panels[0], task % panels[0]);
        let outs = panel * EDGE..((panel + 1) * EDGE).min(slabs.target);
        let first = slab * slabs.target + outs.start;
        // SAFETY: tasks own disjoint output channels.
        let gradient = unsafe { gradient.slice(first * len..(first + outs.len()) * len) };
        let sums = &sums[task * panels[1] * TILE..][..panels[1] * TILE];
        let mut lines = vec![0f32; if whole { volume * EDGE } else { 0 }];
        for (row, (out, filters)) in outs.zip(gradient.chunks_exact_mut(len)).enumerate() {
            if whole {
                for (channel, filters) in filters.chunks_exact_mut(EDGE * volume).enumerate() {
                    let from = &sums[channel * TILE + row * EDGE..];
                    for (tap, line) in lines.chunks_exact_mut(EDGE).enumerate() {
                        let from = &from[tap * channels * EDGE..][..EDGE];
                        for (four, line) in line.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                            line.copy_from_slice(&from[column(4 * four)..][..4]);
                        }
                    }
                    match volume {
                        1 => filters.copy_from_slice(&lines),
                        // SAFETY: `filters` has a number for each tap of each of the channels.
                        _ => unsafe { transpose(isa, [volume, EDGE], &lines, EDGE, filters.as_mut_ptr(), volume) },
                    }
                }
                continue;
            }
            let group = out / group_out * channels;
            filters.fill(0.0);
            for &(tap, start) in &reduction.taps {
                for channel in 0..channels {
                    let column = start + group + channel;
                    let at = column / EDGE * TILE + row * EDGE + self::column(column % EDGE);
                    filters[channel * volume + tap] = sums[at];
                }
            }
        }
    });
}
