//! The extraction guard. What is here stands between the sampler and the stream: what of a request may be granted
//! ([`reveal`]), which random numbers it gets ([`noise`]), whose mark it carries ([`mark`]), and what is kept in ([`keep`]).
//!
//! Pure: keys, randomness and rules are arguments.

pub mod keep;
pub mod mark;
pub mod noise;
pub mod outlet;
pub mod reveal;

pub use outlet::Outlet;
