//! What one piece of evidence needs out of a bundle (rules C-30 to C-33), with the earliest end of everything taken.
//!
//! What is taken is judged as far as it can be without policy, so that a server learns at home what a client would refuse.

use super::bundle::{AmdCollateral, Collateral, Endorsement, Endorser, PckChain};
use super::error::{CollateralError, MissingCollateral};
use crate::digest::{ChipId, Sha256Digest, UnixTime};
use crate::nvidia::{OcspAnswers, askable, judge_ocsp};
use crate::snp::held as amd;
use crate::snp::{PinnedRoot, SnpReport, TcbVersion};
use crate::tdx::held as intel;
use crate::tdx::{PckCa, TdxCollateral, TdxQuote, TdxRoot};

/// Something out of a bundle, and the last second at which all of it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken<T> {
    /// What was taken.
    pub what: T,
    /// The earliest end of its parts.
    pub until: UnixTime,
}

/// What travels beside an SNP report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpCollateral {
    /// VCEK or VLEK, DER.
    pub vek: Vec<u8>,
    /// ASK or ASVK, DER.
    pub intermediate: Vec<u8>,
    /// The root's revocation list, DER.
    pub crl: Vec<u8>,
}

impl Collateral {
    /// Rule C-30: certificate, intermediate and list for a report: by its chip id or provider's key, its REPORTED_TCB, and the key
    /// that signed it.
    ///
    /// # Errors
    /// [`MissingCollateral`].
    pub fn snp(
        &self,
        report: &SnpReport,
        roots: &[PinnedRoot],
        now: UnixTime,
    ) -> Result<Taken<SnpCollateral>, MissingCollateral> {
        let by_provider = amd::by_provider(report).ok_or(MissingCollateral::SigningKey)?;
        let (section, endorsement) = self.endorsement(report, by_provider)?;
        let product = section.product;
        let root = roots.iter().find(|root| root.product() == product);
        let root = root.ok_or(MissingCollateral::Product(product))?;
        let (intermediate, name) = match by_provider {
            false => (&section.ask, "ASK"),
            true => (&section.asvk, "ASVK"),
        };
        let intermediate = intermediate
            .as_ref()
            .ok_or(MissingCollateral::Authority(name, product))?;
        let vek = &endorsement.certificate.0;
        let judged = amd::endorsement(vek, &intermediate.0, now);
        let (_, vek_until) = judged.map_err(not_right("endorsement certificate"))?;
        let judged = amd::authority(&intermediate.0, &section.crl.0, root, by_provider, now);
        let until = judged.map_err(not_right("authority or its revocation list"))?;
        Ok(Taken {
            what: SnpCollateral {
                vek: vek.clone(),
                intermediate: intermediate.0.clone(),
                crl: section.crl.0.clone(),
            },
            until: until.min(vek_until),
        })
    }

    /// The certificate whose key signed the report. Reports of version 2 do not say their product.
    fn endorsement(
        &self,
        report: &SnpReport,
        by_provider: bool,
    ) -> Result<(&AmdCollateral, &Endorsement), MissingCollateral> {
        let (chip, tcb) = (report.chip_id(), report.reported_tcb());
        let of_product = |section: &&AmdCollateral| {
            report
                .product()
                .is_none_or(|product| product == section.product)
        };
        let holder = |endorser: &Endorser| match endorser {
            Endorser::Chip(id) => !by_provider && *id == chip,
            Endorser::Provider(_) => by_provider,
        };
        let sections = self.amd.iter().filter(of_product);
        let held: Vec<(&AmdCollateral, &Endorsement)> = sections
            .flat_map(|section| section.endorsements.iter().map(move |it| (section, it)))
            .filter(|(_, it)| holder(&it.endorser))
            .collect();
        if held.is_empty() {
            return Err(nothing_held(chip, tcb, by_provider));
        }
        let mut fitting = held.into_iter().filter(|(_, it)| it.tcb == tcb).peekable();
        if fitting.peek().is_none() {
            return Err(match by_provider {
                true => MissingCollateral::Provider(tcb),
                false => MissingCollateral::OtherTcb {
                    chip,
                    reported: tcb,
                },
            });
        }
        fitting
            .find(|(_, it)| amd::signed(report, &it.certificate.0))
            .ok_or(MissingCollateral::OtherKey)
    }

    /// Rule C-31: documents and lists for a quote; which, its own PCK certificate says.
    ///
    /// # Errors
    /// [`MissingCollateral`].
    pub fn tdx(
        &self,
        quote: &TdxQuote,
        root: &TdxRoot,
        now: UnixTime,
    ) -> Result<Taken<TdxCollateral>, MissingCollateral> {
        let evidence = |rejection: crate::tdx::TdxRejection| {
            MissingCollateral::Evidence(Box::new(CollateralError::Intel(rejection)))
        };
        let (ca, fmspc) = intel::wanted_by(quote).map_err(evidence)?;
        self.of_platform(ca, fmspc, root, now)
    }

