//! Kernels of 3x3 with stride 1 (3D: of any depth) by Winograd's F(4x4, 3x3): a tile of 6x6 inputs is
//! transformed into 36 points, at each of which a tile's channels are multiplied with a matrix; the transform
//! back gives 4x4 outputs. That takes 36 products instead of 144. Where a map is no multiple of four, the last tiles have
//! fewer outputs, and fewer points; where there are few tiles, all have, because their filters are the large operand.
//!
//! The shape is that of the direct engine: the gather transforms, the micro-kernel multiplies, the epilogue
//! transforms back. The rounding error is about three times that of the direct sum.

mod transform;
pub(super) mod weight_gradient;

use super::super::Problem;
use super::filters::Form;
use super::finish::{Finish, FinishFrom, write_vector};
use super::observed::Observed;
use super::pack::{Pass, lay_out};
use super::panel::Transformed;
use super::tile::{Ahead, Tile};
use super::{Operands, TASKS};
use crate::ops::Isa;
use crate::ops::lanes::{self, Element, Lanes};
use crate::ops::parallel::{Disjoint, part, with_scratch, with_scratch_of};
use crate::ops::tasks;
use std::any::TypeId;
use std::ops::Range;
use transform::{FEW_POINTS, Grid, OUTPUTS, OnGrid, POINTS, TAPS, TileKernel, in_both_axes, points_of};

/// Channels are handled in whole vectors of the widest registers.
const VECTOR: usize = 16;

/// One pass as Winograd sees it: targets in tiles, each of which reads a window of the source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Winograd {
    batch: usize,
    source: [usize; 3],
    target: [usize; 3],
    /// From a target position to the first source position under its window, with the sign turned.
    padding: [isize; 3],
    /// Taps along the depth.
    depth_taps: usize,
    /// Points of a tile along height and width, of the last one fewer: a map is no multiple of the tiles.
    points: usize,
    last: [usize; 2],
    /// Tiles along height and width.
    tiles: [usize; 2],
    source_channels: usize,
    target_channels: usize,
}

impl Winograd {
    /// The forward pass, where this method can do it and pays. Filters that are `kept` cost less.
    pub(super) fn forward(isa: Isa, problem: &Problem, kept: bool) -> Option<Self> {
        Self::of(isa, problem, Pass::Forward, kept)
    }

    /// The data gradient: a convolution of `dy` with turned filters.
    pub(super) fn data_gradient(isa: Isa, problem: &Problem) -> Option<Self> {
        Self::of(isa, problem, Pass::DataGradient, false)
    }

    fn of(isa: Isa, problem: &Problem, pass: Pass, kept: bool) -> Option<Self> {
        let [_, height, width] = problem.kernel;
        let plain = !problem.direct && problem.groups == 1 && problem.stride == [1; 3] && problem.dilation == [1; 3];
        let channels = [problem.channels, problem.out_channels];
        if isa == Isa::Amx
            || !plain
            || [height, width] != [TAPS; 2]
            || !channels.iter().all(|c| c.is_multiple_of(VECTOR))
        {
            return None;
        }
        let padding = problem.padding.map(|padding| padding as isize);
        let (source, target, padding) = match pass {
            Pass::Forward => (problem.input, problem.output, padding),
            Pass::DataGradient => {
                let turned = std::array::from_fn(|axis| problem.kernel[axis] as isize - 1 - padding[axis]);
                (problem.output, problem.input, turned)
            }
        };
        let [source_channels, target_channels] = match pass {
            Pass::Forward => channels,
            Pass::DataGradient => [problem.out_channels, problem.channels],
        };
        let of_points = |points: usize| {
            let outputs = points - (TAPS - 1);
            let tiles = [1, 2].map(|axis| target[axis].div_ceil(outputs));
            let last = [1, 2].map(|axis| match target[axis] % outputs {
                0 => points,
                fewer => points_of(fewer),
            });
            let depth_taps = problem.kernel[0];
            Winograd {
                batch: problem.batch,
                source,
                target,
                padding,
                depth_taps,
                points,
                last,
                tiles,
                source_channels,
                target_channels,
            }
        };
        // Fewer points take more products, and their filters less memory.
        let filter_tiles = if kept { KEPT_FILTER_TILES } else { FILTER_TILES };
        let cost = |winograd: &Winograd| winograd.cost(filter_tiles);
        let winograd = [POINTS, FEW_POINTS].map(of_points).into_iter().min_by_key(cost)?;
        (cost(&winograd) < winograd.direct_cost(filter_tiles)).then_some(winograd)
    }

