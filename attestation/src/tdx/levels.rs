//! How good the firmware is: rules T8 to T11, over Intel's signed levels.

use super::lines::Lines;
use super::parts::TdxTcb;
use super::pck::PckPlatform;
use super::policy::TdxPolicy;
use super::quote::TdxQuote;
use super::rejection::TdxRejection;
use super::tcb::{Judged, QeIdentity, TcbInfo, TcbStatus};

/// What each part was judged to be.
pub(crate) struct Levels {
    /// Every part on its own. None may be revoked.
    parts: Vec<(&'static str, TcbStatus)>,
    /// What joining would forget: the quoting enclave may need configuration, and what runs now may be worse than what
    /// was launched.
    apart: Vec<(&'static str, TcbStatus)>,
    together: Judged,
}

/// Rules T8, T9 and T10.
pub(crate) fn judge(
    quote: &TdxQuote,
    tcb_info: &TcbInfo,
    identity: &QeIdentity,
    platform: &PckPlatform,
    policy: &TdxPolicy,
    lines: &mut Lines,
) -> Result<Levels, TdxRejection> {
    let enclave = identity.level(quote.qe_report())?;
    let version = quote.qe_report().version();
    lines.pass(
        "T8",
        format!(
            "Intel's TD quoting enclave, version {version}: {}",
            enclave.status
        ),
    );

    tcb_info.must_know_module(quote)?;
    let launch_svn = quote.tee_tcb_svn();
    let current_svn = quote.current_tee_tcb_svn();
    let module = tcb_info.module_level(TdxTcb::Launch, &launch_svn)?;
    let current_module = match &current_svn {
        Some(svn) => tcb_info.module_level(TdxTcb::Current, svn)?,
        None => None,
    };
    lines.pass(
        "T9",
        match &module {
            Some(module) => format!("Intel's TDX module: {}", module.status),
            None => "Intel's TDX module of the first generation".to_owned(),
        },
    );

    let launch = tcb_info.level(platform, TdxTcb::Launch, &launch_svn)?;
    let current = match &current_svn {
        Some(svn) => Some(tcb_info.level(platform, TdxTcb::Current, svn)?),
        None => None,
    };
    at_the_floor(TdxTcb::Launch, &launch_svn, policy)?;
    if let Some(svn) = &current_svn {
        at_the_floor(TdxTcb::Current, svn, policy)?;
    }
    lines.pass("T10", format!("platform's firmware: {}", launch.status));
    Ok(together(&enclave, &launch, module, current, current_module))
}

/// Rule T11, as Intel's library joins the parts. What is launched carries the advisories; what runs now can only
/// turn "out of date" into "relaunch", or refuse.
fn together(
    enclave: &Judged,
    launch: &Judged,
    module: Option<Judged>,
    current: Option<Judged>,
    current_module: Option<Judged>,
) -> Levels {
    let mut parts = vec![
        ("quoting enclave", enclave.status),
        ("platform", launch.status),
    ];
    let mut status = launch.status;
    let mut advisories = launch.advisories.clone();
    let mut add = |ids: &[String]| {
        for id in ids {
            if !advisories.contains(id) {
                advisories.push(id.clone());
            }
        }
    };
    if let Some(module) = module {
        parts.push(("TDX module", module.status));
        status = status.with_part(module.status);
        add(&module.advisories);
    }
    status = status.with_part(enclave.status);
    add(&enclave.advisories);
    let mut apart = vec![("quoting enclave", enclave.status)];
    if let Some(current) = current {
        let mut now = current.status;
        parts.push(("platform now", now));
        if let Some(module) = current_module {
            parts.push(("TDX module now", module.status));
            now = now.with_part(module.status);
        }
        now = now.with_part(enclave.status);
        apart.push(("firmware that runs now", now));
        status = status.with_current(now);
    }
    Levels {
        parts,
        apart,
        together: Judged { status, advisories },
    }
}

impl Levels {
    /// Rule T11: policy accepts the status of all parts together, with its advisories, and what joining would forget.
    pub(crate) fn must_be_accepted(
        self,
        policy: &TdxPolicy,
        lines: &mut Lines,
    ) -> Result<Judged, TdxRejection> {
        let Self {
            parts,
            apart,
            together,
        } = self;
        if let Some((part, _)) = parts
            .iter()
            .find(|(_, status)| *status == TcbStatus::Revoked)
        {
            return Err(TdxRejection::TcbRevoked(part));
        }
        let status = together.status;
        let asked = [("platform with all its parts", status)];
        for (part, status) in asked.into_iter().chain(apart) {
            if !policy.statuses.contains_key(&status) {
                return Err(TdxRejection::StatusNotAccepted { part, status });
            }
        }
        if status == TcbStatus::UpToDate {
            lines.pass("T11", format!("status {status}"));
        } else {
            let accepted = policy.statuses.get(&status);
            let unknown = together
                .advisories
                .iter()
                .find(|id| accepted.is_none_or(|accepted| !accepted.contains(id)));
            if let Some(advisory) = unknown {
                let advisory = advisory.clone();
                return Err(TdxRejection::AdvisoryNotAccepted { status, advisory });
            }
            lines.info("T11", format!("status {status}, which policy accepts"));
        }
        if !together.advisories.is_empty() {
            let advisories = together.advisories.join(" ");
            lines.info("T11", format!("advisories: {advisories}"));
        }
        Ok(together)
    }
}

/// Rule T10: the module's generation and version are one number, the other components stand alone.
fn at_the_floor(tcb: TdxTcb, svn: &[u8; 16], policy: &TdxPolicy) -> Result<(), TdxRejection> {
    let floor = &policy.tee_tcb_svn_floor;
    let ([version, generation, rest @ ..], [low, lowest, others @ ..]) = (svn, floor);
    let module = (generation, version) >= (lowest, low);
    if module && rest.iter().zip(others).all(|(found, floor)| found >= floor) {
        return Ok(());
    }
    Err(TdxRejection::TeeTcbSvnBelowFloor {
        tcb,
        found: hex::encode(svn),
        floor: hex::encode(floor),
    })
}
