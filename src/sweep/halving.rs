//! Successive halving (Karnin et al. 2013; Jamieson and Talwalkar 2016): all trials run for a while, the better part
//! goes on.
//!
//! It is synchronous: a rung is decided when all of it is there. The asynchronous form (ASHA) decides by who comes
//! first, so that a busy machine would change the result; what a straggler costs on one machine is small beside that.
//! A trial that goes on is resumed, not repeated: its schedule is that of its whole length from the start.

use crate::error::{Error, Result};
use crate::experiment::Length;

/// How trials become fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Halving {
    /// How many begin.
    pub trials: usize,
    /// Of so many one goes on, so many times longer.
    pub factor: usize,
    /// How long all run.
    pub least: Length,
}

/// How far some of the trials go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rung {
    /// How many.
    pub trials: usize,
    /// Until when; `None`: to the end.
    pub until: Option<Length>,
}

impl Halving {
    /// The rungs of an experiment of this length, the last one being the whole of it.
    pub(super) fn rungs(&self, whole: Length) -> Result<Vec<Rung>> {
        let (unit, least, whole) = match (self.least, whole) {
            (Length::Epochs(least), Length::Epochs(whole)) => (Length::Epochs as fn(u64) -> Length, least, whole),
            (Length::Steps(least), Length::Steps(whole)) => (Length::Steps as fn(u64) -> Length, least, whole),
            (_, whole) => {
                let unit = if matches!(whole, Length::Epochs(_)) { "epochs" } else { "steps" };
                return Err(Error::input(format!(
                    "`least` of the sweep is in {unit} as the experiment's length is; write `least: {{{unit}: ..}}`"
                )));
            }
        };
        if least >= whole {
            return Err(Error::input(format!(
                "`least` of the sweep, {least}, has to be shorter than the experiment, {whole}"
            )));
        }
        let mut rungs = Vec::new();
        let (mut trials, mut until) = (self.trials, least);
        while until < whole && trials > 1 {
            rungs.push(Rung { trials, until: Some(unit(until)) });
            trials = (trials / self.factor).max(1);
            until = until.saturating_mul(self.factor as u64);
        }
        rungs.push(Rung { trials, until: None });
        Ok(rungs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rungs_end_with_the_whole_length() {
        let rungs = |trials, factor, least, whole| -> Vec<(usize, Option<Length>)> {
            let halving = Halving { trials, factor, least: Length::Steps(least) };
            let rungs = halving.rungs(Length::Steps(whole)).expect("shorter");
            rungs.into_iter().map(|rung| (rung.trials, rung.until)).collect()
        };
        let steps = |steps| Some(Length::Steps(steps));
        assert_eq!(rungs(8, 2, 10, 80), [(8, steps(10)), (4, steps(20)), (2, steps(40)), (1, None)]);
        assert_eq!(rungs(8, 2, 10, 25), [(8, steps(10)), (4, steps(20)), (2, None)]);
        assert_eq!(rungs(2, 4, 1, 1000), [(2, steps(1)), (1, None)], "the last one needs no rung");
        assert_eq!(rungs(1, 2, 1, 10), [(1, None)]);
    }
}
