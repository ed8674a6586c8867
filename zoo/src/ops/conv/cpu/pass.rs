//! The forward pass and the data gradient: rows are target positions, the reduction runs over taps and
//! source channels.

use super::super::Problem;
use super::pack::{Pass, pack};
use super::tile::{DEPTH, PITCH, Tile, multiply};
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
    weight: &[f32],
    target: Disjoint,
) {
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
                            step: 1,
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
