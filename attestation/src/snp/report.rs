//! The attestation report, read from the 1184 bytes received (SNP ABI, ATTESTATION_REPORT; rules S1 and S2).
//!
//! Nothing is ever written back: signatures are checked over [`SnpReport::signed_bytes`], which are those bytes.

use std::ops::Range;

use super::rejection::SnpRejection;
use super::tcb::TcbLayout;
use super::{Product, TcbVersion};
use crate::digest::{ChipId, Measurement};

/// Length of a report in bytes.
pub const REPORT_BYTES: usize = 1184;

/// VMPL of a report that the host asked for.
pub const VMPL_HOST: u32 = u32::MAX;

pub(crate) const SIGNED_BYTES: usize = 0x2a0;

/// Reserved bytes of every version.
const RESERVED: [Range<usize>; 6] = [
    0x4c..0x50,
    0x18b..0x1a0,
    0x1eb..0x1ec,
    0x1ef..0x1f0,
    0x208..0x2a0,
    0x330..0x4a0,
];
/// Bytes that only versions from 3 on use: processor identity.
const RESERVED_BEFORE_3: Range<usize> = 0x188..0x18b;
/// Bytes that only versions from 5 on use: mitigation vectors.
const RESERVED_BEFORE_5: Range<usize> = 0x1f8..0x208;
/// 48 of 72 bytes of each half of the signature count.
const SIGNATURE_PADDING: [Range<usize>; 2] = [0x2d0..0x2e8, 0x318..0x330];

/// Which key the report says signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SigningKey {
    Vcek,
    Vlek,
    None,
    Unknown,
}

impl SigningKey {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Vcek => "VCEK",
            Self::Vlek => "VLEK",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// A report of a known version whose reserved bytes are zero. Its signature was not checked.
#[derive(Debug, Clone)]
pub struct SnpReport {
    raw: Box<[u8; REPORT_BYTES]>,
    product: Option<Product>,
    current_tcb: TcbVersion,
    reported_tcb: TcbVersion,
    committed_tcb: TcbVersion,
    launch_tcb: TcbVersion,
}

impl SnpReport {
    /// Reads a report, strictly (rules S1 and S2).
    ///
    /// # Errors
    /// [`SnpRejection::ReportLength`], [`SnpRejection::ReportVersion`], [`SnpRejection::VersionWithoutCpuid`],
    /// [`SnpRejection::ProcessorUnknown`] and [`SnpRejection::ReservedNotZero`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SnpRejection> {
        let raw: &[u8; REPORT_BYTES] = bytes
            .try_into()
            .map_err(|_| SnpRejection::ReportLength(bytes.len()))?;
        let version = u32::from_le_bytes(field(raw, 0));
        if !(2..=5).contains(&version) {
            return Err(SnpRejection::ReportVersion(version));
        }
        let product = processor(raw, version)?;
        reserved_are_zero(raw, version)?;
        let layout = product.map_or(TcbLayout::Legacy, TcbLayout::of);
        let tcb = |offset| {
            TcbVersion::decode(field(raw, offset), layout)
                .ok_or(SnpRejection::ReservedNotZero(offset))
        };
        Ok(Self {
            raw: Box::new(*raw),
            product,
            current_tcb: tcb(0x38)?,
            reported_tcb: tcb(0x180)?,
            committed_tcb: tcb(0x1e0)?,
            launch_tcb: tcb(0x1f0)?,
        })
    }

