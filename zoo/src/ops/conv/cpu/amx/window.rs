//! The forward pass and the data gradient over maps that fill tiles: the source lines under some target rows are copied once, with
//! their padding, and a tap is a distance in that copy. Nothing is gathered for each tap, and numbers of f32 are put into
//! parts once.

use super::super::filters::Form;
use super::super::pack::{Pass, pack};
use super::super::panel::{Map, Of};
use super::super::pass::{TASKS_A_THREAD, blocks};
use super::super::round::Round;
use super::super::walk::{Piece, Walk};
use super::super::{Operands, Problem, Slabs};
use super::{EDGE, Product, Rows, SIDE, STEPS, TiledOf, write};
use crate::ops::Isa;
use crate::ops::amx::Tiles;
use crate::ops::parallel::{Scratch, part};
use crate::ops::tasks;
use half::bf16;
use std::any::TypeId;
use std::ops::Range;

/// A task's target positions fill so many tiles of rows, where there are as many: a panel of filters is read once for them.
const TILES: usize = 16;

/// Bytes of a copy, at most: it stays in the second-level cache.
const BYTES: usize = 1 << 20;

/// How the source lies in copies.
pub(in super::super) struct Window<'a> {
    walk: &'a Walk,
    /// Target rows of a task, of one position along the depth.
    rows: usize,
    /// Source lines under one tap of the depth, and pixels of a line.
    lines: usize,
    width: usize,
    channels: usize,
}

/// A tile of rows.
struct Segment {
    /// Where its first row reads.
    at: usize,
    /// How many of its rows are target positions.
    positions: usize,
}

impl<'a> Window<'a> {
    /// For `channels` of a source of numbers that take `size` bytes, where the tiles of rows are mostly full.
    pub(super) fn of(walk: &'a Walk, channels: usize, size: usize) -> Option<Self> {
        let is_lone = walk.taps.iter().all(|taps| taps.len() == 1);
        if is_lone || walk.by_position || walk.taps.iter().any(Vec::is_empty) {
            return None;
        }
        let span = |axis: usize, visits: usize| {
            let taps = &walk.taps[axis];
            let reach = taps[taps.len() - 1].offset - taps[0].offset;
            (visits - 1) * walk.step[axis] + reach as usize + 1
        };
        let [_, height, width] = walk.grid;
        let whole = Window { walk, rows: height, lines: span(1, height), width: span(2, width), channels };
        let fitting = (1..=height).rev().find(|rows| whole.tiles(*rows) <= TILES).unwrap_or(1);
        let rows = height.div_ceil(height.div_ceil(fitting));
        let window = Window { rows, lines: span(1, rows), ..whole };
        let is_full = 4 * rows * width >= 3 * window.tiles(rows) * SIDE;
        (is_full && window.len() * size <= BYTES).then_some(window)
    }

    /// Whether tiles go on from one row to the next, through the padding between them: their rows have one distance.
    fn runs_on(&self) -> bool {
        self.walk.step[1..] == [1; 2]
    }

    /// Tiles of so many rows of a plane.
    fn tiles(&self, rows: usize) -> usize {
        let width = self.walk.grid[2];
        match self.runs_on() {
            true => ((rows - 1) * self.width + width).div_ceil(SIDE),
            false => rows * width.div_ceil(SIDE),
        }
    }

    /// Numbers of a copy that are read.
    fn len(&self) -> usize {
        self.walk.taps[0].len() * self.lines * self.width * self.channels
    }

    /// With what is read behind them: of rows of a tile that are no target positions, and of the zeros that fill up a piece.
    fn room(&self) -> usize {
        self.len() + SIDE * self.walk.step[2] * self.channels + STEPS
    }

    /// Where each [`STEPS`] steps of `pieces` lie, counted from where a target position reads, in bytes.
    fn steps(&self, pieces: &[Piece]) -> Vec<usize> {
        let taps = &self.walk.taps;
        let mut steps = Vec::new();
        for piece in pieces {
            let depth = taps[0].iter().position(|tap| tap.offset == piece.offset[0]).expect("a piece is of taps");
            let [line, pixel] = [1, 2].map(|axis| (piece.offset[axis] - taps[axis][0].offset) as usize);
            let first = ((depth * self.lines + line) * self.width + pixel) * self.channels + piece.channel;
            steps.extend((0..piece.room).step_by(STEPS).map(|step| 2 * (first + step)));
        }
        steps
    }

    /// Blocks of target rows.
    fn blocks(&self) -> usize {
        self.walk.batch * self.walk.grid[0] * self.blocks_of_plane()
    }

    fn blocks_of_plane(&self) -> usize {
        self.walk.grid[1].div_ceil(self.rows)
    }

