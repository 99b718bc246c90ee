//! The checks of each platform, in the order in which an operator would mend them: BIOS, kernel, QEMU, firmware.

use super::firmware;
use super::{Facts, Finding, Version};

/// What a host is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// SEV-SNP guests.
    Snp,
    /// TDX guests.
    Tdx,
    /// Guests with a TPM, or the image on the machine itself.
    Tpm,
}

/// The first kernel whose KVM starts such guests.
const SNP_KERNEL: Version = Version(6, 11);
const TDX_KERNEL: Version = Version(6, 16);
/// The first QEMU that starts them with measured kernels; with a TPM, the first that hands firmware the kernel as it is.
const SNP_QEMU: Version = Version(9, 1);
const TDX_QEMU: Version = Version(10, 1);
const TPM_QEMU: Version = Version(10, 0);
/// AMD's third generation of servers.
const SNP_FAMILY: u32 = 25;

/// What the host lacks for `wanted`, with what every platform needs at the beginning.
#[must_use]
pub fn check(facts: &Facts, wanted: &[Wanted]) -> Vec<Finding> {
    let mut found = machine(facts);
    for platform in wanted {
        found.extend(match platform {
            Wanted::Snp => snp(facts),
            Wanted::Tdx => tdx(facts),
            Wanted::Tpm => tpm(facts),
        });
    }
    found
}

fn machine(facts: &Facts) -> Vec<Finding> {
    let model = facts.processor("model name").unwrap_or_default();
    let bios = facts
        .text("/sys/class/dmi/id/bios_version")
        .unwrap_or_default();
    let kernel = facts.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kvm = match facts.exists("/dev/kvm") {
        true => Finding::pass("host.kvm", "/dev/kvm is there"),
        false => Finding::fail(
            "host.kvm",
            "there is no /dev/kvm",
            "turn on SVM (AMD) or VT-x (Intel) in the BIOS, then modprobe kvm_amd or kvm_intel",
        ),
    };
    vec![
        Finding::info("host.processor", shown(&model)),
        Finding::info("host.bios", shown(&bios)),
        Finding::info("host.kernel", shown(&kernel)),
        kvm,
    ]
}

fn snp(facts: &Facts) -> Vec<Finding> {
    let started = "nothing turns off the IOMMU that SEV-SNP stands on";
    let iommu = match ["iommu=pt", "amd_iommu=off", "iommu=off"]
        .into_iter()
        .find(|word| facts.was_started_with(word))
    {
        Some(word) => Finding::fail(
            "snp.iommu",
            format!("the kernel was started with {word}, with which it refuses SEV-SNP"),
            "remove that word from the kernel's command line",
        ),
        None => Finding::pass("snp.iommu", started),
    };
    vec![
        snp_processor(facts),
        has_flag(
            facts,
            "snp.bios",
            "sev_snp",
            "turn on SMEE, SEV-ES ASIDs, SNP memory coverage (RMP table) and SEV-SNP in the BIOS",
        ),
        iommu,
        kernel(
            facts,
            "snp.kernel",
            SNP_KERNEL,
            "take Debian 13 or its backports",
        ),
        parameter(
            facts,
            "snp.module",
            "/sys/module/kvm_amd/parameters/sev_snp",
            "load kvm_amd with sev=1 sev_es=1 sev_snp=1; dmesg says why it may refuse",
        ),
        device(
            facts,
            "snp.device",
            "/dev/sev",
            "modprobe ccp; its firmware belongs to the BIOS, or to linux-firmware (amd/amd_sev_*.sbin)",
        ),
        qemu(facts, "snp.qemu", SNP_QEMU),
        firmware::snp(facts),
    ]
}

fn snp_processor(facts: &Facts) -> Finding {
    const ID: &str = "snp.processor";
    let vendor = facts.processor("vendor_id").unwrap_or_default();
    let family = facts
        .processor("cpu family")
        .and_then(|it| it.parse::<u32>().ok());
    match (vendor.as_str(), family) {
        ("AuthenticAMD", Some(family)) if family >= SNP_FAMILY => {
            Finding::pass(ID, format!("AMD, family {family}"))
        }
        _ => Finding::fail(
            ID,
            format!(
                "{}, family {}",
                shown(&vendor),
                family.map_or_else(|| "unknown".into(), |it| it.to_string())
            ),
            "SEV-SNP needs an EPYC of the third generation (Milan, family 25) or later",
        ),
    }
}

