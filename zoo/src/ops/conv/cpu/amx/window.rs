//! The forward pass and the data gradient over maps that fill tiles: the source lines under some target rows are copied once, with
//! their padding, and a tap is a distance in that copy. Nothing is gathered for each tap, and numbers of f32 are put into
//! parts once. Of small maps several images are copied, side by side at each pixel: a tile of rows goes on from image to image.

use super::super::filters::Form;
use super::super::finish::FinishFrom;
use super::super::pack::{Pass, pack};
use super::super::panel::{Map, Of, Panel};
use super::super::pass::TASKS_A_THREAD;
use super::super::round::Round;
use super::super::walk::{Piece, Walk, even};
use super::super::{Operands, Problem, Slabs, TASKS};
use super::{Ahead, EDGE, Product, Rows, SIDE, STEPS, Steps, Sums, TiledOf, write};
use crate::ops::Isa;
use crate::ops::amx::Tiles;
use crate::ops::parallel::{LINE, Scratch, part};
use crate::ops::tasks;
use half::bf16;
use std::any::TypeId;
use std::ops::Range;

/// A task's target positions fill so many tiles of rows, where there are as many: a panel of filters is read once for them.
const TILES: usize = 32;

/// Bytes of a copy, at most: it stays in the second-level cache, beside what is read and written meanwhile.
const BYTES: usize = 3 << 18;

/// How the source lies in copies.
pub(in super::super) struct Window<'a> {
    walk: &'a Walk,
    /// Images of a task, whose pixels at one place lie side by side.
    images: usize,
    /// Target rows of a task, of one position along the depth.
    rows: usize,
    /// Source lines under one tap of the depth, and pixels of a line.
    lines: usize,
    width: usize,
    channels: usize,
    /// Numbers of a copy from one position to the next: an odd number of lines, so that a tile's rows do not fall into few cache
    /// sets.
    pitch: usize,
}

/// Into how many tasks so many panels of target channels can be cut.
fn column_parts(panels: usize) -> usize {
    panels.div_ceil(2)
}

/// A tile of rows.
struct Segment {
    /// Where its first row reads.
    at: usize,
    /// How many of its rows are target positions.
    positions: usize,
}

impl<'a> Window<'a> {
    /// For the slabs of a source of numbers that take `size` bytes, where the tiles of rows are mostly full.
    pub(super) fn of(walk: &'a Walk, slabs: &Slabs, size: usize) -> Option<Self> {
        let channels = slabs.source;
        let is_lone = walk.taps.iter().all(|taps| taps.len() == 1);
        if is_lone || walk.taps.iter().any(Vec::is_empty) {
            return None;
        }
        let span = |axis: usize, visits: usize| {
            let taps = &walk.taps[axis];
            let reach = taps[taps.len() - 1].offset - taps[0].offset;
            (visits - 1) * walk.step[axis] + reach as usize + 1
        };
        let [_, height, width] = walk.grid;
        let pitch = if channels.is_multiple_of(2 * STEPS) { channels + STEPS } else { channels };
        let (lines, width_read) = (span(1, height), span(2, width));
        let whole = Window { walk, images: 1, rows: height, lines, width: width_read, channels, pitch };
        let window = match whole.tiles(height) <= TILES && walk.step[2] == 1 {
            // Small maps: their last tiles would be half empty, and each image would read all filters.
            true => {
                let tasks_of_images = slabs.count * column_parts(slabs.target.div_ceil(EDGE));
                let groups = walk.batch.div_ceil((BYTES / (whole.len() * size)).max(1));
                let groups = groups.max(TASKS.div_ceil(tasks_of_images)).min(walk.batch);
                Window { images: walk.batch.div_ceil(groups), ..whole }
            }
            false => {
                let fitting = (1..=height).rev().find(|rows| whole.tiles(*rows) <= TILES).unwrap_or(1);
                let rows = even(height, fitting);
                Window { rows, lines: span(1, rows), ..whole }
            }
        };
        let positions = window.images * window.rows * width;
        let is_full = 4 * positions >= 3 * window.tiles(window.rows) * SIDE;
        (is_full && window.len() * size <= BYTES).then_some(window)
    }

    /// Tiles of so many rows of a plane.
    fn tiles(&self, rows: usize) -> usize {
        self.tiles_by_row(rows).min(self.tiles_on(rows).unwrap_or(usize::MAX))
    }

