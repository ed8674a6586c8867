//! The weight gradient of the same algorithm, transposed step by step: at each point the transformed source
//! times the transformed output gradient, summed over tiles; the sums are transformed back into filters.

use super::super::panel::Transformed;
use super::super::tile::{Ahead, Tile};
use super::transform::{self, Grid, OUTPUTS, OnGrid, POINTS, TAPS, TileKernel, in_both_axes};
use super::{Block, Layout, VECTOR, Winograd, transform_source};
use crate::ops::Isa;
use crate::ops::lanes::{self, Element, Lanes};
use crate::ops::parallel::{Disjoint, part as share, with_scratch, with_scratch_of};
use crate::ops::tasks;
use crate::ops::transpose::transpose;
use std::ops::Range;

/// Bytes of a row or column that one product reduces: what it reads of its tiles stays in the first-level cache.
const TILES: usize = 512;
/// Numbers of both operands, in all blocks of tiles, that the last-level cache holds.
const OPERANDS: usize = 4 << 20;
/// Numbers of both operands in a group of blocks: who multiplies finds much of them in the second-level caches still.
const GROUP: usize = 1 << 20;
/// Channels, and output channels, of one task: its sums at all points stay in the second-level cache.
const CHUNK: usize = 64;
/// Into so many pieces the transforms of a block of tiles are cut.
const PARTS: usize = 8;

/// Writes `dw[O, C, taps]`, from products of `P`.
pub(in super::super) fn dense<N: Element, P: Transformed>(
    isa: Isa,
    winograd: &Winograd,
    x: &[N],
    dy: &[N],
    dw: Disjoint,
) {
    // Tiles that lie side by side have the same points.
    let winograd = &if P::SIDE == 1 { *winograd } else { winograd.whole() };
    let gradient = Gradient::new::<P>(isa, winograd, x, dy);
    let (all_blocks, block_len) = (gradient.blocks.len(), gradient.block_len());
    // Where the operands stay in the last-level cache, they are made once, and a task sums over all blocks for
    // some channels. Otherwise it goes by groups of blocks, and all sums are kept.
    if all_blocks * block_len <= OPERANDS {
        with_scratch_of(all_blocks * block_len, |operands: &mut [P]| {
            tasks::for_each_chunk(operands, block_len, |i, operands| gradient.transform(i, operands));
            let operands = &*operands;
            let [channel_chunks, out_chunks] = gradient.chunks();
            tasks::for_each(channel_chunks * out_chunks, |task| {
                let part = gradient.part(task / out_chunks, task % out_chunks);
                with_scratch(part.len(winograd), |buffer| {
                    let buffer = Disjoint::new(buffer);
                    for (i, operands) in operands.chunks_exact(block_len).enumerate() {
                        for point in 0..winograd.area() {
                            gradient.multiply(i, operands, point, &part, &part, buffer, &[]);
                        }
                    }
                    gradient.write(&part, &part, buffer, dw);
                });
            });
        });
        return;
    }
    let all = Part { channels: 0..winograd.source_channels, out: 0..winograd.target_channels };
    let group = (GROUP / block_len).clamp(1, all_blocks);
    with_scratch_of(group * block_len, |operands: &mut [P]| {
        with_scratch(all.len(winograd), |buffer| {
            let buffer = Disjoint::new(buffer);
            let [channel_chunks, _] = gradient.chunks();
            for first in (0..all_blocks).step_by(group) {
                let blocks = first..(first + group).min(all_blocks);
                let of_blocks = &mut operands[..blocks.len() * block_len];
                tasks::for_each_chunk(of_blocks, block_len, |i, operands| gradient.transform(first + i, operands));
                let operands = &*operands;
                let upcoming = gradient.upcoming(blocks.end..(blocks.end + group).min(all_blocks));
                let parts = winograd.area() * channel_chunks;
                tasks::for_each(parts, |task| {
                    let (point, chunk) = (task / channel_chunks, task % channel_chunks);
                    let part = Part { channels: gradient.part(chunk, 0).channels, out: all.out.clone() };
                    for (i, operands) in blocks.clone().zip(operands.chunks_exact(block_len)) {
                        let (products, nth) = (parts * blocks.len(), task * blocks.len() + i - first);
                        let upcoming = upcoming.map(|numbers| &numbers[share(numbers.len(), products, nth)]);
                        gradient.multiply(i, operands, point, &part, &all, buffer, &upcoming);
                    }
                });
            }
            tasks::for_each(winograd.source_channels / VECTOR, |block| {
                let channels = block * VECTOR..(block + 1) * VECTOR;
                gradient.write(&Part { channels, out: all.out.clone() }, &all, buffer, dw);
            });
        });
    });
}

