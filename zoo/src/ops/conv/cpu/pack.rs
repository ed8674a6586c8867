//! Weights between the checkpoint's order and the engine's panels.

use super::super::Problem;
use super::Slabs;
use crate::ops::parallel::{Disjoint, part};
use rayon::prelude::*;

/// Which channels of the weight a pass reads, and which it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Reads input channels, writes output channels.
    Forward,
    /// Reads output channels, writes input channels.
    DataGradient,
}

/// Packs `weight` `[O, C / G, taps]` into `[slab, panel, tap x source channel, columns]`: of each slab, panels
/// of `columns` target channels. What joins different groups of a slab, and what lies beyond the slab's last
/// channel, is zero.
pub(super) fn pack(
    problem: &Problem,
    pass: Pass,
    slabs: &Slabs,
    taps: &[usize],
    columns: usize,
    weight: &[f32],
    packed: &mut [f32],
) {
    let depth = taps.len() * slabs.source;
    let panels = slabs.target.div_ceil(columns);
    let (group_channels, group_out) = (problem.group_channels(), problem.group_out_channels());
    let (source_group, target_group) = match pass {
        Pass::Forward => (group_channels, group_out),
        Pass::DataGradient => (group_out, group_channels),
    };
    let volume = problem.taps();
    packed.par_chunks_mut(depth * columns).enumerate().for_each(|(chunk, packed)| {
        let (slab, panel) = (chunk / panels, chunk % panels);
        let targets = panel * columns..((panel + 1) * columns).min(slabs.target);
        if slabs.merged > 1 || targets.len() < columns {
            packed.fill(0.0);
        }
        // One filter's taps, `[taps]` of the weight, go to one lane of the panel.
        let mut put = |source: usize, target: usize| {
            let group = slab * slabs.merged + source / source_group;
            let (out, channel) = match pass {
                Pass::Forward => (target % target_group, source % source_group),
                Pass::DataGradient => (source % source_group, target % target_group),
            };
            let filter = &weight[((group * group_out + out) * group_channels + channel) * volume..][..volume];
            let lane = target - targets.start;
            for (i, &tap) in taps.iter().enumerate() {
                packed[(i * slabs.source + source) * columns + lane] = filter[tap];
            }
        };
        // The weight is read in its own order; a block's share of the panel stays in the first-level cache.
        for first in (0..slabs.source).step_by(BLOCK) {
            let sources = first..(first + BLOCK).min(slabs.source);
            match pass {
                Pass::Forward => {
                    for target in targets.clone() {
                        for source in slabs.joined(sources.clone(), source_group, target / target_group) {
                            put(source, target);
                        }
                    }
                }
                Pass::DataGradient => {
                    for source in sources {
                        for target in slabs.joined(targets.clone(), target_group, source / source_group) {
                            put(source, target);
                        }
                    }
                }
            }
        }
    });
}

/// Source channels of a block.
const BLOCK: usize = 16;

/// Writes the weight gradient `[O, C / G, taps]` from its sums `[slab, tap x channel, slab's output channels]`;
/// taps that always lie in the padding have none.
pub(super) fn unpack(problem: &Problem, slabs: &Slabs, taps: &[usize], sums: &[f32], gradient: Disjoint) {
    let (group_channels, group_out, volume) = (problem.group_channels(), problem.group_out_channels(), problem.taps());
    let tasks = problem.out_channels.div_ceil(BLOCK);
    (0..tasks).into_par_iter().for_each(|task| {
        let outs = part(problem.out_channels, tasks, task);
        let filters = group_channels * volume;
        // SAFETY: tasks own disjoint output channels.
        let gradient = unsafe { gradient.slice(outs.start * filters..outs.end * filters) };
        if taps.len() < volume {
            gradient.fill(0.0);
        }
        for first in (0..group_channels).step_by(BLOCK) {
            for out in outs.clone() {
                let (slab, lane) = (out / slabs.target, out % slabs.target);
                let channel_start = lane / group_out * group_channels;
                for channel in first..(first + BLOCK).min(group_channels) {
                    let filter = &mut gradient[((out - outs.start) * group_channels + channel) * volume..][..volume];
                    for (i, &tap) in taps.iter().enumerate() {
                        let row = (slab * taps.len() + i) * slabs.source + channel_start + channel;
                        filter[tap] = sums[row * slabs.target + lane];
                    }
                }
            }
        }
    });
}