    /// The whole report, as received.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; REPORT_BYTES] {
        &self.raw
    }

    /// The bytes that the chip signed, as received.
    #[must_use]
    pub fn signed_bytes(&self) -> &[u8] {
        self.raw.get(..SIGNED_BYTES).unwrap_or_default()
    }

    /// The signature as R and S, big-endian, 48 bytes each.
    #[must_use]
    pub fn signature(&self) -> [u8; 96] {
        let (mut r, mut s): ([u8; 48], [u8; 48]) =
            (field(&self.raw, 0x2a0), field(&self.raw, 0x2e8));
        r.reverse();
        s.reverse();
        let mut out = [0_u8; 96];
        for (to, from) in out.iter_mut().zip(r.into_iter().chain(s)) {
            *to = from;
        }
        out
    }

    /// VERSION, 2 to 5.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.u32_at(0)
    }

    /// GUEST_SVN.
    #[must_use]
    pub fn guest_svn(&self) -> u32 {
        self.u32_at(0x04)
    }

    /// POLICY: what the guest was launched with.
    #[must_use]
    pub fn policy(&self) -> u64 {
        self.u64_at(0x08)
    }

    /// VMPL, or [`VMPL_HOST`].
    #[must_use]
    pub fn vmpl(&self) -> u32 {
        self.u32_at(0x30)
    }

    /// SIGNATURE_ALGO.
    #[must_use]
    pub fn signature_algorithm(&self) -> u32 {
        self.u32_at(0x34)
    }

    /// PLATFORM_INFO.
    #[must_use]
    pub fn platform_info(&self) -> u64 {
        self.u64_at(0x40)
    }

    /// MASK_CHIP_KEY.
    #[must_use]
    pub fn chip_key_masked(&self) -> bool {
        self.flags() & 0b10 != 0
    }

    pub(crate) fn signing_key(&self) -> SigningKey {
        match (self.flags() >> 2) & 0b111 {
            0 => SigningKey::Vcek,
            1 => SigningKey::Vlek,
            7 => SigningKey::None,
            _ => SigningKey::Unknown,
        }
    }

    /// REPORT_DATA: what the guest asked to have signed.
    #[must_use]
    pub fn report_data(&self) -> [u8; 64] {
        field(&self.raw, 0x50)
    }

    /// MEASUREMENT: the guest at launch.
    #[must_use]
    pub fn measurement(&self) -> Measurement {
        Measurement::from_bytes(field(&self.raw, 0x90))
    }

    /// HOST_DATA: what the host said at launch.
    #[must_use]
    pub fn host_data(&self) -> [u8; 32] {
        field(&self.raw, 0xc0)
    }

    /// CHIP_ID.
    #[must_use]
    pub fn chip_id(&self) -> ChipId {
        ChipId::from_bytes(field(&self.raw, 0x1a0))
    }

    /// The processor by CPUID; `None` in version 2, which does not say.
    #[must_use]
    pub const fn product(&self) -> Option<Product> {
        self.product
    }

    /// CURRENT_TCB.
    #[must_use]
    pub const fn current_tcb(&self) -> TcbVersion {
        self.current_tcb
    }

    /// REPORTED_TCB: what the endorsement key was derived for.
    #[must_use]
    pub const fn reported_tcb(&self) -> TcbVersion {
        self.reported_tcb
    }

    /// COMMITTED_TCB: what cannot be rolled back.
    #[must_use]
    pub const fn committed_tcb(&self) -> TcbVersion {
        self.committed_tcb
    }

    /// LAUNCH_TCB: what ran when the guest was launched.
    #[must_use]
    pub const fn launch_tcb(&self) -> TcbVersion {
        self.launch_tcb
    }

    /// LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR; zeros before version 5.
    #[must_use]
    pub fn mitigations(&self) -> (u64, u64) {
        (self.u64_at(0x1f8), self.u64_at(0x200))
    }

    fn flags(&self) -> u32 {
        self.u32_at(0x48)
    }

    fn u32_at(&self, offset: usize) -> u32 {
        u32::from_le_bytes(field(&self.raw, offset))
    }

    fn u64_at(&self, offset: usize) -> u64 {
        u64::from_le_bytes(field(&self.raw, offset))
    }
}

/// Bytes at a fixed offset. Offsets are those of the format and lie inside the report.
fn field<const N: usize>(raw: &[u8; REPORT_BYTES], offset: usize) -> [u8; N] {
    let mut out = [0_u8; N];
    for (to, from) in out.iter_mut().zip(raw.iter().skip(offset)) {
        *to = *from;
    }
    out
}

/// The processor that the report names. The layout of its firmware versions hangs on it.
fn processor(raw: &[u8; REPORT_BYTES], version: u32) -> Result<Option<Product>, SnpRejection> {
    if version < 3 {
        return Ok(None);
    }
    match field(raw, 0x188) {
        [0, 0, 0] => Err(SnpRejection::VersionWithoutCpuid(version)),
        [family, model, _] => Product::from_cpuid(family, model)
            .map(Some)
            .ok_or(SnpRejection::ProcessorUnknown { family, model }),
    }
}

fn reserved_are_zero(raw: &[u8; REPORT_BYTES], version: u32) -> Result<(), SnpRejection> {
    let early = (version < 3).then_some(RESERVED_BEFORE_3);
    let middle = (version < 5).then_some(RESERVED_BEFORE_5);
    let always = RESERVED.into_iter().chain(SIGNATURE_PADDING);
    for range in always.chain(early).chain(middle) {
        let start = range.start;
        let inside = raw.get(range).unwrap_or_default();
        if let Some(position) = inside.iter().position(|byte| *byte != 0) {
            return Err(SnpRejection::ReservedNotZero(start + position));
        }
    }
    if u32::from_le_bytes(field(raw, 0x48)) >> 5 != 0 {
        return Err(SnpRejection::ReservedNotZero(0x48));
    }
    Ok(())
}
