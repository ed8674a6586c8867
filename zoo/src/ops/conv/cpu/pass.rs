//! The forward pass and the data gradient: rows are target positions, the reduction runs over taps and
//! source channels.

use super::super::Problem;
use super::filters::Form;
use super::finish::Finish;
use super::observed::Observed;
use super::pack::{Pass, pack};
use super::panel::{Map, Of, Panel};
use super::round::Round;
use super::tile::{Ahead, Tile};
use super::walk::{Piece, Row, Walk};
use super::{Operands, Slabs, TASKS};
use crate::ops::Isa;
use crate::ops::amx::Tiles;
use crate::ops::isa::vectorised;
use crate::ops::parallel::{Disjoint, Scratch, part, with_scratch};
use crate::ops::tasks;
use candle_core::DType;
use std::any::TypeId;
use std::ops::Range;

/// Rows of a block: its gathered panel stays in the second-level cache.
const ROWS: usize = 112;

/// Where there are few rows, each thread should have that many tasks.
pub(super) const TASKS_A_THREAD: usize = 4;

/// Writes all channels of the positions that `walk` visits, from panels of `P`.
pub(super) fn dense<N: Map, P: Of<N> + Of<f32>>(
    isa: Isa,
    problem: &Problem,
    pass: Pass,
    walk: &Walk,
    operands: Operands<N>,
) {
    let Operands { source, weight, finish, target, observed } = operands;
    let slabs = Slabs::new(isa, problem, pass);
    let pieces = walk.pieces(slabs.source, slabs.count == 1, P::DEPTH, P::STEPS);
    let blocks = blocks(&pieces, P::DEPTH);
    let reduction = walk.reduction(problem.kernel, slabs.source, &pieces);
    let depth = reduction.len;
    let (columns, panels) = (isa.columns(), slabs.target.div_ceil(isa.columns()));

    // Few positions: blocks of rows that an even number of threads share evenly (whatever the threads, moments are of the
    // same blocks), each in parts of the target's channels.
    let few = walk.len().div_ceil(ROWS).next_power_of_two().max(2);
    let is_short = few * slabs.count < TASKS && walk.len() >= few * isa.rows();
    let block = walk.block(if is_short { walk.len().div_ceil(few) } else { isa.whole_tiles(ROWS) });
    let row_blocks = walk.len().div_ceil(block);
    let range = |row_block: usize| row_block * block..((row_block + 1) * block).min(walk.len());
    let row_tasks = row_blocks * slabs.count;
    let column_parts = (TASKS_A_THREAD * tasks::threads()).div_ceil(row_tasks.max(1)).min(panels.div_ceil(2));

    let reads_in_order = walk.is_pointwise() && row_blocks > TASKS;

    let filters_len = slabs.count * panels * depth * columns;
    let make = |packed: &mut [P]| {
        if depth > 0 {
            pack(isa, problem, pass, &slabs, &reduction, columns, weight.values, packed);
        }
    };
    weight.with_filters(
        || Form::Direct(isa, TypeId::of::<P>(), reduction.clone()),
        filters_len,
        make,
        |packed| {
            let pass = DensePass {
                isa,
                walk,
                pieces: &pieces,
                blocks: &blocks,
                depth,
                slabs: &slabs,
                source,
                target,
                packed,
                finish,
                observed,
                reads_in_order,
            };
            // Tasks of the same rows read the same windows: where there are several, all blocks of the reduction are kept.
            let (kept, len) = (if column_parts > 1 { blocks.len() } else { 1 }, isa.rows_read(block) * P::PITCH);
            tasks::for_each_init(
                row_tasks * column_parts,
                || Gathered::new(isa, kept, len),
                |gathered, task| {
                    let (row_task, panels) = (task / column_parts, part(panels, column_parts, task % column_parts));
                    let slab = row_task % slabs.count;
                    let is_new = gathered.task.replace(row_task) != Some(row_task);
                    if is_new {
                        walk.rows(range(row_task / slabs.count), &mut gathered.rows);
                    }
                    pass.with_sums(slab, &gathered.rows, panels, |mut sums| {
                        for block in 0..blocks.len() {
                            let numbers = &mut gathered.numbers[block % kept * len..][..len];
                            let reduced = &mut gathered.reduced[block % kept];
                            if is_new || kept < blocks.len() {
                                *reduced = pass.gather(slab, block, &gathered.rows, numbers);
                            }
                            if let Some(reduced) = reduced.clone() {
                                sums.add(block, reduced, numbers);
                            }
                        }
                        sums.end();
                    });
                },
            );
        },
    );
}

/// What a thread has gathered, and multiplies.
struct Gathered<P: Panel> {
    /// For which rows of which slab.
    task: Option<usize>,
    rows: Vec<Row>,
    /// Of each block of the reduction that is kept, a panel and what it holds.
    numbers: Scratch<P>,
    reduced: Vec<Option<Range<usize>>>,
    /// Held for as long.
    _registers: Option<Tiles>,
}