    /// Products for each pair of channels, of filters that cost as much as `filter_tiles` tiles.
    fn cost(&self, filter_tiles: usize) -> usize {
        // A map without positions has no tile.
        let points = |axis: usize| (self.tiles[axis] * self.points).saturating_sub(self.points - self.last[axis]);
        self.batch * self.target[0] * points(0) * points(1) + self.area() * filter_tiles
    }

    /// Those of a direct sum. It skips the taps that lie in the padding, which on small maps are many.
    fn direct_cost(&self, filter_tiles: usize) -> usize {
        let inside = |axis: usize| -> usize {
            let reach = |at: usize, tap: usize| at as isize + tap as isize - self.padding[axis];
            let reads =
                |at: usize| (0..TAPS).filter(|&tap| (0..self.source[axis] as isize).contains(&reach(at, tap))).count();
            (0..self.target[axis]).map(reads).sum()
        };
        self.batch * self.target[0] * inside(1) * inside(2) + TAPS * TAPS * filter_tiles
    }

    /// Points of a tile.
    fn area(&self) -> usize {
        self.points * self.points
    }

    /// Outputs of a tile along an axis.
    fn outputs(&self) -> usize {
        self.points - (TAPS - 1)
    }

    /// The same tiles, all of which have all points.
    fn whole(self) -> Self {
        Winograd { last: [self.points; 2], ..self }
    }

    /// All tiles of all images.
    fn len(&self) -> usize {
        self.batch * self.target[0] * self.tiles[0] * self.tiles[1]
    }

    /// Length of the reduction at each point.
    fn depth(&self) -> usize {
        self.depth_taps * self.source_channels
    }

    /// The numbers, `channels` a position, of the rows of a map that lie under `tiles`, in one piece with what is between
    /// them, `planes` further on along the depth.
    fn rows(&self, tiles: Range<usize>, map: [usize; 3], planes: isize, channels: usize) -> Range<usize> {
        let [depth, height, width] = map;
        let row = |tile: usize, further: usize| {
            let place = self.tile(tile);
            let plane = place.depth.saturating_add_signed(planes).min(depth - 1);
            (place.image * depth + plane) * height + (place.at[0] + further).min(height)
        };
        if tiles.is_empty() {
            return 0..0;
        }
        // Where planes end, the last tiles may lie above the first ones.
        let first = row(tiles.start, 0);
        first * width * channels..row(tiles.end - 1, self.outputs()).max(first) * width * channels
    }

    fn tile(&self, index: usize) -> Place {
        let [rows, columns] = self.tiles;
        let (plane, within) = (index / (rows * columns), index % (rows * columns));
        Place {
            image: plane / self.target[0],
            depth: plane % self.target[0],
            at: [within / columns * self.outputs(), within % columns * self.outputs()],
            grid: Grid {
                all: self.points,
                of_tile: [
                    if within / columns + 1 == rows { self.last[0] } else { self.points },
                    if within % columns + 1 == columns { self.last[1] } else { self.points },
                ],
            },
        }
    }

