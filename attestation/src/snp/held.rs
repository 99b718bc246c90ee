//! AMD's collateral by itself, without a report: what it is, whether AMD's root stands behind it, until when.

use crate::ecdsa::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

use super::chain::Certificate;
use super::rejection::{CertificateRole as Role, SnpRejection};
use super::report::SigningKey;
use super::{PinnedRoot, Product, SnpReport, TcbVersion, crl};
use crate::digest::{ChipId, UnixTime};

/// Whom an endorsement certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    Chip(ChipId),
    Provider(String),
}

/// An endorsement certificate's own words. Nobody's signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vek {
    pub(crate) product: Product,
    pub(crate) holder: Holder,
    pub(crate) tcb: TcbVersion,
}

/// What a certificate of AMD's is, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Named {
    Vek(Vek),
    /// ASK, or ASVK where it stands over providers' keys.
    Intermediate {
        product: Product,
        over_providers: bool,
    },
    Root,
}

/// Reads what a certificate is. `None`: no certificate of AMD's.
pub(crate) fn named(der: &[u8]) -> Option<Result<Named, SnpRejection>> {
    let certificate = Certificate::parse(Role::Vek, der).ok()?;
    let name = certificate.common_name().ok()?;
    if matches!(name, "SEV-VCEK" | "SEV-VLEK") {
        return Some(vek(&certificate, name).map(Named::Vek));
    }
    if name.starts_with("ARK-") {
        return Some(Ok(Named::Root));
    }
    let stem = name.strip_prefix("SEV-")?;
    let (stem, over_providers) = stem
        .strip_prefix("VLEK-")
        .map_or((stem, false), |stem| (stem, true));
    Product::from_certificate(stem).map(|product| {
        Ok(Named::Intermediate {
            product,
            over_providers,
        })
    })
}

fn vek(certificate: &Certificate<'_>, name: &str) -> Result<Vek, SnpRejection> {
    let product = certificate.product()?;
    let holder = if name == "SEV-VLEK" {
        Holder::Provider(certificate.csp_id()?.to_owned())
    } else {
        let id = certificate
            .hardware_id()
            .ok_or(SnpRejection::HardwareIdMissing)?;
        let length = if product == Product::Turin { 8 } else { 64 };
        let mut whole = [0; 64];
        match whole.get_mut(..length) {
            Some(place) if place.len() == id.len() => place.copy_from_slice(id),
            _ => return Err(SnpRejection::ChipIdMismatch),
        }
        Holder::Chip(ChipId::from_bytes(whole))
    };
    Ok(Vek {
        product,
        holder,
        tcb: certificate.tcb(product)?,
    })
}

/// The product whose root issued a list, by the issuer's name.
pub(crate) fn product_of_list(der: &[u8]) -> Option<Product> {
    let (_, name) = crl::described(der).ok()?;
    Product::from_certificate(name.strip_prefix("ARK-")?)
}

/// Rules S5, S6 and S10 for an intermediate with its list. Returns until when both count.
pub(crate) fn authority(
    intermediate: &[u8],
    list: &[u8],
    root: &PinnedRoot,
    over_providers: bool,
    now: UnixTime,
) -> Result<UnixTime, SnpRejection> {
    let root_certificate = Certificate::parse(Role::Root, root.der())?;
    let intermediate = Certificate::parse(Role::Intermediate, intermediate)?;
    intermediate.must_be_issued_by(&root_certificate)?;
    let product = root.product();
    intermediate.must_be_named(&if over_providers {
        format!("SEV-VLEK-{product}")
    } else {
        format!("SEV-{product}")
    })?;
    for certificate in [&intermediate, &root_certificate] {
        certificate.must_be_valid_at(now)?;
    }
    let authorities = [
        (Role::Intermediate, &intermediate),
        (Role::Root, &root_certificate),
    ];
    crl::must_not_list(list, &root_certificate, &authorities, now)?;
    let (due, _) = crl::described(list)?;
    let ends = [intermediate.until(), root_certificate.until()];
    Ok(ends.into_iter().fold(due.minus(1), UnixTime::min))
}

/// Rule S10 for a list that stands alone. Returns the last second at which it counts.
pub(crate) fn list(
    list: &[u8],
    root: &PinnedRoot,
    now: UnixTime,
) -> Result<UnixTime, SnpRejection> {
    let root = Certificate::parse(Role::Root, root.der())?;
    crl::must_not_list(list, &root, &[(Role::Root, &root)], now)?;
    crl::described(list).map(|(due, _)| due.minus(1))
}

/// Rules S5, S6, S8 and S9 for an endorsement certificate under its intermediate. Returns its words and its last second.
pub(crate) fn endorsement(
    der: &[u8],
    intermediate: &[u8],
    now: UnixTime,
) -> Result<(Vek, UnixTime), SnpRejection> {
    let certificate = Certificate::parse(Role::Vek, der)?;
    let intermediate = Certificate::parse(Role::Intermediate, intermediate)?;
    certificate.must_be_issued_by(&intermediate)?;
    certificate.must_be_leaf()?;
    certificate.must_be_valid_at(now)?;
    certificate.p384_point()?;
    let name = certificate.common_name()?;
    if !matches!(name, "SEV-VCEK" | "SEV-VLEK") {
        certificate.must_be_named("SEV-VCEK")?;
    }
    Ok((vek(&certificate, name)?, certificate.until()))
}

/// Whose key a report says signed it: a chip's, a provider's, or nobody's.
pub(crate) fn by_provider(report: &SnpReport) -> Option<bool> {
    match report.signing_key() {
        SigningKey::Vcek => Some(false),
        SigningKey::Vlek => Some(true),
        SigningKey::None | SigningKey::Unknown => None,
    }
}

/// Whether the certificate's key signed the report.
pub(crate) fn signed(report: &SnpReport, vek: &[u8]) -> bool {
    let certificate = Certificate::parse(Role::Vek, vek);
    certificate.is_ok_and(|certificate| {
        certificate.p384_point().is_ok_and(|point| {
            UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point)
                .verify(report.signed_bytes(), &report.signature())
                .is_ok()
        })
    })
}
