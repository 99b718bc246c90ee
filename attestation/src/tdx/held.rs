//! Intel's collateral by itself, without a quote: what it is, whether Intel's root stands behind it, until when.

use serde::{Deserialize, Serialize};

use super::certificate::{Certificate, chain};
use super::crl::Crl;
use super::parts::{TdxCertificate as Place, TdxCrl, TdxDocument};
use super::pck::PckPlatform;
use super::quote::TdxQuote;
use super::rejection::TdxRejection;
use super::roots::TdxRoot;
use super::signatures::Signatures;
use super::tcb::{QeIdentity, TcbInfo};
use crate::digest::{ChipId, UnixTime};

/// Who certifies a platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PckCa {
    /// Platforms of one package.
    Processor,
    /// Platforms of several packages.
    Platform,
}

impl PckCa {
    /// The word that Intel's service knows.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Platform => "platform",
        }
    }

    fn of(authority: &Certificate<'_>) -> Result<Self, TdxRejection> {
        authority.must_be_named()?;
        Ok(match authority.common_name() {
            Some("Intel SGX PCK Processor CA") => Self::Processor,
            _ => Self::Platform,
        })
    }
}

impl std::fmt::Display for PckCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A platform's certificate: which platform, and for which firmware (16 components and the PCE's version).
pub(crate) struct Pck {
    pub(crate) platform: ChipId,
    pub(crate) tcb: [u8; 18],
    pub(crate) ca: PckCa,
}

/// A document of Intel's with its signature (r and s) and its signer's chain.
#[derive(Clone, Copy)]
pub(crate) struct Signed<'a> {
    pub(crate) text: &'a str,
    pub(crate) signature: &'a [u8],
    pub(crate) issuers: &'a str,
}

/// For which platforms a TCB info says that it is. Judges nothing but its form.
pub(crate) fn fmspc_of(text: &str) -> Result<[u8; 6], TdxRejection> {
    TcbInfo::read(text)?.fmspc()
}

/// Whose list travels with this chain.
pub(crate) fn ca_of(issuers: &str) -> Result<PckCa, TdxRejection> {
    let ders = chain(Place::PckAuthority, issuers.as_bytes(), 1)?;
    PckCa::of(&Certificate::parse(Place::PckAuthority, first(&ders)?)?)
}

/// What a platform's chain says, unchecked.
pub(crate) fn pck_of(pem: &str) -> Result<Pck, TdxRejection> {
    let ders = chain(Place::Pck, pem.as_bytes(), 2)?;
    let (leaf, authority) = two(&ders)?;
    let leaf = Certificate::parse(Place::Pck, leaf)?;
    leaf.must_be_named()?;
    described(
        &PckPlatform::of(&leaf)?,
        &Certificate::parse(Place::PckAuthority, authority)?,
    )
}

/// Which collateral a quote needs, by its own PCK chain.
pub(crate) fn wanted_by(quote: &TdxQuote) -> Result<(PckCa, [u8; 6]), TdxRejection> {
    let ders = chain(Place::Pck, quote.pck_chain(), 2)?;
    let (leaf, authority) = two(&ders)?;
    let platform = PckPlatform::of(&Certificate::parse(Place::Pck, leaf)?)?;
    let ca = PckCa::of(&Certificate::parse(Place::PckAuthority, authority)?)?;
    Ok((ca, *platform.fmspc()))
}

fn described(platform: &PckPlatform, authority: &Certificate<'_>) -> Result<Pck, TdxRejection> {
    let mut tcb = [0; 18];
    let pce_svn = platform.pce_svn().to_be_bytes();
    let bytes = platform.sgx_components().iter().chain(&pce_svn);
    for (to, from) in tcb.iter_mut().zip(bytes) {
        *to = *from;
    }
    Ok(Pck {
        platform: platform.id(),
        tcb,
        ca: PckCa::of(authority)?,
    })
}

/// The pinned root with its list: what stands behind everything else.
pub(crate) struct Root<'a> {
    certificate: Certificate<'a>,
    list: Crl<'a>,
    /// Of one bundle: its documents have signers in common.
    signatures: Signatures<'static>,
}

impl<'a> Root<'a> {
    pub(crate) fn open(
        root: &'a TdxRoot,
        list: &'a [u8],
        now: UnixTime,
    ) -> Result<Self, TdxRejection> {
        let certificate = Certificate::parse(Place::Root, root.der())?;
        let signatures = Signatures::default();
        let list = Crl::open(TdxCrl::Root, list, &certificate, &signatures, now)?;
        list.must_not_name(&certificate)?;
        certificate.must_be_valid_at(now)?;
        Ok(Self {
            certificate,
            list,
            signatures,
        })
    }

