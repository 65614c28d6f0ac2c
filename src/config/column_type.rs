//! The names of destination types in `streams.json`, and the Arrow type of each.
