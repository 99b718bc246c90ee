//! What officers of the guard ask, over an attested session like everybody else: how it stands, what holds of a principal, and
//! its release. No text of anybody is in these answers, because the guard has none.

use bytes::Bytes;
use casemate_attestation::strict_json;
use http::Response;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::access::Caller;
use super::answering::json_answer;
use super::body::Answer;
use super::{ApiError, Service};
use crate::guard::Step;
use crate::policy::Principal;
use crate::sentry::Decision;
use crate::session::now;

/// The longest question.
pub(super) const QUESTION_BYTES_MAX: usize = 4096;

/// About whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// Its name.
    pub principal: Principal,
}

/// Where somebody is to stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// Its name.
    pub principal: Principal,
    /// On which step.
    pub to: Step,
}

impl Service {
    pub(super) async fn guard_status(&self, caller: &Caller) -> Result<Response<Answer>, ApiError> {
        let bundle = self.officer(caller).await?;
        let mode = bundle.document().guard().mode;
        let status = self
            .sentry
            .status(now().secs())
            .await
            .ok_or(ApiError::Busy)?;
        document(&serde_json::json!({"mode": mode, "status": status}))
    }

    pub(super) async fn guard_explain(
        &self,
        caller: &Caller,
        body: &[u8],
    ) -> Result<Response<Answer>, ApiError> {
        self.officer(caller).await?;
        let ExplainRequest { principal } = question(body)?;
        let explained = self.sentry.explain(principal).await;
        document(&explained.ok_or(ApiError::Busy)?)
    }

    /// Nobody decides about himself.
    pub(super) async fn guard_release(
        &self,
        caller: &Caller,
        body: &[u8],
    ) -> Result<Response<Answer>, ApiError> {
        let bundle = self.officer(caller).await?;
        let ReleaseRequest { principal, to } = question(body)?;
        let officer = caller.connection.principal().clone();
        if principal == officer {
            let reason = "an officer does not decide about himself; ask another one".to_owned();
            return Err(ApiError::Denied {
                reason,
                param: Some("principal"),
            });
        }
        let Some((team, _)) = bundle.team_of(&principal) else {
            return Err(invalid_principal());
        };
        let terms = bundle.document().guard().terms(team);
        let decision = Decision {
            principal,
            to,
            officer,
            terms,
            now: now().secs(),
        };
        let released = self.sentry.decide(decision).await.ok_or(ApiError::Busy)?;
        let unchanged = || ApiError::Invalid {
            param: "to".into(),
            expected: "another step than where the principal stands; see /guard/explain".into(),
        };
        document(&released.ok_or_else(unchanged)?)
    }
}

fn invalid_principal() -> ApiError {
    ApiError::Invalid {
        param: "principal".into(),
        expected: "a member of a team of the policy in force".into(),
    }
}

fn question<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    strict_json::from_slice(body, QUESTION_BYTES_MAX).map_err(|_| ApiError::Invalid {
        param: "body".into(),
        expected: r#"{"principal":"spiffe://..."}, and for a release also "to": open, options_withheld, reasoning_withheld, slowed, stepped_up or closed"#.into(),
    })
}

fn document(document: &impl Serialize) -> Result<Response<Answer>, ApiError> {
    let bytes = serde_json::to_vec(document).map_err(|_| ApiError::Internal)?;
    Ok(json_answer(Bytes::from(bytes)))
}
