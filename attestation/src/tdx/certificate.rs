//! The certificates of Intel's two chains (SGX PCK Certificate and CRL Profile; rules T2, T3, T6).
//!
//! PCK certificate ← Platform or Processor CA ← root, and signer of collateral ← root. Fixed places, so no path is
//! searched. The root is the pinned one; whatever root a chain brings along is not even read.

use super::extension::{BASIC_CONSTRAINTS, Constraints, Extension, KEY_USAGE, SEQUENCE, Usage};
use super::parts::TdxCertificate as Place;
use super::pem;
use super::rejection::TdxRejection;
use super::signatures::Signatures;
use super::x509::Read;
use crate::der::value;
use crate::digest::UnixTime;
use crate::reader::Reader;

/// Longest certificate that is read, in bytes. Intel's have less than 1,300.
const CERTIFICATE_BYTES_MAX: usize = 4096;

/// The number of version 3.
const VERSION_3: [u8; 1] = [2];

/// The AlgorithmIdentifier of ecdsa-with-SHA256 (RFC 5758, section 3.2), which has no parameters.
const ECDSA_WITH_SHA256: [u8; 12] = [
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];

/// The names that Intel gives to each place (PCK Certificate and CRL Profile, sections 1 and 2).
const fn names(place: Place) -> &'static [&'static str] {
    match place {
        Place::Pck => &["Intel SGX PCK Certificate"],
        Place::PckAuthority => &["Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"],
        Place::TcbInfoSigner | Place::QeIdentitySigner => &["Intel SGX TCB Signing"],
        // The root is known by its key.
        Place::Root => &[],
    }
}

/// A certificate that was read but not checked.
pub(crate) struct Certificate<'a> {
    place: Place,
    read: Read<'a>,
    point: &'a [u8],
}