    /// The image, the position along the depth, and the rows of `block`.
    fn block(&self, block: usize) -> (usize, usize, Range<usize>) {
        let (plane, block) = (block / self.blocks_of_plane(), block % self.blocks_of_plane());
        let rows = block * self.rows..((block + 1) * self.rows).min(self.walk.grid[1]);
        (plane / self.walk.grid[0], plane % self.walk.grid[0], rows)
    }

    /// Copies what a block reads of the source, `pitch` numbers a pixel, from `channel` on.
    fn copy<N: Map, P: TiledOf<N>>(&self, block: usize, source: &[N], pitch: usize, channel: usize, to: &mut [P]) {
        let Walk { source: [source_depth, source_height, source_width], step, taps, .. } = self.walk;
        let (image, depth, rows) = self.block(block);
        let first = taps[2][0].offset;
        let left = self.width.min((-first).max(0) as usize);
        let right = (*source_width as isize - first).clamp(left as isize, self.width as isize) as usize;
        let line_len = self.width * self.channels;
        for (i, tap) in taps[0].iter().enumerate() {
            let plane = (depth * step[0]) as isize + tap.offset;
            for line in 0..self.lines {
                let at = (i * self.lines + line) * line_len;
                let row = (rows.start * step[1] + line) as isize + taps[1][0].offset;
                if !(0..*source_depth as isize).contains(&plane) || !(0..*source_height as isize).contains(&row) {
                    P::clear(at..at + line_len, to);
                    continue;
                }
                P::clear(at..at + left * self.channels, to);
                P::clear(at + right * self.channels..at + line_len, to);
                let line = (image * source_depth + plane as usize) * source_height + row as usize;
                let start = (line * source_width).wrapping_add_signed(left as isize + first);
                if pitch == self.channels {
                    let pixels = &source[start * pitch..(start + right - left) * pitch];
                    P::place(pixels, at + left * self.channels, to);
                    continue;
                }
                for pixel in left..right {
                    let from = (start + pixel - left) * pitch + channel;
                    P::place(&source[from..from + self.channels], at + pixel * self.channels, to);
                }
            }
        }
        P::clear(self.len()..self.len() + STEPS, to);
    }

    /// Where the first position of a block begins in the target, of `pitch` numbers each.
    fn origin(&self, block: usize, pitch: usize) -> usize {
        let (image, depth, rows) = self.block(block);
        self.walk.target_pixel(image, [depth, rows.start, 0]) * pitch
    }

    /// The tiles that so many rows are, of targets of `pitch` numbers a position.
    fn tiling(&self, rows: usize, pitch: usize) -> Tiling {
        let Walk { grid, step, .. } = self.walk;
        let mut tiling = Tiling { rows, segments: Vec::new(), targets: Vec::new(), lines: Vec::new() };
        let origin = self.walk.target_pixel(0, [0; 3]);
        let mut add = |at: usize, visits: &mut dyn Iterator<Item = (usize, usize, usize)>| {
            let before = tiling.targets.len();
            for (row, column, line) in visits {
                tiling.targets.push((self.walk.target_pixel(0, [0, row, column]) - origin) * pitch);
                tiling.lines.push((tiling.segments.len() % 2 * SIDE + line) * EDGE);
            }
            let positions = tiling.targets.len() - before;
            tiling.segments.push(Segment { at: at * self.channels, positions });
        };
        if self.runs_on() {
            for tile in 0..self.tiles(rows) {
                let visit = |line: usize| {
                    let at = tile * SIDE + line;
                    (at / self.width, at % self.width, line)
                };
                let is_target = |visit: &(usize, usize, usize)| visit.0 < rows && visit.1 < grid[2];
                add(tile * SIDE, &mut (0..SIDE).map(visit).filter(is_target));
            }
            return tiling;
        }
        for row in 0..rows {
            for first in (0..grid[2]).step_by(SIDE) {
                let columns = first..(first + SIDE).min(grid[2]);
                let at = row * step[1] * self.width + first * step[2];
                add(at, &mut columns.enumerate().map(|(line, column)| (row, column, line)));
            }
        }
        tiling
    }
}

/// How the positions of a block are cut into tiles of rows: all blocks of as many rows are alike.
struct Tiling {
    rows: usize,
    segments: Vec<Segment>,
    /// Of each position, where it begins in the target, counted from the block's first one.
    targets: Vec<usize>,
    /// Of each position, where its sums begin among those of two tiles.
    lines: Vec<usize>,
}

