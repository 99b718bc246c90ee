//! OVMF images as a launch sees them: the table of GUIDs before the reset vector, and what it points to.
//!
//! The table ends 32 bytes before the image does and is read backwards: data, 16-bit length of the whole entry, GUID
//! (OvmfPkg/ResetVector of edk2).

use crate::bytes::{array, range, u16_at, u32_at};
use crate::{MeasureError, PAGE};

/// Largest image that is read; QEMU's flash holds less.
const BYTES_MAX: usize = 64 * 1024 * 1024;
const FOUR_GIB: u64 = 1 << 32;
/// Length and GUID of an entry.
const ENTRY: usize = 18;

/// 96b582de-1fb2-45f7-baea-a366c55a082d.
const FOOTER: [u8; 16] = *b"\xde\x82\xb5\x96\xb2\x1f\xf7\x45\xba\xea\xa3\x66\xc5\x5a\x08\x2d";
/// 00f771de-1a7e-4fcb-890e-68c77e2fb44e.
const RESET_BLOCK: [u8; 16] = *b"\xde\x71\xf7\x00\x7e\x1a\xcb\x4f\x89\x0e\x68\xc7\x7e\x2f\xb4\x4e";
/// 7255371f-3a3b-4b04-927b-1da6efa8d454.
const HASH_TABLE: [u8; 16] = *b"\x1f\x37\x55\x72\x3b\x3a\x04\x4b\x92\x7b\x1d\xa6\xef\xa8\xd4\x54";
/// dc886566-984a-4798-a75e-5585a7bf67cc.
const SEV_METADATA: [u8; 16] = *b"\x66\x65\x88\xdc\x4a\x98\x98\x47\xa7\x5e\x55\x85\xa7\xbf\x67\xcc";
/// e47a6535-984a-4798-865e-4685a7bf8ec2.
const TDX_METADATA: [u8; 16] = *b"\x35\x65\x7a\xe4\x4a\x98\x98\x47\x86\x5e\x46\x85\xa7\xbf\x8e\xc2";

/// An image with a table of GUIDs.
#[derive(Debug, Clone, Copy)]
pub struct Firmware<'a> {
    image: &'a [u8],
    table: &'a [u8],
}

impl<'a> Firmware<'a> {
    /// Reads an image, as QEMU maps it to the end of the first 4 GiB.
    ///
    /// # Errors
    /// [`MeasureError::FirmwareSize`], [`MeasureError::NoGuidTable`], or a table that is cut off.
    pub fn read(image: &'a [u8]) -> Result<Self, MeasureError> {
        let size = image.len();
        if size == 0 || size > BYTES_MAX || !size.is_multiple_of(PAGE) {
            return Err(MeasureError::FirmwareSize(size));
        }
        let footer = size - 32 - ENTRY;
        if array(image, footer + 2) != Some(FOOTER) {
            return Err(MeasureError::NoGuidTable);
        }
        let cut = MeasureError::FirmwareCut("GUID table");
        let length = u16_at(image, footer).map(usize::from);
        let table = length
            .and_then(|length| length.checked_sub(ENTRY))
            .and_then(|length| range(image, footer.checked_sub(length)?, length))
            .ok_or(cut)?;
        Ok(Self { image, table })
    }

    /// All bytes of the image.
    #[must_use]
    pub const fn image(&self) -> &'a [u8] {
        self.image
    }

    /// Address in guest memory of the image's first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        FOUR_GIB.saturating_sub(self.image.len() as u64)
    }

    /// Where processors other than the first begin (SEV-ES reset block).
    ///
    /// # Errors
    /// When the firmware was built without SEV-ES.
    pub fn reset_address(&self) -> Result<u32, MeasureError> {
        let lacks = MeasureError::FirmwareLacks("SEV-ES reset block");
        self.number(RESET_BLOCK)?.ok_or(lacks)
    }

    /// Address of the table of kernel hashes; `None` when the firmware has no place for one.
    ///
    /// # Errors
    /// When the table of GUIDs is damaged.
    pub fn hash_table_address(&self) -> Result<Option<u32>, MeasureError> {
        Ok(self.number(HASH_TABLE)?.filter(|address| *address != 0))
    }

    /// SEV metadata, from its signature to the end of the image.
    pub(crate) fn sev_metadata(&self) -> Result<&'a [u8], MeasureError> {
        self.pointed(SEV_METADATA, "SEV metadata")
    }

    /// TDX metadata, from its signature to the end of the image.
    pub(crate) fn tdx_metadata(&self) -> Result<&'a [u8], MeasureError> {
        self.pointed(TDX_METADATA, "TDX metadata")
    }

    /// What an entry points to by its distance from the end of the image.
    fn pointed(&self, guid: [u8; 16], name: &'static str) -> Result<&'a [u8], MeasureError> {
        let distance = self.number(guid)?;
        let distance = distance.ok_or(MeasureError::FirmwareLacks(name))?;
        usize::try_from(distance)
            .ok()
            .and_then(|distance| self.image.len().checked_sub(distance))
            .and_then(|start| self.image.get(start..))
            .ok_or(MeasureError::FirmwareCut(name))
    }

    /// The 32-bit number that is an entry's data.
    fn number(&self, guid: [u8; 16]) -> Result<Option<u32>, MeasureError> {
        let cut = MeasureError::FirmwareCut("GUID table");
        let mut rest = self.table;
        while rest.len() >= ENTRY {
            let header = rest.len() - ENTRY;
            let length = u16_at(rest, header).map(usize::from);
            let start = length
                .filter(|length| *length >= ENTRY)
                .and_then(|length| rest.len().checked_sub(length))
                .ok_or(cut.clone())?;
            if array(rest, header + 2) == Some(guid) {
                let data = rest.get(start..header).unwrap_or_default();
                return u32_at(data, 0).map(Some).ok_or(cut);
            }
            rest = rest.get(..start).unwrap_or_default();
        }
        Ok(None)
    }
}