impl<'a> Certificate<'a> {
    pub(crate) fn parse(place: Place, der: &'a [u8]) -> Result<Self, TdxRejection> {
        let malformed = |what| TdxRejection::CertificateMalformed {
            certificate: place,
            what,
        };
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(malformed("longer than 4096 bytes"));
        }
        let not_one = || malformed("not a certificate in DER");
        let mut whole = Reader::new(der);
        let (_, content) = value(&mut whole, SEQUENCE).ok_or_else(not_one)?;
        if !whole.is_empty() {
            return Err(malformed("bytes after its end"));
        }
        let read = Read::of(content).ok_or_else(not_one)?;
        if read.version != Some(&VERSION_3) {
            return Err(malformed("not of version 3"));
        }
        if read.algorithm_inside != read.algorithm {
            return Err(malformed("names two signature algorithms"));
        }
        let mut left = &read.extensions[..];
        while let [one, others @ ..] = left {
            if others.iter().any(|other| other.id == one.id) {
                return Err(malformed("an extension occurs twice"));
            }
            left = others;
        }
        let understood = |extension: &Extension<'_>| match extension.id {
            BASIC_CONSTRAINTS => Constraints::of(extension).is_some(),
            KEY_USAGE => Usage::of(extension).is_some(),
            _ => false,
        };
        let mut extensions = read.extensions.iter();
        if extensions.any(|extension| extension.critical && !understood(extension)) {
            return Err(malformed("has a critical extension that is not understood"));
        }
        let point = read
            .p256_point()
            .ok_or_else(|| malformed("has no uncompressed P-256 key"))?;
        Ok(Self { place, read, point })
    }

    /// The place that it was read for.
    pub(crate) const fn place(&self) -> Place {
        self.place
    }

    /// The subject's name, as it is written.
    pub(crate) const fn subject(&self) -> &'a [u8] {
        self.read.subject
    }

    /// The serial number, as it is written.
    pub(crate) const fn serial(&self) -> &'a [u8] {
        self.read.serial
    }

    /// The value of an extension, by the content of its object identifier.
    pub(crate) fn extension(&self, id: &[u8]) -> Option<&'a [u8]> {
        self.read.extension(id).map(|found| found.value)
    }

    /// The whole of a link: `issuer` is an authority with room for what stands below it, and signed this certificate.
    pub(crate) fn must_be_issued_by(
        &self,
        issuer: &Certificate<'_>,
        below: u8,
        signatures: &Signatures<'_>,
    ) -> Result<(), TdxRejection> {
        let certificate = self.place;
        let read = &self.read;
        if read.issuer != issuer.subject() {
            return Err(TdxRejection::ChainName { certificate });
        }
        issuer.must_be_authority(below)?;
        // No bit of the last byte is unused.
        match read.signature {
            [0, signature @ ..]
                if issuer.signed(read.signed, read.algorithm, signature, signatures) =>
            {
                Ok(())
            }
            _ => Err(TdxRejection::ChainSignature { certificate }),
        }
    }

    /// Whether this certificate's key signed `message` by ECDSA P-256 with SHA-256, the only algorithm of these chains.
    pub(crate) fn signed(
        &self,
        message: &[u8],
        algorithm: &[u8],
        signature: &[u8],
        signatures: &Signatures<'_>,
    ) -> bool {
        algorithm == ECDSA_WITH_SHA256 && signatures.verify(self.point, message, signature)
    }

    /// The P-256 point, uncompressed.
    pub(crate) const fn p256_point(&self) -> &'a [u8] {
        self.point
    }

    /// Its only common name is one that Intel gives to this place.
    pub(crate) fn must_be_named(&self) -> Result<(), TdxRejection> {
        match self.read.common_names[..] {
            [Some(name)] if names(self.place).contains(&name) => Ok(()),
            [found, ..] => Err(TdxRejection::CertificateName {
                certificate: self.place,
                found: found.unwrap_or_default().to_owned(),
            }),
            [] => Err(TdxRejection::CertificateName {
                certificate: self.place,
                found: String::new(),
            }),
        }
    }

    /// The subject's first common name.
    pub(crate) fn common_name(&self) -> Option<&'a str> {
        self.read.common_names.first().copied().flatten()
    }

    /// The last second of validity.
    pub(crate) const fn until(&self) -> UnixTime {
        self.read.until
    }

    fn must_be_authority(&self, below: u8) -> Result<(), TdxRejection> {
        let room = self
            .constraints()
            .is_some_and(|found| found.authority && found.depth.is_none_or(|depth| depth >= below));
        let may_sign = self
            .usage()
            .is_some_and(|usage| usage.signs_certificates && usage.signs_lists);
        if room && may_sign {
            return Ok(());
        }
        Err(TdxRejection::NotAuthority {
            certificate: self.place,
        })
    }

    /// Whoever signs quoting enclaves or collateral may not sign certificates, and its key is for signatures.
    pub(crate) fn must_be_leaf(&self) -> Result<(), TdxRejection> {
        let certificate = self.place;
        if self.constraints().is_none_or(|found| found.authority) {
            return Err(TdxRejection::LeafIsAuthority { certificate });
        }
        if self
            .usage()
            .is_some_and(|usage| usage.signs && !usage.signs_certificates)
        {
            return Ok(());
        }
        Err(TdxRejection::KeyUsage { certificate })
    }

    fn constraints(&self) -> Option<Constraints> {
        Constraints::of(self.read.extension(BASIC_CONSTRAINTS)?)
    }

    fn usage(&self) -> Option<Usage> {
        Usage::of(self.read.extension(KEY_USAGE)?)
    }

    /// First and last second included.
    pub(crate) fn must_be_valid_at(&self, now: UnixTime) -> Result<(), TdxRejection> {
        let (certificate, from, until) = (self.place, self.read.from, self.read.until);
        if now < from {
            return Err(TdxRejection::CertificateNotYetValid {
                certificate,
                from,
                now,
            });
        }
        if now > until {
            return Err(TdxRejection::CertificateExpired {
                certificate,
                until,
                now,
            });
        }
        Ok(())
    }
}

/// The certificates of a chain of `wanted` certificates and, perhaps, a root that nobody reads.
pub(crate) fn chain(leaf: Place, text: &[u8], wanted: usize) -> Result<Vec<Vec<u8>>, TdxRejection> {
    let malformed = |what| TdxRejection::ChainMalformed { leaf, what };
    let mut certificates = pem::certificates(text).map_err(malformed)?;
    if certificates.len() < wanted {
        return Err(malformed("has too few certificates"));
    }
    if certificates.len() > wanted.saturating_add(1) {
        return Err(malformed("has too many certificates"));
    }
    certificates.truncate(wanted);
    Ok(certificates)
}