/// Some channels of the source, and some output channels. Sums of a part are `[point, depth tap, channel, out]`.
#[derive(Debug, Clone)]
struct Part {
    channels: Range<usize>,
    out: Range<usize>,
}

impl Part {
    /// Numbers from one point to the next. The extra line keeps the points from falling into one cache set.
    fn point(&self, winograd: &Winograd) -> usize {
        winograd.depth_taps * self.channels.len() * self.out.len() + VECTOR
    }

    fn len(&self, winograd: &Winograd) -> usize {
        winograd.area() * self.point(winograd)
    }

    /// Where the sums of a depth tap and a channel begin, at the first point.
    fn at(&self, tap: usize, channel: usize) -> usize {
        (tap * self.channels.len() + channel - self.channels.start) * self.out.len()
    }
}

/// What the steps have in common.
struct Gradient<'a, N> {
    isa: Isa,
    winograd: &'a Winograd,
    x: &'a [N],
    dy: &'a [N],
    /// Of the transformed source in a block of tiles.
    layout: Layout,
    blocks: Vec<Block>,
}

impl<'a, N: Element> Gradient<'a, N> {
    fn new<P: Transformed>(isa: Isa, winograd: &'a Winograd, x: &'a [N], dy: &'a [N]) -> Self {
        let (depth, most) = (winograd.depth(), TILES / size_of::<P>());
        let tiles = P::room(winograd.len().div_ceil(winograd.len().div_ceil(most).max(1)).max(1));
        let area = winograd.area();
        let layout = Layout { area, tiles, pitch: depth + VECTOR, blocks: 1, block: depth, side: P::SIDE };
        let range = |i: usize| i * tiles..((i + 1) * tiles).min(winograd.len());
        let blocks = tasks::map(winograd.len().div_ceil(tiles), |i| winograd.block(range(i)));
        Gradient { isa, winograd, x, dy, layout, blocks }
    }

    /// Numbers of both operands in a block of tiles.
    fn block_len(&self) -> usize {
        self.layout.len() + self.layout.area * self.gradient_point()
    }

    /// Numbers of the transformed output gradient from one point to the next: `[panel, tile, columns]`.
    fn gradient_point(&self) -> usize {
        let columns = self.isa.columns();
        self.winograd.target_channels.div_ceil(columns) * self.layout.tiles * columns + VECTOR
    }

    /// Into how many parts the channels and the output channels are cut.
    fn chunks(&self) -> [usize; 2] {
        [self.winograd.source_channels, self.winograd.target_channels].map(|channels| channels.div_ceil(CHUNK))
    }

    fn part(&self, channels: usize, out: usize) -> Part {
        let of = |chunk: usize, all: usize| chunk * CHUNK..((chunk + 1) * CHUNK).min(all);
        Part { channels: of(channels, self.winograd.source_channels), out: of(out, self.winograd.target_channels) }
    }

    /// What is read of the source and of the output gradient when the operands of `blocks` are made.
    fn upcoming(&self, blocks: Range<usize>) -> [&[N]; 2] {
        let (winograd, tiles) = (self.winograd, self.layout.tiles);
        let tiles = blocks.start * tiles..(blocks.end * tiles).min(winograd.len());
        let x = winograd.rows(tiles.clone(), winograd.source, 0, winograd.source_channels);
        let dy = winograd.rows(tiles, winograd.target, 0, winograd.target_channels);
        [&self.x[x], &self.dy[dy]]
    }

