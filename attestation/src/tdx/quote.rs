//! The quote, read from the bytes received (Intel TDX DCAP Quoting Library API, appendix A.3 and A.4; rule T1).
//!
//! Nothing is ever written back: signatures are checked over [`TdxQuote::signed_bytes`], which are those bytes. Zeros
//! behind a quote are the buffer of the driver that returned it (genuine ones have up to 3,065) and are cut off; nobody
//! signed them and they carry nothing. Any other byte there is refused: it could only be meant for another reader.

use super::rejection::TdxRejection;
use crate::digest::Measurement;

/// Longest quote that is read, in bytes, with what a driver puts behind it. Drivers return 8,000.
pub const QUOTE_BYTES_MAX: usize = 16 * 1024;

pub(crate) const HEADER_BYTES: usize = 48;
/// Type and size before the body, from version 5 on.
const BODY_DESCRIPTOR_BYTES: usize = 6;
const TDX: u32 = 0x81;
const ECDSA_P256: u16 = 2;
const QE_REPORT_CERTIFICATION: u16 = 6;
const PCK_CHAIN_CERTIFICATION: u16 = 5;
const INTEL: [u8; 16] = [
    0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
];

/// What the body describes. Each kind begins with the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TdxBody {
    /// A TD of TDX 1.0: version 4, or type 2 of version 5.
    Td10,
    /// A TD of TDX 1.5, which says what module runs now and to which service TD it is bound (type 3).
    Td15,
    /// The same with partition, devices and the history of bindings (type 4).
    Td15Extended,
}

impl TdxBody {
    const fn of_type(body_type: u16) -> Option<Self> {
        match body_type {
            2 => Some(Self::Td10),
            3 => Some(Self::Td15),
            4 => Some(Self::Td15Extended),
            _ => None,
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Td10 => 584,
            Self::Td15 => 648,
            Self::Td15Extended => 885,
        }
    }
}

/// What only the extended body says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TdxExtension {
    /// The partition of the TD that the report is for; 0 is the TD itself.
    pub partition: u8,
    /// Digest over the devices attached; zeros when there are none.
    pub devices: Measurement,
    /// Digest over the service TDs bound at creation.
    pub initial_service_td: Measurement,
    /// Digest over the service TDs bound now.
    pub current_service_td: Measurement,
    /// Their attributes, at creation and now.
    pub service_td_attributes: [u64; 2],
}

/// A well-formed quote of a known version. None of its signatures was checked.
#[derive(Debug, Clone)]
pub struct TdxQuote {
    raw: Vec<u8>,
    version: u16,
    body: TdxBody,
    trailing_zeros: usize,
    signature: [u8; 64],
    attestation_key: [u8; 64],
    qe_report: [u8; 384],
    qe_report_signature: [u8; 64],
    qe_auth_data: [u8; 32],
    pck_chain: Vec<u8>,
}

impl TdxQuote {
    /// Reads a quote, strictly (rule T1).
    ///
    /// # Errors
    /// A [`TdxRejection`] of rule T1.
    pub fn parse(bytes: &[u8]) -> Result<Self, TdxRejection> {
        if bytes.len() > QUOTE_BYTES_MAX {
            return Err(TdxRejection::QuoteTooLong(bytes.len()));
        }
        let mut reader = Reader(bytes);
        let version = header(&mut reader)?;
        let body = body(&mut reader, version)?;
        reader.take(body.bytes(), "body")?;
        let length = reader.length_u32("length of the signature data")?;
        let data = reader.take(length, "signature data")?;
        let trailing_zeros = reader.0.len();
        if reader.0.iter().fold(0, |any, byte| any | byte) != 0 {
            return Err(TdxRejection::TrailingBytes(trailing_zeros));
        }
        let end = bytes.len().saturating_sub(trailing_zeros);
        let mut data = Reader(data);
        let signature = data.array("signature")?;
        let attestation_key = data.array("attestation key")?;
        certification(&mut data, "outer", QE_REPORT_CERTIFICATION)?;
        let inside = data.rest_by_length("outer certification data")?;
        let mut inside = Reader(inside);
        let qe_report = inside.array("QE report")?;
        let qe_report_signature = inside.array("signature of the QE report")?;
        let qe_auth_data = auth_data(&mut inside)?;
        certification(&mut inside, "inner", PCK_CHAIN_CERTIFICATION)?;
        let pck_chain = inside.rest_by_length("inner certification data")?.to_vec();
        Ok(Self {
            raw: bytes.get(..end).unwrap_or_default().to_vec(),
            version,
            body,
            trailing_zeros,
            signature,
            attestation_key,
            qe_report,
            qe_report_signature,
            qe_auth_data,
            pck_chain,
        })
    }

