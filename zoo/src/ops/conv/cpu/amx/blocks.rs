//! How a weight gradient cuts pixels into blocks, and what is gathered for a block.

use super::super::walk::{Piece, Row, Walk, even};
use super::STEPS;

/// Columns of a piece at most.
pub(super) const COLUMNS: usize = 256;

/// Pixels whose products one call sums up.
pub(super) enum Blocks {
    /// So many that follow one another in the walk's order. Each tap is gathered for itself.
    Pixels(usize),
    /// Whole lines: what one tap of the height reads, another one reads some lines further on, so that it is gathered once.
    /// Between planes, and at an odd line's end, lie pixels without a target. Their products are zero, or NaN where the source is
    /// infinite.
    Lines(Lines),
}

pub(super) struct Lines {
    /// Planes of a block: images, at one position along the depth.
    planes: usize,
    /// Target lines of a plane.
    rows: usize,
    /// Lines behind them that the last taps read.
    behind: usize,
    /// Pixels of a line, an even number: two of them lie side by side.
    width: usize,
}

/// The pixels of a block.
#[derive(Default)]
pub(super) struct Block {
    /// Those that are gathered.
    pub rows: Vec<Row>,
    /// The target pixels of the first of them, whose products are summed, but for those that have none.
    pub targets: Vec<Option<usize>>,
}

/// A piece of the reduction that is gathered, and all that is found in it.
pub(super) struct Group {
    pub piece: Piece,
    pub taps: Vec<TapOf>,
}

/// A tap of the height.
pub(super) struct TapOf {
    /// How many pixels further on it reads.
    pub pixels: usize,
    /// Where it starts in the reduction.
    pub start: usize,
}

impl Blocks {
    /// Of at most `limit` pixels.
    pub(super) fn of(walk: &Walk, limit: usize) -> Self {
        match Lines::of(walk, limit) {
            Some(lines) => Blocks::Lines(lines),
            None => Blocks::Pixels(walk.block(limit)),
        }
    }

    /// So that a multiple of `splits` blocks of at most `limit` pixels are alike, where they can be cut anywhere.
    pub(super) fn split(self, walk: &Walk, splits: usize, limit: usize) -> Self {
        match self {
            Blocks::Pixels(_) => {
                let even = walk.len().div_ceil(self.count(walk).max(1).next_multiple_of(splits)).max(1);
                Blocks::Pixels(walk.block(even.next_multiple_of(STEPS).min(limit)))
            }
            Blocks::Lines(_) => self,
        }
    }

    /// Columns of a piece at most, where a tap has so many channels: there should be pieces enough for some threads, when few are
    /// gathered.
    pub(super) fn columns(&self, channels: usize) -> usize {
        match self {
            Blocks::Lines(_) if channels >= COLUMNS => COLUMNS / 4,
            _ => COLUMNS,
        }
    }

    /// How many there are.
    pub(super) fn count(&self, walk: &Walk) -> usize {
        match self {
            Blocks::Pixels(block) => walk.len().div_ceil(*block),
            Blocks::Lines(lines) => (walk.batch * walk.grid[0]).div_ceil(lines.planes) * lines.parts(walk),
        }
    }

    /// At most so many pixels are summed, and gathered, of a block.
    pub(super) fn longest(&self) -> [usize; 2] {
        match self {
            Blocks::Pixels(block) => [*block; 2],
            Blocks::Lines(lines) => [lines.summed(), lines.summed() + lines.behind * lines.width],
        }
    }

    /// Block number `i`.
    pub(super) fn block(&self, walk: &Walk, i: usize, block: &mut Block) {
        let Block { rows, targets } = block;
        targets.clear();
        match self {
            Blocks::Pixels(len) => {
                walk.rows(i * len..((i + 1) * len).min(walk.len()), rows);
                targets.extend(rows.iter().map(|row| Some(row.target)));
            }
            Blocks::Lines(lines) => {
                rows.clear();
                lines.block(walk, i, rows, targets);
            }
        }
    }

    /// What is gathered for the `pieces` of the reduction.
    pub(super) fn groups(&self, walk: &Walk, pieces: &[Piece]) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for piece in pieces {
            let shared = match self {
                Blocks::Pixels(_) => None,
                Blocks::Lines(lines) => groups.iter_mut().find_map(|group| {
                    let before = group.piece;
                    let [depth, height, width] = [0, 1, 2].map(|axis| piece.offset[axis] - before.offset[axis]);
                    let step = walk.step[1] as isize;
                    let is_found = depth == 0 && width == 0 && piece.channel == before.channel && height % step == 0;
                    is_found.then(|| (&mut group.taps, (height / step) as usize * lines.width))
                }),
            };
            match shared {
                Some((taps, pixels)) => taps.push(TapOf { pixels, start: piece.start }),
                None => groups.push(Group { piece: *piece, taps: vec![TapOf { pixels: 0, start: piece.start }] }),
            }
        }
        groups
    }
}

impl Lines {
    /// Where taps of the height read the same lines, and little is summed that is not there.
    fn of(walk: &Walk, limit: usize) -> Option<Self> {
        let [depth, height, width_of_grid] = walk.grid;
        let step = walk.step[1] as isize;
        let offsets = || walk.taps[1].iter().map(|tap| tap.offset);
        let lines_before = |offset: isize| {
            let first = offsets().find(|first| (offset - first) % step == 0).unwrap_or(offset);
            ((offset - first) / step) as usize
        };
        let behind = offsets().map(lines_before).max()?;
        if walk.by_position || behind == 0 || walk.len() == 0 {
            return None;
        }
        let width = width_of_grid.next_multiple_of(2);
        let (fitting, planes) = (limit / width, walk.batch * depth);
        let lines = match (fitting + behind) / (height + behind) {
            0 if fitting == 0 => return None,
            0 => Lines { planes: 1, rows: even(height, fitting), behind, width },
            fitting => Lines { planes: even(planes, fitting.min(planes)), rows: height, behind, width },
        };
        let there = lines.planes * lines.rows * width_of_grid;
        (8 * lines.summed().next_multiple_of(STEPS) <= 9 * there).then_some(lines)
    }

    /// Blocks of as many planes.
    fn parts(&self, walk: &Walk) -> usize {
        walk.grid[1].div_ceil(self.rows)
    }

    /// Pixels from the first one of a block to the last one that has a target.
    fn summed(&self) -> usize {
        (self.planes * (self.rows + self.behind) - self.behind) * self.width
    }

    fn block(&self, walk: &Walk, i: usize, rows: &mut Vec<Row>, targets: &mut Vec<Option<usize>>) {
        let parts = self.parts(walk);
        let (first, part) = (i / parts * self.planes, i % parts);
        let end = ((part + 1) * self.rows).min(walk.grid[1]);
        for plane in first..(first + self.planes).min(walk.batch * walk.grid[0]) {
            let (image, depth) = (plane / walk.grid[0], plane % walk.grid[0]);
            for line in part * self.rows..end + self.behind {
                let before = rows.len();
                walk.line(image, [depth, line, 0], self.width, rows);
                let there = if line < end { walk.grid[2] } else { 0 };
                targets.extend((0..self.width).map(|pixel| (pixel < there).then_some(rows[before + pixel].target)));
            }
        }
        targets.truncate(targets.len() - self.behind * self.width);
    }
}
