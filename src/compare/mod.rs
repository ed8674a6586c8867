//! What a comparison of runs says, apart from how it is shown: seeds as one unit, spreads and intervals, significance,
//! and which runs nothing else beats. Numbers in, numbers out: no tables, no SQL.

mod estimate;
mod pareto;
mod seeds;
mod significance;
mod student;

pub use estimate::Estimate;
pub use pareto::front;
pub use seeds::{Group, group_by_recipe};
pub use significance::{Difference, Method, holm};
