//! Which library verifies the ECDSA signatures of reports over P-384: `aws-lc-rs`, which is four times as fast
//! (docs/decisions/0006), or `ring` where the former cannot be built. Names and meaning are the same, and so are the verdicts on
//! every vector (scripts/check-wasm).

#[cfg(not(target_family = "wasm"))]
pub(crate) use aws_lc_rs::signature::*;
#[cfg(target_family = "wasm")]
pub(crate) use ring::signature::*;