    /// Makes both operands of a block of tiles.
    fn transform<P: Transformed>(&self, block: usize, operands: &mut [P]) {
        let (points, gradients) = operands.split_at_mut(self.layout.len());
        let (points, gradients) = (Disjoint::new(points), Disjoint::new(gradients));
        let block = &self.blocks[block];
        self.layout.in_parts(PARTS, block.places.len(), |tiles| {
            transform_source(self.isa, self.winograd, self.x, block, tiles.clone(), &self.layout, points);
            self.transform_gradient(block, tiles, gradients);
        });
    }

    /// Transforms the output gradient of `tiles` of a block.
    fn transform_gradient<P: Transformed>(&self, block: &Block, tiles: Range<usize>, gradients: Disjoint<P>) {
        let ([_, height, width], out) = (self.winograd.target, self.winograd.target_channels);
        with_scratch_of(out, |zeros: &mut [N]| {
            zeros.fill(N::narrow(0.0));
            for (tile, place) in tiles.clone().zip(&block.places[tiles]) {
                let plane = place.image * self.winograd.target[0] + place.depth;
                let pixel = |i: usize, j: usize| -> *const N {
                    let (row, column) = (place.at[0] + i, place.at[1] + j);
                    if row >= height || column >= width {
                        return zeros.as_ptr();
                    }
                    self.dy[((plane * height + row) * width + column) * out..][..out].as_ptr()
                };
                let kernel = TransformGradient {
                    pixels: std::array::from_fn(|i| std::array::from_fn(|j| pixel(i, j))),
                    out,
                    columns: self.isa.columns(),
                    gradients: gradients.at(0, self.layout.area * self.gradient_point()),
                    tile,
                    grid: place.grid,
                    panel: self.layout.tiles * self.isa.columns(),
                    point: self.gradient_point(),
                };
                // SAFETY: each pixel holds the output channels, and the tile's points are this task's.
                unsafe { lanes::run(self.isa, OnGrid(kernel)) }
            }
        });
    }

    /// Adds the product of the operands of a block of tiles at `point` to the sums of `of`, which lie among
    /// those of `all`. The first block overwrites them. What is `upcoming` is fetched meanwhile.
    #[expect(clippy::too_many_arguments, reason = "three of them say where the sums are, and two what is read")]
    fn multiply<P: Transformed>(
        &self,
        block: usize,
        operands: &[P],
        point: usize,
        of: &Part,
        all: &Part,
        sums: Disjoint,
        upcoming: &[&[N]],
    ) {
        // A block that has no tile with this point adds nothing, and if it is the first one, zeros.
        let with_point = self.blocks[block].tiles_with(point);
        let (columns, tiles) = (self.isa.columns(), P::room(with_point.len()));
        let (points, gradients) = operands.split_at(self.layout.len());
        let (points, gradients) = (&points[point * self.layout.point()..], &gradients[point * self.gradient_point()..]);
        let distances: Vec<usize> = (0..self.isa.rows()).map(|row| row * all.out.len()).collect();
        let pieces = of.channels.len().div_ceil(self.isa.rows());
        let calls = self.winograd.depth_taps * of.out.len().div_ceil(columns) * pieces;
        let mut call = 0;
        for tap in 0..self.winograd.depth_taps {
            for column in of.out.clone().step_by(columns) {
                let line = column / columns * self.layout.tiles + with_point.start;
                let b = &gradients[line * columns..][..tiles * columns];
                let tile_columns = columns.min(of.out.end - column);
                for i in 0..pieces {
                    let rows = share(of.channels.len(), pieces, i);
                    let channel = of.channels.start + rows.start;
                    let start = point * all.point(self.winograd) + all.at(tap, channel) + column - all.out.start;
                    let tile = Tile {
                        depth: tiles,
                        a: points[self.layout.at(with_point.start, tap * self.winograd.source_channels + channel)..]
                            .as_ptr(),
                        step: self.layout.pitch * P::SIDE,
                        b: b.as_ptr(),
                        c: sums.at(start, (rows.len() - 1) * all.out.len() + tile_columns),
                        rows: distances.as_ptr(),
                        pitch: None,
                        columns: tile_columns,
                        accumulate: block > 0,
                        finish: None,
                        ahead: Ahead::by_turns(upcoming, calls, call, tiles),
                    };
                    call += 1;
                    // SAFETY: `points` holds a line and `b` a row of the panel for each tile; `at` checked the
                    // sums, which no other task has; a tile has at most `isa.rows()` rows.
                    unsafe { P::multiply::<f32, true>(self.isa, rows.len(), &tile) }
                }
            }
        }
    }