impl<P: Panel> Gathered<P> {
    /// Of `kept` panels, `len` numbers each.
    fn new(isa: Isa, kept: usize, len: usize) -> Self {
        Gathered {
            task: None,
            rows: Vec::new(),
            numbers: Scratch::of(kept * len),
            reduced: vec![None; kept],
            _registers: isa.registers(),
        }
    }
}

/// What the tasks have in common.
struct DensePass<'a, N, P> {
    isa: Isa,
    walk: &'a Walk,
    pieces: &'a [Piece],
    /// Which pieces one call of the micro-kernel reduces.
    blocks: &'a [Range<usize>],
    /// The whole reduction.
    depth: usize,
    slabs: &'a Slabs,
    source: &'a [N],
    target: Disjoint<'a, N>,
    packed: &'a [P],
    finish: Option<Finish<'a, N>>,
    observed: Option<&'a Observed>,
    /// Whether row after row reads pixel after pixel, and many of them.
    reads_in_order: bool,
}

/// The channels of some panels of some rows, which one task writes.
struct Sums<'a, N, P> {
    pass: &'a DensePass<'a, N, P>,
    /// Where each row starts in the target.
    targets: Vec<usize>,
    /// The slab's first channel.
    first: usize,
    panels: Range<usize>,
    /// Of the slab, those of the panels.
    channels: Range<usize>,
    packed: &'a [P],
    /// What the next block of rows reads, where that is the large operand and lies in one piece.
    next_source: Option<&'a [N]>,
    /// The sums of several blocks, a line a row, where the target's numbers are too short to be summed up in.
    lines: &'a mut [f32],
    /// Numbers from one line to the next.
    line: usize,
    /// Where each row starts in `lines`.
    starts: Vec<usize>,
    /// Whether there are any sums already, and whether that is the end of it.
    begun: bool,
    finished: bool,
}

impl<N: Map, P: Of<N>> DensePass<'_, N, P> {
    fn with_sums(&self, slab: usize, rows: &[Row], panels: Range<usize>, f: impl FnOnce(Sums<N, P>)) {
        let (columns, slabs) = (self.isa.columns(), self.slabs);
        let pitch = slabs.target * slabs.count;
        // An odd number of cache lines, so that rows do not fall into the same cache set.
        let line = panels.len() * columns + 16;
        let next_source = self.reads_in_order.then(|| {
            let source_pitch = slabs.source * slabs.count;
            let next = rows.last().map_or(0, |row| row.target + 1) * source_pitch;
            &self.source[next..(next + rows.len() * source_pitch).min(self.source.len())]
        });
        let summed_apart = self.blocks.len() > 1 && (N::DTYPE != DType::F32 || self.isa == Isa::Amx);
        with_scratch(if summed_apart { self.isa.whole_tiles(rows.len()) * line } else { 0 }, |lines| {
            f(Sums {
                pass: self,
                targets: rows.iter().map(|row| row.target * pitch).collect(),
                first: slab * slabs.target,
                channels: panels.start * columns..(panels.end * columns).min(slabs.target),
                packed: &self.packed[slab * slabs.target.div_ceil(columns) * self.depth * columns..],
                panels,
                next_source,
                starts: (0..if summed_apart { rows.len() } else { 0 }).map(|row| row * line).collect(),
                line,
                lines,
                begun: false,
                finished: false,
            });
        });
    }
}

