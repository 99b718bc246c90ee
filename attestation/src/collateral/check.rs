//! Judging a whole bundle without evidence (rules C-10 to C-16): by the same code that judges evidence.

use super::bundle::{
    AmdCollateral, Collateral, Endorsement, Endorser, IntelCollateral, OcspAnswer,
};
use super::error::CollateralError;
use crate::digest::UnixTime;
use crate::nvidia::{PinnedGpuRoot, held as nvidia};
use crate::snp::PinnedRoot;
use crate::snp::held::{self as amd, Holder};
use crate::tdx::TdxRoot;
use crate::tdx::held::{self as intel, Signed};

/// Whose word counts.
#[derive(Debug, Clone)]
pub struct CollateralRoots {
    /// AMD's, by product.
    pub amd: Vec<PinnedRoot>,
    /// Intel's.
    pub intel: TdxRoot,
    /// NVIDIA's, of devices.
    pub nvidia: Vec<PinnedGpuRoot>,
}

impl CollateralRoots {
    /// The vendors' roots, compiled in.
    #[must_use]
    pub fn production() -> Self {
        Self {
            amd: PinnedRoot::amd(),
            intel: TdxRoot::intel(),
            nvidia: vec![PinnedGpuRoot::nvidia()],
        }
    }
}

/// What became of one item: its last second, or why it is not right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedItem {
    /// The section: `amd`, `intel` or `nvidia`.
    pub vendor: &'static str,
    /// Which item, for people.
    pub item: String,
    /// The last second at which it counts.
    pub result: Result<UnixTime, CollateralError>,
}

impl Collateral {
    /// Judges every item at `now`, in the order of the document. Lists of GPUs were judged when they were converted, and are not
    /// among them.
    #[must_use]
    pub fn check(&self, roots: &CollateralRoots, now: UnixTime) -> Vec<JudgedItem> {
        let mut judged = Vec::new();
        for section in &self.amd {
            of_amd(section, roots, now, &mut judged);
        }
        of_intel(&self.intel, &roots.intel, now, &mut judged);
        for answer in &self.nvidia.answers {
            let result = self.answer(answer, roots, now);
            let item = format!("answer about {}", nvidia::subject(&answer.certificate.0));
            judged.push(item_of("nvidia", item, result));
        }
        judged
    }

    /// Until when all of it counts. An empty bundle counts for ever and holds nothing.
    ///
    /// # Errors
    /// The first item that is not right.
    pub fn must_be_right(
        &self,
        roots: &CollateralRoots,
        now: UnixTime,
    ) -> Result<UnixTime, (String, CollateralError)> {
        let never = UnixTime::from_secs(u64::MAX);
        self.check(roots, now)
            .into_iter()
            .try_fold(never, |until, judged| match judged.result {
                Ok(end) => Ok(until.min(end)),
                Err(error) => Err((judged.item, error)),
            })
    }

    /// Rule C-15: a chain of certificates of the bundle leads to a pinned root, and the issuer says good.
    fn answer(
        &self,
        answer: &OcspAnswer,
        roots: &CollateralRoots,
        now: UnixTime,
    ) -> Result<UnixTime, CollateralError> {
        let pinned = roots.nvidia.iter().map(PinnedGpuRoot::der);
        let held = self.nvidia.answers.iter();
        let authorities: Vec<&[u8]> = pinned
            .chain(held.map(|it| it.certificate.0.as_slice()))
            .collect();
        let issuer = nvidia::issuer(&answer.certificate.0, &authorities, &roots.nvidia, now)?;
        let issuer = issuer.ok_or(CollateralError::Lacks("issuer"))?;
        let good = crate::nvidia::judge_ocsp(&answer.answer.0, &answer.certificate.0, issuer, now)?;
        Ok(good.until())
    }
}

fn item_of(
    vendor: &'static str,
    item: String,
    result: Result<UnixTime, CollateralError>,
) -> JudgedItem {
    JudgedItem {
        vendor,
        item,
        result,
    }
}

/// Rules C-10 and C-11.
fn of_amd(
    section: &AmdCollateral,
    roots: &CollateralRoots,
    now: UnixTime,
    judged: &mut Vec<JudgedItem>,
) {
    let product = section.product;
    let root = roots.amd.iter().find(|root| root.product() == product);
    let mut add = |item, result| judged.push(item_of("amd", item, result));
    let Some(root) = root else {
        add(product.to_string(), Err(CollateralError::NoRoot));
        return;
    };
    let list = amd::list(&section.crl.0, root, now).map_err(CollateralError::from);
    add(format!("{product} revocation list"), list);
    for (name, der, over_providers) in [("ASK", &section.ask, false), ("ASVK", &section.asvk, true)]
    {
        if let Some(der) = der {
            let result = amd::authority(&der.0, &section.crl.0, root, over_providers, now);
            add(
                format!("{product} {name}"),
                result.map_err(CollateralError::from),
            );
        }
    }
    for endorsement in &section.endorsements {
        let result = of_endorsement(section, endorsement, root, now);
        let Endorsement { endorser, tcb, .. } = endorsement;
        add(format!("{product} {endorser}, {tcb}"), result);
    }
}