    /// The last second at which the root's list counts.
    pub(crate) fn until(&self) -> UnixTime {
        self.list.due().minus(1).min(self.certificate.until())
    }

    /// Rule T6. Returns for which platforms, and until when.
    pub(crate) fn tcb_info(
        &self,
        signed: Signed<'_>,
        now: UnixTime,
    ) -> Result<([u8; 6], UnixTime), TdxRejection> {
        let until = self.signed(TdxDocument::TcbInfo, Place::TcbInfoSigner, signed, now)?;
        let (info, issue) = TcbInfo::open(signed.text, now)?;
        Ok((info.fmspc()?, issue.until.min(until)))
    }

    /// Rule T6. Returns until when.
    pub(crate) fn qe_identity(
        &self,
        signed: Signed<'_>,
        now: UnixTime,
    ) -> Result<UnixTime, TdxRejection> {
        let place = Place::QeIdentitySigner;
        let until = self.signed(TdxDocument::QeIdentity, place, signed, now)?;
        let (_, issue) = QeIdentity::open(signed.text, now)?;
        Ok(issue.until.min(until))
    }

    fn signed(
        &self,
        document: TdxDocument,
        place: Place,
        signed: Signed<'_>,
        now: UnixTime,
    ) -> Result<UnixTime, TdxRejection> {
        let ders = chain(place, signed.issuers.as_bytes(), 1)?;
        let signer = Certificate::parse(place, first(&ders)?)?;
        signer.must_be_issued_by(&self.certificate, 0, &self.signatures)?;
        signer.must_be_named()?;
        signer.must_be_leaf()?;
        self.list.must_not_name(&signer)?;
        signer.must_be_valid_at(now)?;
        let (point, text) = (signer.p256_point(), signed.text.as_bytes());
        if !self.signatures.verify_fixed(point, text, signed.signature) {
            return Err(TdxRejection::DocumentSignature(document));
        }
        Ok(signer.until())
    }

    /// Rule T3 for the list of an authority, with the authority's chain. Returns whose it is, and until when.
    pub(crate) fn pck_list(
        &self,
        list: &[u8],
        issuers: &str,
        now: UnixTime,
    ) -> Result<(PckCa, UnixTime), TdxRejection> {
        let ders = chain(Place::PckAuthority, issuers.as_bytes(), 1)?;
        let authority = self.authority(first(&ders)?, now)?;
        let list = Crl::open(TdxCrl::Pck, list, &authority, &self.signatures, now)?;
        let until = list.due().minus(1).min(authority.until());
        Ok((PckCa::of(&authority)?, until))
    }

    /// Rules T2 and T3 for a platform's chain. Returns which platform, and until when.
    pub(crate) fn pck(
        &self,
        pem: &str,
        list: &[u8],
        now: UnixTime,
    ) -> Result<(Pck, UnixTime), TdxRejection> {
        let ders = chain(Place::Pck, pem.as_bytes(), 2)?;
        let (leaf, authority) = two(&ders)?;
        let authority = self.authority(authority, now)?;
        let leaf = Certificate::parse(Place::Pck, leaf)?;
        leaf.must_be_issued_by(&authority, 0, &self.signatures)?;
        leaf.must_be_named()?;
        leaf.must_be_leaf()?;
        Crl::open(TdxCrl::Pck, list, &authority, &self.signatures, now)?.must_not_name(&leaf)?;
        leaf.must_be_valid_at(now)?;
        let pck = described(&PckPlatform::of(&leaf)?, &authority)?;
        Ok((pck, leaf.until().min(authority.until())))
    }

    fn authority<'d>(&self, der: &'d [u8], now: UnixTime) -> Result<Certificate<'d>, TdxRejection> {
        let authority = Certificate::parse(Place::PckAuthority, der)?;
        authority.must_be_issued_by(&self.certificate, 1, &self.signatures)?;
        authority.must_be_named()?;
        self.list.must_not_name(&authority)?;
        authority.must_be_valid_at(now)?;
        Ok(authority)
    }
}

fn first(ders: &[Vec<u8>]) -> Result<&[u8], TdxRejection> {
    ders.first().map(Vec::as_slice).ok_or(TOO_FEW)
}

fn two(ders: &[Vec<u8>]) -> Result<(&[u8], &[u8]), TdxRejection> {
    match ders {
        [leaf, authority] => Ok((leaf, authority)),
        _ => Err(TOO_FEW),
    }
}

const TOO_FEW: TdxRejection = TdxRejection::ChainMalformed {
    leaf: Place::Pck,
    what: "has too few certificates",
};