    /// The quote as received, without the zeros behind it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.raw
    }

    /// How many zeros were cut off behind it.
    #[must_use]
    pub const fn trailing_zeros(&self) -> usize {
        self.trailing_zeros
    }

    /// What the attestation key signed, as received: header, in version 5 the body's type and size, and body.
    #[must_use]
    pub fn signed_bytes(&self) -> &[u8] {
        let end = self.body_start().saturating_add(self.body.bytes());
        self.raw.get(..end).unwrap_or_default()
    }

    /// Version, 4 or 5.
    #[must_use]
    pub const fn version(&self) -> u16 {
        self.version
    }

    /// What the body describes.
    #[must_use]
    pub const fn body(&self) -> TdxBody {
        self.body
    }

    pub(crate) const fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    pub(crate) const fn attestation_key(&self) -> &[u8; 64] {
        &self.attestation_key
    }

    pub(crate) fn qe_report(&self) -> QeReport<'_> {
        QeReport(&self.qe_report)
    }

    pub(crate) const fn qe_report_signature(&self) -> &[u8; 64] {
        &self.qe_report_signature
    }

    pub(crate) const fn qe_auth_data(&self) -> &[u8; 32] {
        &self.qe_auth_data
    }

    /// The PCK chain as PEM text, as the quote carries it.
    pub(crate) fn pck_chain(&self) -> &[u8] {
        &self.pck_chain
    }

    /// TEE_TCB_SVN: firmware when the TD was launched. Byte 0 is the module's version, byte 1 its generation.
    #[must_use]
    pub fn tee_tcb_svn(&self) -> [u8; 16] {
        self.field(0)
    }

    /// MRSEAM: measurement of the TDX module.
    #[must_use]
    pub fn mr_seam(&self) -> Measurement {
        self.measurement(16)
    }

    /// MRSIGNERSEAM: signer of the TDX module; zeros for Intel.
    #[must_use]
    pub fn mr_signer_seam(&self) -> Measurement {
        self.measurement(64)
    }

    /// SEAMATTRIBUTES.
    #[must_use]
    pub fn seam_attributes(&self) -> u64 {
        u64::from_le_bytes(self.field(112))
    }

    /// TDATTRIBUTES.
    #[must_use]
    pub fn td_attributes(&self) -> u64 {
        u64::from_le_bytes(self.field(120))
    }

    /// XFAM: processor state that the TD may use.
    #[must_use]
    pub fn xfam(&self) -> u64 {
        u64::from_le_bytes(self.field(128))
    }

    /// MRTD: the TD at launch.
    #[must_use]
    pub fn mrtd(&self) -> Measurement {
        self.measurement(136)
    }

    /// MRCONFIGID: configuration that the host names at launch.
    #[must_use]
    pub fn mr_config_id(&self) -> Measurement {
        self.measurement(184)
    }

    /// MROWNER: owner that the host names at launch.
    #[must_use]
    pub fn mr_owner(&self) -> Measurement {
        self.measurement(232)
    }

    /// MROWNERCONFIG: the owner's configuration that the host names at launch.
    #[must_use]
    pub fn mr_owner_config(&self) -> Measurement {
        self.measurement(280)
    }

    /// RTMR0 to RTMR3: what the TD measured while it ran.
    #[must_use]
    pub fn rtmrs(&self) -> [Measurement; 4] {
        [328, 376, 424, 472].map(|offset| self.measurement(offset))
    }

    /// REPORTDATA: what the TD asked to have signed.
    #[must_use]
    pub fn report_data(&self) -> [u8; 64] {
        self.field(520)
    }

    /// TEE_TCB_SVN_2: firmware now. A body of TDX 1.0 does not say.
    #[must_use]
    pub fn current_tee_tcb_svn(&self) -> Option<[u8; 16]> {
        (self.body >= TdxBody::Td15).then(|| self.field(584))
    }

    /// MRSERVICETD. A TD with a service TD never has a body of TDX 1.0.
    #[must_use]
    pub fn mr_service_td(&self) -> Option<Measurement> {
        (self.body >= TdxBody::Td15).then(|| self.measurement(600))
    }

    /// What only the extended body says.
    #[must_use]
    pub fn extension(&self) -> Option<TdxExtension> {
        let attributes = |offset| u64::from_le_bytes(self.field(offset));
        (self.body >= TdxBody::Td15Extended).then(|| TdxExtension {
            partition: u8::from_le_bytes(self.field(648)),
            devices: self.measurement(681),
            initial_service_td: self.measurement(729),
            current_service_td: self.measurement(829),
            service_td_attributes: [attributes(777), attributes(877)],
        })
    }

    const fn body_start(&self) -> usize {
        if self.version == 5 {
            HEADER_BYTES + BODY_DESCRIPTOR_BYTES
        } else {
            HEADER_BYTES
        }
    }

    fn measurement(&self, offset: usize) -> Measurement {
        Measurement::from_bytes(self.field(offset))
    }

    /// Bytes at a fixed offset of the body. Offsets are those of the format and lie inside the body of that kind.
    fn field<const N: usize>(&self, offset: usize) -> [u8; N] {
        array_at(&self.raw, self.body_start().saturating_add(offset))
    }
}

