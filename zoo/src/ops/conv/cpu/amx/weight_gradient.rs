//! The weight gradient for AMX: rows are output channels, columns are taps and input channels, the reduction runs over
//! pixels. A row of `a` holds its steps side by side, so one operand has to be turned: `dy`, which has no taps.

use super::super::pack::Pass;
use super::super::panel::Map;
use super::super::walk::{Piece, Reduction, Row, Walk};
use super::super::weight_gradient::{add_splits, piece_parts};
use super::super::{Problem, SPLIT_SUMS, Slabs, TASKS};
use super::blocks::{Block, Blocks, COLUMNS, Group};
use super::{Ahead, EDGE, Product, Rows, SIDE, STEPS, Sums, TiledOf, multiples};
use crate::ops::Isa;
use crate::ops::parallel::{Disjoint, LINE, part, with_scratch, with_scratch_of};
use crate::ops::tasks;
use crate::ops::transpose::transpose;
use std::ops::Range;

/// What one call sums up.
const TILE: usize = EDGE * EDGE;

/// Lines that follow one another.
const IN_TURN: [usize; Ahead::MOST] = multiples(LINE);

/// Numbers from one gathered panel to the next, for blocks of which so many pixels are summed, and gathered: a line more, so that
/// the lines of a pixel, which are written one after the other, do not fall into one cache set.
fn panel_len([summed, gathered]: [usize; 2]) -> usize {
    (gathered - summed + summed.next_multiple_of(STEPS) + 2) * EDGE
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
    // Ranges of pixels, chosen by the shape alone: they fix the order of the sums.
    let blocks = Blocks::of(walk, P::DEPTH);
    let pieces = walk.pieces(slabs.source, slabs.count == 1, blocks.columns(slabs.source), EDGE);
    let groups = blocks.groups(walk, &pieces);
    let reduction = walk.reduction(problem.kernel, slabs.source, &pieces);
    let panels = [slabs.target.div_ceil(EDGE), reduction.len / EDGE];
    let slab_len = panels[0] * panels[1] * TILE;
    let len = slabs.count * slab_len;
    let splits = 1 << (SPLIT_SUMS / len.max(1)).min(blocks.count(walk)).clamp(1, TASKS).ilog2();
    let blocks = blocks.split(walk, splits, P::DEPTH);
    let block_count = blocks.count(walk);
    let group_parts = piece_parts(splits * slabs.count, groups.len());
    let gradient = Gradient { walk, blocks, slabs: &slabs, dy, rows_len: panels[0] * EDGE * P::PITCH };

    let compute = |sums: Disjoint, turned: Option<&[P]>| {
        tasks::for_each_init(
            splits * slabs.count * group_parts,
            || isa.registers(),
            |_registers, task| {
                let (group_part, task) = (task % group_parts, task / group_parts);
                let (slab, split) = (task % slabs.count, task / slabs.count);
                let task = Task {
                    gradient: &gradient,
                    groups: &groups[part(groups.len(), group_parts, group_part)],
                    slab,
                    x,
                    turned,
                    panels,
                    sums,
                    sums_start: split * len + slab * slab_len,
                };
                task.run(part(block_count, splits, split));
            },
        );
    };
    with_scratch(splits * len, |sums| {
        match group_parts {
            1 => compute(Disjoint::new(sums), None),
            // Several tasks read the same rows of dy: turn them once for all.
            _ => with_scratch_of(slabs.count * block_count * gradient.rows_len, |turned: &mut [P]| {
                tasks::for_each_chunk_init(turned, gradient.rows_len, Block::default, |block, i, turned| {
                    gradient.blocks.block(walk, i % block_count, block);
                    gradient.turn(i / block_count, &block.targets, turned);
                });
                compute(Disjoint::new(sums), Some(turned));
            }),
        }
        let sums = add_splits(sums, len);
        unpack(isa, problem, &slabs, panels, &reduction, sums, dw);
    });
}

