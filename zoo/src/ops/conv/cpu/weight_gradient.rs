//! The weight gradient: rows are taps and input channels, the reduction runs over pixels. It is cut into
//! ranges that depend on the shape alone, and their sums are added in order.

use super::super::Problem;
use super::pack::{Pass, unpack};
use super::panel::{Map, Of, Panel};
use super::tile::{Ahead, Tile};
use super::walk::{Piece, Row, Walk};
use super::{SPLIT_SUMS, Slabs, TASKS};
use crate::ops::Isa;
use crate::ops::isa::vectorised;
use crate::ops::parallel::{Disjoint, part, with_scratch, with_scratch_of};
use crate::ops::tasks;
use std::ops::Range;

/// Pixels that one call of the micro-kernel reduces in the weight gradient: both its operands stay in the
/// first-level cache. Of numbers of half the size twice as many.
const PIXELS: usize = 192;

/// Bytes of a pixel, at most, that is multiplied where it lies: with more, the lines of a tile fall into few cache sets.
const IN_PLACE: usize = 2048;

/// Writes `dw[O, C / G, taps]`, summed up from panels of `P`.
pub(super) fn dense<N: Map, P: Of<N>>(isa: Isa, problem: &Problem, walk: &Walk, x: &[N], dy: &[N], dw: Disjoint) {
    let slabs = Slabs::new(isa, problem, Pass::Forward);
    let taps = walk.kernel_taps(problem.kernel);
    let depth = taps.len() * slabs.source;
    let columns = isa.columns();
    let panels = slabs.target.div_ceil(columns);
    // Sums lie panel by panel, a tile's in one piece: rows at a distance of some kilobytes would fall into one cache set.
    let width = columns.min(slabs.target);
    let slab_len = panels * depth * width;
    let len = slabs.count * slab_len;

    // Ranges of pixels, chosen by the shape alone: they fix the order of the sums.
    let longest = PIXELS * size_of::<f32>() / size_of::<P>();
    let blocks = walk.len().div_ceil(walk.block(longest)).max(1);
    let splits = 1 << (SPLIT_SUMS / len.max(1)).min(blocks).clamp(1, TASKS).ilog2();
    let block = walk.block(walk.len().div_ceil(blocks.next_multiple_of(splits)).max(1));
    let block_room = P::room(block);
    let pixel_blocks = walk.len().div_ceil(block);
    let pieces = walk.pieces(slabs.source, slabs.count == 1, f32::DEPTH, 1);
    let piece_parts = piece_parts(splits * slabs.count, pieces.len());
    let panel_len = panels * columns;

    let sums_of = |sums: Disjoint| {
        let compute = |packed: Option<&[P]>| {
            tasks::for_each(splits * slabs.count * piece_parts, |task| {
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
                    depth,
                    sums_start: split * len + slab * slab_len,
                };
                task.run(part(pixel_blocks, splits, split));
            });
        };
        if piece_parts == 1 {
            compute(None);
        } else {
            // Several tasks read the same rows of dy: pack them once for all.
            let packed_len = pixel_blocks * block_room * panel_len;
            with_scratch_of(slabs.count * packed_len, |packed: &mut [P]| {
                for (slab, packed) in packed.chunks_exact_mut(packed_len.max(1)).enumerate() {
                    tasks::for_each_chunk_init(packed, block_room * panel_len, Vec::new, |rows, i, packed| {
                        walk.rows(i * block..((i + 1) * block).min(walk.len()), rows);
                        let packed = &mut packed[..P::room(rows.len()) * panel_len];
                        vectorised(|| pack_gradient(&slabs, slab, columns, rows, dy, packed));
                    });
                }
                compute(Some(packed));
            });
        }
    };
    with_scratch(splits * len, |sums| {
        sums_of(Disjoint::new(sums));
        unpack(isa, problem, &slabs, width, &taps, add_splits(sums, len), dw);
    });
}

/// In how many parts `pieces` are handed out where there would be so many `tasks` otherwise. That does not touch the order of a
/// sum, but tasks with some of the pieces read the same rows of dy: only where threads would have nothing to do.
pub(super) fn piece_parts(tasks: usize, pieces: usize) -> usize {
    let threads = tasks::threads();
    match tasks >= TASKS || (tasks >= 2 * threads && tasks.is_multiple_of(threads)) {
        true => 1,
        false => TASKS.div_ceil(tasks).min(pieces).max(1),
    }
}

