//! The second opinion (rule T19): `dcap-qvl` judges the same bytes on its own and must read the same out of them.
//!
//! It comes last, so that no byte reaches its parsers that Intel's keys, or the pinned root's, did not vouch for.

use std::collections::BTreeSet;

use dcap_qvl::quote::{Report, TDReport10, TDReport15};
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteClaims, QuotePolicy};

use super::collateral::TdxCollateral;
use super::pck::PckPlatform;
use super::policy::TdxPolicy;
use super::quote::{TdxBody, TdxQuote};
use super::rejection::TdxRejection;
use super::roots::TdxRoot;
use super::signatures::{SharedConfig, Signatures};
use super::tcb::Judged;
use crate::digest::UnixTime;

/// What our own rules read.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'a> {
    pub(crate) quote: &'a TdxQuote,
    pub(crate) platform: &'a PckPlatform,
    pub(crate) judged: &'a Judged,
    /// The lower of the two evaluation numbers.
    pub(crate) evaluation: u32,
}

/// Asks the second verifier, whose own policy judges nothing, and compares.
pub(crate) fn must_agree(
    reading: Reading<'_>,
    collateral: &TdxCollateral,
    policy: &TdxPolicy,
    root: &TdxRoot,
    signatures: &Signatures<'_>,
    now: UnixTime,
) -> Result<(), TdxRejection> {
    let verifier = QuoteVerifier::<SharedConfig>::new_with_config(root.der().to_vec())
        .allow_service_td(!policy.service_tds.is_empty());
    let claims = signatures
        .lend(|| {
            verifier.verify_with_policy(
                reading.quote.bytes(),
                collateral.for_second_verifier(),
                now.secs(),
                &QuotePolicy::claims_only(now.secs()),
            )
        })
        .map_err(|_| TdxRejection::SecondVerifierRefuses)?;
    same(reading, &claims)
}

fn same(reading: Reading<'_>, claims: &QuoteClaims) -> Result<(), TdxRejection> {
    let equal = |same: bool, what| {
        if same {
            Ok(())
        } else {
            Err(TdxRejection::SecondVerifierDisagrees(what))
        }
    };
    let Reading {
        quote, platform, ..
    } = reading;
    equal(claims.header.version == quote.version(), "version")?;
    equal(same_body(quote, &claims.report), "body")?;
    let (theirs, ours) = (&claims.qe.report, quote.qe_report());
    equal(
        theirs.mr_signer == ours.mr_signer()
            && theirs.attributes == ours.attributes()
            && theirs.isv_svn == ours.version()
            && theirs.report_data == ours.report_data(),
        "QE report",
    )?;
    let pck = &claims.platform.pck;
    let instance = pck.platform_instance_id.as_ref();
    equal(
        pck.ppid == platform.ppid()
            && pck.fmspc == *platform.fmspc()
            && pck.pce_id == platform.pce_id()
            && pck.pce_svn == platform.pce_svn()
            && instance == platform.instance(),
        "platform",
    )?;
    let status = claims.tcb.status.to_string();
    equal(status == reading.judged.status.to_string(), "status")?;
    let theirs: BTreeSet<_> = claims.tcb.advisory_ids.iter().collect();
    let ours: BTreeSet<_> = reading.judged.advisories.iter().collect();
    equal(theirs == ours, "list of advisories")?;
    let evaluation = claims.tcb.eval_data_number;
    equal(evaluation == reading.evaluation, "evaluation number")
}

fn same_body(quote: &TdxQuote, report: &Report) -> bool {
    match (quote.body(), report) {
        (TdxBody::Td10, Report::TD10(report)) => same_td10(quote, report),
        (TdxBody::Td15, Report::TD15(report)) => same_td15(quote, report),
        (TdxBody::Td15Extended, Report::TD15Ex(report)) => {
            same_td15(quote, &report.base)
                && quote.extension().is_some_and(|ours| {
                    let attributes = [
                        report.init_service_td_attributes,
                        report.cur_service_td_attributes,
                    ];
                    ours.partition == report.vmid
                        && *ours.devices.as_bytes() == report.dev_info
                        && *ours.initial_service_td.as_bytes() == report.init_service_td_hash
                        && *ours.current_service_td.as_bytes() == report.cur_service_td_hash
                        && ours.service_td_attributes == attributes.map(u64::from_le_bytes)
                })
        }
        _ => false,
    }
}