    /// Where each row begins with a tile.
    fn tiles_by_row(&self, rows: usize) -> usize {
        rows * (self.images * self.walk.grid[2]).div_ceil(SIDE)
    }

    /// Where tiles go on from one row to the next, through the padding between them: only where their rows have one distance.
    fn tiles_on(&self, rows: usize) -> Option<usize> {
        let cells = (rows - 1) * self.width + self.walk.grid[2];
        (self.walk.step[1..] == [1; 2]).then_some((self.images * cells).div_ceil(SIDE))
    }

    /// Numbers of a copy from one pixel to the next.
    fn pixel(&self) -> usize {
        self.images * self.pitch
    }

    /// Whether what neighbouring taps read are whole steps, or follow one another.
    fn has_runs(&self) -> bool {
        self.images == 1 || self.channels.is_multiple_of(STEPS)
    }

    /// Numbers of a copy that are read.
    fn len(&self) -> usize {
        self.walk.taps[0].len() * self.lines * self.width * self.pixel()
    }

    /// With what is read behind them: of rows of a tile that are no target positions, and of the zeros that fill up a piece.
    fn room(&self) -> usize {
        self.len() + SIDE * self.walk.step[2] * self.pitch + STEPS
    }

    /// The steps of `pieces`, of panels of `P`. As many channels of all taps as a call takes follow one another: taps read what
    /// their neighbours have read, and find it in the first-level cache.
    fn steps<P: Panel>(&self, pieces: &[Piece]) -> Vec<Steps> {
        let taps = &self.walk.taps;
        let is_whole = self.channels.is_multiple_of(STEPS);
        let mut steps = Vec::new();
        for piece in pieces {
            let depth = taps[0].iter().position(|tap| tap.offset == piece.offset[0]).expect("a piece is of taps");
            let [line, pixel] = [1, 2].map(|axis| (piece.offset[axis] - taps[axis][0].offset) as usize);
            let first = ((depth * self.lines + line) * self.width + pixel) * self.pixel();
            for step in (0..piece.room).step_by(STEPS) {
                // Several taps may be one piece.
                let (tap, channel) = match is_whole {
                    true => (step / self.channels, piece.channel + step % self.channels),
                    false => (0, piece.channel + step),
                };
                let a = size_of::<bf16>() * (first + tap * self.pixel() + channel);
                steps.push((channel, Steps { a, ..Steps::of(size_of::<P>(), 0, piece.start + step) }));
            }
        }
        let channels = STEPS * (P::DEPTH / STEPS / taps.iter().map(Vec::len).product::<usize>()).max(1);
        steps.sort_by_key(|(channel, _)| if is_whole { channel / channels } else { 0 });
        steps.into_iter().map(|(_, steps)| steps).collect()
    }

    /// Blocks of target rows.
    fn blocks(&self) -> usize {
        self.walk.batch.div_ceil(self.images) * self.walk.grid[0] * self.blocks_of_plane()
    }

    fn blocks_of_plane(&self) -> usize {
        self.walk.grid[1].div_ceil(self.rows)
    }

    fn block(&self, block: usize) -> Block {
        let (plane, block) = (block / self.blocks_of_plane(), block % self.blocks_of_plane());
        let (group, depth) = (plane / self.walk.grid[0], plane % self.walk.grid[0]);
        let end = |start: usize, len: usize, all: usize| start..(start + len).min(all);
        Block {
            images: end(group * self.images, self.images, self.walk.batch),
            depth,
            rows: end(block * self.rows, self.rows, self.walk.grid[1]),
        }
    }

