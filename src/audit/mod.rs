//! One line for each decision, session, release and refusal. What cannot be written is not done: every append is
//! acknowledged after it is in the file, and an error means that the operation is refused.

mod event;
mod file;
mod log;

pub use event::{AcceptedImage, AuditEvent, Part, SessionId, Step, band};
pub use file::{AuditError, Durability};
pub use log::AuditLog;

#[cfg(test)]
mod tests;