fn same_td10(quote: &TdxQuote, report: &TDReport10) -> bool {
    let measured = [
        (quote.mr_seam(), report.mr_seam),
        (quote.mr_signer_seam(), report.mr_signer_seam),
        (quote.mrtd(), report.mr_td),
        (quote.mr_config_id(), report.mr_config_id),
        (quote.mr_owner(), report.mr_owner),
        (quote.mr_owner_config(), report.mr_owner_config),
    ];
    let rtmrs = [report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3];
    measured
        .iter()
        .all(|(ours, theirs)| ours.as_bytes() == theirs)
        && quote.rtmrs().map(|rtmr| *rtmr.as_bytes()) == rtmrs
        && quote.tee_tcb_svn() == report.tee_tcb_svn
        && quote.seam_attributes() == u64::from_le_bytes(report.seam_attributes)
        && quote.td_attributes() == u64::from_le_bytes(report.td_attributes)
        && quote.xfam() == u64::from_le_bytes(report.xfam)
        && quote.report_data() == report.report_data
}

fn same_td15(quote: &TdxQuote, report: &TDReport15) -> bool {
    same_td10(quote, &report.base)
        && quote.current_tee_tcb_svn() == Some(report.tee_tcb_svn2)
        && quote
            .mr_service_td()
            .is_some_and(|ours| *ours.as_bytes() == report.mr_service_td)
}

#[cfg(test)]
mod tests {
    use dcap_qvl::configs::RingConfig;
    use dcap_qvl::quote::TDReport15Ex;

    use super::super::certificate::{Certificate, chain};
    use super::super::parts::TdxCertificate;
    use super::super::status::TcbStatus;
    use super::super::twin::shared;
    use super::*;

    type Change = fn(&mut QuoteClaims);

    const CHANGES: [(&str, Change); 22] = [
        ("version", |claims| claims.header.version = 5),
        ("body", |claims| td10(claims).mr_td[0] ^= 1),
        ("body", |claims| td10(claims).rt_mr3[47] ^= 1),
        ("body", |claims| td10(claims).report_data[63] ^= 1),
        ("body", |claims| td10(claims).td_attributes[0] ^= 1),
        ("body", |claims| td10(claims).xfam[0] ^= 1),
        ("body", |claims| td10(claims).tee_tcb_svn[15] ^= 1),
        ("body", |claims| {
            let (base, tee_tcb_svn2) = (*td10(claims), [0; 16]);
            let mr_service_td = [0; 48];
            claims.report = Report::TD15(TDReport15 {
                base,
                tee_tcb_svn2,
                mr_service_td,
            });
        }),
        ("QE report", |claims| claims.qe.report.isv_svn += 1),
        ("QE report", |claims| claims.qe.report.report_data[0] ^= 1),
        ("QE report", |claims| claims.qe.report.mr_signer[0] ^= 1),
        ("QE report", |claims| claims.qe.report.attributes[0] ^= 1),
        ("platform", |claims| claims.platform.pck.pce_id[0] ^= 1),
        ("platform", |claims| claims.platform.pck.pce_svn ^= 1),
        ("list of advisories", |claims| {
            claims.tcb.advisory_ids = vec!["INTEL-SA-1".to_owned()];
        }),
        ("evaluation number", |claims| {
            claims.tcb.eval_data_number -= 1
        }),
        ("platform", |claims| claims.platform.pck.ppid[0] ^= 1),
        ("platform", |claims| claims.platform.pck.fmspc[0] ^= 1),
        ("platform", |claims| {
            claims.platform.pck.platform_instance_id = None
        }),
        ("status", |claims| {
            claims.tcb.status = dcap_qvl::TcbStatus::OutOfDate
        }),
        ("list of advisories", |claims| {
            claims.tcb.advisory_ids.push("X".to_owned())
        }),
        ("evaluation number", |claims| {
            claims.tcb.eval_data_number += 1
        }),
    ];

    fn td10(claims: &mut QuoteClaims) -> &mut TDReport10 {
        match &mut claims.report {
            Report::TD10(report) => report,
            _ => panic!("a body of TDX 1.0"),
        }
    }

    type Edit = fn(&mut Report);

