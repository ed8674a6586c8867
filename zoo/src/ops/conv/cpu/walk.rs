//! Which source positions a pass reads for which target position.

use super::super::Problem;
use std::ops::Range;

/// A pass over target positions, each of which reads a window of source positions. The forward pass is
/// one walk (source `x`, target `y`); the data gradient (source `dy`, target `dx`) is one for each
/// residue of the input position modulo the stride, since positions of one class see the same taps.
#[derive(Debug)]
pub(super) struct Walk {
    pub batch: usize,
    /// Positions that this walk visits, along each axis.
    pub grid: [usize; 3],
    pub source: [usize; 3],
    /// Source positions from one visit to the next.
    pub step: [usize; 3],
    pub target: [usize; 3],
    target_start: [usize; 3],
    target_step: [usize; 3],
    /// The taps that reach into the source somewhere, by ascending offset.
    pub taps: [Vec<Tap>; 3],
    /// Whether the same position of all images comes before the next position. Then the rows of a block
    /// agree on which taps lie in the padding, and those taps are skipped: on small maps that are many.
    pub by_position: bool,
}

/// A tap along one axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tap {
    /// Its index in the kernel.
    index: usize,
    /// From where a visit stands to what it reads.
    pub offset: isize,
}

/// One target position of one image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// Where the visit stands in the source.
    at: [isize; 3],
    /// The image's first source pixel.
    image: usize,
    /// The target pixel.
    pub target: usize,
    /// The source pixel where the visit stands, where it sees no padding.
    whole: Option<isize>,
}

/// Numbers that lie side by side in the source and in the reduction: channels of one tap, or all channels
/// of several taps that are neighbours along the last axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Where it starts in the reduction.
    pub start: usize,
    pub len: usize,
    /// What it takes in the reduction: its numbers, and zeros up to a multiple of what lies side by side.
    pub room: usize,
    pub offset: [isize; 3],
    /// From the pixel where a visit stands to the first one that it reads.
    distance: isize,
    /// Taps along the last axis.
    taps: usize,
    pub channel: usize,
}

/// What is summed up: channels of taps, and what fills them up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reduction {
    /// Of each tap its index in the kernel's volume, and where its channels begin.
    pub taps: Vec<(usize, usize)>,
    pub len: usize,
}

/// What each of as few parts of `len` has, of which none has more than `limit`; at least one.
pub(super) fn even(len: usize, limit: usize) -> usize {
    len.div_ceil(len.div_ceil(limit).max(1)).max(1)
}

impl Walk {
    pub(super) fn forward(problem: &Problem) -> Walk {
        let taps = [0, 1, 2].map(|axis| {
            let tap = |index: usize| Tap {
                index,
                offset: (index * problem.dilation[axis]) as isize - problem.padding[axis] as isize,
            };
            (0..problem.kernel[axis]).map(tap).collect()
        });
        Walk::new(Walk {
            batch: problem.batch,
            grid: problem.output,
            source: problem.input,
            step: problem.stride,
            target: problem.output,
            target_start: [0; 3],
            target_step: [1; 3],
            taps,
            by_position: false,
        })
    }

    pub(super) fn data_gradient(problem: &Problem) -> Vec<Walk> {
        let classes: [usize; 3] = std::array::from_fn(|axis| problem.stride[axis].min(problem.input[axis]));
        let mut walks = Vec::new();
        for d in 0..classes[0] {
            for h in 0..classes[1] {
                for w in 0..classes[2] {
                    walks.push(Walk::data_gradient_of_class(problem, [d, h, w]));
                }
            }
        }
        walks
    }

    /// The walk over the input positions `start`, `start + stride`, ..
    fn data_gradient_of_class(problem: &Problem, start: [usize; 3]) -> Walk {
        let taps = [0, 1, 2].map(|axis| {
            let stride = problem.stride[axis] as isize;
            let reach = |index: usize| {
                (start[axis] + problem.padding[axis]) as isize - (index * problem.dilation[axis]) as isize
            };
            (0..problem.kernel[axis])
                .rev()
                .filter(|&index| reach(index) % stride == 0)
                .map(|index| Tap { index, offset: reach(index) / stride })
                .collect()
        });
        Walk::new(Walk {
            batch: problem.batch,
            grid: std::array::from_fn(|axis| (problem.input[axis] - start[axis]).div_ceil(problem.stride[axis])),
            source: problem.output,
            step: [1; 3],
            target: problem.input,
            target_start: start,
            target_step: problem.stride,
            taps,
            by_position: false,
        })
    }