/// The quoting enclave's own report, which the PCK certificate's key signs (SGX REPORT, 384 bytes).
#[derive(Clone, Copy)]
pub(crate) struct QeReport<'a>(&'a [u8; 384]);

impl QeReport<'_> {
    pub(crate) const fn bytes(&self) -> &[u8] {
        self.0
    }

    pub(crate) fn misc_select(&self) -> [u8; 4] {
        array_at(self.0, 16)
    }

    pub(crate) fn attributes(&self) -> [u8; 16] {
        array_at(self.0, 48)
    }

    pub(crate) fn mr_signer(&self) -> [u8; 32] {
        array_at(self.0, 128)
    }

    pub(crate) fn product(&self) -> u16 {
        u16::from_le_bytes(array_at(self.0, 256))
    }

    pub(crate) fn version(&self) -> u16 {
        u16::from_le_bytes(array_at(self.0, 258))
    }

    pub(crate) fn report_data(&self) -> [u8; 64] {
        array_at(self.0, 320)
    }
}

fn header(reader: &mut Reader<'_>) -> Result<u16, TdxRejection> {
    let version = u16::from_le_bytes(reader.array("header")?);
    if !matches!(version, 4 | 5) {
        return Err(TdxRejection::QuoteVersion(version));
    }
    let key_type = u16::from_le_bytes(reader.array("header")?);
    if key_type != ECDSA_P256 {
        return Err(TdxRejection::AttestationKeyType(key_type));
    }
    let tee = u32::from_le_bytes(reader.array("header")?);
    if tee != TDX {
        return Err(TdxRejection::TeeType(tee));
    }
    if reader.array("header")? != [0_u8; 4] {
        return Err(TdxRejection::HeaderReserved);
    }
    let vendor: [u8; 16] = reader.array("header")?;
    if vendor != INTEL {
        return Err(TdxRejection::QeVendor(hex::encode(vendor)));
    }
    // The quoting enclave's own data, a number that it gives to a machine. No rule reads it.
    reader.take(20, "header")?;
    Ok(version)
}

fn body(reader: &mut Reader<'_>, version: u16) -> Result<TdxBody, TdxRejection> {
    if version == 4 {
        return Ok(TdxBody::Td10);
    }
    let body_type = u16::from_le_bytes(reader.array("body type")?);
    let body = TdxBody::of_type(body_type).ok_or(TdxRejection::BodyType(body_type))?;
    let found = u32::from_le_bytes(reader.array("body size")?);
    let expected = body.bytes();
    if usize::try_from(found) != Ok(expected) {
        return Err(TdxRejection::BodySize {
            body_type,
            found,
            expected,
        });
    }
    Ok(body)
}

fn certification(
    reader: &mut Reader<'_>,
    place: &'static str,
    expected: u16,
) -> Result<(), TdxRejection> {
    let found = u16::from_le_bytes(reader.array("certification data")?);
    if found == expected {
        return Ok(());
    }
    Err(TdxRejection::CertificationType {
        place,
        found,
        expected,
    })
}

/// Intel's quoting enclave writes 32 bytes, and no reader of quotes in the field takes another number.
fn auth_data(reader: &mut Reader<'_>) -> Result<[u8; 32], TdxRejection> {
    let found = usize::from(u16::from_le_bytes(reader.array("QE authentication data")?));
    if found != 32 {
        return Err(TdxRejection::Length {
            part: "QE authentication data",
            found,
            held: 32,
        });
    }
    reader.array("QE authentication data")
}

/// What is left of the bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize, part: &'static str) -> Result<&'a [u8], TdxRejection> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(TdxRejection::QuoteTruncated(part))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], TdxRejection> {
        Ok(array_at(self.take(N, part)?, 0))
    }

    fn length_u32(&mut self, part: &'static str) -> Result<usize, TdxRejection> {
        let length = u32::from_le_bytes(self.array(part)?);
        usize::try_from(length).map_err(|_| TdxRejection::QuoteTruncated(part))
    }

    /// A length and exactly as many bytes, behind which nothing may be left.
    fn rest_by_length(&mut self, part: &'static str) -> Result<&'a [u8], TdxRejection> {
        let found = self.length_u32(part)?;
        let held = self.0.len();
        if found != held {
            return Err(TdxRejection::Length { part, found, held });
        }
        self.take(found, part)
    }
}

/// Bytes at an offset that the caller knows to be inside.
fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0_u8; N];
    for (to, from) in out.iter_mut().zip(bytes.iter().skip(offset)) {
        *to = *from;
    }
    out
}
