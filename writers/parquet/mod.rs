//! Stub: the module list, until the real table is merged.
pub(crate) mod labels;
pub(crate) mod partition;