    /// Drops the taps that always lie in the padding, and picks the order of the rows.
    fn new(mut walk: Walk) -> Walk {
        let mut inside = 1.0;
        for axis in 0..3 {
            let (grid, step, source) = (walk.grid[axis] as isize, walk.step[axis] as isize, walk.source[axis] as isize);
            // The visits q with 0 <= q * step + offset < source.
            let visits = |tap: &Tap| {
                let first = (-tap.offset).max(0).div_euclid(step) + isize::from((-tap.offset).max(0) % step != 0);
                let end = (source - tap.offset).max(0);
                let end = end.div_euclid(step) + isize::from(end % step != 0);
                (end.min(grid) - first).max(0)
            };
            walk.taps[axis].retain(|tap| visits(tap) > 0);
            let reached: isize = walk.taps[axis].iter().map(visits).sum();
            inside *= reached as f64 / (grid as usize * walk.taps[axis].len()).max(1) as f64;
        }
        walk.by_position = walk.batch >= 8 && inside < 0.9;
        walk
    }

    /// Target positions of all images.
    pub(super) fn len(&self) -> usize {
        self.batch * self.positions()
    }

    fn positions(&self) -> usize {
        self.grid.iter().product()
    }

    /// Whether each position reads the pixel of the same number, and nothing else.
    pub(super) fn is_pointwise(&self) -> bool {
        let lone = |taps: &Vec<Tap>| matches!(taps[..], [Tap { offset: 0, .. }]);
        self.taps.iter().all(lone) && self.step == [1; 3] && self.grid == self.source && self.grid == self.target
    }

    /// How many rows, at most `limit`, a block should have.
    pub(super) fn block(&self, limit: usize) -> usize {
        match self.by_position {
            true if self.batch <= limit => limit / self.batch * self.batch,
            true => even(self.batch, limit),
            false => even(self.len(), limit),
        }
    }

    /// The kernel's taps (as indices into its volume) in the order of the reduction.
    pub(super) fn kernel_taps(&self, kernel: [usize; 3]) -> Vec<usize> {
        let [depth, height, width] = &self.taps;
        let mut order = Vec::with_capacity(depth.len() * height.len() * width.len());
        for d in depth {
            for h in height {
                order.extend(width.iter().map(|w| (d.index * kernel[1] + h.index) * kernel[2] + w.index));
            }
        }
        order
    }

    /// Cuts the reduction over taps and `channels` into pieces of at most `limit` numbers, each of which starts at a
    /// multiple of `side`, as does `limit`. `adjacent` says that pixels hold nothing but these channels, so that
    /// neighbouring taps are one piece.
    pub(super) fn pieces(&self, channels: usize, adjacent: bool, limit: usize, side: usize) -> Vec<Piece> {
        let [depth, height, width] = &self.taps;
        let run = width.windows(2).all(|pair| pair[1].offset - pair[0].offset == 1);
        let joined = adjacent && run && !self.by_position && width.len() * channels <= limit;
        let taps = if joined { width.len().max(1) } else { 1 };
        let parts = channels.div_ceil(limit);
        let mut pieces = Vec::new();
        let mut start = 0;
        for d in depth {
            for h in height {
                for w in width.iter().step_by(taps) {
                    let offset = [d.offset, h.offset, w.offset];
                    let distance = self.pixel(offset);
                    for i in 0..parts {
                        let range = crate::ops::parallel::part((taps * channels).div_ceil(side), parts, i);
                        let (channel, room) = (range.start * side, range.len() * side);
                        let len = room.min(taps * channels - channel);
                        pieces.push(Piece { start, len, room, offset, distance, taps, channel });
                        start += room;
                    }
                }
            }
        }
        pieces
    }

    /// Where the kernel's taps lie in the reduction over `channels` that was cut into `pieces`.
    pub(super) fn reduction(&self, kernel: [usize; 3], channels: usize, pieces: &[Piece]) -> Reduction {
        let firsts = pieces.iter().filter(|piece| piece.channel == 0);
        let starts = firsts.flat_map(|piece| (0..piece.taps).map(|tap| piece.start + tap * channels));
        let taps = self.kernel_taps(kernel).into_iter().zip(starts).collect();
        Reduction { taps, len: pieces.iter().map(|piece| piece.room).sum() }
    }

