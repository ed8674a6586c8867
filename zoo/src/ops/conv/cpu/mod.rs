//! The engine for f32 on the CPU: gather the windows of a block of positions into a small panel, multiply
//! it with packed weights in a register tile. Three passes, one to three spatial dimensions; two are three
//! with a depth of 1.
//!
//! Positions are split over tasks, a reduction never is, except over fixed ranges of pixels in the weight
//! gradient, whose sums are added in a fixed order: any number of threads gives the same bits.

mod depthwise;
mod pack;
mod tile;
mod walk;

use super::Problem;
use crate::ops::Isa;
use crate::ops::parallel::{Disjoint, output, part, with_scratch};
use candle_core::Result;
use pack::{Pass, pack, unpack};
use rayon::prelude::*;
use std::ops::Range;
use tile::{DEPTH, PITCH, Tile, multiply, multiply_transposed};
use walk::{Piece, Row, Walk};

/// `y[N, .., O]` from `x[N, .., C]` and the weight `[O, C / G, ..]`.
pub(super) fn forward(isa: Isa, problem: &Problem, x: &[f32], weight: &[f32]) -> Result<Vec<f32>> {
    let len = problem.batch * problem.output.iter().product::<usize>() * problem.out_channels;
    // SAFETY: the walk visits every output position, and `pass` writes all channels of those that it visits.
    unsafe { output(len, |y| pass(isa, problem, Pass::Forward, &Walk::forward(problem), x, weight, y)) }
}

/// `dx[N, .., C]` from `dy[N, .., O]` and the weight.
pub(super) fn data_gradient(isa: Isa, problem: &Problem, dy: &[f32], weight: &[f32]) -> Result<Vec<f32>> {
    let len = problem.batch * problem.input.iter().product::<usize>() * problem.channels;
    let write = |dx: Disjoint| {
        for walk in Walk::data_gradient(problem) {
            pass(isa, problem, Pass::DataGradient, &walk, dy, weight, dx);
        }
    };
    // SAFETY: the classes of input positions modulo the stride, one a walk, are all input positions.
    unsafe { output(len, write) }
}

/// `dw[O, C / G, ..]` from `x` and `dy`.
pub(super) fn weight_gradient(isa: Isa, problem: &Problem, x: &[f32], dy: &[f32]) -> Result<Vec<f32>> {
    let walk = Walk::forward(problem);
    let len = problem.out_channels * problem.group_channels() * problem.taps();
    // SAFETY: both write every filter.
    unsafe {
        output(len, |dw| match problem.is_depthwise() {
            true => depthwise::weight_gradient(isa, problem, &walk, x, dy, dw),
            false => dense_weight_gradient(isa, problem, &walk, x, dy, dw),
        })
    }
}

/// Writes all channels of the positions that `walk` visits.
fn pass(isa: Isa, problem: &Problem, pass: Pass, walk: &Walk, source: &[f32], weight: &[f32], target: Disjoint) {
    match problem.is_depthwise() {
        true => depthwise::pass(isa, problem, walk, source, weight, target),
        false => dense_pass(isa, problem, pass, walk, source, weight, target),
    }
}

impl Problem {
    /// Whether each channel is on its own.
    fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.channels == self.groups && self.out_channels == self.groups
    }
}

/// The groups, cut into slabs of groups that are treated as one with a block-diagonal weight: small groups
/// would leave most of a register tile empty. (Hence an infinite input of one group, times the zero beside
/// the diagonal, shows as NaN in its slab's other groups too.)
struct Slabs {
    count: usize,
    /// Groups in a slab.
    merged: usize,
    /// Channels of a slab that are read.
    source: usize,
    /// Channels of a slab that are written.
    target: usize,
}

impl Slabs {
    fn new(isa: Isa, problem: &Problem, pass: Pass) -> Slabs {
        let (channels, out) = (problem.group_channels(), problem.group_out_channels());
        let fits =
            |merged: &usize| problem.groups.is_multiple_of(*merged) && merged * channels.max(out) <= isa.columns();
        let merged = (1..=problem.groups.min(isa.columns())).rev().find(fits).unwrap_or(1);
        let (source, target) = match pass {
            Pass::Forward => (channels, out),
            Pass::DataGradient => (out, channels),
        };
        Slabs { count: problem.groups / merged, merged, source: merged * source, target: merged * target }
    }

