//! Small inputs of the builder's: packages, modules, a kernel and a stub that are well formed and hold nothing.

use std::io::Write as _;

/// What a signed module ends with.
pub const SIGNED: &[u8] = b"~Module signature appended~\n";
pub const VERSION: &str = "6.12.117+deb13-cloud-amd64";

/// A PE32+ image with these sections, each as long in memory as its data; headers end at 1024.
pub fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut head = vec![0_u8; 1024];
    head[..2].copy_from_slice(b"MZ");
    head[0x3c] = 0x40;
    head[0x40..0x44].copy_from_slice(b"PE\0\0");
    head[0x46] = u8::try_from(sections.len()).unwrap();
    head[0x54] = 240; // optional header
    head[0x58..0x5a].copy_from_slice(&0x20b_u16.to_le_bytes());
    let mut body = Vec::new();
    let mut address = 4096;
    for (index, (name, data)) in sections.iter().enumerate() {
        let entry = 0x58 + 240 + index * 40;
        head[entry..entry + name.len()].copy_from_slice(name.as_bytes());
        let padded = data.len().next_multiple_of(512);
        let numbers = [
            (8, data.len()),
            (12, address),
            (16, padded),
            (20, 1024 + body.len()),
        ];
        for (at, number) in numbers {
            put(&mut head, entry + at, number);
        }
        body.extend_from_slice(data);
        body.resize(body.len() + padded - data.len(), 0);
        address += data.len().next_multiple_of(4096);
    }
    for (at, number) in [(32, 4096), (36, 512), (56, address), (60, 1024)] {
        put(&mut head, 0x58 + at, number);
    }
    head[0x58 + 70..0x58 + 72].copy_from_slice(&0x160_u16.to_le_bytes());
    head[0x58 + 108] = 16; // directories
    [head, body].concat()
}

fn put(bytes: &mut [u8], at: usize, number: usize) {
    bytes[at..at + 4].copy_from_slice(&u32::try_from(number).unwrap().to_le_bytes());
}

/// A stub of systemd's as far as anybody looks.
pub fn stub(release: &str) -> Vec<u8> {
    let magic = format!("#### LoaderInfo: systemd-stub {release} ####\0");
    pe(&[
        (".text", b"code"),
        (".sbat", b"sbat,1"),
        (".sdmagic", magic.as_bytes()),
    ])
}

pub fn kernel() -> Vec<u8> {
    pe(&[(".text", b"kernel")])
}

/// A 64-bit ELF file with one program header of this type and one named section.
fn elf(kind: u16, program: u32, section: (&str, &[u8])) -> Vec<u8> {
    let names = format!("\0.shstrtab\0{}\0", section.0);
    let (data_at, names_at) = (64 + 56, 64 + 56 + section.1.len());
    let table_at = names_at + names.len();
    let mut bytes = vec![0; 64];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[16..18].copy_from_slice(&kind.to_le_bytes());
    bytes[18..20].copy_from_slice(&62_u16.to_le_bytes());
    put(&mut bytes, 32, 64);
    put(&mut bytes, 40, table_at);
    for (at, number) in [(54, 56_u16), (56, 1), (58, 64), (60, 3), (62, 1)] {
        bytes[at..at + 2].copy_from_slice(&number.to_le_bytes());
    }
    let mut header = vec![0; 56];
    header[..4].copy_from_slice(&program.to_le_bytes());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(section.1);
    bytes.extend_from_slice(names.as_bytes());
    bytes.extend_from_slice(&[0; 64]);
    for (name, at, size) in [(1, names_at, names.len()), (11, data_at, section.1.len())] {
        let mut entry = vec![0; 64];
        for (field, number) in [(0, name), (4, 1), (24, at), (32, size)] {
            put(&mut entry, field, number);
        }
        bytes.extend_from_slice(&entry);
    }
    bytes
}

/// A program that asks for no interpreter, with what a compiler wrote into it.
pub fn program() -> Vec<u8> {
    elf(2, 1, (".comment", b"rustc version 1.95.0 (test)\0"))
}

/// One that does.
pub fn dynamic_program() -> Vec<u8> {
    elf(3, 3, (".comment", b"x\0"))
}

/// A module before it is packed.
pub fn module(needs: &str, version: &str, signed: bool) -> Vec<u8> {
    let info = format!("license=GPL\0depends={needs}\0vermagic={version} SMP mod_unload \0");
    let mut bytes = elf(1, 0, (".modinfo", info.as_bytes()));
    if signed {
        bytes.extend_from_slice(SIGNED);
    }
    bytes
}

pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder
            .append_data(&mut header, format!("./{path}"), *bytes)
            .unwrap();
    }
    builder.into_inner().unwrap()
}

fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, data) in members {
        let head = format!(
            "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
            0,
            0,
            0,
            100_644,
            data.len()
        );
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
    }
    bytes
}

/// What follows `.tar` in names, and what does it.
pub type Packing = (&'static str, fn(&[u8]) -> Vec<u8>);

/// A package whose archives are packed by `pack` and named with its suffix.
pub fn deb(name: &str, version: &str, (suffix, pack): Packing, files: &[(&str, &[u8])]) -> Vec<u8> {
    let control = format!("Package: {name}\nVersion: {version}\nArchitecture: amd64\n");
    let control = tar(&[("control", control.as_bytes())]);
    ar(&[
        ("debian-binary", b"2.0\n"),
        (&format!("control.tar{suffix}"), &pack(&control)),
        (&format!("data.tar{suffix}"), &pack(&tar(files))),
    ])
}

pub const XZ: Packing = (".xz", xz);

/// A kernel's package with these modules, each by file name below `kernel/` and contents.
pub fn kernel_deb(modules: &[(&str, Vec<u8>)], built_in: &str) -> Vec<u8> {
    let folder = format!("usr/lib/modules/{VERSION}");
    let image = kernel();
    let paths: Vec<String> = modules
        .iter()
        .map(|it| format!("{folder}/kernel/{}", it.0))
        .collect();
    let (image_path, list) = (
        format!("boot/vmlinuz-{VERSION}"),
        format!("{folder}/modules.builtin"),
    );
    let mut files: Vec<(&str, &[u8])> = vec![(&image_path, &image), (&list, built_in.as_bytes())];
    files.extend(
        paths
            .iter()
            .map(String::as_str)
            .zip(modules.iter().map(|it| it.1.as_slice())),
    );
    files.push(("usr/share/doc/copyright", b"not wanted"));
    deb(
        "linux-image-6.12.117+deb13-cloud-amd64",
        "6.12.117-1",
        XZ,
        &files,
    )
}

/// Modules as Debian has them: the network card by way of two others, the security processors by way of two.
pub fn modules() -> Vec<(&'static str, Vec<u8>)> {
    let packed = |needs| xz(&module(needs, VERSION, true));
    vec![
        ("drivers/net/virtio_net.ko.xz", packed("net_failover")),
        ("drivers/net/net_failover.ko.xz", packed("failover")),
        ("net/core/failover.ko.xz", packed("")),
        ("drivers/block/virtio_blk.ko.xz", packed("")),
        ("drivers/virt/coco/sev-guest/sev-guest.ko.xz", packed("tsm")),
        ("drivers/virt/coco/tdx-guest/tdx-guest.ko.xz", packed("tsm")),
        ("drivers/virt/coco/tsm.ko.xz", packed("configfs")),
        ("fs/configfs/configfs.ko.xz", packed("")),
        ("drivers/usb/not-wanted.ko.xz", packed("")),
    ]
}