    /// The tiles of `range`, as a block has them.
    fn block(&self, range: Range<usize>) -> Block {
        // By whether rows and columns are all there.
        let class = |place: &Place| match place.grid.of_tile.map(|points| points == self.points) {
            [true, false] => 0,
            [true, true] => 1,
            [false, true] => 2,
            [false, false] => 3,
        };
        let mut places: Vec<Place> = range.map(|tile| self.tile(tile)).collect();
        places.sort_by_key(class);
        let ends = std::array::from_fn(|of| places.partition_point(|place| class(place) <= of));
        Block { places, ends, last: Grid { all: self.points, of_tile: self.last } }
    }
}

/// Tiles that are multiplied together, in an order in which those that have a point are neighbours: first those that lack
/// columns, then those that lack nothing, then rows, then both.
#[derive(Debug)]
struct Block {
    places: Vec<Place>,
    /// Where those of each kind end.
    ends: [usize; 4],
    /// Of one that may lack both.
    last: Grid,
}

impl Block {
    /// The tiles that have `point`.
    fn tiles_with(&self, point: usize) -> Range<usize> {
        match self.last.lacks(point) {
            [false, false] => 0..self.ends[3],
            [false, true] => self.ends[0]..self.ends[2],
            [true, false] => 0..self.ends[1],
            [true, true] => self.ends[0]..self.ends[1],
        }
    }
}

/// Transforming and reading the filters costs about as much as so many tiles.
const FILTER_TILES: usize = 32;
/// Reading filters that were transformed before costs about as much as so many tiles.
const KEPT_FILTER_TILES: usize = 12;

/// Where a tile writes: the position of its first output.
#[derive(Debug, Clone, Copy)]
struct Place {
    image: usize,
    depth: usize,
    at: [usize; 2],
    grid: Grid,
}

/// Where the transformed source lies in a buffer: `[point, block of the reduction, tile, channel]`.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Points of a tile.
    area: usize,
    /// Tiles that there is space for.
    tiles: usize,
    /// Numbers from one tile to the next.
    pitch: usize,
    /// The reduction's blocks: how many, and how many numbers each but the last has.
    blocks: usize,
    block: usize,
    /// Tiles that lie side by side, number by number: those are steps of a reduction over tiles.
    side: usize,
}

impl Layout {
    fn len(&self) -> usize {
        self.area * self.point()
    }

    /// Numbers from one point to the next.
    fn point(&self) -> usize {
        self.blocks * self.tiles * self.pitch
    }

    /// The numbers of `tile` from number `k` of the reduction on, at the first point.
    fn at(&self, tile: usize, k: usize) -> usize {
        (k / self.block * self.tiles + tile / self.side * self.side) * self.pitch + k % self.block * self.side
    }

    /// Cuts a block of `tiles` into `parts` for as many tasks, `f` of some of them. Tiles that lie side by side are one task's.
    fn in_parts(&self, parts: usize, tiles: usize, f: impl Fn(Range<usize>) + Sync) {
        tasks::for_each(parts, |i| {
            let of = part(tiles.div_ceil(self.side), parts, i);
            f(of.start * self.side..(of.end * self.side).min(tiles));
        });
    }
}

