//! The whole system as its users meet it: real processes, real sockets, the official OpenAI client. Each test has a folder
//! and ports of its own.

#![cfg(feature = "test-chip")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod by_hand;
mod clients;
mod demo;
mod doctor;
mod draft;
mod enrolment;
mod gpus;
mod hostile;
mod markers;
mod marks;
mod measure;
mod openai;
mod place;
mod production;
