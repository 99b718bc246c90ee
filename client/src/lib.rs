//! Verifying client and loopback proxy: attests a server before a single prompt leaves this machine, then offers programs
//! on it a plain OpenAI endpoint. Knows nothing of models; never compiles candle.
//!
//! A request meets these modules in this order: [`proxy`] takes it from a local program, [`session`] holds the attested
//! connection over [`tls`], [`trust`] and [`identity`] say who counts. [`config`] and [`report`] are for people.

pub mod command;
pub mod config;
pub mod error;
pub mod exit;
pub mod files;
pub mod floors;
pub mod harden;
pub mod identity;
pub mod proxy;
pub mod recorded;
pub mod records;
pub mod report;
pub mod session;
pub mod tls;
pub mod trust;