    /// The same for a platform of which authority and FMSPC are known.
    ///
    /// # Errors
    /// [`MissingCollateral`].
    pub fn of_platform(
        &self,
        ca: PckCa,
        fmspc: [u8; 6],
        root: &TdxRoot,
        now: UnixTime,
    ) -> Result<Taken<TdxCollateral>, MissingCollateral> {
        let held = &self.intel;
        let root_crl = &held.root_crl.as_ref().ok_or(MissingCollateral::RootList)?.0;
        let document = held.tcb.iter().find(|it| it.fmspc == fmspc);
        let document = document.ok_or_else(|| MissingCollateral::Fmspc(hex::encode(fmspc)))?;
        let identity = held.qe_identity.as_ref();
        let identity = identity.ok_or(MissingCollateral::QeIdentity)?;
        let list = held.pck_lists.iter().find(|it| it.ca == ca);
        let list = list.ok_or(MissingCollateral::PckList(ca))?;

        let root = intel::Root::open(root, root_crl, now);
        let root = root.map_err(not_right("revocation list of Intel's root"))?;
        let (_, tcb_until) = root
            .tcb_info(document.signed(), now)
            .map_err(not_right("TCB info"))?;
        let identity_until = root
            .qe_identity(identity.signed(), now)
            .map_err(not_right("QE identity"))?;
        let (_, list_until) = root
            .pck_list(&list.crl.0, &list.issuer_chain, now)
            .map_err(not_right("revocation list of the PCK authority"))?;
        let ends = [tcb_until, identity_until, list_until];
        Ok(Taken {
            what: TdxCollateral::of_parts(
                (root_crl, &list.crl.0),
                &list.issuer_chain,
                document.signed(),
                identity.signed(),
            ),
            until: ends.into_iter().fold(root.until(), UnixTime::min),
        })
    }

    /// Rule C-32: a platform's certificates with their authority, for each firmware that is held.
    ///
    /// # Errors
    /// [`MissingCollateral::Platform`].
    pub fn pck_chains(&self, platform: &ChipId) -> Result<Vec<&PckChain>, MissingCollateral> {
        let held = self.intel.platforms.iter();
        let chains: Vec<_> = held.filter(|it| it.platform == *platform).collect();
        match chains.is_empty() {
            true => Err(MissingCollateral::Platform(*platform)),
            false => Ok(chains),
        }
    }

    /// Whatever answers are held about these devices' certificates, judged by nobody: verifiers judge them, and know what a missing
    /// one means.
    ///
    /// # Errors
    /// [`MissingCollateral::Evidence`] for a text that is no chain.
    pub fn gpu_answers_held(&self, chains: &[&[u8]]) -> Result<OcspAnswers, MissingCollateral> {
        let mut answers = Vec::new();
        for chain in chains {
            let asked = askable(chain).map_err(|rejection| {
                MissingCollateral::Evidence(Box::new(CollateralError::Nvidia(rejection)))
            })?;
            for (certificate, _) in asked {
                let id = Sha256Digest::of(&certificate);
                answers.extend(self.gpu_answer(&id).map(|answer| (id, answer.to_vec())));
            }
        }
        Ok(OcspAnswers::new(answers))
    }

    fn gpu_answer(&self, id: &Sha256Digest) -> Option<&[u8]> {
        let held = &self.nvidia.answers;
        let place = held.binary_search_by(|it| it.id().cmp(id)).ok()?;
        held.get(place).map(|it| it.answer.0.as_slice())
    }

    /// Rule C-33: answers about every certificate between leaf and root of these devices' chains (PEM).
    ///
    /// # Errors
    /// [`MissingCollateral`], also for an answer that does not say good.
    pub fn gpu_answers(
        &self,
        chains: &[&[u8]],
        now: UnixTime,
    ) -> Result<Taken<OcspAnswers>, MissingCollateral> {
        let (mut answers, mut until) = (Vec::new(), UnixTime::from_secs(u64::MAX));
        for (device, chain) in chains.iter().enumerate() {
            let evidence = |rejection| {
                MissingCollateral::Evidence(Box::new(CollateralError::Nvidia(rejection)))
            };
            for (number, (certificate, issuer)) in
                askable(chain).map_err(evidence)?.into_iter().enumerate()
            {
                let place = number.saturating_add(1);
                let id = Sha256Digest::of(&certificate);
                let answer = self
                    .gpu_answer(&id)
                    .ok_or(MissingCollateral::Answer { device, place })?;
                let good = judge_ocsp(answer, &certificate, &issuer, now);
                let good = good.map_err(not_right("answer about a device's certificate"))?;
                until = until.min(good.until());
                answers.push((id, answer.to_vec()));
            }
        }
        Ok(Taken {
            what: OcspAnswers::new(answers),
            until,
        })
    }
}

fn nothing_held(chip: ChipId, tcb: TcbVersion, by_provider: bool) -> MissingCollateral {
    match by_provider {
        true => MissingCollateral::Provider(tcb),
        false => MissingCollateral::Chip(chip),
    }
}

fn not_right<E: Into<CollateralError>>(what: &'static str) -> impl Fn(E) -> MissingCollateral {
    move |error| MissingCollateral::NotRight {
        what,
        reason: Box::new(error.into()),
    }
}