/// See [`super::super::by_lines`].
#[cfg(test)]
pub(in super::super) fn by_lines<N: Map, P: TiledOf<N>>(walk: &Walk) -> bool {
    matches!(Blocks::of(walk, P::DEPTH), Blocks::Lines(_))
}

/// The gradient of the result, by blocks of pixels.
struct Gradient<'a, N> {
    walk: &'a Walk,
    blocks: Blocks,
    slabs: &'a Slabs,
    dy: &'a [N],
    /// Numbers of the rows that are a block.
    rows_len: usize,
}

impl<N: Map> Gradient<'_, N> {
    /// Turns the slab's channels of the pixels `targets` into rows at [`PITCH`](super::Panel::PITCH). Where there is none, and up to a
    /// multiple of [`STEPS`], are zeros.
    fn turn<P: TiledOf<N>>(&self, slab: usize, targets: &[Option<usize>], turned: &mut [P]) {
        // SAFETY: such panels are made where there is AMX-BF16.
        unsafe { self.turn_rows(slab, targets, turned) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn turn_rows<P: TiledOf<N>>(&self, slab: usize, targets: &[Option<usize>], turned: &mut [P]) {
        let channels = self.slabs.target;
        let zeros = vec![N::narrow(0.0); channels];
        let pitch = channels * self.slabs.count;
        let turned = &mut turned[..self.rows_len];
        for (step, targets) in targets.chunks(STEPS).enumerate() {
            let mut pixels = [zeros.as_ptr(); STEPS];
            for (pixel, target) in pixels.iter_mut().zip(targets) {
                if let Some(target) = target {
                    *pixel = self.dy[target * pitch + slab * channels..][..channels].as_ptr();
                }
            }
            for first in (0..channels).step_by(16) {
                let to = turned[first * P::PITCH + step * STEPS..].as_mut_ptr();
                // SAFETY: this function has the instructions; each pixel has `channels` numbers; 16 rows of `turned` begin at
                // `first`, of which each has `STEPS` numbers from here on.
                unsafe { P::turn(&pixels, (channels - first).min(16), to) }
                for pixel in &mut pixels {
                    *pixel = pixel.wrapping_add(16);
                }
            }
        }
    }
}

/// The sums of one slab under some groups.
struct Task<'a, N, P> {
    gradient: &'a Gradient<'a, N>,
    groups: &'a [Group],
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
        let Gradient { walk, blocks: all, rows_len, .. } = self.gradient;
        let widest = self.groups.iter().map(|group| group.piece.room).max().unwrap_or(0);
        let own_len = if self.turned.is_none() { *rows_len } else { 0 };
        let mut started = vec![false; self.groups.len()];
        let mut block = Block::default();
        with_scratch_of(own_len + widest / EDGE * panel_len(all.longest()), |scratch: &mut [P]| {
            let (own, gathered) = scratch.split_at_mut(own_len);
            for i in blocks {
                all.block(walk, i, &mut block);
                let turned = match self.turned {
                    Some(turned) => &turned[(self.slab * all.count(walk) + i) * rows_len..][..*rows_len],
                    None => {
                        self.gradient.turn(self.slab, &block.targets, own);
                        &*own
                    }
                };
                let depth = block.targets.len().next_multiple_of(STEPS);
                for (group, started) in self.groups.iter().zip(&mut started) {
                    let panels = group.piece.room / EDGE;
                    let panel_len = panel_len([block.targets.len(), block.rows.len()]);
                    let gathered = &mut gathered[..panels * panel_len];
                    // SAFETY: such panels are made where there is AMX-BF16.
                    if unsafe { self.gather(&group.piece, &block.rows, gathered) } {
                        self.multiply(group, depth, turned, gathered, *started);
                        *started = true;
                    }
                }
            }
        });
        for (group, _) in self.groups.iter().zip(started).filter(|(_, started)| !started) {
            for tap in &group.taps {
                for target in 0..self.panels[0] {
                    let start = self.tile(target, tap.start / EDGE);
                    // SAFETY: no other task has these sums.
                    unsafe { self.sums.slice(start..start + group.piece.room / EDGE * TILE) }.fill(0.0);
                }
            }
        }
    }

    /// Where the sums of two panels begin.
    fn tile(&self, target: usize, source: usize) -> usize {
        self.sums_start + (target * self.panels[1] + source) * TILE
    }

    /// Adds the products of a block of pixels.
    fn multiply(&self, group: &Group, depth: usize, turned: &[P], gathered: &[P], started: bool) {
        let (panels, taps, targets) = (group.piece.room / EDGE, group.taps.len(), self.panels[0]);
        let panel_len = gathered.len() / panels;
        let products = panels * taps * targets;
        let operands = |i: usize| (i / targets / taps, &group.taps[i / targets % taps], i % targets);
        let sums_of = |i: usize| {
            let (panel, tap, target) = operands(i);
            self.sums.at(self.tile(target, tap.start / EDGE + panel), TILE)
        };
        for i in 0..products {
            let (panel, tap, target) = operands(i);
            let next = sums_of((i + 1) % products);
            let a = turned[target * EDGE * P::PITCH..][..EDGE * P::PITCH].as_ptr();
            let b = gathered[panel * panel_len + tap.pixels * EDGE..][..depth * EDGE].as_ptr();
            let product = Product {
                row_tiles: 2,
                a: Rows::at_pitch(a),
                b,
                steps: &P::IN_ORDER[..depth / STEPS],
                ahead: Ahead { lines: &IN_TURN, places: [next.cast(), next.wrapping_add(TILE / 2).cast()] },
                sums: Sums::at(sums_of(i), EDGE),
                accumulate: started,
            };
            // SAFETY: `a` has 32 rows and `b` 32 columns, both for `depth` steps; no other task has these sums; whoever
            // runs the task holds the registers.
            unsafe { P::run::<false>(product) }
        }
    }

    /// Gathers what `rows` read under `piece` into lines `[panel, pixels, column]` of two pixels each; behind them are zeros.
    /// Returns whether they read anything.
    ///
    /// # Safety
    /// The CPU has AMX-BF16 and what comes with it.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn gather(&self, piece: &Piece, rows: &[Row], gathered: &mut [P]) -> bool {
        let Gradient { walk, slabs, .. } = *self.gradient;
        let (pitch, channel) = (slabs.source * slabs.count, self.slab * slabs.source);
        let panel_len = gathered.len() / (piece.room / EDGE);
        let mut reads = false;
        // What does not lie in the source as it is read.
        let mut edges = [[N::narrow(0.0); COLUMNS]; 2];
        for (i, lines) in (0..panel_len - 2 * EDGE).step_by(2 * EDGE).enumerate() {
            // Without closures: a function that has not these instructions would call them.
            let mut pixels = [std::ptr::null(); 2];
            for side in 0..2 {
                let mut inside = None;
                if let Some(row) = rows.get(2 * i + side) {
                    inside = walk.read(row, piece, pitch, channel);
                }
                reads |= inside.is_some();
                let edge = &mut edges[side];
                pixels[side] = match inside {
                    // What lies behind a piece goes into columns that nobody reads.
                    Some((_, range)) if range.len() == piece.len && range.start + piece.room <= self.x.len() => {
                        self.x[range.start..range.start + piece.room].as_ptr()
                    }
                    inside => {
                        edge[..piece.room].fill(N::narrow(0.0));
                        if let Some((start, range)) = inside {
                            edge[start..start + range.len()].copy_from_slice(&self.x[range]);
                        }
                        edge.as_ptr()
                    }
                };
            }
            for panel in 0..piece.room / EDGE {
                let to = gathered[panel * panel_len + lines..][..2 * EDGE].as_mut_ptr();
                // SAFETY: this function has the instructions, each pixel has the piece's numbers, and `to` is a line.
                unsafe { P::line([pixels[0].add(panel * EDGE), pixels[1].add(panel * EDGE)], to) }
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
