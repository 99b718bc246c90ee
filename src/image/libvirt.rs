//! The same machine as a domain of libvirt's. It wants libvirt 10.5 for SEV-SNP and 11.6 for TDX.

use std::path::Path;

use super::machine::{Boot, Launch, Machine};

/// The domain's XML. Forwards are of user networking, which a server replaces by a bridge.
#[must_use]
pub fn domain(machine: &Machine, launch: &Launch) -> String {
    let kind = if machine.accelerator == "kvm" {
        "kvm"
    } else {
        "qemu"
    };
    let parts = [
        format!("<domain type='{kind}'>\n  <name>casemate-guest</name>"),
        format!("  <memory unit='MiB'>{}</memory>", machine.memory_mib),
        format!("  <vcpu>{}</vcpu>", machine.vcpus),
        cpu(machine),
        memory(machine),
        boot(machine, launch),
        "  <features><acpi/></features>".to_owned(),
        "  <on_reboot>destroy</on_reboot>\n  <on_crash>destroy</on_crash>".to_owned(),
        devices(machine, launch),
        security(machine.boot),
        "</domain>".to_owned(),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n")
}

fn cpu(machine: &Machine) -> String {
    match machine.cpu.as_str() {
        "host" => "  <cpu mode='host-passthrough'/>".to_owned(),
        "max" => "  <cpu mode='maximum'/>".to_owned(),
        model => format!(
            "  <cpu mode='custom' match='exact'><model>{}</model></cpu>",
            text(model)
        ),
    }
}

fn memory(machine: &Machine) -> String {
    let shared = "  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>";
    if machine.boot.is_confidential() {
        shared.to_owned()
    } else {
        String::new()
    }
}

fn boot(machine: &Machine, launch: &Launch) -> String {
    let firmware = path(&launch.firmware);
    let loader = match machine.boot {
        Boot::Direct | Boot::Unified => format!(
            "    <loader readonly='yes' type='pflash' format='raw'>{firmware}</loader>\n    <nvram format='raw'>{}</nvram>\n",
            path(&launch.variables)
        ),
        Boot::Snp | Boot::Tdx | Boot::SnpTrial => {
            format!("    <loader readonly='yes' type='rom'>{firmware}</loader>\n")
        }
    };
    let started = match machine.boot {
        Boot::Unified => "    <boot dev='hd'/>\n".to_owned(),
        _ => format!(
            "    <kernel>{}</kernel>\n    <initrd>{}</initrd>\n    <cmdline>{}</cmdline>\n",
            path(&launch.kernel),
            path(&launch.initrd),
            text(&launch.command_line)
        ),
    };
    format!("  <os>\n    <type arch='x86_64' machine='q35'>hvm</type>\n{loader}{started}  </os>")
}

fn devices(machine: &Machine, launch: &Launch) -> String {
    let mut lines = vec!["  <devices>".to_owned()];
    if machine.boot == Boot::Unified {
        lines.push(format!(
            "    <disk type='dir' device='disk'>\n      <driver name='qemu' type='fat'/>\n      <source dir='{}'/>\n      \
            <target dev='vda' bus='virtio'/>\n      <readonly/>\n    </disk>",
            path(&launch.boot_folder)
        ));
    }
    if let Some((file, serial)) = &machine.disk {
        lines.push(format!(
            "    <disk type='file' device='disk'>\n      <driver name='qemu' type='raw'/>\n      <source file='{}'/>\n      \
            <target dev='vdb' bus='virtio'/>\n      <serial>{}</serial>\n      <readonly/>\n    </disk>",
            path(file),
            text(serial)
        ));
    }
    lines.push("    <controller type='usb' model='none'/>".to_owned());
    lines.push(network(machine));
    if machine.boot.has_tpm() {
        let tpm = "    <tpm model='tpm-crb'><backend type='emulator' version='2.0' persistent_state='yes'/></tpm>";
        lines.push(tpm.to_owned());
    }
    lines.push("    <memballoon model='none'/>\n    <serial type='pty'/>\n  </devices>".to_owned());
    lines.join("\n")
}

fn network(machine: &Machine) -> String {
    let mut lines = vec!["    <interface type='user'>\n      <backend type='passt'/>".to_owned()];
    for forward in &machine.forwards {
        lines.push(format!(
            "      <portForward proto='tcp' address='{}'><range start='{}' to='{}'/></portForward>",
            forward.host.ip(),
            forward.host.port(),
            forward.guest
        ));
    }
    lines.push(
        "      <model type='virtio'/>\n      <rom enabled='no'/>\n    </interface>".to_owned(),
    );
    lines.join("\n")
}

fn security(boot: Boot) -> String {
    match boot {
        Boot::Snp => {
            "  <launchSecurity type='sev-snp' kernelHashes='yes'>\n    <cbitpos>51</cbitpos>\n    \
            <reducedPhysBits>1</reducedPhysBits>\n    <policy>0x30000</policy>\n  </launchSecurity>"
                .to_owned()
        }
        Boot::Tdx => {
            "  <launchSecurity type='tdx'>\n    <quoteGenerationService/>\n  </launchSecurity>"
                .to_owned()
        }
        Boot::Direct | Boot::Unified | Boot::SnpTrial => String::new(),
    }
}

fn path(path: &Path) -> String {
    text(&path.to_string_lossy())
}

fn text(text: &str) -> String {
    let escape = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '\'' => "&apos;".to_owned(),
        other => other.to_string(),
    };
    text.chars().map(escape).collect()
}