    /// Of the slab's `channels`, those of `group`.
    fn of_group(&self, group: usize, channels: usize) -> Range<usize> {
        let size = channels / self.merged;
        group * size..(group + 1) * size
    }
}

/// Rows of a block: its gathered panel stays in the second-level cache.
const ROWS: usize = 112;

/// There should be that many tasks, for an even load on a few threads.
const TASKS: usize = 16;

fn dense_pass(isa: Isa, problem: &Problem, pass: Pass, walk: &Walk, source: &[f32], weight: &[f32], target: Disjoint) {
    let slabs = Slabs::new(isa, problem, pass);
    let taps = walk.kernel_taps(problem.kernel);
    let pieces = walk.pieces(slabs.source, slabs.count == 1, DEPTH);
    let blocks = blocks(&pieces);
    let depth = taps.len() * slabs.source;
    let panels = slabs.target.div_ceil(isa.columns());

    let block = walk.block(ROWS);
    let row_blocks = walk.len().div_ceil(block);
    // Few positions: split the target's channels too, though each part gathers for itself.
    let column_parts = TASKS.div_ceil((row_blocks * slabs.count).max(1)).min(panels.div_ceil(2));
    let tasks = row_blocks * slabs.count * column_parts;

    with_scratch(slabs.count * panels * depth * isa.columns(), |packed| {
        if depth > 0 {
            pack(problem, pass, &slabs, &taps, isa.columns(), weight, packed);
        }
        let packed = &*packed;
        (0..tasks).into_par_iter().with_max_len(1).for_each_init(Vec::new, |rows, task| {
            let (part_of_columns, task) = (task % column_parts, task / column_parts);
            let (slab, row_block) = (task % slabs.count, task / slabs.count);
            walk.rows(row_block * block..((row_block + 1) * block).min(walk.len()), rows);
            let task = PassTask {
                isa,
                walk,
                pieces: &pieces,
                blocks: &blocks,
                pitch: slabs.source * slabs.count,
                channel: slab * slabs.source,
                source,
                target_pitch: slabs.target * slabs.count,
                target_start: slab * slabs.target,
                target_len: slabs.target,
                target,
                depth,
                packed: &packed[slab * panels * depth * isa.columns()..],
            };
            task.run(rows, part(panels, column_parts, part_of_columns));
        });
    });
}

/// What the tasks of one slab have in common.
struct PassTask<'a> {
    isa: Isa,
    walk: &'a Walk,
    pieces: &'a [Piece],
    /// Which pieces one call of the micro-kernel reduces.
    blocks: &'a [Range<usize>],
    /// Numbers a source pixel has, and the slab's first one.
    pitch: usize,
    channel: usize,
    source: &'a [f32],
    /// Numbers a target pixel has, the slab's first one, and how many are the slab's.
    target_pitch: usize,
    target_start: usize,
    target_len: usize,
    target: Disjoint<'a>,
    /// The whole reduction.
    depth: usize,
    packed: &'a [f32],
}