    /// Copies what a block reads of the source, `pitch` numbers a pixel, from `channel` on.
    fn copy<N: Map, P: TiledOf<N>>(&self, block: &Block, source: &[N], pitch: usize, channel: usize, to: &mut [P]) {
        let Walk { source: [source_depth, source_height, source_width], step, taps, .. } = self.walk;
        let first = taps[2][0].offset;
        let left = self.width.min((-first).max(0) as usize);
        let right = (*source_width as isize - first).clamp(left as isize, self.width as isize) as usize;
        let line_len = self.width * self.pixel();
        let lies_alike = [pitch, self.pixel()] == [self.channels; 2];
        if block.images.len() < self.images {
            // What fills up a step of the last image lies where others would be.
            P::clear(0..self.len(), to);
        }
        for (i, tap) in taps[0].iter().enumerate() {
            let plane = (block.depth * step[0]) as isize + tap.offset;
            for line in 0..self.lines {
                let at = (i * self.lines + line) * line_len;
                let row = (block.rows.start * step[1] + line) as isize + taps[1][0].offset;
                if !(0..*source_depth as isize).contains(&plane) || !(0..*source_height as isize).contains(&row) {
                    P::clear(at..at + line_len, to);
                    continue;
                }
                P::clear(at..at + left * self.pixel(), to);
                P::clear(at + right * self.pixel()..at + line_len, to);
                for (nth, image) in block.images.clone().enumerate() {
                    let line = (image * source_depth + plane as usize) * source_height + row as usize;
                    let start = (line * source_width).wrapping_add_signed(left as isize + first);
                    if lies_alike {
                        let pixels = &source[start * pitch..(start + right - left) * pitch];
                        P::place(pixels, at + left * self.pitch, to);
                        continue;
                    }
                    for pixel in left..right {
                        let from = (start + pixel - left) * pitch + channel;
                        let at = at + (pixel * self.images + nth) * self.pitch;
                        P::place(&source[from..from + self.channels], at, to);
                    }
                }
            }
        }
        P::clear(self.len()..self.len() + STEPS, to);
    }

    /// What one or two tiles of rows read.
    fn pair<N: Map, P: TiledOf<N>>(&self, numbers: &[P], pair: &[Segment]) -> Rows<P> {
        let [above, below] = [pair[0].at, pair[pair.len() - 1].at];
        let bytes = |parts: usize| parts * size_of::<bf16>();
        Rows {
            first: P::first_part(numbers, above),
            below: bytes(below).cast_signed() - bytes(above).cast_signed(),
            pitch: bytes(self.walk.step[2] * self.pitch),
            part: bytes(numbers.len()),
        }
    }

    /// Where the first position of a block begins in the target, of `pitch` numbers each.
    fn origin(&self, block: &Block, pitch: usize) -> usize {
        self.walk.target_pixel(block.images.start, [block.depth, block.rows.start, 0]) * pitch
    }

    /// The tiles of blocks of so many images and rows, of targets of `pitch` numbers a position.
    fn tiling(&self, [images, rows]: [usize; 2], pitch: usize) -> Tiling {
        let Walk { grid, step, .. } = self.walk;
        let mut tiling =
            Tiling { extent: [images, rows], segments: Vec::new(), targets: Vec::new(), lines: Vec::new() };
        let origin = self.walk.target_pixel(0, [0; 3]);
        // A tile whose first row reads at `at`, and of its rows those of positions, which lie in `row` at `cell`.
        let mut add = |at: usize, visits: &mut dyn Iterator<Item = (usize, usize, usize)>| {
            let before = tiling.targets.len();
            for (line, row, cell) in visits.filter(|(_, _, cell)| cell % self.images < images) {
                let target = self.walk.target_pixel(cell % self.images, [0, row, cell / self.images]);
                tiling.targets.push((target - origin) * pitch);
                tiling.lines.push((tiling.segments.len() % 2 * SIDE + line) * EDGE);
            }
            let positions = tiling.targets.len() - before;
            tiling.segments.push(Segment { at: at * self.pitch, positions });
        };
        let (cells, width) = (self.images * grid[2], self.images * self.width);
        match self.tiles_on(rows).filter(|tiles| *tiles < self.tiles_by_row(rows)) {
            Some(tiles) => {
                for first in (0..tiles).map(|tile| tile * SIDE) {
                    let visit = |line: usize| (line, (first + line) / width, (first + line) % width);
                    add(first, &mut (0..SIDE).map(visit).filter(|(_, row, cell)| *row < rows && *cell < cells));
                }
            }
            None => {
                for row in 0..rows {
                    for first in (0..cells).step_by(SIDE) {
                        let at = row * step[1] * width + first * step[2];
                        let visits = (first..(first + SIDE).min(cells)).enumerate();
                        add(at, &mut visits.map(|(line, cell)| (line, row, cell)));
                    }
                }
            }
        }
        tiling
    }
}

/// What a task writes.
struct Block {
    images: Range<usize>,
    /// The position along the depth.
    depth: usize,
    rows: Range<usize>,
}

/// How the positions of a block are cut into tiles of rows: all blocks of as many images and rows are alike.
struct Tiling {
    /// Images and rows.
    extent: [usize; 2],
    segments: Vec<Segment>,
    /// Of each position, where it begins in the target, counted from the block's first one.
    targets: Vec<usize>,
    /// Of each position, where its sums begin among those of two tiles.
    lines: Vec<usize>,
}

