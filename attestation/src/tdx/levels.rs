//! How good the firmware is: rules T8 to T11, over Intel's signed levels.

use super::parts::TdxTcb;
use super::pck::PckPlatform;
use super::policy::TdxPolicy;
use super::quote::TdxQuote;
use super::rejection::TdxRejection;
use super::status::TcbStatus;
use super::tcb::{Judged, QeIdentity, TcbInfo};
use crate::verdict::Lines;

/// What each part was judged to be.
pub(crate) struct Levels {
    /// Every part on its own. None may be revoked.
    parts: Vec<(&'static str, TcbStatus)>,
    /// What joining would forget: the quoting enclave may need configuration, and what runs now may be worse than what
    /// was launched.
    apart: Vec<(&'static str, Judged)>,
    together: Judged,
}

/// Rules T8, T9 and T10.
pub(crate) fn judge(
    quote: &TdxQuote,
    tcb_info: &TcbInfo<'_>,
    identity: &QeIdentity<'_>,
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
    let mut together = launch.clone();
    if let Some(module) = &module {
        parts.push(("TDX module", module.status));
        together.join(module);
    }
    together.join(enclave);
    let mut apart = vec![("quoting enclave", enclave.clone())];
    if let Some(mut now) = current {
        parts.push(("platform now", now.status));
        if let Some(module) = &current_module {
            parts.push(("TDX module now", module.status));
            now.join(module);
        }
        now.join(enclave);
        together.status = together.status.with_current(now.status);
        apart.push(("firmware that runs now", now));
    }
    Levels {
        parts,
        apart,
        together,
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
        accept("platform with all its parts", &together, policy)?;
        lines.pass("T11", format!("status {}", together.status));
        remark("status of all parts", &together, lines);
        for (part, judged) in &apart {
            accept(part, judged, policy)?;
            if judged.status != TcbStatus::UpToDate {
                remark(part, judged, lines);
            }
        }
        Ok(together)
    }
}

/// A status that policy lists, with advisories that policy lists for it. Those of `UpToDate` are answered.
fn accept(part: &'static str, judged: &Judged, policy: &TdxPolicy) -> Result<(), TdxRejection> {
    let status = judged.status;
    let Some(accepted) = policy.statuses.get(&status) else {
        return Err(TdxRejection::StatusNotAccepted { part, status });
    };
    let mut ids = judged.advisories.iter();
    match ids.find(|id| status != TcbStatus::UpToDate && !accepted.contains(id)) {
        None => Ok(()),
        Some(advisory) => Err(TdxRejection::AdvisoryNotAccepted {
            status,
            advisory: advisory.clone(),
        }),
    }
}

fn remark(part: &str, judged: &Judged, lines: &mut Lines) {
    let status = judged.status;
    if status != TcbStatus::UpToDate {
        lines.info("T11", format!("{part}: {status}, which policy accepts"));
    }
    if !judged.advisories.is_empty() {
        let advisories = judged.advisories.join(" ");
        lines.info("T11", format!("{part}: advisories {advisories}"));
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