impl PassTask<'_> {
    /// Writes the channels of `panels` of `rows`.
    fn run(&self, rows: &[Row], panels: Range<usize>) {
        let columns = self.isa.columns();
        let targets: Vec<usize> = rows.iter().map(|row| row.target * self.target_pitch).collect();
        let last = targets.iter().max().map_or(0, |last| last + self.target_pitch);
        let target = self.target.at(0, last);
        let channels = panels.start * columns..(panels.end * columns).min(self.target_len);
        let mut accumulate = false;
        with_scratch(rows.len() * PITCH, |gathered| {
            for block in self.blocks {
                let Some(reduced) = self.gather(&self.pieces[block.clone()], rows, gathered) else { continue };
                let offset = reduced.start - self.pieces[block.start].start;
                for panel in panels.clone() {
                    let b = &self.packed[(panel * self.depth + reduced.start) * columns..][..reduced.len() * columns];
                    let column = panel * columns;
                    let tiles = rows.len().div_ceil(self.isa.rows());
                    for i in 0..tiles {
                        let part = part(rows.len(), tiles, i);
                        let tile = Tile {
                            depth: reduced.len(),
                            a: gathered[part.start * PITCH + offset..].as_ptr(),
                            b: b.as_ptr(),
                            c: target.wrapping_add(self.target_start + column),
                            rows: targets[part.clone()].as_ptr(),
                            columns: columns.min(channels.end - column),
                            accumulate,
                        };
                        // SAFETY: `gathered` holds the rows at PITCH, `b` the reduction; the targets lie inside
                        // the buffer (`at` checked the last), and no other task has these rows and channels.
                        unsafe { multiply(self.isa, part.len(), &tile) }
                    }
                }
                accumulate = true;
            }
        });
        if !accumulate {
            for row in &targets {
                let start = row + self.target_start;
                // SAFETY: no other task has these rows and channels.
                unsafe { self.target.slice(start + channels.start..start + channels.end) }.fill(0.0);
            }
        }
    }

    /// Gathers what `rows` read under `pieces`. Returns the part of the reduction from the first to the last
    /// piece that any row reads.
    fn gather(&self, pieces: &[Piece], rows: &[Row], gathered: &mut [f32]) -> Option<Range<usize>> {
        let origin = pieces[0].start;
        let mut reduced: Option<Range<usize>> = None;
        for piece in pieces {
            let mut reads = false;
            for (row, line) in rows.iter().zip(gathered.chunks_exact_mut(PITCH)) {
                let line = &mut line[piece.start - origin..][..piece.len];
                match self.walk.read(row, piece, self.pitch, self.channel) {
                    None => line.fill(0.0),
                    Some((start, range)) => {
                        reads = true;
                        let end = start + range.len();
                        line[..start].fill(0.0);
                        line[start..end].copy_from_slice(&self.source[range]);
                        line[end..].fill(0.0);
                    }
                }
            }
            if reads {
                let start = reduced.map_or(piece.start, |reduced| reduced.start);
                reduced = Some(start..piece.start + piece.len);
            }
        }
        reduced
    }
}

/// Cuts the pieces into blocks of about equal size, at most [`DEPTH`] numbers each.
fn blocks(pieces: &[Piece]) -> Vec<Range<usize>> {
    let longest = pieces.iter().map(|piece| piece.len).max().unwrap_or(1);
    let count = pieces.len().div_ceil(DEPTH / longest);
    (0..count).map(|i| part(pieces.len(), count, i)).collect()
}

/// Pixels that one call of the micro-kernel reduces in the weight gradient: both its operands stay in the
/// first-level cache.
const PIXELS: usize = 192;

/// Sums of a weight gradient, in numbers, that may be kept beside each other for ranges of pixels.
const SPLIT_SUMS: usize = 1 << 21;