/// What the micro-kernel reduces at once.
struct Call {
    steps: Vec<Steps>,
    /// The lines of filters that the next call reads, in bytes from the panel's beginning, and then the first ones again.
    next: Vec<usize>,
}

impl Call {
    /// As few calls as can be for `steps`, of panels of `P` that are `panel` bytes.
    fn of<P: Panel>(steps: &[Steps], panel: usize) -> Vec<Call> {
        let count = steps.len().div_ceil(P::DEPTH / STEPS);
        let of_call = |call: usize| &steps[part(steps.len(), count, call)];
        let call = |call: usize| {
            let (from, next) = if call + 1 < count { (0, call + 1) } else { (panel, 0) };
            let lines = (0..STEPS * EDGE * size_of::<P>()).step_by(LINE);
            let mut next: Vec<usize> =
                of_call(next).iter().flat_map(|steps| lines.clone().map(move |line| from + steps.b + line)).collect();
            next.extend_from_within(..Ahead::MOST.min(next.len()));
            Call { steps: of_call(call).to_vec(), next }
        };
        (0..count).map(call).collect()
    }

    /// Of what the next call reads, the share of product `nth` of this one.
    fn next(&self, nth: usize, filters: *const u8) -> Ahead<'_> {
        let first = 2 * nth * self.steps.len() % (self.next.len() - Ahead::MOST);
        Ahead { lines: &self.next[first..], places: [filters; 2] }
    }
}

/// What a thread has copied, and multiplies.
struct Copied<P: super::Tiled> {
    /// Of which block of which slab.
    task: Option<usize>,
    numbers: Scratch<P>,
    tiling: Tiling,
    /// Where each position begins in the target.
    targets: Vec<usize>,
    /// The same in bytes, and some more, so that there are as many from each position on as a call fetches.
    written: Vec<usize>,
    /// Held for as long.
    _registers: Option<Tiles>,
}

impl<P: super::Tiled> Copied<P> {
    /// At the positions of `block` in a target of numbers of `N`, `pitch` of them a position.
    fn aim<N>(&mut self, window: &Window, block: &Block, pitch: usize) {
        let extent = [block.images.len(), block.rows.len()];
        if self.tiling.extent != extent {
            self.tiling = window.tiling(extent, pitch);
        }
        let origin = window.origin(block, pitch);
        self.targets.clear();
        self.targets.extend(self.tiling.targets.iter().map(|target| origin + target));
        self.written.clear();
        self.written.extend(self.targets.iter().map(|target| target * size_of::<N>()));
        self.written.extend([origin * size_of::<N>(); Ahead::MOST]);
    }

    /// Pairs of tiles.
    fn pairs(&self) -> usize {
        self.tiling.segments.len().div_ceil(2)
    }

    /// Writes `columns` of all positions; their sums are `sums` meanwhile.
    ///
    /// # Safety
    /// The calls read what is copied and the filters; the target and what is read to finish it are there at all positions, and
    /// nobody else reads or writes these channels of the target; the thread holds the registers.
    unsafe fn multiply<N: Map>(&self, window: &Window, columns: &Columns<N, P>, sums: &mut [f32])
    where
        P: TiledOf<N>,
    {
        let &Columns { calls, filters, target, count, finish } = columns;
        let residual = finish.and_then(|finish| finish.residual()).unwrap_or(target);
        for (i, call) in calls.iter().enumerate() {
            let is_last = i + 1 == calls.len();
            let mut position = 0;
            let pairs = sums.chunks_exact_mut(EDGE * EDGE).zip(self.tiling.segments.chunks(2));
            for (nth, (sums, pair)) in pairs.enumerate() {
                let positions = position..position + pair.iter().map(|tile| tile.positions).sum::<usize>();
                position = positions.end;
                let sums = sums.as_mut_ptr();
                let product = Product {
                    row_tiles: pair.len(),
                    a: window.pair::<N, P>(&self.numbers, pair),
                    b: filters.as_ptr(),
                    steps: &call.steps,
                    ahead: match is_last {
                        true => {
                            Ahead { lines: &self.written[positions.start..], places: [target.cast(), residual.cast()] }
                        }
                        false => call.next(nth, filters.as_ptr().cast()),
                    },
                    sums: Sums::at(sums, EDGE),
                    accumulate: i > 0,
                };
                // SAFETY: the caller's promise, and positions read `numbers`, which ends behind what tiles read of the last
                // ones; there is a line for each row of both tiles.
                unsafe { P::run::<true>(product) }
                if is_last {
                    let (lines, rows) = (&self.tiling.lines[positions.clone()], &self.targets[positions]);
                    // SAFETY: the sums of the positions are there, and the rest is the caller's promise.
                    unsafe { write(Round { sums, lines, target, rows, columns: count, finish }) }
                }
            }
        }
    }
}

