//! The guard against the goals of its design: what is found, how soon, and how rarely honest people are taken for crawlers.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on should stop"
)]

mod crawler;
mod family;
mod traffic;
mod week;
mod week_server;