/// What a thread has copied, and multiplies.
struct Copied<P: super::Tiled> {
    /// Of which block of which slab.
    task: Option<usize>,
    numbers: Scratch<P>,
    tiling: Tiling,
    /// Where each position begins in the target.
    targets: Vec<usize>,
    /// Held for as long.
    _registers: Option<Tiles>,
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
    let pieces = window.walk.pieces(slabs.source, slabs.count == 1, P::DEPTH, P::STEPS);
    let blocks = blocks(&pieces, P::DEPTH);
    let steps = window.steps(&pieces);
    let reduction = window.walk.reduction(problem.kernel, slabs.source, &pieces);
    let depth = reduction.len;
    let panels = slabs.target.div_ceil(EDGE);
    let row_tasks = window.blocks() * slabs.count;
    let column_parts = (TASKS_A_THREAD * tasks::threads()).div_ceil(row_tasks.max(1)).min(panels.div_ceil(2));
    let (source_pitch, target_pitch) = (slabs.source * slabs.count, slabs.target * slabs.count);
    let last = problem.batch * window.walk.target.iter().product::<usize>() * target_pitch;

    let make = |packed: &mut [P]| pack(isa, problem, pass, slabs, &reduction, EDGE, weight.values, packed);
    let form = || Form::Direct(isa, TypeId::of::<P>(), reduction.clone());
    weight.with_filters(form, slabs.count * panels * depth * EDGE, make, |packed| {
        let init = || Copied {
            task: None,
            numbers: Scratch::of(window.room()),
            tiling: window.tiling(window.rows, target_pitch),
            targets: Vec::new(),
            _registers: isa.registers(),
        };
        tasks::for_each_init(row_tasks * column_parts, init, |copied: &mut Copied<P>, task| {
            let (row_task, part) = (task / column_parts, part(panels, column_parts, task % column_parts));
            let (slab, block) = (row_task % slabs.count, row_task / slabs.count);
            if copied.task.replace(row_task) != Some(row_task) {
                window.copy(block, source, source_pitch, slab * slabs.source, &mut copied.numbers);
                let rows = window.block(block).2.len();
                if copied.tiling.rows != rows {
                    copied.tiling = window.tiling(rows, target_pitch);
                }
                let origin = window.origin(block, target_pitch);
                copied.targets.clear();
                copied.targets.extend(copied.tiling.targets.iter().map(|target| origin + target));
            }
            let Copied { numbers, tiling: Tiling { segments, lines, .. }, targets, .. } = copied;
            let packed = &packed[slab * panels * depth * EDGE..][..panels * depth * EDGE];
            let first = slab * slabs.target;
            // A panel's sums are the only ones that are kept: they stay in the second-level cache.
            let mut sums = Scratch::<f32>::of(segments.len().div_ceil(2) * EDGE * EDGE);
            for panel in part.clone() {
                let (channel, columns) = (first + panel * EDGE, (slabs.target - panel * EDGE).min(EDGE));
                for (i, block) in blocks.iter().enumerate() {
                    let last_piece = &pieces[block.end - 1];
                    let (start, end) = (pieces[block.start].start, last_piece.start + last_piece.room);
                    let b = packed[(panel * depth + start) * EDGE..][..(end - start) * EDGE].as_ptr();
                    let mut position = 0;
                    for (sums, of_pair) in sums.chunks_exact_mut(EDGE * EDGE).zip(segments.chunks(2)) {
                        let sums = sums.as_mut_ptr();
                        let [above, below] = [of_pair[0].at, of_pair[of_pair.len() - 1].at];
                        let product = Product {
                            row_tiles: of_pair.len(),
                            a: Rows {
                                first: P::first_part(numbers, above),
                                below: (2 * (below - above)) as isize,
                                pitch: 2 * window.walk.step[2] * window.channels,
                                part: numbers.len() * size_of::<bf16>(),
                                steps: &steps[start / STEPS..end / STEPS],
                            },
                            b,
                            sums,
                            pitch: EDGE,
                            accumulate: i > 0,
                        };
                        // SAFETY: the thread holds the registers. Positions read `numbers`, which ends behind what tiles read
                        // of the last ones; `b` has the steps; there is a line for each row of both tiles.
                        unsafe { P::run::<true>(product) }
                        let positions = position..position + of_pair.iter().map(|of| of.positions).sum::<usize>();
                        position = positions.end;
                        if i + 1 == blocks.len() {
                            let round = Round {
                                sums,
                                lines: &lines[positions.clone()],
                                target: target.at(0, last).wrapping_add(channel),
                                rows: &targets[positions],
                                columns,
                                finish: finish.map(|finish| finish.from(channel)),
                            };
                            // SAFETY: the sums of the positions are there; the targets lie in the buffer, and no other task has
                            // these positions and channels; what `finish` reads is as large.
                            unsafe { write(round) }
                        }
                    }
                }
            }
            if let Some(observed) = observed {
                let channels = part.start * EDGE..(part.end * EDGE).min(slabs.target);
                // SAFETY: this task has written these positions and channels.
                unsafe { observed.add(isa, target, targets, first + channels.start, channels.len()) }
            }
        });
    });
}
