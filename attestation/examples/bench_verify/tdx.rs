//! TDX quotes: ours, which asks `dcap-qvl` for a second opinion, beside `dcap-qvl` alone.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::bail;
use casemate_attestation::tdx::{
    Expected, KnownSignatures, TcbStatus, TdxCollateral, TdxMeasurement, TdxPolicy, TdxQuote,
    TdxRejection, TdxRoot, verify_tdx_quote_knowing,
};
use casemate_attestation::{ChipId, Measurement, UnixTime};
use dcap_qvl::configs::RingConfig;
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteCollateralV3, QuotePolicy};

use super::inputs::Vector;
use super::report::{Bar, Row};
use super::turns::rates;

const BAR: Bar = Bar {
    rate: None,
    ratio: Some(0.9),
};

struct Case {
    quote: Vec<u8>,
    report_data: [u8; 64],
    collateral: TdxCollateral,
    theirs: QuoteCollateralV3,
    policy: TdxPolicy,
    now: u64,
}

impl Case {
    fn judge(&self) -> Result<(), TdxRejection> {
        self.judge_knowing(&KnownSignatures::new())
    }

    fn judge_knowing(&self, known: &KnownSignatures) -> Result<(), TdxRejection> {
        let now = UnixTime::from_secs(self.now);
        let (data, root) = (&self.report_data, TdxRoot::intel());
        verify_tdx_quote_knowing(
            &self.quote,
            &self.collateral,
            data,
            &self.policy,
            &root,
            known,
            now,
        )
        .map(|_| ())
    }

    fn by_library(&self) -> anyhow::Result<()> {
        QuoteVerifier::<RingConfig>::new_with_config(TdxRoot::intel().der().to_vec())
            .verify_with_policy(
                &self.quote,
                self.theirs.clone(),
                self.now,
                &QuotePolicy::claims_only(self.now),
            )?;
        Ok(())
    }

    fn read(evidence: &Path, name: &str) -> anyhow::Result<Self> {
        let vector = Vector::read(evidence, &format!("tdx/{name}"))?;
        let json = vector.file(vector.text("/cases/0/collateral")?)?;
        let theirs: QuoteCollateralV3 = serde_json::from_slice(&json)?;
        let advisories: BTreeSet<String> = theirs
            .tcb_info
            .match_indices("INTEL-SA-")
            .filter_map(|(at, _)| theirs.tcb_info.get(at..at + 14).map(str::to_owned))
            .collect();
        let quote = vector.file(vector.text("/quote")?)?;
        let parsed = TdxQuote::parse(&quote)?;
        let strangers = vec![ChipId::from_bytes([0xff; 64])];
        let mut case = Self {
            report_data: parsed.report_data(),
            collateral: TdxCollateral::from_json(&json)?,
            policy: policy(&parsed, strangers, &advisories)?,
            now: vector.number("/cases/0/verify_at_unix")?,
            theirs,
            quote,
        };
        // A refusal names the platform; then it is enrolled.
        match case.judge() {
            Err(TdxRejection::PlatformUnknown(id)) => {
                case.policy = policy(&parsed, vec![id], &advisories)?;
            }
            other => bail!("{name}: {other:?} where an unknown platform was expected"),
        }
        Ok(case)
    }
}

/// Exactly this TD, on these platforms.
fn policy(
    quote: &TdxQuote,
    platforms: Vec<ChipId>,
    advisories: &BTreeSet<String>,
) -> anyhow::Result<TdxPolicy> {
    let exactly = |found: Measurement| Expected::OneOf(vec![found]);
    let measurement = TdxMeasurement {
        mrtd: quote.mrtd(),
        rtmrs: quote.rtmrs().map(exactly),
    };
    let ids: Vec<&str> = advisories.iter().map(String::as_str).collect();
    Ok(TdxPolicy::new(vec![measurement], platforms, 15)?
        .with_mr_config_id(exactly(quote.mr_config_id()))
        .with_mr_seam(exactly(quote.mr_seam()))
        .accepting(TcbStatus::OutOfDate, &ids)?)
}

/// Quotes of real machines.
pub fn rows(evidence: &Path) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for name in ["v4-phala", "v4-gcp-2026"] {
        let case = Case::read(evidence, name)?;
        let figures = rates([&|| Ok(case.judge()?), &|| case.by_library()])?;
        rows.push(Row::compared(
            format!("tdx, nothing known, {name}"),
            figures,
            BAR,
        ));
        // The library has no memory: its side is the same in both rows.
        let known = KnownSignatures::new();
        let figures = rates([&|| Ok(case.judge_knowing(&known)?), &|| case.by_library()])?;
        rows.push(Row::compared(
            format!("tdx, known platform, {name}"),
            figures,
            BAR,
        ));
    }
    Ok(rows)
}
