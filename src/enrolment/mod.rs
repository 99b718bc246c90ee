//! How a machine enters the fleet list by its own word and not by a typed number (tpm.md, rules E1 to E8).
//!
//! Three files travel: the machine's request, the organisation's challenge, the machine's answer. Nothing that the machine says of
//! itself counts: the endorsement key comes out of its maker's certificate, and the answer shows that both keys live in one TPM.

mod devices;
mod documents;
mod error;
mod machine;
mod organisation;

pub use devices::{Found, ask, device_nonce, judge, judge_all, none_twice, processor_data};
pub use documents::{Answer, Bytes, Challenge, Document, Kind, Request, Subject, TpmRequest};
pub use error::EnrolmentError;
pub use machine::{answer, request};
pub use organisation::{Redeemed, Vouch, challenge, redeem, shown_id};

/// What a processor's evidence for enrolment is over, in the place of a session's binding.
pub const PROCESSOR_DATA: [u8; 64] =
    *b"casemate/enrolment/v1: this evidence serves for enrolment alone.";