fn of_endorsement(
    section: &AmdCollateral,
    endorsement: &Endorsement,
    root: &PinnedRoot,
    now: UnixTime,
) -> Result<UnixTime, CollateralError> {
    let (intermediate, name, over_providers) = match endorsement.endorser {
        Endorser::Chip(_) => (&section.ask, "ASK", false),
        Endorser::Provider(_) => (&section.asvk, "ASVK", true),
    };
    let intermediate = intermediate.as_ref().ok_or(CollateralError::Lacks(name))?;
    let authority_until =
        amd::authority(&intermediate.0, &section.crl.0, root, over_providers, now)?;
    let (vek, until) = amd::endorsement(&endorsement.certificate.0, &intermediate.0, now)?;
    if vek.product != section.product {
        return Err(CollateralError::Filed("product"));
    }
    let same = match (&vek.holder, &endorsement.endorser) {
        (Holder::Chip(found), Endorser::Chip(filed)) => found == filed,
        (Holder::Provider(found), Endorser::Provider(filed)) => found == filed,
        _ => false,
    };
    if !same {
        return Err(CollateralError::Filed("chip or provider"));
    }
    if vek.tcb != endorsement.tcb {
        return Err(CollateralError::Filed("firmware version"));
    }
    Ok(until.min(authority_until))
}

/// Rules C-12 to C-14.
fn of_intel(
    section: &IntelCollateral,
    root: &TdxRoot,
    now: UnixTime,
    judged: &mut Vec<JudgedItem>,
) {
    if *section == IntelCollateral::default() {
        return;
    }
    let mut add = |item, result| judged.push(item_of("intel", item, result));
    let list = "revocation list of the root".to_owned();
    let Some(root_crl) = &section.root_crl else {
        add(
            list,
            Err(CollateralError::Lacks("revocation list of the root")),
        );
        return;
    };
    let root = match intel::Root::open(root, &root_crl.0, now) {
        Ok(root) => root,
        Err(rejection) => {
            add(list, Err(rejection.into()));
            return;
        }
    };
    add(list, Ok(root.until()));
    for document in &section.tcb {
        let result = root.tcb_info(document.signed(), now);
        let result = result.map_err(CollateralError::from);
        let result = result.and_then(|(fmspc, until)| match fmspc == document.fmspc {
            true => Ok(until),
            false => Err(CollateralError::Filed("FMSPC")),
        });
        let fmspc = hex::encode(document.fmspc);
        add(format!("TCB info for FMSPC {fmspc}"), result);
    }
    if let Some(document) = &section.qe_identity {
        let result = root.qe_identity(document.signed(), now);
        add(
            "QE identity".to_owned(),
            result.map_err(CollateralError::from),
        );
    }
    for entry in &section.pck_lists {
        let result = root.pck_list(&entry.crl.0, &entry.issuer_chain, now);
        let result = result.map_err(CollateralError::from);
        let result = result.and_then(|(ca, until)| match ca == entry.ca {
            true => Ok(until),
            false => Err(CollateralError::Filed("authority")),
        });
        add(
            format!("revocation list of the PCK {} CA", entry.ca),
            result,
        );
    }
    of_platforms(section, &root, now, &mut add);
}

fn of_platforms(
    section: &IntelCollateral,
    root: &intel::Root<'_>,
    now: UnixTime,
    add: &mut dyn FnMut(String, Result<UnixTime, CollateralError>),
) {
    for entry in &section.platforms {
        let judge = || {
            let ca = intel::pck_of(&entry.chain)?.ca;
            let list = section.pck_lists.iter().find(|list| list.ca == ca);
            let list = list.ok_or(CollateralError::Lacks("authority's revocation list"))?;
            let (pck, until) = root.pck(&entry.chain, &list.crl.0, now)?;
            match pck.platform == entry.platform && pck.tcb == entry.tcb {
                true => Ok(until),
                false => Err(CollateralError::Filed("platform or firmware version")),
            }
        };
        add(
            format!("PCK certificate of platform {}", entry.platform),
            judge(),
        );
    }
}

impl super::TcbDocument {
    pub(super) fn signed(&self) -> Signed<'_> {
        Signed {
            text: &self.text,
            signature: &self.signature.0,
            issuers: &self.issuer_chain,
        }
    }
}

impl super::QeDocument {
    pub(super) fn signed(&self) -> Signed<'_> {
        Signed {
            text: &self.text,
            signature: &self.signature.0,
            issuers: &self.issuer_chain,
        }
    }
}