    /// Transforms the sums of `part`, which lie among those of `all`, back into filters.
    fn write(&self, part: &Part, all: &Part, sums: Disjoint, dw: Disjoint) {
        let (channels, out) = (self.winograd.source_channels, part.out.len());
        let volume = self.winograd.depth_taps * TAPS * TAPS;
        // `[channel, tap, out]`.
        with_scratch(VECTOR * volume * out, |filters| {
            for first in part.channels.clone().step_by(VECTOR) {
                for tap in 0..self.winograd.depth_taps {
                    for channel in first..first + VECTOR {
                        let start = all.at(tap, channel) + part.out.start - all.out.start;
                        let kernel = TransformSums {
                            sums: sums.at(start, (self.winograd.area() - 1) * all.point(self.winograd) + out),
                            grid: Grid::filled(self.winograd.points),
                            point: all.point(self.winograd),
                            out,
                            filters: filters[((channel - first) * volume + tap * TAPS * TAPS) * out..].as_mut_ptr(),
                            tap: out,
                        };
                        // SAFETY: the points are there and nobody writes them any more, and `filters` has space for
                        // the taps of the channel.
                        unsafe { lanes::run(self.isa, OnGrid(kernel)) }
                    }
                }
                let pitch = channels * volume;
                let to = dw.at((part.out.start * channels + first) * volume, (out - 1) * pitch + VECTOR * volume);
                // SAFETY: no other task has these output channels and channels.
                unsafe { transpose(self.isa, [VECTOR * volume, out], filters, out, to, pitch) }
            }
        });
    }
}

/// Transforms one tile of the output gradient.
struct TransformGradient<N, P> {
    pixels: [[*const N; OUTPUTS]; OUTPUTS],
    out: usize,
    columns: usize,
    gradients: *mut P,
    tile: usize,
    grid: Grid,
    /// Numbers from one panel to the next, and from one point to the next.
    panel: usize,
    point: usize,
}

impl<N: Element, P: Transformed> TileKernel for TransformGradient<N, P> {
    fn grid(&self) -> Grid {
        self.grid
    }

    /// # Safety
    /// `out` numbers, a multiple of [`VECTOR`], lie at each pixel, and there is space for the points.
    #[inline(always)]
    unsafe fn run_on<L: Lanes>(&self, grid: Grid) {
        // SAFETY: the caller's promise.
        unsafe {
            for channel in (0..self.out).step_by(L::WIDTH) {
                let tile = transform::load_pixels(&self.pixels, channel);
                let values = in_both_axes::<transform::OutputTransposed, L, OUTPUTS, POINTS>(grid, tile);
                let panel = channel / self.columns * self.panel;
                let line = self.tile / P::SIDE * self.columns + channel % self.columns;
                let to = self.gradients.add(panel + line * P::SIDE);
                transform::put_points(grid, &values, to, self.point, self.tile % P::SIDE);
            }
        }
    }
}

/// Transforms the sums of one channel under one depth tap back into filters.
struct TransformSums {
    sums: *const f32,
    grid: Grid,
    point: usize,
    out: usize,
    filters: *mut f32,
    /// Numbers from one tap to the next.
    tap: usize,
}

impl TileKernel for TransformSums {
    fn grid(&self) -> Grid {
        self.grid
    }

    /// # Safety
    /// Points of `out` numbers, a multiple of [`VECTOR`], lie at `sums`, and there is space for nine taps.
    #[inline(always)]
    unsafe fn run_on<L: Lanes>(&self, grid: Grid) {
        // SAFETY: the caller's promise.
        unsafe {
            for channel in (0..self.out).step_by(L::WIDTH) {
                let points = transform::load_points(grid, self.sums.add(channel), self.point);
                let taps = in_both_axes::<transform::FilterTransposed, L, POINTS, TAPS>(grid, points);
                transform::store(&taps, self.filters.add(channel), self.tap);
            }
        }
    }
}