/// Writes all channels of all targets, from products of `P`.
pub(super) fn pass<N: Element, P: Transformed>(
    isa: Isa,
    problem: &Problem,
    pass: Pass,
    winograd: &Winograd,
    operands: Operands<N>,
) {
    let Operands { source, weight, finish, target, observed } = operands;
    let columns = isa.columns();
    let (depth, panels) = (winograd.depth(), winograd.target_channels.div_ceil(columns));
    let blocks = depth.div_ceil(P::DEPTH);
    let block = depth.div_ceil(blocks * VECTOR) * VECTOR;
    // With many channels, or few tiles, the filters are the large operand: the transformed source is then made once for
    // all tasks, which share out the target's channels.
    let few_tiles = winograd.len() < TASKS * OWN_TILES / 2;
    let shared = depth * winograd.target_channels > if few_tiles { SHARED_FROM_OF_FEW } else { SHARED_FROM };
    // Four chunks at the least where they can be had: there may be one block of tiles only.
    let chunk = if shared { SHARED_CHANNELS.min(winograd.target_channels / 4).div_ceil(columns) } else { panels };
    let chunks = panels.div_ceil(chunk);
    let most = if shared { SHARED_TILES } else { OWN_TILES * size_of::<f32>() / size_of::<P>() };
    let least_blocks = if shared { 1 } else { TASKS };
    let tiles = winograd.len().div_ceil(winograd.len().div_ceil(most).max(least_blocks)).max(1);
    let layout = Layout { area: winograd.area(), tiles, pitch: P::PITCH, blocks, block, side: 1 };
    let task = PassTask { isa, winograd, layout, source, target, finish, observed };
    let range = |i: usize| (i * tiles).min(winograd.len())..((i + 1) * tiles).min(winograd.len());
    let of_chunk = |i: usize| {
        let panels = i * chunk..((i + 1) * chunk).min(panels);
        Filters { points: winograd.points, depth, columns, panels }
    };
    let chunk_len = of_chunk(0).len();
    let transform_chunk = |chunk: usize, filters: &mut [P]| {
        of_chunk(chunk).transform(isa, problem, pass, winograd, weight.values, filters);
    };
    let transform_all = |all: &mut [P]| {
        all.chunks_mut(chunk_len).enumerate().for_each(|(chunk, filters)| transform_chunk(chunk, filters));
    };

    let all_blocks = winograd.len().div_ceil(tiles);
    let form = || Form::Winograd(isa, TypeId::of::<P>(), winograd.points, chunk);
    if !shared {
        weight.with_filters(form, chunk_len, transform_all, |transformed| {
            tasks::for_each(all_blocks, |i| {
                with_scratch_of(layout.len(), |points: &mut [P]| {
                    let block = winograd.block(range(i));
                    task.transform(&block, 0..block.places.len(), Disjoint::new(points));
                    let upcoming = task.upcoming(range(i), range(i + 1));
                    task.multiply(&block, points, &of_chunk(0), transformed, &upcoming);
                });
            });
        });
        return;
    }
    let tile_blocks: Vec<Block> = (0..all_blocks).map(|i| winograd.block(range(i))).collect();
    // As many blocks of tiles at a time as fit into the last-level cache.
    let group = (SHARED_POINTS / size_of::<P>() / layout.len()).clamp(1, all_blocks.max(1));
    // Filters that are read once only are transformed by the task that reads them, and stay in its cache.
    let once = group == all_blocks && weight.kept.is_none();
    let all_len = if once { 0 } else { chunks * chunk_len };
    weight.with_filters(form, all_len, transform_all, |transformed| {
        for first in (0..all_blocks).step_by(group) {
            let blocks = first..(first + group).min(all_blocks);
            with_scratch_of(blocks.len() * layout.len(), |points: &mut [P]| {
                tasks::for_each_chunk(points, layout.len(), |i, points| {
                    let (block, points) = (&tile_blocks[first + i], Disjoint::new(points));
                    layout.in_parts(PARTS, block.places.len(), |tiles| task.transform(block, tiles, points));
                });
                let of_block = |i: usize| &points[(i - first) * layout.len()..][..layout.len()];
                if once {
                    tasks::for_each(chunks, |chunk| {
                        with_scratch_of(chunk_len, |transformed: &mut [P]| {
                            transform_chunk(chunk, transformed);
                            for i in blocks.clone() {
                                task.multiply(&tile_blocks[i], of_block(i), &of_chunk(chunk), transformed, &[]);
                            }
                        });
                    });
                } else {
                    tasks::for_each(blocks.len() * chunks, |i| {
                        let (i, chunk) = (blocks.start + i % blocks.len(), i / blocks.len());
                        let transformed = &transformed[chunk * chunk_len..];
                        task.multiply(&tile_blocks[i], of_block(i), &of_chunk(chunk), transformed, &[]);
                    });
                }
            });
        }
    });
}

