//! The forward pass and the data gradient: rows are target positions, the reduction runs over taps and
//! source channels.

use super::super::Problem;
use super::filters::{Form, Weight};
use super::finish::Finish;
use super::pack::{Pass, pack};
use super::tile::{Ahead, DEPTH, PITCH, Tile, multiply};
use super::walk::{Piece, Row, Walk};
use super::{Slabs, TASKS};
use crate::ops::Isa;
use crate::ops::parallel::{Disjoint, part, with_scratch};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a block: its gathered panel stays in the second-level cache.
const ROWS: usize = 112;

/// Writes all channels of the positions that `walk` visits.
pub(super) fn dense(
    isa: Isa,
    problem: &Problem,
    pass: Pass,
    walk: &Walk,
    source: &[f32],
    weight: Weight,
    finish: Option<Finish>,
    target: Disjoint,
) {
    let slabs = Slabs::new(isa, problem, pass);
    let taps = walk.kernel_taps(problem.kernel);
    let pieces = walk.pieces(slabs.source, slabs.count == 1, DEPTH);
    let blocks = blocks(&pieces);
    let depth = taps.len() * slabs.source;
    let (columns, panels) = (isa.columns(), slabs.target.div_ceil(isa.columns()));

    let block = walk.block(ROWS);
    let row_blocks = walk.len().div_ceil(block);
    let range = |row_block: usize| row_block * block..((row_block + 1) * block).min(walk.len());
    // Few positions: split the target's channels too.
    let column_parts = TASKS.div_ceil((row_blocks * slabs.count).max(1)).min(panels.div_ceil(2));

    let reads_in_order = walk.is_pointwise() && row_blocks > TASKS;

    let filters_len = slabs.count * panels * depth * columns;
    let make = |packed: &mut [f32]| {
        if depth > 0 {
            pack(problem, pass, &slabs, &taps, columns, weight.values, packed);
        }
    };
    weight.with_filters(
        || Form::Direct(isa, taps.clone()),
        filters_len,
        make,
        |packed| {
            let pass = DensePass {
                isa,
                walk,
                pieces: &pieces,
                blocks: &blocks,
                slabs: &slabs,
                source,
                target,
                packed,
                finish,
                reads_in_order,
            };
            if column_parts == 1 {
                (0..row_blocks * slabs.count).into_par_iter().with_max_len(1).for_each_init(Vec::new, |rows, task| {
                    let (slab, row_block) = (task % slabs.count, task / slabs.count);
                    walk.rows(range(row_block), rows);
                    with_scratch(rows.len() * PITCH, |gathered| {
                        let mut sums = pass.sums(slab, rows, 0..panels);
                        for block in 0..blocks.len() {
                            if let Some(reduced) = pass.gather(slab, block, rows, gathered) {
                                sums.add(block, reduced, gathered);
                            }
                        }
                        sums.end();
                    });
                });
                return;
            }
            // The tasks of a block of rows read the same windows: gather them once for all.
            let gathered_len = block * PITCH;
            with_scratch(row_blocks * slabs.count * blocks.len() * gathered_len, |gathered| {
                let reduced: Vec<Option<Range<usize>>> = gathered
                    .par_chunks_mut(gathered_len)
                    .enumerate()
                    .map_init(Vec::new, |rows, (task, gathered)| {
                        let (block, task) = (task % blocks.len(), task / blocks.len());
                        walk.rows(range(task / slabs.count), rows);
                        pass.gather(task % slabs.count, block, rows, gathered)
                    })
                    .collect();
                let tasks = row_blocks * slabs.count * column_parts;
                (0..tasks).into_par_iter().with_max_len(1).for_each_init(Vec::new, |rows, task| {
                    let (of_columns, task) = (task % column_parts, task / column_parts);
                    walk.rows(range(task / slabs.count), rows);
                    let mut sums = pass.sums(task % slabs.count, rows, part(panels, column_parts, of_columns));
                    for block in 0..blocks.len() {
                        let index = task * blocks.len() + block;
                        if let Some(reduced) = reduced[index].clone() {
                            sums.add(block, reduced, &gathered[index * gathered_len..][..gathered_len]);
                        }
                    }
                    sums.end();
                });
            });
        },
    );
}

/// What the tasks have in common.
struct DensePass<'a> {
    isa: Isa,
    walk: &'a Walk,
    pieces: &'a [Piece],
    /// Which pieces one call of the micro-kernel reduces.
    blocks: &'a [Range<usize>],
    slabs: &'a Slabs,
    source: &'a [f32],
    target: Disjoint<'a>,
    packed: &'a [f32],
    finish: Option<Finish<'a>>,
    /// Whether row after row reads pixel after pixel, and many of them.
    reads_in_order: bool,
}

/// The channels of some panels of some rows, which one task writes.
struct Sums<'a> {
    pass: &'a DensePass<'a>,
    /// Where each row starts in the target.
    targets: Vec<usize>,
    /// The slab's first channel.
    first: usize,
    panels: Range<usize>,
    /// Of the slab, those of the panels.
    channels: Range<usize>,
    packed: &'a [f32],
    /// What the next block of rows reads, where that is the large operand and lies in one piece.
    next_source: Option<&'a [f32]>,
    /// Whether there is anything in the target already, and whether that is the end of it.
    begun: bool,
    finished: bool,
}