/// A panel of target channels.
struct Columns<'a, N, P> {
    calls: &'a [Call],
    filters: &'a [P],
    /// Where the first one would lie at the beginning of the target.
    target: *mut N,
    /// How many there are.
    count: usize,
    finish: Option<FinishFrom<N>>,
}

/// Writes all channels of the positions that `window.walk` visits.
pub(super) fn pass<N: Map, P: TiledOf<N> + Of<f32>>(
    isa: Isa,
    problem: &Problem,
    pass: Pass,
    slabs: &Slabs,
    window: &Window,
    operands: Operands<N>,
) {
    let Operands { source, weight, finish, target, observed } = operands;
    let pieces = window.walk.pieces(slabs.source, slabs.count == 1 && window.has_runs(), P::DEPTH, P::STEPS);
    let reduction = window.walk.reduction(problem.kernel, slabs.source, &pieces);
    let depth = reduction.len;
    let calls = Call::of::<P>(&window.steps::<P>(&pieces), depth * EDGE * size_of::<P>());
    let panels = slabs.target.div_ceil(EDGE);
    let row_tasks = window.blocks() * slabs.count;
    let column_parts = (TASKS_A_THREAD * tasks::threads()).div_ceil(row_tasks.max(1)).min(column_parts(panels));
    let (source_pitch, target_pitch) = (slabs.source * slabs.count, slabs.target * slabs.count);
    let last = problem.batch * window.walk.target.iter().product::<usize>() * target_pitch;

    let make = |packed: &mut [P]| pack(isa, problem, pass, slabs, &reduction, EDGE, weight.values, packed);
    let form = || Form::Direct(isa, TypeId::of::<P>(), reduction.clone());
    weight.with_filters(form, slabs.count * panels * depth * EDGE, make, |packed| {
        let init = || Copied {
            task: None,
            numbers: Scratch::of(window.room()),
            tiling: window.tiling([window.images, window.rows], target_pitch),
            targets: Vec::new(),
            written: Vec::new(),
            _registers: isa.registers(),
        };
        tasks::for_each_init(row_tasks * column_parts, init, |copied: &mut Copied<P>, task| {
            let (row_task, part) = (task / column_parts, part(panels, column_parts, task % column_parts));
            let (slab, block) = (row_task % slabs.count, row_task / slabs.count);
            if copied.task.replace(row_task) != Some(row_task) {
                let block = window.block(block);
                window.copy(&block, source, source_pitch, slab * slabs.source, &mut copied.numbers);
                copied.aim::<N>(window, &block, target_pitch);
            }
            let packed = &packed[slab * panels * depth * EDGE..][..panels * depth * EDGE];
            let first = slab * slabs.target;
            // A panel's sums are the only ones that are kept: they stay in the second-level cache.
            let mut sums = Scratch::<f32>::of(copied.pairs() * EDGE * EDGE);
            for panel in part.clone() {
                let channel = first + panel * EDGE;
                let columns = Columns {
                    calls: &calls,
                    filters: &packed[panel * depth * EDGE..][..depth * EDGE],
                    target: target.at(0, last).wrapping_add(channel),
                    count: (slabs.target - panel * EDGE).min(EDGE),
                    finish: finish.map(|finish| finish.from(channel)),
                };
                // SAFETY: the targets lie in the buffer, no other task has these positions and channels, and what `finish`
                // reads is as large; the filters are of all calls; `copied` holds the registers.
                unsafe { copied.multiply(window, &columns, &mut sums) }
            }
            if let Some(observed) = observed {
                let channels = part.start * EDGE..(part.end * EDGE).min(slabs.target);
                // SAFETY: this task has written these positions and channels.
                unsafe { observed.add(isa, target, &copied.targets, first + channels.start, channels.len()) }
            }
        });
    });
}
