//! What officers of the guard ask, over an attested session like everybody else: how it stands, what holds of a principal, and
//! its release; and, for two officers together, the wording that twenty prompts of a shared template have. No other text of anybody is in
//! these answers, because the guard has none.

use bytes::Bytes;
use casemate_attestation::strict_json;
use http::Response;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::access::Caller;
use super::answering::json_answer;
use super::body::Answer;
use super::{ApiError, Service};
use crate::guard::{Step, counters};
use crate::policy::Principal;
use crate::sentry::{Decision, Undisclosed};
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

/// Which shared template is to be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscloseRequest {
    /// Its reference in `/guard/status`.
    pub family: String,
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

    /// What was told of days: numbers that anybody may see, because nobody is in them.
    pub(super) async fn guard_days(&self, caller: &Caller) -> Result<Response<Answer>, ApiError> {
        self.officer(caller).await?;
        let (epsilon, delta) = (counters::EPSILON, counters::DELTA);
        let days = self.sentry.days();
        document(&serde_json::json!({"epsilon": epsilon, "delta": delta, "days": days}))
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

    /// Opens for the second of two officers what the first asked for.
    pub(super) async fn guard_disclose(
        &self,
        caller: &Caller,
        body: &[u8],
    ) -> Result<Response<Answer>, ApiError> {
        self.officer(caller).await?;
        let DiscloseRequest { family } = strict_json::from_slice(body, QUESTION_BYTES_MAX)
            .map_err(|_| ApiError::Invalid {
                param: "body".into(),
                expected: r#"{"family":"..."}, with the reference of a shared template"#.into(),
            })?;
        let officer = caller.connection.principal().clone();
        let opened = self.sentry.disclose(family, officer, now().secs()).await;
        match opened.ok_or(ApiError::Busy)? {
            Ok(disclosed) => document(&disclosed),
            Err(waiting @ Undisclosed::Waiting) => {
                document(&serde_json::json!({"waiting": waiting.to_string()}))
            }
            Err(Undisclosed::Unrecorded) => Err(ApiError::Internal),
            Err(refused) => Err(ApiError::Denied {
                reason: refused.to_string(),
                param: Some("family"),
            }),
        }
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
        let released = self.sentry.decide(decision).await;
        let released = released.map_err(|_| ApiError::Internal)?;
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
