//! What the fuzz targets and the ordinary test of their corpus share: the types there are, valid values of them, and the promises that
//! every input is held to.

pub mod catalogue;
pub mod checks;
pub mod files;
pub mod lake;
pub mod messages;
pub mod seeds;
pub mod server;
pub mod streams;