/// From so many products of channels on, the transformed source is shared between tasks.
const SHARED_FROM: usize = 128 * 128;
/// The same, where a task would have half of its tiles, or fewer.
const SHARED_FROM_OF_FEW: usize = 64 * 64;
/// Tiles of a block that one task transforms and multiplies: all of it stays in the second-level cache. Of numbers of half
/// the size twice as many.
const OWN_TILES: usize = 28;
/// Tiles of a block that tasks share, and the target channels that each of them takes.
const SHARED_TILES: usize = 70;
const SHARED_CHANNELS: usize = 64;
/// Bytes of transformed source that are made at a time.
const SHARED_POINTS: usize = 16 << 20;
/// Into so many pieces the transform of a shared block is cut.
const PARTS: usize = 4;

/// Transformed filters: `[point, panel of target channels, depth, columns]`, some steps of the depth side by side.
#[derive(Debug, Clone)]
struct Filters {
    /// Points along each axis.
    points: usize,
    depth: usize,
    columns: usize,
    /// The panels that are there.
    panels: Range<usize>,
}

impl Filters {
    /// Numbers from one point to the next. The extra lines keep the 36 streams from falling into one cache set.
    fn point(&self) -> usize {
        self.panels.len() * self.depth * self.columns + 5 * VECTOR
    }

    fn area(&self) -> usize {
        self.points * self.points
    }

    fn len(&self) -> usize {
        self.area() * self.point()
    }

    fn transform<P: Transformed>(
        &self,
        isa: Isa,
        problem: &Problem,
        pass: Pass,
        winograd: &Winograd,
        weight: &[f32],
        transformed: &mut [P],
    ) {
        let (volume, in_channels) = (problem.taps(), problem.channels);
        let (depth_taps, source, target) = (winograd.depth_taps, winograd.source_channels, winograd.target_channels);
        let transformed = Disjoint::new(transformed);
        let blocks = source / VECTOR;
        tasks::for_each(self.panels.len() * blocks, |task| {
            let (panel, block) = (self.panels.start + task / blocks, task % blocks);
            let targets = panel * self.columns..((panel + 1) * self.columns).min(target);
            let sources = block * VECTOR..(block + 1) * VECTOR;
            // `[source, tap, column]`: stays in the first-level cache.
            with_scratch(VECTOR * volume * self.columns, |taps| {
                lay_out(isa, pass, weight, [in_channels, volume], sources.clone(), &targets, self.columns, taps);
                for tap in 0..depth_taps {
                    let line = (panel - self.panels.start) * self.depth + tap * source + sources.start;
                    let transformed =
                        transformed.at(line * self.columns, (self.area() - 1) * self.point() + VECTOR * self.columns);
                    // The data gradient reads the taps from the last one back to the first.
                    let columns = self.columns as isize;
                    let (first, step) = match pass {
                        Pass::Forward => (tap * TAPS * TAPS, columns),
                        Pass::DataGradient => (volume - 1 - tap * TAPS * TAPS, -columns),
                    };
                    let kernel = TransformFilters {
                        taps: taps[first * self.columns..].as_ptr(),
                        step,
                        source: volume * self.columns,
                        columns: self.columns,
                        transformed,
                        points: self.points,
                        point: self.point(),
                    };
                    // SAFETY: `taps` holds nine taps of each source, `at` checked the points, which no other task has.
                    unsafe { lanes::run(isa, OnGrid(kernel)) }
                }
            });
        });
    }
}

/// Transforms the filters of [`VECTOR`] source channels to the target channels of one panel.
struct TransformFilters<P> {
    /// Of the first source the first tap, and numbers from there to the next tap, and to the next source.
    taps: *const f32,
    step: isize,
    source: usize,
    /// Numbers of each tap.
    columns: usize,
    transformed: *mut P,
    /// Points along each axis, and numbers from one to the next.
    points: usize,
    point: usize,
}

