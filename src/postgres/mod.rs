//! Everything that knows PostgreSQL: connecting, its catalog, its types, its wire format.

pub mod catalog;
mod certificate;
pub mod chunk;
pub mod connect;
pub mod copy;
pub mod decode;
mod frame;
pub mod numeric;
pub mod quote;
mod sqlstate;
mod startup;
#[cfg(test)]
mod testing;
mod tls;
mod transport;
pub mod types;
pub mod wire;