/// Adds the sums of all ranges of pixels, of `len` numbers each, to the first ones, in their order.
pub(super) fn add_splits(sums: &mut [f32], len: usize) -> &[f32] {
    // What one task adds up.
    const CHUNK: usize = 8192;
    let (first, others) = sums.split_at_mut(len);
    let others = &*others;
    tasks::for_each_chunk(first, CHUNK, |i, first| {
        for other in others.chunks_exact(len.max(1)) {
            for (sum, other) in first.iter_mut().zip(&other[i * CHUNK..]) {
                *sum += other;
            }
        }
    });
    first
}

/// Packs the slab's channels of the rows of `dy` into `[panel, row, columns]`, some rows side by side.
#[inline(always)]
fn pack_gradient<N: Map, P: Of<N>>(
    slabs: &Slabs,
    slab: usize,
    columns: usize,
    rows: &[Row],
    dy: &[N],
    packed: &mut [P],
) {
    for (panel, packed) in packed.chunks_exact_mut(P::room(rows.len()) * columns).enumerate() {
        let len = columns.min(slabs.target - panel * columns);
        let start = slab * slabs.target + panel * columns;
        for (rows, line) in rows.chunks(P::SIDE).zip(packed.chunks_exact_mut(P::SIDE * columns)) {
            let of = |row: &Row| &dy[row.target * slabs.target * slabs.count + start..][..len];
            match rows {
                [row, next, ..] => P::lay(&[of(row), of(next)], line),
                [row] => P::lay(&[of(row)], line),
                [] => {}
            }
        }
    }
}

/// The sums of one slab under some pieces.
struct WeightTask<'a, N, P> {
    isa: Isa,
    walk: &'a Walk,
    pieces: &'a [Piece],
    /// Pixels of a block.
    block: usize,
    slabs: &'a Slabs,
    slab: usize,
    x: &'a [N],
    dy: &'a [N],
    /// All of `dy`, where it was packed before.
    packed: Option<&'a [P]>,
    /// Rows of the slab's sums: taps x channels.
    depth: usize,
    /// `[panel of output channels, tap x channel, width]` from `sums_start` on.
    sums: Disjoint<'a>,
    sums_start: usize,
}

