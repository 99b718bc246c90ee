//! What a quote says before it is signed.

#![allow(dead_code, reason = "each test file uses its own part")]

use super::REPORT_DATA;

/// What a quote says before it is signed.
#[derive(Clone)]
pub struct Quote {
    pub version: u16,
    pub key_type: u16,
    pub tee: u32,
    pub reserved: [u8; 4],
    pub vendor: [u8; 16],
    pub body_type: u16,
    pub body_size: u32,
    pub body: Vec<u8>,
    pub qe_report: [u8; 384],
    pub auth_data: Vec<u8>,
    pub outer_type: u16,
    pub inner_type: u16,
    pub behind: Vec<u8>,
}

/// Offsets in the body.
pub const TEE_TCB_SVN: usize = 0;
pub const MR_SEAM: usize = 16;
pub const MR_SIGNER_SEAM: usize = 64;
pub const SEAM_ATTRIBUTES: usize = 112;
pub const TD_ATTRIBUTES: usize = 120;
pub const XFAM: usize = 128;
pub const MRTD: usize = 136;
pub const MR_CONFIG_ID: usize = 184;
pub const MR_OWNER: usize = 232;
pub const MR_OWNER_CONFIG: usize = 280;
pub const RTMR0: usize = 328;
pub const REPORT_DATA_AT: usize = 520;
pub const TEE_TCB_SVN_2: usize = 584;
pub const MR_SERVICE_TD: usize = 600;
/// Offsets in the QE report.
pub const QE_MISC_SELECT: usize = 16;
pub const QE_ATTRIBUTES: usize = 48;
pub const QE_MR_SIGNER: usize = 128;
pub const QE_PRODUCT: usize = 256;
pub const QE_VERSION: usize = 258;

pub fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

impl Quote {
    pub(super) fn new() -> Self {
        let mut body = vec![0; 648];
        put(&mut body, TEE_TCB_SVN, &[6, 1, 3]);
        put(&mut body, MR_SEAM, &[0x11; 48]);
        put(&mut body, TD_ATTRIBUTES, &(1_u64 << 28).to_le_bytes());
        put(&mut body, XFAM, &0x0006_02e7_u64.to_le_bytes());
        put(&mut body, MRTD, &[0x22; 48]);
        for register in 0..4 {
            put(
                &mut body,
                RTMR0 + 48 * register,
                &[0x30 + register as u8; 48],
            );
        }
        put(&mut body, REPORT_DATA_AT, &REPORT_DATA);
        put(&mut body, TEE_TCB_SVN_2, &[7, 1, 3]);
        let mut qe_report = [0; 384];
        put(
            &mut qe_report,
            QE_ATTRIBUTES,
            &[0x15, 0, 0, 0, 0, 0, 0, 0, 0xe7],
        );
        put(&mut qe_report, QE_MR_SIGNER, &[0xdc; 32]);
        put(&mut qe_report, QE_PRODUCT, &[2, 0, 8, 0]);
        Self {
            version: 5,
            key_type: 2,
            tee: 0x81,
            reserved: [0; 4],
            vendor: [
                0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f,
                0x06, 0x07,
            ],
            body_type: 3,
            body_size: 648,
            body,
            qe_report,
            auth_data: (0..32).collect(),
            outer_type: 6,
            inner_type: 5,
            behind: Vec::new(),
        }
    }

    /// Writes into the body.
    pub fn body(&mut self, offset: usize, value: &[u8]) {
        put(&mut self.body, offset, value);
    }

    /// A body of TDX 1.0 in version 4.
    pub fn version_4(&mut self) {
        self.version = 4;
        self.body.truncate(584);
    }

    /// A body of type 4; `extension` is what stands behind the 648 bytes of type 3.
    pub fn extended(&mut self, extension: &[u8; 237]) {
        (self.body_type, self.body_size) = (4, 885);
        self.body.extend(extension);
    }

    pub(super) fn signed_part(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.version.to_le_bytes());
        out.extend(self.key_type.to_le_bytes());
        out.extend(self.tee.to_le_bytes());
        out.extend(self.reserved);
        out.extend(self.vendor);
        out.extend([0x77; 20]);
        if self.version == 5 {
            out.extend(self.body_type.to_le_bytes());
            out.extend(self.body_size.to_le_bytes());
        }
        out.extend(&self.body);
        out
    }
}