impl<N: Map, P: Of<N>> Sums<'_, N, P> {
    /// Adds the products of a block of pieces, of which `gathered` holds the part `reduced` of the reduction.
    fn add(&mut self, block: usize, reduced: Range<usize>, gathered: &[P]) {
        let DensePass { isa, pieces, blocks, depth, slabs, .. } = *self.pass;
        let (columns, rows) = (isa.columns(), self.targets.len());
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
                false if reduced.end < depth => self.panels.start * depth + reduced.end,
                false => self.panels.end * depth,
            };
            let next_filters = &self.packed[next * columns..];
            let next_filters = &next_filters[..next_filters.len().min(reduced.len() * columns)];
            let finish = self.pass.finish.filter(|_| self.finished).map(|finish| finish.from(channel));
            let (len, line) = (columns.min(self.channels.end - panel * columns), (panel - self.panels.start) * columns);
            for i in 0..tiles {
                let part = isa.tile(rows, i);
                let a = gathered[part.start * P::PITCH + offset..].as_ptr();
                let ahead = match self.next_source {
                    Some(source) => Ahead::share(source, calls, (block * panels + nth) * tiles + i, reduced.len()),
                    None => Ahead::share(next_filters, tiles, i, reduced.len()),
                };
                let (depth, step, b, columns) = (reduced.len(), 1, b.as_ptr(), len);
                if self.starts.is_empty() {
                    let (c, rows) = (target.wrapping_add(channel), self.targets[part.clone()].as_ptr());
                    let pitch = None;
                    let tile =
                        Tile { depth, a, step, b, c, rows, pitch, columns, accumulate: self.begun, finish, ahead };
                    // SAFETY: `gathered` holds the rows at PITCH, `b` the reduction; the targets lie inside the
                    // buffer (`at` checked the last), as does what `finish` reads; no other task has these rows and
                    // channels.
                    unsafe { P::multiply::<N, false>(isa, part.len(), &tile) }
                    continue;
                }
                let (c, rows) = (self.lines[line..].as_mut_ptr(), self.starts[part.clone()].as_ptr());
                let pitch = Some(self.line);
                let tile =
                    Tile { depth, a, step, b, c, rows, pitch, columns, accumulate: self.begun, finish: None, ahead };
                // SAFETY: as above; `lines` has a line for each row.
                unsafe { P::multiply::<f32, false>(isa, part.len(), &tile) }
                if self.finished {
                    let round = Round {
                        sums: c,
                        lines: &self.starts[part.clone()],
                        target: target.wrapping_add(channel),
                        rows: &self.targets[part],
                        columns,
                        finish,
                    };
                    // SAFETY: as above.
                    unsafe { P::round(isa, round) }
                }
            }
        }
        self.begun = true;
    }

    /// The end of it all.
    fn end(mut self) {
        self.make_up();
        if let Some(observed) = self.pass.observed {
            let (channel, channels) = (self.first + self.channels.start, self.channels.len());
            // SAFETY: this task has written these rows and channels.
            unsafe { observed.add(self.pass.isa, self.pass.target, &self.targets, channel, channels) }
        }
    }

    /// Makes up for blocks that lie in the padding.
    fn make_up(&mut self) {
        let apart = !self.starts.is_empty();
        if self.begun && (self.finished || (self.pass.finish.is_none() && !apart)) {
            return;
        }
        let channel = self.first + self.channels.start;
        let mut zeros = vec![0f32; if apart { 0 } else { self.channels.len() }];
        for (i, row) in self.targets.iter().enumerate() {
            let start = row + channel;
            // SAFETY: no other task has these rows and channels.
            let target = unsafe { self.pass.target.slice(start..start + self.channels.len()) };
            let sums = match apart {
                true => &mut self.lines[self.starts[i]..][..self.channels.len()],
                false => &mut zeros[..],
            };
            if !self.begun {
                sums.fill(0.0);
            } else if !apart {
                sums.iter_mut().zip(&*target).for_each(|(sum, y)| *sum = y.wide());
            }
            if let Some(finish) = self.pass.finish {
                finish.row(sums, channel, start);
            }
            target.iter_mut().zip(sums).for_each(|(y, sum)| *y = N::narrow(*sum));
        }
    }
}

impl<N: Map, P: Of<N>> DensePass<'_, N, P> {
    /// Gathers what `rows` read under a block of pieces. Returns the part of the reduction from the first to the
    /// last piece that any row reads.
    fn gather(&self, slab: usize, block: usize, rows: &[Row], gathered: &mut [P]) -> Option<Range<usize>> {
        vectorised(|| self.gather_pieces(slab, block, rows, gathered))
    }

    #[inline(always)]
    fn gather_pieces(&self, slab: usize, block: usize, rows: &[Row], gathered: &mut [P]) -> Option<Range<usize>> {
        let pieces = &self.pieces[self.blocks[block].clone()];
        let (pitch, channel) = (self.slabs.source * self.slabs.count, slab * self.slabs.source);
        let origin = pieces[0].start;
        let mut reduced: Option<Range<usize>> = None;
        for piece in pieces {
            let mut reads = false;
            for (row, line) in rows.iter().zip(gathered.chunks_exact_mut(P::PITCH)) {
                let line = &mut line[piece.start - origin..][..piece.room];
                match self.walk.read(row, piece, pitch, channel) {
                    None => line.fill(P::ZERO),
                    Some((start, range)) => {
                        reads = true;
                        <P as Of<N>>::copy_part(&self.source[range], start, line);
                    }
                }
            }
            if reads {
                let start = reduced.map_or(piece.start, |reduced| reduced.start);
                reduced = Some(start..piece.start + piece.room);
            }
        }
        reduced
    }
}

/// Cuts the pieces into blocks of about equal size, at most `depth` numbers each.
pub(super) fn blocks(pieces: &[Piece], depth: usize) -> Vec<Range<usize>> {
    let longest = pieces.iter().map(|piece| piece.room).max().unwrap_or(1);
    let count = pieces.len().div_ceil(depth / longest);
    (0..count).map(|i| part(pieces.len(), count, i)).collect()
}