impl<N: Map, P: Of<N>> WeightTask<'_, N, P> {
    /// Sums over the pixels of `blocks`.
    fn run(&self, blocks: Range<usize>) {
        let (columns, line) = (self.isa.columns(), self.isa.line());
        let (panels, width) = (self.slabs.target.div_ceil(columns), columns.min(self.slabs.target));
        let panel_len = panels * columns;
        let sums_of = |panel: usize, row: usize| self.sums_start + (panel * self.depth + row) * width;
        let longest = self.pieces.iter().map(|piece| piece.len).max().unwrap_or(0);
        let tiles_of = |piece: &Piece| piece.len.div_ceil(self.isa.rows());
        let pixel = self.slabs.source * self.slabs.count;
        let in_place = P::in_place(self.x).filter(|_| self.walk.is_pointwise() && size_of::<P>() * pixel <= IN_PLACE);
        let distances: Vec<usize> = (0..self.isa.rows()).map(|row| row * width).collect();
        let mut started = vec![false; self.pieces.len()];
        let mut rows = Vec::new();
        let calls = self.pieces.iter().map(tiles_of).sum::<usize>() * panels;
        let block_room = P::room(self.block);
        let own_len = if self.packed.is_none() { block_room * panel_len } else { 0 };
        let gathered_len = match in_place {
            Some(_) => 0,
            None => longest.div_ceil(self.isa.rows()) * self.tile_len(block_room),
        };
        with_scratch_of(own_len + gathered_len, |scratch: &mut [P]| {
            let (own, gathered) = scratch.split_at_mut(own_len);
            for block in blocks {
                let range = block * self.block..((block + 1) * self.block).min(self.walk.len());
                self.walk.rows(range.clone(), &mut rows);
                let room = P::room(rows.len());
                let dy = match self.packed {
                    Some(packed) => {
                        let blocks = self.walk.len().div_ceil(self.block);
                        &packed[(self.slab * blocks + block) * block_room * panel_len..]
                    }
                    None => {
                        let own = &mut own[..room * panel_len];
                        vectorised(|| pack_gradient(self.slabs, self.slab, columns, &rows, self.dy, own));
                        &*own
                    }
                };
                let (next_x, next_dy) = self.next(&range);
                let mut call = 0;
                for (piece, started) in self.pieces.iter().zip(&mut started) {
                    let tiles = tiles_of(piece);
                    let tile_len = self.tile_len(room);
                    let read = match in_place {
                        Some(_) => Some(0..room),
                        None => vectorised(|| self.gather(piece, &rows, &mut gathered[..tiles * tile_len])),
                    };
                    let Some(read) = read else { continue };
                    for panel in 0..panels {
                        let b = &dy[(panel * room + read.start) * columns..][..read.len() * columns];
                        let tile_columns = columns.min(self.slabs.target - panel * columns);
                        for i in 0..tiles {
                            let part = part(piece.len, tiles, i);
                            let start = sums_of(panel, piece.start + part.start);
                            let (a, pitch) = match in_place {
                                Some(x) => {
                                    // Of a pass that reads in place, rows are pixels in their order.
                                    let first = range.start * pixel + self.slab * self.slabs.source + piece.start;
                                    let len = (read.len() - 1) * pixel + part.len();
                                    (&x[first + part.start..][..len], pixel)
                                }
                                None => (&gathered[i * tile_len + read.start * line..], line * P::SIDE),
                            };
                            let tile = Tile {
                                depth: read.len(),
                                a: a.as_ptr(),
                                step: pitch,
                                b: b.as_ptr(),
                                c: self.sums.at(start, (part.len() - 1) * width + tile_columns),
                                rows: distances.as_ptr(),
                                pitch: None,
                                columns: tile_columns,
                                accumulate: *started,
                                finish: None,
                                ahead: Ahead::by_turns(&[next_x, next_dy], calls, call, read.len()),
                            };
                            call += 1;
                            // SAFETY: `gathered` and `b` hold the pixels of `read`; `at` checked the sums, which
                            // no other task has; a tile has at most `isa.rows()` rows.
                            unsafe { P::multiply::<f32, true>(self.isa, part.len(), &tile) }
                        }
                    }
                    *started = true;
                }
            }
        });
        for (piece, _) in self.pieces.iter().zip(started).filter(|(_, started)| !started) {
            for panel in 0..panels {
                let start = sums_of(panel, piece.start);
                // SAFETY: no other task has these sums.
                unsafe { self.sums.slice(start..start + piece.len * width) }.fill(0.0);
            }
        }
    }

    /// What the lines of a tile take for `room` rows: an odd number of cache lines, so that the lines of one row, which are
    /// written one after the other, do not fall into one cache set.
    fn tile_len(&self, room: usize) -> usize {
        ((room / P::SIDE) | 1) * P::SIDE * self.isa.line()
    }

    /// What the next block of pixels reads of `x` and `dy`, where that is in their own order and in one piece.
    fn next(&self, range: &Range<usize>) -> (&[N], &[N]) {
        if !self.walk.is_pointwise() || self.slabs.count > 1 || self.packed.is_some() {
            return (&[], &[]);
        }
        let next = |values: &'_ [N], pitch: usize| {
            let end = |pixel: usize| (pixel * pitch).min(values.len());
            end(range.end)..end(range.end + self.block)
        };
        (&self.x[next(self.x, self.slabs.source)], &self.dy[next(self.dy, self.slabs.target)])
    }

    /// Gathers what `rows` read under `piece` into `[tile, row, line]`, some rows side by side. Returns the rows from the
    /// first to the last that reads anything, and what lies beside them.
    #[inline(always)]
    fn gather(&self, piece: &Piece, rows: &[Row], gathered: &mut [P]) -> Option<Range<usize>> {
        let (line, tiles) = (self.isa.line(), piece.len.div_ceil(self.isa.rows()));
        let parts: Vec<Range<usize>> = (0..tiles).map(|i| part(piece.len, tiles, i)).collect();
        // What all lines of a pixel take, counted from its first number.
        let span = parts[tiles - 1].start + line;
        let (pitch, channel) = (self.slabs.source * self.slabs.count, self.slab * self.slabs.source);
        let tile_len = self.tile_len(P::room(rows.len()));
        let mut read: Option<Range<usize>> = None;
        // What does not lie in the source as the kernel reads it.
        let mut edges = [[N::narrow(0.0); LINE]; 2];
        for (i, rows) in rows.chunks(P::SIDE).enumerate() {
            let i = i * P::SIDE;
            // Nearly all rows, in a loop that is as short as it can be: with few channels it takes as long as the products.
            if P::SIDE == 1
                && let Some(start) = self.walk.read_whole(&rows[0], piece, pitch, channel)
                && let Some(first) = self.x.get(start..start + span)
            {
                let to = gathered[i * line..].chunks_mut(tile_len);
                match line {
                    LINE => lay_tiles::<N, P, LINE>(first, &parts, to),
                    _ => lay_tiles::<N, P, 8>(first, &parts, to),
                }
                read = Some(read.map_or(i, |read| read.start)..i + 1);
                continue;
            }
            let reads = |row: &Row| self.walk.read(row, piece, pitch, channel);
            let sides = [rows.first().and_then(reads), rows.get(1).and_then(reads)];
            let lines = gathered[i * line..].chunks_mut(tile_len).map(|lines| &mut lines[..P::SIDE * line]);
            if sides.iter().all(Option::is_none) {
                lines.for_each(|line| line.fill(P::ZERO));
                continue;
            }
            read = Some(read.map_or(i, |read| read.start)..i + P::SIDE);
            // Whole lines are copied where there are any: the kernel reads only the tile's rows of them.
            let whole = sides.each_ref().map(|side| self.whole(piece, side, span));
            match whole {
                [Some(first), Some(second)] => {
                    for (part, to) in parts.iter().zip(lines) {
                        P::lay(&[&first[part.start..][..line], &second[part.start..][..line]][..P::SIDE], to);
                    }
                }
                [Some(first), None] if P::SIDE == 1 => {
                    for (part, to) in parts.iter().zip(lines) {
                        P::lay(&[&first[part.start..][..line]], to);
                    }
                }
                _ => {
                    for (part, to) in parts.iter().zip(lines) {
                        sides.iter().zip(&mut edges).for_each(|(side, edge)| fill_edge(self.x, side, part, edge));
                        P::lay(&[&edges[0][..line], &edges[1][..line]][..P::SIDE], to);
                    }
                }
            }
        }
        read
    }

    /// The `span` numbers from the first one of a piece on, where all of the piece lies in the source.
    #[inline(always)]
    fn whole(&self, piece: &Piece, read: &Option<(usize, Range<usize>)>, span: usize) -> Option<&[N]> {
        let (_, range) = read.as_ref().filter(|(_, range)| range.len() == piece.len)?;
        self.x.get(range.start..range.start + span)
    }
}

/// Writes the lines of the tiles `parts` of a row that begins at `first`.
#[inline(always)]
fn lay_tiles<'a, N: Map, P: Of<N>, const LEN: usize>(
    first: &[N],
    parts: &[Range<usize>],
    tiles: impl Iterator<Item = &'a mut [P]>,
) {
    for (part, tile) in parts.iter().zip(tiles) {
        if let (Some(from), Some(to)) = (first.get(part.start..part.start + LEN), tile.first_chunk_mut::<LEN>()) {
            P::lay(&[from], to);
        }
    }
}

/// Numbers of a line, at most.
const LINE: usize = 16;

/// The numbers `part` of what is read, zeros where nothing is.
#[inline(always)]
fn fill_edge<N: Map>(x: &[N], read: &Option<(usize, Range<usize>)>, part: &Range<usize>, edge: &mut [N; LINE]) {
    for (value, at) in edge.iter_mut().zip(part.clone()) {
        let inside = read.as_ref().filter(|(start, range)| at >= *start && at < start + range.len());
        *value = inside.map_or(N::narrow(0.0), |(start, range)| x[range.start + at - start]);
    }
}