fn dense_weight_gradient(isa: Isa, problem: &Problem, walk: &Walk, x: &[f32], dy: &[f32], dw: Disjoint) {
    let slabs = Slabs::new(isa, problem, Pass::Forward);
    let taps = walk.kernel_taps(problem.kernel);
    let depth = taps.len() * slabs.source;
    let len = slabs.count * depth * slabs.target;

    // Ranges of pixels, chosen by the shape alone: they fix the order of the sums.
    let block = walk.block(PIXELS);
    let pixel_blocks = walk.len().div_ceil(block);
    let splits = (SPLIT_SUMS / len.max(1)).min(pixel_blocks).clamp(1, TASKS);
    let pieces = walk.pieces(slabs.source, slabs.count == 1, DEPTH);
    let piece_parts = TASKS.div_ceil(splits * slabs.count).min(pieces.len()).max(1);
    let columns = isa.columns();
    let panels = slabs.target.div_ceil(columns);
    let panel_len = panels * columns;

    let sums_of = |sums: Disjoint| {
        let compute = |packed: Option<&[f32]>| {
            (0..splits * slabs.count * piece_parts).into_par_iter().with_max_len(1).for_each(|task| {
                let (piece_part, task) = (task % piece_parts, task / piece_parts);
                let (slab, split) = (task % slabs.count, task / slabs.count);
                let task = WeightTask {
                    isa,
                    walk,
                    pieces: &pieces[part(pieces.len(), piece_parts, piece_part)],
                    block,
                    slabs: &slabs,
                    slab,
                    x,
                    dy,
                    packed,
                    sums,
                    sums_start: split * len + slab * depth * slabs.target,
                };
                task.run(part(pixel_blocks, splits, split));
            });
        };
        if piece_parts == 1 {
            compute(None);
        } else {
            // Several tasks read the same rows of dy: pack them once for all.
            with_scratch(slabs.count * walk.len() * panel_len, |packed| {
                for (slab, packed) in packed.chunks_exact_mut((walk.len() * panel_len).max(1)).enumerate() {
                    packed.par_chunks_mut(block * panel_len).enumerate().for_each_init(
                        Vec::new,
                        |rows, (i, packed)| {
                            walk.rows(i * block..((i + 1) * block).min(walk.len()), rows);
                            pack_gradient(&slabs, slab, columns, rows, dy, packed);
                        },
                    );
                }
                compute(Some(packed));
            });
        }
    };
    with_scratch(splits * len, |sums| {
        sums_of(Disjoint::new(sums));
        let (first, others) = sums.split_at_mut(len);
        let others = &*others;
        first.par_chunks_mut(CHUNK).enumerate().for_each(|(i, first)| {
            for other in others.chunks_exact(len.max(1)) {
                for (sum, other) in first.iter_mut().zip(&other[i * CHUNK..]) {
                    *sum += other;
                }
            }
        });
        unpack(problem, &slabs, &taps, first, dw);
    });
}

/// Sums that one task adds up over the splits.
const CHUNK: usize = 8192;

/// Packs the slab's channels of the rows of `dy` into `[panel, row, columns]`.
fn pack_gradient(slabs: &Slabs, slab: usize, columns: usize, rows: &[Row], dy: &[f32], packed: &mut [f32]) {
    for (panel, packed) in packed.chunks_exact_mut(rows.len() * columns).enumerate() {
        let len = columns.min(slabs.target - panel * columns);
        let start = slab * slabs.target + panel * columns;
        for (row, line) in rows.iter().zip(packed.chunks_exact_mut(columns)) {
            line[..len].copy_from_slice(&dy[row.target * slabs.target * slabs.count + start..][..len]);
            line[len..].fill(0.0);
        }
    }
}

/// The sums of one slab under some pieces.
struct WeightTask<'a> {
    isa: Isa,
    walk: &'a Walk,
    pieces: &'a [Piece],
    /// Pixels of a block.
    block: usize,
    slabs: &'a Slabs,
    slab: usize,
    x: &'a [f32],
    dy: &'a [f32],
    /// All of `dy`, where it was packed before.
    packed: Option<&'a [f32]>,
    /// `[tap x channel, slab's output channels]` from `sums_start` on.
    sums: Disjoint<'a>,
    sums_start: usize,
}

