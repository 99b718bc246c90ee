//! `casemate image`: build the guest image, and boot it.

mod boot;
mod build;
mod held;
mod references;
mod unit;

use clap::{Args, Subcommand};

use super::CommandError;

/// Build the machine's image, predict it, boot it.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make an image of a signed kernel, one static program and one configuration. The same inputs give the same bytes.
    #[command(
        after_help = "Example:\n  casemate image build --config guest.toml --program casemate-guest --pins scripts/image-pins \\\n    \
        --kernel linux-image-6.12.117+deb13-cloud-amd64_6.12.117-1_amd64.deb --stub systemd-boot-efi_257.13-1~deb13u1_amd64.deb \\\n    \
        --tpm-firmware ovmf_2025.02-8+deb13u1_all.deb --snp-firmware ovmf-amdsev_2026.08+ds-2_all.deb --release 'casemate 0.1.0' --out image\n  \
        casemate org reference ./acme --section image/reference/tpm.json"
    )]
    Build(build::Arguments),
    /// Start a machine with an image under QEMU, show what it says, and tell by the exit code what became of it.
    #[command(
        after_help = "Examples:\n  casemate image boot --image image --disk model.sealed --forward 8443:8443 --tpm-state ./tpm\n  \
        casemate image boot --image image --disk model.sealed --print qemu --platform snp"
    )]
    Boot(boot::Arguments),
    /// Print a unit for systemd that starts the machine when the host starts.
    #[command(
        after_help = "Example:\n  casemate image unit --image /srv/casemate/image --disk /srv/casemate/model.sealed --forward 8443:8443 \\\n    \
        --tpm-state /var/lib/casemate/tpm > /etc/systemd/system/casemate-guest.service"
    )]
    Unit(unit::Arguments),
    /// Become a program that ends with the process that asked for it.
    #[command(
        hide = true,
        after_help = "Example, as casemate image boot asks for it:\n  casemate image held --by 4711 -- swtpm socket --tpm2"
    )]
    Held(held::Arguments),
}

/// Runs `casemate image`.
///
/// # Errors
/// 2 for arguments that do not fit, 3 for files and configurations, 10 for an input that is not the pinned one, 20 for releases
/// that are not known, 30 for inputs that are not what they are given as; `boot` has the machine's own reasons beside.
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    match arguments.verb {
        Verb::Build(it) => build::run(&it),
        Verb::Boot(it) => boot::run(it),
        Verb::Unit(it) => unit::run(&it),
        // Another program stands here by now, or it could not be started.
        Verb::Held(it) => std::process::exit(held::run(&it).into()),
    }
}
