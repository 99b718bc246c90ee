//! The Casemate server, its broker and the operator's commands. Modules stand in the order in which a request meets them.

pub mod api;
pub mod devices;
pub mod guard;
pub mod listener;
pub mod policy;
pub mod queue;
pub mod sentry;
pub mod serve;
pub mod session;
pub mod tls;

pub mod audit;
pub mod broker;
pub mod commands;
pub mod config;
#[cfg(feature = "test-chip")]
pub mod demo;
pub mod doctor;
pub mod enrolment;
pub mod harden;
pub mod host;
pub mod image;
pub mod keys;
pub mod org;
pub mod range;
pub mod rim;
pub mod secrets;
pub mod vendors;
