//! The extraction guard: what can be told of a principal from wording alone, in bounded memory and without keeping text,
//! and what of an answer leaves.
//!
//! Between session and queue stand what watches wording and counts what is given; between sampler and stream what of a
//! request may be granted ([`reveal`]), which random numbers it gets ([`noise`]), whose mark it carries ([`mark`]), and what
//! is kept in ([`keep`]). How an answer looks from outside is [`shape`]'s.
//!
//! Pure: time, keys and chance are arguments, nothing here reads a clock or a file. [`crate::sentry`] asks it for a server.
//! What it cannot see stands in docs/GUARD.md.

pub mod background;
mod candidates;
mod company;
pub mod counters;
mod counts;
pub mod families;
pub mod family;
pub mod filter;
pub mod hash;
pub mod keep;
mod layout;
mod letters;
mod lookup;
pub mod mark;
pub mod meter;
pub mod noise;
mod order;
pub mod outlet;
pub mod people;
pub mod reveal;
pub mod scaffold;
pub mod shape;
pub mod shingle;
pub mod sketch;
pub mod template;
pub mod verdict;
pub mod wager;
pub mod watch;
pub mod withheld;

pub use background::Background;
pub use candidates::Principals;
pub use counters::Counters;
pub use families::Families;
pub use family::Family;
pub use hash::GuardKey;
pub use meter::{AccountId, Accounts, Allowance, Holder, Meter, MeterError, Tally, Wants};
pub use outlet::Outlet;
pub use people::{Note, People, Person};
pub use shingle::Prompt;
pub use sketch::{Score, Sketch};
pub use template::{Template, TemplateError, Wording};
pub use verdict::{Change, Ladder, Pace, Reason, Step, e_bh};
pub use wager::{Honest, Wager, WagerError};
pub use watch::{Sighting, Terms, Watch};
pub use withheld::{Asked, Conditions, Measures, Refusal, WithheldOption};
