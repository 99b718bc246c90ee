//! What vouches for the machine of `casemate connect`: the same devices as a server's.

use casemate_client::config::OwnSection;
use casemate_client::session::OwnEvidence;

use crate::serve::provider;
use crate::session::now;

/// Opens the device that the client's configuration names.
///
/// # Errors
/// What is wrong, and what to do, for the user.
pub fn evidence(section: &OwnSection) -> Result<OwnEvidence, String> {
    let provider = provider::of_client(section, now()).map_err(|error| error.to_string())?;
    Ok(OwnEvidence::new(provider))
}