impl<P: Transformed> TileKernel for TransformFilters<P> {
    fn grid(&self) -> Grid {
        Grid::filled(self.points)
    }

    /// # Safety
    /// Nine taps of each source lie at `taps`, and there is space for the points.
    #[inline(always)]
    unsafe fn run_on<L: Lanes>(&self, grid: Grid) {
        // SAFETY: the caller's promise.
        unsafe {
            for source in 0..VECTOR {
                let line = self.transformed.add(source / P::SIDE * P::SIDE * self.columns);
                for column in (0..self.columns).step_by(L::WIDTH) {
                    let taps = transform::load(self.taps.add(source * self.source + column), self.step);
                    let points = in_both_axes::<transform::Filter, L, TAPS, POINTS>(grid, taps);
                    transform::put_points(grid, &points, line.add(column * P::SIDE), self.point, source % P::SIDE);
                }
            }
        }
    }
}

/// What the tasks of a pass have in common.
#[derive(Clone, Copy)]
struct PassTask<'a, N> {
    isa: Isa,
    winograd: &'a Winograd,
    layout: Layout,
    source: &'a [N],
    target: Disjoint<'a, N>,
    finish: Option<Finish<'a, N>>,
    observed: Option<&'a Observed>,
}

impl<N: Element> PassTask<'_, N> {
    /// Transforms what `tiles` of a block read.
    fn transform<P: Transformed>(&self, block: &Block, tiles: Range<usize>, points: Disjoint<P>) {
        transform_source(self.isa, self.winograd, self.source, block, tiles, &self.layout, points);
    }

    /// What is read and written when the tiles of `range` are transformed back, and then read of the tiles of `next`. The
    /// memory has nothing to do while products are summed.
    fn upcoming(&self, range: Range<usize>, next: Range<usize>) -> Vec<*const [N]> {
        let winograd = self.winograd;
        let last_plane = winograd.depth_taps as isize - 1 - winograd.padding[0];
        let read = winograd.rows(next, winograd.source, last_plane, winograd.source_channels);
        let written = winograd.rows(range, winograd.target, 0, winograd.target_channels);
        let target = self.target.at(written.start, written.len()).cast_const();
        let mut upcoming = vec![&raw const self.source[read], std::ptr::slice_from_raw_parts(target, written.len())];
        let residual = self.finish.and_then(|finish| finish.residual);
        upcoming.extend(residual.map(|residual| &raw const residual[written]));
        upcoming
    }

    /// Multiplies the transformed tiles of a block with transformed filters and transforms back. The next filters, and what
    /// is `upcoming`, are fetched meanwhile.
    fn multiply<P: Transformed>(
        &self,
        block: &Block,
        points: &[P],
        filters: &Filters,
        transformed: &[P],
        upcoming: &[*const [N]],
    ) {
        let Filters { depth, columns, ref panels, .. } = *filters;
        let channels = panels.start * columns..(panels.end * columns).min(self.winograd.target_channels);
        let pitch = panels.len() * columns + VECTOR;
        let tiles = block.places.len();
        let distances: Vec<usize> = (0..tiles).map(|tile| tile * pitch).collect();
        let pieces_of = |tiles: &Range<usize>| tiles.len().div_ceil(self.isa.rows());
        let area = self.winograd.area();
        let pieces: usize = (0..area).map(|point| pieces_of(&block.tiles_with(point))).sum();
        let turns = upcoming.len() + 1;
        let calls = (pieces * panels.len() * depth.div_ceil(self.layout.block)).div_ceil(turns);
        let mut call = 0;
        with_scratch(area * tiles * pitch, |products| {
            for point in 0..area {
                let products = &mut products[point * tiles * pitch..][..tiles * pitch];
                let with_point = block.tiles_with(point);
                let pieces = pieces_of(&with_point);
                for panel in panels.clone() {
                    let line = (panel - panels.start) * depth;
                    let of_panel = &transformed[point * filters.point() + line * columns..];
                    for k in (0..depth).step_by(self.layout.block) {
                        let len = self.layout.block.min(depth - k);
                        let b = &of_panel[k * columns..][..len * columns];
                        // The next filters lie behind these, but for the gap between points.
                        let next = &of_panel[(k + len) * columns..];
                        let next = &next[..next.len().min(b.len())];
                        for i in 0..pieces {
                            let rows = part(with_point.len(), pieces, i);
                            let rows = with_point.start + rows.start..with_point.start + rows.end;
                            let tile = Tile {
                                depth: len,
                                a: points[point * self.layout.point() + self.layout.at(rows.start, k)..].as_ptr(),
                                step: 1,
                                b: b.as_ptr(),
                                c: products[(panel - panels.start) * columns..].as_mut_ptr(),
                                rows: distances[rows.clone()].as_ptr(),
                                pitch: None,
                                columns: columns.min(channels.end - panel * columns),
                                accumulate: k > 0,
                                finish: None,
                                ahead: match upcoming.get(call % turns) {
                                    Some(numbers) => Ahead::share(*numbers, calls, call / turns, len),
                                    None => Ahead::share(next, pieces, i, len),
                                },
                            };
                            call += 1;
                            // SAFETY: `points` holds the rows at PITCH, `b` the reduction, and `products` has a
                            // line for each row; a tile has at most `isa.rows()` rows.
                            unsafe { P::multiply::<f32, false>(self.isa, rows.len(), &tile) }
                        }
                    }
                }
            }
            let [_, height, width] = self.winograd.target;
            let pixels = self.winograd.batch * self.winograd.target.iter().product::<usize>();
            let (all, outputs) = (self.winograd.target_channels, self.winograd.outputs());
            let mut written = Vec::new();
            for (i, place) in block.places.iter().enumerate() {
                let row = ((place.image * self.winograd.target[0] + place.depth) * height + place.at[0]) * width;
                let kernel = TransformBack {
                    products: products[i * pitch..].as_ptr(),
                    point: tiles * pitch,
                    grid: place.grid,
                    channels: channels.len(),
                    target: self.target.at(0, pixels * all).wrapping_add(channels.start),
                    first: (row + place.at[1]) * all,
                    finish: self.finish.map(|finish| finish.from(channels.start)),
                    row: width * all,
                    pixel: all,
                    extent: [outputs.min(height - place.at[0]), outputs.min(width - place.at[1])],
                };
                if self.observed.is_some() {
                    let rows = (0..kernel.extent[0]).map(|i| kernel.first + i * kernel.row);
                    written.extend(rows.flat_map(|row| (0..kernel.extent[1]).map(move |j| row + j * all)));
                }
                // SAFETY: `products` holds the tile's points, the target's extent lies inside the map, as does what
                // `finish` reads, and no other task has these positions and channels.
                unsafe { lanes::run(self.isa, OnGrid(kernel)) }
            }
            if let Some(observed) = self.observed {
                // SAFETY: this task has written these positions and channels.
                unsafe { observed.add(self.isa, self.target, &written, channels.start, channels.len()) }
            }
        });
    }
}

