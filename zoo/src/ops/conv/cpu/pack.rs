//! Weights between the checkpoint's order and the engine's panels.

use super::super::Problem;
use super::Slabs;
use super::panel::Of;
use super::walk::Reduction;
use crate::ops::Isa;
use crate::ops::isa::vectorised;
use crate::ops::parallel::{Disjoint, part, with_scratch};
use crate::ops::tasks;
use crate::ops::transpose::transpose;
use std::ops::Range;

/// Which channels of the weight a pass reads, and which it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Reads input channels, writes output channels.
    Forward,
    /// Reads output channels, writes input channels.
    DataGradient,
}

/// Packs `weight` `[O, C / G, taps]` into `[slab, panel, tap x source channel, columns]`: of each slab, panels
/// of `columns` target channels; some steps of the reduction lie side by side (see [`super::panel::Panel::SIDE`]). What joins
/// different groups of a slab, and what lies beyond the slab's last channel, is zero.
#[expect(clippy::too_many_arguments, reason = "what, of which problem, in which order, and where to")]
pub(super) fn pack<P: Of<f32>>(
    isa: Isa,
    problem: &Problem,
    pass: Pass,
    slabs: &Slabs,
    reduction: &Reduction,
    columns: usize,
    weight: &[f32],
    packed: &mut [P],
) {
    let (depth, panels) = (reduction.len, slabs.target.div_ceil(columns));
    let (group_channels, group_out, volume) = (problem.group_channels(), problem.group_out_channels(), problem.taps());
    tasks::for_each_chunk(packed, depth * columns, |chunk, packed| {
        let (slab, panel) = (chunk / panels, chunk % panels);
        let targets = panel * columns..((panel + 1) * columns).min(slabs.target);
        if slabs.merged > 1 || targets.len() < columns || depth > reduction.taps.len() * slabs.source {
            packed.fill(P::ZERO);
        }
        if volume == 1 && slabs.merged == 1 && pass == Pass::DataGradient {
            let filters = &weight[slab * group_out * group_channels..][..group_out * group_channels];
            return vectorised(|| pack_pointwise(filters, group_channels, targets, columns, packed));
        }
        if slabs.merged == 1 && slabs.source.is_multiple_of(P::SIDE) {
            let filters = &weight[slab * group_out * group_channels * volume..];
            return with_scratch(BLOCK * volume * columns, |block| {
                for first in (0..slabs.source).step_by(BLOCK) {
                    let sources = first..(first + BLOCK).min(slabs.source);
                    lay_out(isa, pass, filters, [group_channels, volume], sources.clone(), &targets, columns, block);
                    for &(tap, start) in &reduction.taps {
                        let row = |source: usize| &block[(source * volume + tap) * columns..][..columns];
                        let steps = &mut packed[(start + first) * columns..][..sources.len() * columns];
                        for (i, steps) in steps.chunks_exact_mut(P::SIDE * columns).enumerate() {
                            match P::SIDE {
                                1 => P::lay(&[row(i)], steps),
                                _ => P::lay(&[row(2 * i), row(2 * i + 1)], steps),
                            }
                        }
                    }
                }
            });
        }
        for group in 0..slabs.merged {
            let filters = &weight[(slab * slabs.merged + group) * group_out * group_channels * volume..];
            let sources = slabs.of_group(group, slabs.source);
            let group_targets = slabs.of_group(group, slabs.target);
            let (first_out, first_channel) = match pass {
                Pass::Forward => (group_targets.start, sources.start),
                Pass::DataGradient => (sources.start, group_targets.start),
            };
            let targets = group_targets.start.max(targets.start)..group_targets.end.min(targets.end);
            // A block's share of the panel stays in the first-level cache, and the weight is read in its own
            // order: output channel, input channel, tap.
            for block in sources.clone().step_by(BLOCK) {
                let sources = block..(block + BLOCK).min(sources.end);
                let (outs, channels) = match pass {
                    Pass::Forward => (&targets, &sources),
                    Pass::DataGradient => (&sources, &targets),
                };
                for out in outs.clone() {
                    for channel in channels.clone() {
                        let filter = (out - first_out) * group_channels + channel - first_channel;
                        let filter = &filters[filter * volume..][..volume];
                        let (source, target) = match pass {
                            Pass::Forward => (channel, out),
                            Pass::DataGradient => (out, channel),
                        };
                        let column = target - panel * columns;
                        for &(tap, start) in &reduction.taps {
                            let step = start + source;
                            let line = &mut packed[step / P::SIDE * P::SIDE * columns..][..P::SIDE * columns];
                            P::set(line, column, step % P::SIDE, filter[tap]);
                        }
                    }
                }
            }
        }
    });
}

/// Source channels of a block.
const BLOCK: usize = 16;

