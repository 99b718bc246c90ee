//! MRTD of a small firmware made here, against the stream of bytes that the specification says is hashed.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

use casemate_measure::MeasureError;
use casemate_measure::tdx::{PageOrder, launch_digest};
use ring::digest::{SHA384, digest};

/// Two pages with TDX metadata: one section of a page of data with one of zeros, measured; one that is only added; one added later.
fn firmware() -> Vec<u8> {
    let mut image: Vec<u8> = (0..8192_u32).map(|at| (at % 251) as u8).collect();
    let mut metadata = b"TDVF".to_vec();
    for number in [112_u32, 1, 3] {
        metadata.extend_from_slice(&number.to_le_bytes());
    }
    for (offset, size, address, memory, attributes) in [
        (0_u32, 4096_u32, 0xff_0000_u64, 8192_u64, 1_u32),
        (0, 0, 0x80_0000, 4096, 0),
        (0, 0, 0x90_0000, 4096, 2),
    ] {
        metadata.extend_from_slice(&offset.to_le_bytes());
        metadata.extend_from_slice(&size.to_le_bytes());
        metadata.extend_from_slice(&address.to_le_bytes());
        metadata.extend_from_slice(&memory.to_le_bytes());
        metadata.extend_from_slice(&0_u32.to_le_bytes());
        metadata.extend_from_slice(&attributes.to_le_bytes());
    }
    image[7000..7000 + metadata.len()].copy_from_slice(&metadata);
    let mut table = (8192_u32 - 7000).to_le_bytes().to_vec();
    table.extend_from_slice(&22_u16.to_le_bytes());
    table.extend_from_slice(&hex::decode("35657ae44a989847865e4685a7bf8ec2").unwrap());
    table.extend_from_slice(&40_u16.to_le_bytes());
    table.extend_from_slice(&hex::decode("de82b596b21ff745baeaa366c55a082d").unwrap());
    image[8160 - table.len()..8160].copy_from_slice(&table);
    image
}

fn operation(stream: &mut Vec<u8>, name: &str, address: u64) {
    let mut buffer = [0; 128];
    buffer[..name.len()].copy_from_slice(name.as_bytes());
    buffer[16..24].copy_from_slice(&address.to_le_bytes());
    stream.extend_from_slice(&buffer);
}

#[test]
fn mrtd_is_over_pages_and_their_contents_in_the_hosts_order() {
    let image = firmware();
    let data = [&image[..4096], &[0; 4096]].concat();
    let extend = |stream: &mut Vec<u8>, page: usize| {
        for at in (page * 4096..page * 4096 + 4096).step_by(256) {
            operation(stream, "MR.EXTEND", 0xff_0000 + at as u64);
            stream.extend_from_slice(&data[at..at + 256]);
        }
    };
    let (mut single, mut two) = (Vec::new(), Vec::new());
    for page in 0..2 {
        operation(&mut single, "MEM.PAGE.ADD", 0xff_0000 + page as u64 * 4096);
        extend(&mut single, page);
        operation(&mut two, "MEM.PAGE.ADD", 0xff_0000 + page as u64 * 4096);
    }
    (0..2).for_each(|page| extend(&mut two, page));
    for (stream, order) in [
        (&mut single, PageOrder::SinglePass),
        (&mut two, PageOrder::TwoPass),
    ] {
        operation(stream, "MEM.PAGE.ADD", 0x80_0000);
        let expected = digest(&SHA384, stream);
        assert_eq!(
            launch_digest(&image, order).unwrap(),
            expected.as_ref(),
            "{order:?}"
        );
    }
}

#[test]
fn b22_a_changed_firmware_has_another_mrtd_and_damage_is_refused_without_panic() {
    let image = firmware();
    let of = |image: &[u8]| launch_digest(image, PageOrder::SinglePass);
    let right = of(&image).unwrap();
    for at in 0..image.len() {
        let mut damaged = image.clone();
        damaged[at] ^= 0x41;
        let found = of(&damaged);
        assert!(at >= 4096 || found != Ok(right), "{at}");
    }
    let mut other = image;
    other[7000] = b'X';
    assert_eq!(of(&other), Err(MeasureError::FirmwareCut("TDX metadata")));
}