    const OF_TD10: [Edit; 15] = [
        |report| base(report).mr_seam[0] ^= 1,
        |report| base(report).mr_signer_seam[47] ^= 1,
        |report| base(report).mr_td[47] ^= 1,
        |report| base(report).mr_config_id[0] ^= 1,
        |report| base(report).mr_owner[47] ^= 1,
        |report| base(report).mr_owner_config[0] ^= 1,
        |report| base(report).rt_mr0[0] ^= 1,
        |report| base(report).rt_mr1[0] ^= 1,
        |report| base(report).rt_mr2[0] ^= 1,
        |report| base(report).rt_mr3[0] ^= 1,
        |report| base(report).tee_tcb_svn[0] ^= 1,
        |report| base(report).seam_attributes[7] ^= 1,
        |report| base(report).td_attributes[7] ^= 1,
        |report| base(report).xfam[7] ^= 1,
        |report| base(report).report_data[0] ^= 1,
    ];
    const OF_TD15: [Edit; 2] = [
        |report| td15(report).tee_tcb_svn2[0] ^= 1,
        |report| td15(report).mr_service_td[47] ^= 1,
    ];
    const OF_EXTENDED: [Edit; 6] = [
        |report| extended(report).vmid ^= 1,
        |report| extended(report).dev_info[0] ^= 1,
        |report| extended(report).init_service_td_hash[0] ^= 1,
        |report| extended(report).cur_service_td_hash[0] ^= 1,
        |report| extended(report).init_service_td_attributes[0] ^= 1,
        |report| extended(report).cur_service_td_attributes[0] ^= 1,
    ];

    fn base(report: &mut Report) -> &mut TDReport10 {
        match report {
            Report::TD10(report) => report,
            other => &mut td15(other).base,
        }
    }

    fn td15(report: &mut Report) -> &mut TDReport15 {
        match report {
            Report::TD15(report) => report,
            other => &mut extended(other).base,
        }
    }

    fn extended(report: &mut Report) -> &mut TDReport15Ex {
        match report {
            Report::TD15Ex(report) => report,
            _ => panic!("an extended body"),
        }
    }

    #[test]
    fn bodies_are_the_same_when_every_field_of_each_kind_is() {
        let (Some(first), Some(second)) = (
            shared("v4-phala/quote.bin"),
            shared("v5-td15-service-td/quote.bin"),
        ) else {
            return;
        };
        // Of the extended body no quote is at hand that anybody may use: the second one with 237 bytes more.
        let (head, behind) = second.split_at(48 + 6 + 648);
        let body = [&[4, 0, 0x75, 3, 0, 0][..], &head[54..], &[0x21; 237]].concat();
        let third = [&head[..48], &body, behind].concat();
        let (ten, fifteen, extended) = (&OF_TD10[..], &OF_TD15[..], &OF_EXTENDED[..]);
        for (quote, edits) in [
            (first, vec![ten]),
            (second, vec![ten, fifteen]),
            (third, vec![ten, fifteen, extended]),
        ] {
            let ours = TdxQuote::parse(&quote).unwrap();
            let theirs = dcap_qvl::quote::Quote::parse(ours.bytes()).unwrap().report;
            assert!(same_body(&ours, &theirs));
            for edit in edits.concat() {
                let mut other = theirs.clone();
                edit(&mut other);
                assert!(!same_body(&ours, &other));
            }
        }
    }

    #[test]
    fn every_difference_between_the_two_readings_is_a_refusal() {
        let (Some(quote), Some(json)) = (
            shared("v4-phala/quote.bin"),
            shared("v4-phala/collateral-2025-06-19.json"),
        ) else {
            return;
        };
        let quote = TdxQuote::parse(&quote).unwrap();
        let collateral = TdxCollateral::from_json(&json).unwrap();
        let pck = chain(TdxCertificate::Pck, quote.pck_chain(), 2).unwrap();
        let pck = Certificate::parse(TdxCertificate::Pck, &pck[0]).unwrap();
        let platform = PckPlatform::of(&pck).unwrap();
        let judged = Judged {
            status: TcbStatus::UpToDate,
            advisories: Vec::new(),
        };
        let reading = Reading {
            quote: &quote,
            platform: &platform,
            judged: &judged,
            evaluation: 17,
        };
        let now = 1_751_624_191;
        let claims = QuoteVerifier::<RingConfig>::new_with_config(TdxRoot::intel().der().to_vec())
            .verify_with_policy(
                quote.bytes(),
                collateral.for_second_verifier(),
                now,
                &QuotePolicy::claims_only(now),
            )
            .unwrap();
        assert_eq!(same(reading, &claims), Ok(()));
        for (what, change) in CHANGES {
            let mut other = claims.clone();
            change(&mut other);
            assert_eq!(
                same(reading, &other),
                Err(TdxRejection::SecondVerifierDisagrees(what))
            );
        }
    }
}