impl WeightTask<'_> {
    /// Sums over the pixels of `blocks`.
    fn run(&self, blocks: Range<usize>) {
        let (columns, line) = (self.isa.columns(), self.isa.line());
        let panel_len = self.slabs.target.div_ceil(columns) * columns;
        let longest = self.pieces.iter().map(|piece| piece.len).max().unwrap_or(0);
        let tiles_of = |piece: &Piece| piece.len.div_ceil(self.isa.rows());
        let distances: Vec<usize> = (0..self.isa.rows()).map(|row| row * self.slabs.target).collect();
        let mut started = vec![false; self.pieces.len()];
        let mut rows = Vec::new();
        let own_len = if self.packed.is_none() { self.block * panel_len } else { 0 };
        let gathered_len = longest.div_ceil(self.isa.rows()) * self.block * line;
        with_scratch(own_len + gathered_len, |scratch| {
            let (own, gathered) = scratch.split_at_mut(own_len);
            for block in blocks {
                let range = block * self.block..((block + 1) * self.block).min(self.walk.len());
                self.walk.rows(range.clone(), &mut rows);
                let dy = match self.packed {
                    Some(packed) => &packed[(self.slab * self.walk.len() + range.start) * panel_len..],
                    None => {
                        pack_gradient(
                            self.slabs,
                            self.slab,
                            columns,
                            &rows,
                            self.dy,
                            &mut own[..rows.len() * panel_len],
                        );
                        &*own
                    }
                };
                for (piece, started) in self.pieces.iter().zip(&mut started) {
                    let tiles = tiles_of(piece);
                    let Some(read) = self.gather(piece, &rows, &mut gathered[..tiles * rows.len() * line]) else {
                        continue;
                    };
                    for panel in 0..panel_len / columns {
                        let b = &dy[(panel * rows.len() + read.start) * columns..][..read.len() * columns];
                        let tile_columns = columns.min(self.slabs.target - panel * columns);
                        for i in 0..tiles {
                            let part = part(piece.len, tiles, i);
                            let start =
                                self.sums_start + (piece.start + part.start) * self.slabs.target + panel * columns;
                            let tile = Tile {
                                depth: read.len(),
                                a: gathered[(i * rows.len() + read.start) * line..].as_ptr(),
                                b: b.as_ptr(),
                                c: self.sums.at(start, (part.len() - 1) * self.slabs.target + tile_columns),
                                rows: distances.as_ptr(),
                                columns: tile_columns,
                                accumulate: *started,
                            };
                            // SAFETY: `gathered` and `b` hold the pixels of `read`; `at` checked the sums, which
                            // no other task has; a tile has at most `isa.rows()` rows.
                            unsafe { multiply_transposed(self.isa, part.len(), &tile) }
                        }
                    }
                    *started = true;
                }
            }
        });
        for (piece, _) in self.pieces.iter().zip(started).filter(|(_, started)| !started) {
            let start = self.sums_start + piece.start * self.slabs.target;
            // SAFETY: no other task has these sums.
            unsafe { self.sums.slice(start..start + piece.len * self.slabs.target) }.fill(0.0);
        }
    }

    /// Gathers what `rows` read under `piece` into `[tile, row, line]`. Returns the rows from the first to the
    /// last that reads anything.
    fn gather(&self, piece: &Piece, rows: &[Row], gathered: &mut [f32]) -> Option<Range<usize>> {
        let (line, tiles) = (self.isa.line(), piece.len.div_ceil(self.isa.rows()));
        let parts: Vec<Range<usize>> = (0..tiles).map(|i| part(piece.len, tiles, i)).collect();
        let (pitch, channel) = (self.slabs.source * self.slabs.count, self.slab * self.slabs.source);
        let mut read: Option<Range<usize>> = None;
        for (i, row) in rows.iter().enumerate() {
            let lines = gathered[i * line..].chunks_mut(rows.len() * line).map(|lines| &mut lines[..line]);
            let Some((start, range)) = self.walk.read(row, piece, pitch, channel) else {
                lines.for_each(|line| line.fill(0.0));
                continue;
            };
            read = Some(read.map_or(i, |read| read.start)..i + 1);
            // Whole lines are copied where there are any: the kernel reads only the tile's rows of them.
            if range.len() == piece.len && range.start + parts[tiles - 1].start + line <= self.x.len() {
                for (part, line) in parts.iter().zip(lines) {
                    line.copy_from_slice(&self.x[range.start + part.start..][..line.len()]);
                }
            } else {
                for (part, line) in parts.iter().zip(lines) {
                    for (value, at) in line.iter_mut().zip(part.clone()) {
                        let inside = at >= start && at < start + range.len();
                        *value = if inside { self.x[range.start + at - start] } else { 0.0 };
                    }
                }
            }
        }
        read
    }
}
