//! Random values as PostgreSQL's input functions read them, about one in four an edge.

pub mod nested;
pub mod numbers;
pub mod other;
// By hand: one value per line would be a thousand lines.
#[rustfmt::skip]
pub mod regression;
pub mod strings;
pub mod times;

use super::dice::Dice;

/// Makes one value.
pub type Make = fn(&mut Dice) -> String;