    /// The rows of `range`, in the walk's order.
    pub(super) fn rows(&self, range: Range<usize>, rows: &mut Vec<Row>) {
        let (positions, [_, height, width]) = (self.positions(), self.grid);
        let (mut image, position) = match self.by_position {
            true => (range.start % self.batch, range.start / self.batch),
            false => (range.start / positions, range.start % positions),
        };
        let mut at = [position / (height * width), position / width % height, position % width];
        rows.clear();
        // Counting up costs an addition where dividing would cost three divisions a row.
        let mut left = range.len();
        while left > 0 {
            let len = if self.by_position { 1 } else { left.min(width - at[2]) };
            self.line(image, at, len, rows);
            left -= len;
            if self.by_position {
                image += 1;
                if image == self.batch {
                    image = 0;
                    self.advance(&mut at, 1);
                }
            } else if self.advance(&mut at, len) {
                image += 1;
            }
        }
    }

    /// The target pixel that a visit writes.
    pub(super) fn target_pixel(&self, image: usize, at: [usize; 3]) -> usize {
        let [depth, height, width] = self.target;
        let target: [usize; 3] =
            std::array::from_fn(|axis| self.target_start[axis] + at[axis] * self.target_step[axis]);
        ((image * depth + target[0]) * height + target[1]) * width + target[2]
    }

    /// Adds the rows of `len` positions of a line. They may lie behind the last one of an axis: what they read there is the padding,
    /// mostly.
    pub(super) fn line(&self, image: usize, at: [usize; 3], len: usize, rows: &mut Vec<Row>) {
        let target = self.target_pixel(image, at);
        let [depth, height, width] = std::array::from_fn(|axis| (at[axis] * self.step[axis]) as isize);
        let image = image * self.source.iter().product::<usize>();
        let start = image as isize + self.pixel([depth, height, width]);
        let is_whole = |axis: usize, at: isize| match &self.taps[axis][..] {
            [first, .., last] => at + first.offset >= 0 && at + last.offset < self.source[axis] as isize,
            [lone] => (0..self.source[axis] as isize).contains(&(at + lone.offset)),
            [] => false,
        };
        let is_line_whole = is_whole(0, depth) && is_whole(1, height);
        rows.extend((0..len).map(|i| {
            let aside = (i * self.step[2]) as isize;
            let whole = (is_line_whole && is_whole(2, width + aside)).then_some(start + aside);
            Row { at: [depth, height, width + aside], image, target: target + i * self.target_step[2], whole }
        }));
    }

    /// Pixels of the source from the first one of an image to that at `at`.
    fn pixel(&self, at: [isize; 3]) -> isize {
        let [_, height, width] = self.source.map(|extent| extent as isize);
        (at[0] * height + at[1]) * width + at[2]
    }

    /// Moves on by so many positions, at most to the end of the line; true where that is the first position again.
    fn advance(&self, at: &mut [usize; 3], len: usize) -> bool {
        let mut len = len;
        for axis in [2, 1, 0] {
            at[axis] += len;
            if at[axis] < self.grid[axis] {
                return false;
            }
            (at[axis], len) = (0, 1);
        }
        true
    }

    /// Which taps of `piece` lie inside the source as seen from `row`, and the source pixel under the first
    /// of them.
    #[inline]
    pub(super) fn inside(&self, row: &Row, piece: &Piece) -> Option<(Range<usize>, usize)> {
        let [depth, height, width] = [0, 1, 2].map(|axis| row.at[axis] + piece.offset[axis]);
        let [source_depth, source_height, source_width] = self.source.map(|extent| extent as isize);
        if depth < 0 || depth >= source_depth || height < 0 || height >= source_height {
            return None;
        }
        let (first, end) = ((-width).max(0), (source_width - width).min(piece.taps as isize));
        let pixel = (depth * source_height + height) * source_width + width + first;
        (first < end).then(|| (first as usize..end as usize, row.image + pixel as usize))
    }

    /// Where the numbers of `piece` begin that a `row` without padding reads, all of them: see [`read`](Self::read).
    #[inline]
    pub(super) fn read_whole(&self, row: &Row, piece: &Piece, pitch: usize, channel: usize) -> Option<usize> {
        row.whole.map(|at| (at + piece.distance) as usize * pitch + channel + piece.channel)
    }

    /// The numbers of `piece` that `row` reads: where they start in the piece, and where they lie in a source
    /// of `pitch` numbers a pixel, of which the pass uses those from `channel` on.
    #[inline]
    pub(super) fn read(&self, row: &Row, piece: &Piece, pitch: usize, channel: usize) -> Option<(usize, Range<usize>)> {
        if let Some(start) = self.read_whole(row, piece, pitch, channel) {
            return Some((0, start..start + piece.len));
        }
        let (taps, pixel) = self.inside(row, piece)?;
        let tap_len = piece.len / piece.taps;
        let start = pixel * pitch + channel + piece.channel;
        Some((taps.start * tap_len, start..start + taps.len() * tap_len))
    }
}