/// Packs a panel of `targets` of the filters `[out, channels]`, each a single tap, for the data gradient: they lie in its
/// order.
#[inline(always)]
fn pack_pointwise<P: Of<f32>>(
    filters: &[f32],
    channels: usize,
    targets: Range<usize>,
    columns: usize,
    packed: &mut [P],
) {
    let steps = filters.chunks(P::SIDE * channels);
    for (steps, line) in steps.zip(packed.chunks_exact_mut(P::SIDE * columns)) {
        match steps.len() > channels {
            true => P::lay(&[&steps[targets.clone()], &steps[channels..][targets.clone()]], line),
            false => P::lay(&[&steps[targets.clone()]], line),
        }
    }
}

/// Writes what leads from `sources` to `targets`, of filters `[out, channel, tap]` of so many channels and taps, as
/// `[source, tap, column]`. Columns behind the last target are zero.
#[expect(clippy::too_many_arguments, reason = "a matrix of filters, which part of it, and where to")]
pub(super) fn lay_out(
    isa: Isa,
    pass: Pass,
    filters: &[f32],
    [channels, volume]: [usize; 2],
    sources: Range<usize>,
    targets: &Range<usize>,
    columns: usize,
    block: &mut [f32],
) {
    assert!(targets.len() <= columns, "a column for each target");
    let block = &mut block[..sources.len() * volume * columns];
    if targets.len() < columns {
        block.fill(0.0);
    }
    match pass {
        Pass::Forward => {
            let filters = &filters[(targets.start * channels + sources.start) * volume..];
            let size = [targets.len(), sources.len() * volume];
            // SAFETY: `block` has a line of `columns` for each source and tap.
            unsafe { transpose(isa, size, filters, channels * volume, block.as_mut_ptr(), columns) }
        }
        Pass::DataGradient => {
            for (source, block) in sources.zip(block.chunks_exact_mut(volume * columns)) {
                let filters = &filters[(source * channels + targets.start) * volume..];
                // SAFETY: `block` has a line of `columns` for each tap.
                unsafe { transpose(isa, [targets.len(), volume], filters, volume, block.as_mut_ptr(), columns) }
            }
        }
    }
}

/// Writes the weight gradient `[O, C / G, taps]` from its sums `[slab, panel, tap x channel, width]`, where panels are of
/// `width` of the slab's output channels; taps that always lie in the padding have none.
pub(super) fn unpack(
    isa: Isa,
    problem: &Problem,
    slabs: &Slabs,
    width: usize,
    taps: &[usize],
    sums: &[f32],
    gradient: Disjoint,
) {
    let (group_channels, group_out, volume) = (problem.group_channels(), problem.group_out_channels(), problem.taps());
    let panels = slabs.target.div_ceil(width);
    let depth = taps.len() * slabs.source;
    if slabs.merged == 1 && taps.len() == volume {
        tasks::for_each(slabs.count * panels, |task| {
            let (slab, panel) = (task / panels, task % panels);
            let lanes = panel * width..((panel + 1) * width).min(slabs.target);
            let (first, len) = (slab * slabs.target + lanes.start, group_channels * volume);
            // SAFETY: tasks own disjoint output channels.
            let gradient = unsafe { gradient.slice(first * len..(first + lanes.len()) * len) };
            let sums = &sums[task * depth * width..][..depth * width];
            // Rows of the sums under one channel, or of all channels where each has one.
            let (step, size, pitch) = match volume {
                1 => (group_channels, [group_channels, lanes.len()], width),
                _ => (1, [volume, lanes.len()], group_channels * width),
            };
            for channel in (0..group_channels).step_by(step) {
                let to = gradient[channel * volume..].as_mut_ptr();
                // SAFETY: `gradient` has `len` numbers for each output channel, of which these are the channel's.
                unsafe { transpose(isa, size, &sums[channel * width..], pitch, to, len) }
            }
        });
        return;
    }
    let blocks = problem.out_channels.div_ceil(BLOCK);
    tasks::for_each(blocks, |task| {
        let outs = part(problem.out_channels, blocks, task);
        let out_len = group_channels * volume;
        // SAFETY: tasks own disjoint output channels.
        let gradient = unsafe { gradient.slice(outs.start * out_len..outs.end * out_len) };
        if taps.len() < volume {
            gradient.fill(0.0);
        }
        for block in (0..group_channels).step_by(BLOCK) {
            let channels = block..(block + BLOCK).min(group_channels);
            for (out, filters) in outs.clone().zip(gradient.chunks_exact_mut(out_len)) {
                let (slab, lane) = (out / slabs.target, out % slabs.target);
                let (panel, column) = (slab * panels + lane / width, lane % width);
                let first_row = panel * depth + lane / group_out * group_channels;
                let filters = filters[channels.start * volume..channels.end * volume].chunks_exact_mut(volume);
                for (channel, filter) in channels.clone().zip(filters) {
                    let mut at = (first_row + channel) * width + column;
                    for &tap in taps {
                        filter[tap] = sums[at];
                        at += slabs.source * width;
                    }
                }
            }
        }
    });
}
