//! Hashes of kernel, initrd and command line, which QEMU writes into a measured page and the firmware holds the files to.

use ring::digest::{SHA256, digest};

use crate::PAGE;

/// 9438d606-4f22-4cc9-b479-a793d411fd21: the table.
const TABLE: [u8; 16] = *b"\x06\xd6\x38\x94\x22\x4f\xc9\x4c\xb4\x79\xa7\x93\xd4\x11\xfd\x21";
/// 97d02dd8-bd20-4c94-aa78-e7714d36ab2a: the command line.
const COMMAND_LINE: [u8; 16] = *b"\xd8\x2d\xd0\x97\x20\xbd\x94\x4c\xaa\x78\xe7\x71\x4d\x36\xab\x2a";
/// 44baf731-3a2f-4bd7-9af1-41e29169781d: the initrd.
const INITRD: [u8; 16] = *b"\x31\xf7\xba\x44\x2f\x3a\xd7\x4b\x9a\xf1\x41\xe2\x91\x69\x78\x1d";
/// 4de79437-abd2-427f-b835-d5b172d2045b: the kernel.
const KERNEL: [u8; 16] = *b"\x37\x94\xe7\x4d\xd2\xab\x7f\x42\xb8\x35\xd5\xb1\x72\xd2\x04\x5b";
/// Bytes of an entry: GUID, 16-bit length, SHA-256.
const ENTRY: u16 = 50;
/// Bytes of the table: GUID, 16-bit length, three entries.
const LENGTH: u16 = 168;

/// SHA-256 of the three parts of a direct boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelHashes {
    /// Of the kernel's file.
    pub kernel: [u8; 32],
    /// Of the initrd's file; of nothing when there is none.
    pub initrd: [u8; 32],
    /// Of the command line and the zero byte after it.
    pub command_line: [u8; 32],
}

impl KernelHashes {
    /// Of the files themselves. Without an initrd, `initrd` is empty.
    #[must_use]
    pub fn of(kernel: &[u8], initrd: &[u8], command_line: &str) -> Self {
        let line = [command_line.as_bytes(), b"\0"].concat();
        Self {
            kernel: sha256(kernel),
            initrd: sha256(initrd),
            command_line: sha256(&line),
        }
    }

    /// The page that QEMU adds, with the table `offset` bytes into it. `None` when the table does not fit.
    #[must_use]
    pub fn page(&self, offset: usize) -> Option<Vec<u8>> {
        let mut page = vec![0; offset];
        page.extend_from_slice(&TABLE);
        page.extend_from_slice(&LENGTH.to_le_bytes());
        let entries = [
            (COMMAND_LINE, self.command_line),
            (INITRD, self.initrd),
            (KERNEL, self.kernel),
        ];
        for (guid, hash) in entries {
            page.extend_from_slice(&guid);
            page.extend_from_slice(&ENTRY.to_le_bytes());
            page.extend_from_slice(&hash);
        }
        let fits = page.len() <= PAGE;
        page.resize(PAGE, 0);
        fits.then_some(page)
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}
