//! What the TD is: rules T13 to T16, over the signed body.

use super::policy::{Expected, TdxMeasurement, TdxPolicy, XFAM_FIXED, attributes};
use super::quote::TdxQuote;
use super::rejection::TdxRejection;
use crate::digest::{ChipId, Measurement};
use crate::verdict::Lines;

const ZEROS: Measurement = Measurement::from_bytes([0; 48]);

/// Rule T13.
pub(crate) fn td_attributes(
    quote: &TdxQuote,
    policy: &TdxPolicy,
    lines: &mut Lines,
) -> Result<(), TdxRejection> {
    let bits = quote.td_attributes();
    if bits & attributes::DEBUG != 0 {
        return Err(TdxRejection::DebugPermitted);
    }
    if bits & attributes::UNDER_DEBUG != 0 {
        return Err(TdxRejection::UnderDebug(bits & attributes::UNDER_DEBUG));
    }
    if bits & attributes::SEPT_VE_DISABLE == 0 {
        return Err(TdxRejection::SeptVeDisableOff);
    }
    if bits & attributes::MIGRATABLE != 0 {
        return Err(TdxRejection::MigrationPermitted);
    }
    let rest = bits & !(attributes::SEPT_VE_DISABLE | policy.attributes);
    if rest != 0 {
        return Err(TdxRejection::AttributesNotAccepted(rest));
    }
    lines.pass(
        "T13",
        format!("TD attributes {bits:#x} permit neither debugging nor migration"),
    );
    if bits & attributes::PERFMON != 0 {
        lines.info("T13", "TD may use performance counters; policy accepts it");
    }
    Ok(())
}

/// Rule T14.
pub(crate) fn platform(
    quote: &TdxQuote,
    policy: &TdxPolicy,
    lines: &mut Lines,
) -> Result<(), TdxRejection> {
    let xfam = quote.xfam();
    if xfam & XFAM_FIXED != XFAM_FIXED {
        return Err(TdxRejection::XfamFixedBits(xfam));
    }
    if xfam & !policy.xfam != 0 {
        return Err(TdxRejection::XfamNotAccepted(xfam & !policy.xfam));
    }
    let module = quote.mr_seam();
    if !policy.mr_seam.accepts(&module) {
        return Err(TdxRejection::MrSeamUnknown(module));
    }
    if quote.mr_signer_seam() != ZEROS {
        return Err(TdxRejection::MrSignerSeamNotZero);
    }
    if quote.seam_attributes() != 0 {
        return Err(TdxRejection::SeamAttributesNotZero(quote.seam_attributes()));
    }
    if let Some(extension) = quote.extension() {
        if extension.partition != 0 {
            return Err(TdxRejection::Partition(extension.partition));
        }
        if extension.devices != ZEROS {
            return Err(TdxRejection::DevicesAttached);
        }
    }
    lines.pass(
        "T14",
        format!("Intel's TDX module {module}, XFAM {xfam:#x}"),
    );
    if policy.mr_seam == Expected::NotJudged {
        lines.info(
            "T14",
            "which of Intel's TDX modules runs is judged by its version alone (T9)",
        );
    }
    Ok(())
}

/// Rule T15.
pub(crate) fn service_td(
    quote: &TdxQuote,
    policy: &TdxPolicy,
    lines: &mut Lines,
) -> Result<(), TdxRejection> {
    let extension = quote.extension();
    let bound = [
        quote.mr_service_td(),
        extension.map(|extension| extension.initial_service_td),
        extension.map(|extension| extension.current_service_td),
    ];
    let mut named = bound
        .into_iter()
        .flatten()
        .filter(|digest| *digest != ZEROS);
    if let Some(unknown) = named.clone().find(|td| !policy.service_tds.contains(td)) {
        return Err(TdxRejection::ServiceTd(unknown));
    }
    let attributes = extension.map_or([0; 2], |extension| extension.service_td_attributes);
    if let Some(bits) = attributes.into_iter().find(|bits| *bits != 0) {
        return Err(TdxRejection::ServiceTdAttributes(bits));
    }
    match named.next() {
        Some(digest) => lines.info(
            "T15",
            format!("bound to service TD {digest}, which policy accepts"),
        ),
        None => lines.pass("T15", "not bound to a service TD"),
    }
    Ok(())
}

/// Rule T16.
pub(crate) fn measurements(
    quote: &TdxQuote,
    policy: &TdxPolicy,
    lines: &mut Lines,
) -> Result<(), TdxRejection> {
    let mrtd = quote.mrtd();
    let matched = reference(quote, policy)?;
    let configuration = [
        ("MRCONFIGID", quote.mr_config_id(), &policy.mr_config_id),
        ("MROWNER", quote.mr_owner(), &policy.mr_owner),
        (
            "MROWNERCONFIG",
            quote.mr_owner_config(),
            &policy.mr_owner_config,
        ),
    ];
    for (field, found, expected) in configuration {
        if !expected.accepts(&found) {
            return Err(TdxRejection::Configuration { field, found });
        }
    }
    lines.pass(
        "T16",
        format!("MRTD {mrtd} is in the reference values, with what it measured since"),
    );
    for (index, expected) in matched.rtmrs.iter().enumerate() {
        if *expected == Expected::NotJudged {
            lines.info("T16", format!("RTMR{index} is not judged"));
        }
    }
    for (field, found, expected) in configuration {
        if *expected == Expected::NotJudged {
            lines.info("T16", format!("{field} {found} is not judged"));
        }
    }
    Ok(())
}

/// The parts of T16 and T18 that documents may say otherwise about later: whether platform and measurement are still listed.
pub(crate) fn still_listed(
    quote: &TdxQuote,
    platform: ChipId,
    policy: &TdxPolicy,
) -> Result<(), TdxRejection> {
    if !policy.platforms.contains(&platform) {
        return Err(TdxRejection::PlatformUnknown(platform));
    }
    reference(quote, policy).map(drop)
}

/// The reference value that the TD is, as a whole: registers of two machine shapes cannot be mixed.
fn reference<'a>(
    quote: &TdxQuote,
    policy: &'a TdxPolicy,
) -> Result<&'a TdxMeasurement, TdxRejection> {
    let (mrtd, rtmrs) = (quote.mrtd(), quote.rtmrs());
    let mut refusal = TdxRejection::MrtdUnknown(mrtd);
    for value in policy
        .measurements
        .iter()
        .filter(|value| value.mrtd == mrtd)
    {
        let other = value
            .rtmrs
            .iter()
            .zip(rtmrs)
            .enumerate()
            .find(|(_, (expected, found))| !expected.accepts(found));
        match other {
            None => return Ok(value),
            Some((index, (_, found))) => refusal = TdxRejection::Rtmr { index, found },
        }
    }
    Err(refusal)
}
