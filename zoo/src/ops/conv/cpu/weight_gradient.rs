//! The weight gradient: rows are taps and input channels, the reduction runs over pixels. It is cut into
//! ranges that depend on the shape alone, and their sums are added in order.

use super::super::Problem;
use super::pack::{Pass, unpack};
use super::tile::{Ahead, DEPTH, Tile, multiply_transposed};
use super::walk::{Piece, Row, Walk};
use super::{Slabs, TASKS};
use crate::ops::Isa;
use crate::ops::parallel::{Disjoint, part, with_scratch};
use rayon::prelude::*;
use std::ops::Range;

/// Pixels that one call of the micro-kernel reduces in the weight gradient: both its operands stay in the
/// first-level cache.
const PIXELS: usize = 192;

/// Sums of a weight gradient, in numbers, that may be kept beside each other for ranges of pixels.
const SPLIT_SUMS: usize = 1 << 21;

/// Writes `dw[O, C / G, taps]`.
pub(super) fn dense(isa: Isa, problem: &Problem, walk: &Walk, x: &[f32], dy: &[f32], dw: Disjoint) {
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
                                step: line,
                                b: b.as_ptr(),
                                c: self.sums.at(start, (part.len() - 1) * self.slabs.target + tile_columns),
                                rows: distances.as_ptr(),
                                columns: tile_columns,
                                accumulate: *started,
                                finish: None,
                                ahead: Ahead::NOTHING,
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
