//! What is kept in: system prompts, whatever they are disguised as ([`Scan`]), and canaries. The text of an answer passes
//! through a [`Keeper`], which holds back what may become a leak and never gives it out once it is one.

mod grams;
mod keeper;
mod normal;
mod rolling;
mod scan;
mod secret;
mod suspects;
mod views;

pub use keeper::{Keeper, Leaked};
pub use normal::normal;
pub use scan::Scan;
pub use secret::{Secret, Secrets, TooLong};