fn tdx(facts: &Facts) -> Vec<Finding> {
    let vendor = facts.processor("vendor_id").unwrap_or_default();
    let processor = match vendor == "GenuineIntel" {
        true => Finding::pass("tdx.processor", "Intel"),
        false => Finding::fail(
            "tdx.processor",
            shown(&vendor),
            "TDX needs a Xeon of the fifth generation (or fourth, of the models with TDX) or later",
        ),
    };
    let quotes = [
        "/run/tdx-qgs/qgs.socket",
        "/var/run/tdx-qgs/qgs.socket",
        "/lib/systemd/system/qgsd.service",
        "/usr/lib/systemd/system/qgsd.service",
    ];
    let quotes = match quotes.into_iter().find(|path| facts.exists(path)) {
        Some(path) => Finding::pass("tdx.quotes", format!("{path} is there")),
        None => Finding::fail(
            "tdx.quotes",
            "nothing here makes quotes of reports",
            "install Intel's tdx-qgs (DCAP), and register the platform",
        ),
    };
    vec![
        processor,
        has_flag(
            facts,
            "tdx.bios",
            "tdx_host_platform",
            "turn on TME, TME-MT, SGX and TDX, with at least one key id for TDX and the SEAM loader, in the BIOS",
        ),
        kernel(
            facts,
            "tdx.kernel",
            TDX_KERNEL,
            "take the kernel of Debian 13's backports",
        ),
        parameter(
            facts,
            "tdx.module",
            "/sys/module/kvm_intel/parameters/tdx",
            "load kvm_intel with tdx=1; dmesg says why it may refuse",
        ),
        device(
            facts,
            "tdx.sgx",
            "/dev/sgx_enclave",
            "turn on SGX in the BIOS: the enclave that signs quotes needs it",
        ),
        quotes,
        qemu(facts, "tdx.qemu", TDX_QEMU),
        firmware::tdx(facts),
    ]
}

fn tpm(facts: &Facts) -> Vec<Finding> {
    let own = match facts
        .text("/sys/class/tpm/tpm0/tpm_version_major")
        .as_deref()
    {
        Some("2") => Finding::pass(
            "tpm.device",
            "a TPM 2.0: the image may be booted on this machine itself (uki.efi)",
        ),
        Some(other) => Finding::fail(
            "tpm.device",
            format!("the machine's TPM is of version {}", shown(other)),
            "choose TPM 2.0 in the BIOS",
        ),
        None => Finding::skip(
            "tpm.device",
            "the machine shows no TPM",
            "turn on the TPM, or the processor's own (fTPM, PTT), in the BIOS",
        ),
    };
    let efi = match facts.exists("/sys/firmware/efi") {
        true => Finding::pass(
            "tpm.uefi",
            "the machine was started by UEFI, which measures into a TPM",
        ),
        false => Finding::skip(
            "tpm.uefi",
            "the machine was not started by UEFI",
            "start it by UEFI where the image is to run on the machine itself",
        ),
    };
    let software = match ["/usr/bin/swtpm", "/usr/local/bin/swtpm"]
        .into_iter()
        .find(|path| facts.exists(path))
    {
        Some(path) => Finding::pass(
            "tpm.software",
            format!("{path} is there, for guests on this host"),
        ),
        None => Finding::fail(
            "tpm.software",
            "there is no swtpm",
            "apt-get install swtpm swtpm-tools",
        ),
    };
    let worth = "a software TPM belongs to the host and proves nothing against it: for trials, and where the host is trusted";
    vec![
        own,
        efi,
        software,
        Finding::info("tpm.worth", worth),
        qemu(facts, "tpm.qemu", TPM_QEMU),
        firmware::tpm(facts),
    ]
}

fn has_flag(facts: &Facts, id: &'static str, flag: &str, hint: &'static str) -> Finding {
    match facts.has_flag(flag) {
        true => Finding::pass(id, format!("the kernel shows the processor flag {flag}")),
        false => Finding::fail(
            id,
            format!("the kernel does not show the processor flag {flag}"),
            hint,
        ),
    }
}

fn kernel(facts: &Facts, id: &'static str, needed: Version, hint: &'static str) -> Finding {
    match facts.kernel() {
        Some(version) if version >= needed => {
            Finding::pass(id, format!("{version}, and {needed} is needed"))
        }
        Some(version) => Finding::fail(id, format!("{version}, but {needed} is needed"), hint),
        None => Finding::fail(
            id,
            format!("no version can be read, and {needed} is needed"),
            hint,
        ),
    }
}

fn parameter(facts: &Facts, id: &'static str, path: &str, hint: &'static str) -> Finding {
    match facts.text(path).as_deref() {
        Some("Y" | "1") => Finding::pass(id, format!("{path} is on")),
        Some(other) => Finding::fail(id, format!("{path} is {}", shown(other)), hint),
        None => Finding::fail(id, format!("there is no {path}"), hint),
    }
}

fn device(facts: &Facts, id: &'static str, path: &str, hint: &'static str) -> Finding {
    match facts.exists(path) {
        true => Finding::pass(id, format!("{path} is there")),
        false => Finding::fail(id, format!("there is no {path}"), hint),
    }
}

fn qemu(facts: &Facts, id: &'static str, needed: Version) -> Finding {
    const HINT: &str = "take QEMU of Debian 13 (10.0) or its backports (11.1); --qemu PROGRAM asks one that is no package";
    match facts.qemu() {
        Some(version) if version >= needed => {
            Finding::pass(id, format!("QEMU {version}, and {needed} is needed"))
        }
        Some(version) => Finding::fail(id, format!("QEMU {version}, but {needed} is needed"), HINT),
        None => Finding::fail(
            id,
            format!("no QEMU is installed, and {needed} is needed"),
            HINT,
        ),
    }
}

/// Text from a file of the host's, fit for a line.
fn shown(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control()).take(80);
    let text: String = printable.collect();
    if text.is_empty() {
        "unknown".to_owned()
    } else {
        text
    }
}
