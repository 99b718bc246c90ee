//! The extraction guard: what it can tell of a principal from wording alone, in bounded memory and without keeping text.
//!
//! Pure: time and keys are arguments, nothing here reads a clock or a file. **Not wired yet**: no part of the server asks it.
//! What it cannot see stands in docs/GUARD.md.

pub mod background;
pub mod families;
pub mod filter;
pub mod hash;
mod layout;
pub mod shingle;
pub mod sketch;
pub mod verdict;
pub mod wager;

pub use background::Background;
pub use families::{Families, Family, Principals};
pub use hash::GuardKey;
pub use shingle::Prompt;
pub use sketch::{Score, Sketch};
pub use verdict::{Change, Ladder, Pace, Reason, Step, e_bh};
pub use wager::{Honest, Wager, WagerError};
