//! Unified kernel images: their sections, what is predicted of them, and stubs that are refused.

use casemate_image::ImageError;
use casemate_image::uki::{self, Parts};
use casemate_measure::MeasureError;
use casemate_measure::boot::{Stub, unified_registers};
use casemate_measure::pe::PeImage;
use casemate_measure::registers::Hash;

use crate::support;

fn unified(stub: &[u8], kernel: &[u8]) -> Result<Vec<u8>, ImageError> {
    uki::unified(&Parts {
        stub,
        command_line: "quiet",
        initrd: b"an initrd of some length",
        kernel,
    })
}

#[test]
fn an_image_has_the_stubs_sections_and_then_three_more() {
    let stub = support::stub("257.13-1~deb13u1");
    let image = unified(&stub, &support::kernel()).unwrap();
    assert_eq!(image, unified(&stub, &support::kernel()).unwrap());
    let pe = PeImage::read(&image).unwrap();
    let sections = pe.sections().unwrap();
    let names: Vec<_> = sections.iter().map(|section| section.name).collect();
    assert_eq!(
        names,
        [
            ".text", ".sbat", ".sdmagic", ".cmdline", ".initrd", ".linux"
        ]
    );
    let kernel = support::kernel();
    let expected: [&[u8]; 3] = [b"quiet", b"an initrd of some length", &kernel];
    for (section, data) in sections[3..].iter().zip(expected) {
        assert_eq!((section.data, section.size_in_memory), (data, data.len()));
    }
    // Sections follow one another in memory, and the image ends after the last.
    let number = |at: usize| u32::from_le_bytes(*image[at..].first_chunk().unwrap()) as usize;
    let mut end = 0;
    for index in 0..6 {
        let entry = 0x58 + 240 + index * 40;
        let (size, address) = (number(entry + 8), number(entry + 12));
        assert!(address >= end && address.is_multiple_of(4096));
        end = address + size;
    }
    assert_eq!(number(0x58 + 56), end.next_multiple_of(4096));
    let registers = unified_registers(&image, uki::release(&stub).unwrap(), Hash::Sha256).unwrap();
    let zero: Vec<_> = registers
        .iter()
        .filter(|it| *it.1 == [0; 32])
        .map(|it| *it.0)
        .collect();
    assert_eq!(zero, [8, 12]);
}

#[test]
fn the_kernel_decides_whether_memory_is_kept_apart() {
    let stub = support::stub("257");
    let flags = |image: &[u8]| image[0x58 + 71];
    let mut kernel = support::kernel();
    assert_eq!(flags(&unified(&stub, &kernel).unwrap()), 1);
    kernel[0x58 + 71] = 0;
    assert_eq!(flags(&unified(&stub, &kernel).unwrap()), 0);
}

#[test]
fn a_release_is_read_from_the_stub_and_only_known_ones_are_used() {
    for (text, release) in [
        ("252.39-1~deb12u2", Stub::V252),
        ("257.13-1~deb13u1", Stub::V257),
        ("262.1-1", Stub::V262),
    ] {
        assert_eq!(uki::release(&support::stub(text)), Ok(release));
    }
    let unknown = uki::release(&support::stub("258.1"));
    assert_eq!(unknown, Err(ImageError::StubRelease("258.1".into())));
    let other = ImageError::Stub("it is no stub of systemd's");
    assert_eq!(uki::release(&support::kernel()), Err(other));
}

#[test]
fn stubs_that_cannot_carry_a_kernel_are_refused() {
    let refused = |stub: &[u8]| match unified(stub, &support::kernel()) {
        Err(ImageError::Stub(what)) => what,
        other => panic!("{other:?}"),
    };
    let full = unified(&support::stub("257"), &support::kernel()).unwrap();
    assert_eq!(refused(&full), "it carries a kernel already");
    let many: Vec<_> = (0..15).map(|_| (".data", &b"x"[..])).collect();
    assert!(refused(&support::pe(&many)).starts_with("its headers have no room"));
    let mut signed = support::stub("257");
    let (at, size) = (signed.len() as u32, 16_u32);
    signed.extend_from_slice(&[1; 16]);
    signed[0x58 + 112 + 32..][..4].copy_from_slice(&at.to_le_bytes());
    signed[0x58 + 112 + 36..][..4].copy_from_slice(&size.to_le_bytes());
    assert!(refused(&signed).starts_with("it is signed"));
    let text = unified(b"no stub", &support::kernel());
    assert!(matches!(
        text,
        Err(ImageError::Measure(MeasureError::Pe(_)))
    ));
    let stub = support::stub("257");
    for at in 0..1024 {
        for damage in [0xff, 0x01, 0x80] {
            let mut damaged = stub.clone();
            damaged[at] ^= damage;
            let _ = unified(&damaged, &support::kernel());
        }
    }
}
