//! Stub: the module list, until the real table is merged.
pub(crate) mod encode;
pub(crate) mod labels;
pub(crate) mod layout;
pub(crate) mod partition;
pub(crate) mod stage;
