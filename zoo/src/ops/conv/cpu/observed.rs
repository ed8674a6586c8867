//! The moments of a result, taken while what a task wrote is still in its cache.

use crate::ops::Isa;
use crate::ops::lanes::{self, Element};
use crate::ops::moments::{AddMoments, Moments};
use crate::ops::parallel::Disjoint;
use std::sync::Mutex;

/// Moments of the channels of a result, from all of its tasks.
#[derive(Debug, Default)]
pub(in super::super) struct Observed {
    parts: Mutex<Vec<Part>>,
}

/// What one task wrote.
#[derive(Debug)]
struct Part {
    /// The first of its channels.
    channel: usize,
    /// Parts are joined in this order, whoever comes first.
    order: usize,
    moments: Moments,
}

impl Observed {
    /// Adds `channels` channels from `channel` on of the positions that begin at `rows`.
    ///
    /// # Safety
    /// The caller wrote them, and nobody writes them any more.
    pub(super) unsafe fn add<N: Element>(
        &self,
        isa: Isa,
        target: Disjoint<N>,
        rows: &[usize],
        channel: usize,
        channels: usize,
    ) {
        let Some((&order, last)) = rows.first().zip(rows.iter().max()) else { return };
        let mut moments = Moments::none(channels);
        let x = target.at(channel, last + channels);
        // SAFETY: the CPU has the instructions that the pass was written with, `at` checked the last row, and the
        // rest is the caller's promise.
        unsafe { lanes::run(isa, AddMoments { x: x.cast_const(), rows, moments: &mut moments }) };
        self.parts.lock().expect("nothing panics while it is held").push(Part { channel, order, moments });
    }

    /// Those of all `channels`; nothing where no task has observed any.
    pub(in super::super) fn joined(self, channels: usize) -> Option<Moments> {
        let mut parts = self.parts.into_inner().expect("nothing panics while it is held");
        parts.sort_by_key(|part| (part.channel, part.order));
        let mut all = Moments::none(channels);
        for of_channels in parts.chunk_by(|a, b| a.channel == b.channel) {
            let mut joined = Moments::none(of_channels[0].moments.mean.len());
            of_channels.iter().for_each(|part| joined.join(&part.moments));
            let at = of_channels[0].channel..of_channels[0].channel + joined.mean.len();
            all.mean[at.clone()].copy_from_slice(&joined.mean);
            all.squares[at].copy_from_slice(&joined.squares);
            all.count = joined.count;
        }
        (all.count > 0.).then_some(all)
    }
}