/// Transforms what `tiles` of a block read of `source` into `points`.
fn transform_source<N: Element, P: Transformed>(
    isa: Isa,
    winograd: &Winograd,
    source: &[N],
    block: &Block,
    tiles: Range<usize>,
    layout: &Layout,
    points: Disjoint<P>,
) {
    let channels = winograd.source_channels;
    let [source_depth, height, width] = winograd.source.map(|extent| extent as isize);
    with_scratch_of(channels, |zeros: &mut [N]| {
        zeros.fill(N::narrow(0.0));
        for (tile, place) in tiles.clone().zip(&block.places[tiles]) {
            for tap in 0..winograd.depth_taps {
                let depth = (place.depth + tap) as isize - winograd.padding[0];
                let first_row = place.at[0] as isize - winograd.padding[1];
                let first_column = place.at[1] as isize - winograd.padding[2];
                let pixel = |i: usize, j: usize| -> *const N {
                    let (row, column) = (first_row + i as isize, first_column + j as isize);
                    let inside = (0..source_depth).contains(&depth)
                        && (0..height).contains(&row)
                        && (0..width).contains(&column);
                    if !inside {
                        return zeros.as_ptr();
                    }
                    let plane = place.image as isize * source_depth + depth;
                    source[((plane * height + row) * width + column) as usize * channels..][..channels].as_ptr()
                };
                let kernel = TransformSource {
                    pixels: std::array::from_fn(|i| std::array::from_fn(|j| pixel(i, j))),
                    channels,
                    reduction: tap * channels,
                    tile,
                    grid: place.grid,
                    layout,
                    points: points.at(0, layout.len()),
                };
                // SAFETY: each pixel holds the channels, and the tile's points are this task's.
                unsafe { lanes::run(isa, OnGrid(kernel)) }
            }
        }
    });
}