impl DensePass<'_> {
    fn sums(&self, slab: usize, rows: &[Row], panels: Range<usize>) -> Sums<'_> {
        let (columns, slabs) = (self.isa.columns(), self.slabs);
        let pitch = slabs.target * slabs.count;
        let depth: usize = self.pieces.iter().map(|piece| piece.len).sum();
        let next_source = self.reads_in_order.then(|| {
            let source_pitch = slabs.source * slabs.count;
            let next = rows.last().map_or(0, |row| row.target + 1) * source_pitch;
            &self.source[next..(next + rows.len() * source_pitch).min(self.source.len())]
        });
        Sums {
            pass: self,
            targets: rows.iter().map(|row| row.target * pitch).collect(),
            first: slab * slabs.target,
            channels: panels.start * columns..(panels.end * columns).min(slabs.target),
            packed: &self.packed[slab * slabs.target.div_ceil(columns) * depth * columns..],
            panels,
            next_source,
            begun: false,
            finished: false,
        }
    }
}

impl Sums<'_> {
    /// Adds the products of a block of pieces, of which `gathered` holds the part `reduced` of the reduction.
    fn add(&mut self, block: usize, reduced: Range<usize>, gathered: &[f32]) {
        let DensePass { isa, pieces, blocks, slabs, .. } = *self.pass;
        let (columns, rows) = (isa.columns(), self.targets.len());
        let depth: usize = pieces.iter().map(|piece| piece.len).sum();
        let offset = reduced.start - pieces[blocks[block].start].start;
        let last = self.targets.iter().max().map_or(0, |last| last + slabs.target * slabs.count);
        let target = self.pass.target.at(0, last);
        self.finished = block + 1 == blocks.len();
        let (panels, tiles) = (self.panels.len(), rows.div_ceil(isa.rows()));
        let calls = blocks.len() * panels * tiles;
        for (nth, panel) in self.panels.clone().enumerate() {
            let b = &self.packed[(panel * depth + reduced.start) * columns..][..reduced.len() * columns];
            let channel = self.first + panel * columns;
            // Where the filters are the large operand, what comes next is far away.
            let next = match panel + 1 < self.panels.end {
                true => (panel + 1) * depth + reduced.start,
                false => self.panels.start * depth + reduced.end,
            };
            let next_filters = &self.packed[next * columns..];
            let next_filters = &next_filters[..next_filters.len().min(reduced.len() * columns)];
            let finish = self.pass.finish.filter(|_| self.finished).map(|finish| finish.from(channel));
            for i in 0..tiles {
                let part = part(rows, tiles, i);
                let tile = Tile {
                    depth: reduced.len(),
                    a: gathered[part.start * PITCH + offset..].as_ptr(),
                    step: 1,
                    b: b.as_ptr(),
                    c: target.wrapping_add(channel),
                    rows: self.targets[part.clone()].as_ptr(),
                    columns: columns.min(self.channels.end - panel * columns),
                    accumulate: self.begun,
                    finish,
                    ahead: match self.next_source {
                        Some(source) => Ahead::share(source, calls, (block * panels + nth) * tiles + i, reduced.len()),
                        None => Ahead::share(next_filters, tiles, i, reduced.len()),
                    },
                };
                // SAFETY: `gathered` holds the rows at PITCH, `b` the reduction; the targets lie inside the buffer
                // (`at` checked the last), as does what `finish` reads; no other task has these rows and channels.
                unsafe { multiply(isa, part.len(), &tile) }
            }
        }
        self.begun = true;
    }

    /// Makes up for blocks that lie in the padding.
    fn end(self) {
        if self.begun && (self.finished || self.pass.finish.is_none()) {
            return;
        }
        let channel = self.first + self.channels.start;
        for row in self.targets {
            let start = row + channel;
            // SAFETY: no other task has these rows and channels.
            let sums = unsafe { self.pass.target.slice(start..start + self.channels.len()) };
            if !self.begun {
                sums.fill(0.0);
            }
            if let Some(finish) = self.pass.finish {
                finish.row(sums, channel, start);
            }
        }
    }
}

impl DensePass<'_> {
    /// Gathers what `rows` read under a block of pieces. Returns the part of the reduction from the first to the
    /// last piece that any row reads.
    fn gather(&self, slab: usize, block: usize, rows: &[Row], gathered: &mut [f32]) -> Option<Range<usize>> {
        let pieces = &self.pieces[self.blocks[block].clone()];
        let (pitch, channel) = (self.slabs.source * self.slabs.count, slab * self.slabs.source);
        let origin = pieces[0].start;
        let mut reduced: Option<Range<usize>> = None;
        for piece in pieces {
            let mut reads = false;
            for (row, line) in rows.iter().zip(gathered.chunks_exact_mut(PITCH)) {
                let line = &mut line[piece.start - origin..][..piece.len];
                match self.walk.read(row, piece, pitch, channel) {
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
