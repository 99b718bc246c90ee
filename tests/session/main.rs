//! The attested session over real sockets: a server of this process with the test chip and a scripted model, the product's
//! own client, and clients and servers that lie. Each row of the catalogue of attacks is provoked through public interfaces.

#![cfg(feature = "test-chip")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::tests_outside_test_module,
    reason = "a test that cannot go on fails"
)]

// What the tests are made of.
mod client;
mod false_server;
mod harness;
mod obedient;
mod organisation;
mod player;
mod raw;
mod script;
mod tap;
mod weak;

// The tests, by subject.
mod arranged;
mod audit;
mod biases;
mod channel;
mod eavesdropper;
mod errors;
mod evidence;
mod flood;
mod freshness;
mod gpus;
mod guard;
mod guard_budgets;
mod guard_days;
mod guard_disclosure;
mod guard_officer;
mod kept;
mod logprobs;
mod mutual;
mod oracles;
mod outside;
mod range;
mod range_weak;
mod revocation;
mod shaped;
mod shaped_http2;
mod shapes;
mod streams;
mod topics;
mod transport;
mod weighed;
