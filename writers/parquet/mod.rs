//! Stub: the module list, until the real table is merged.