/// Transforms one tile of one depth of the source.
struct TransformSource<'a, N, P> {
    pixels: [[*const N; POINTS]; POINTS],
    channels: usize,
    /// Where these channels begin in the reduction.
    reduction: usize,
    tile: usize,
    grid: Grid,
    layout: &'a Layout,
    points: *mut P,
}

impl<N: Element, P: Transformed> TileKernel for TransformSource<'_, N, P> {
    fn grid(&self) -> Grid {
        self.grid
    }

    /// # Safety
    /// `channels` numbers, a multiple of [`VECTOR`], lie at each pixel, and `points` has space for the layout.
    #[inline(always)]
    unsafe fn run_on<L: Lanes>(&self, grid: Grid) {
        // SAFETY: the caller's promise; a block of the reduction is a multiple of VECTOR too.
        unsafe {
            let point = self.layout.point();
            for channel in (0..self.channels).step_by(L::WIDTH) {
                let tile = transform::load_pixels(&self.pixels, channel);
                let values = in_both_axes::<transform::Input, L, POINTS, POINTS>(grid, tile);
                let points = self.points.add(self.layout.at(self.tile, self.reduction + channel));
                match self.layout.side {
                    1 => transform::store_points(grid, &values, points, point),
                    side => transform::put_points(grid, &values, points, point, self.tile % side),
                }
            }
        }
    }
}

/// Transforms one tile of products back into target positions.
struct TransformBack<N> {
    products: *const f32,
    /// Numbers from one point to the next.
    point: usize,
    grid: Grid,
    channels: usize,
    /// The target from the first channel on, and the tile's first number in it.
    target: *mut N,
    first: usize,
    finish: Option<FinishFrom<N>>,
    /// Numbers from one target row to the next, and from one pixel to the next.
    row: usize,
    pixel: usize,
    /// The tile's rows and columns that lie inside the map.
    extent: [usize; 2],
}

impl<N: Element> TileKernel for TransformBack<N> {
    fn grid(&self) -> Grid {
        self.grid
    }

    /// # Safety
    /// The tile's points of `channels` numbers, a multiple of [`VECTOR`], lie at `products`, and `target` has space for
    /// the extent.
    #[inline(always)]
    unsafe fn run_on<L: Lanes>(&self, grid: Grid) {
        // SAFETY: the caller's promise.
        unsafe {
            for channel in (0..self.channels).step_by(L::WIDTH) {
                let points = transform::load_points(grid, self.products.add(channel), self.point);
                let outputs = in_both_axes::<transform::Output, L, POINTS, OUTPUTS>(grid, points);
                for (i, row) in outputs.iter().enumerate().take(self.extent[0]) {
                    for (j, value) in row.iter().enumerate().take(self.extent[1]) {
                        let at = self.first + i * self.row + j * self.pixel + channel;
                        write_vector(&self.finish, *value, channel, at, self.target);
                    }
                }
            }
        }
    }
}
