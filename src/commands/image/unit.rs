//! `casemate image unit`: a unit for systemd that runs `casemate image boot`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::boot::{MachineArguments, of_folder};
use crate::commands::{CommandError, ExitCode};
use crate::image::Folder;

/// The machine that is started with the host.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    machine: MachineArguments,
    /// The user whom the machine belongs to.
    #[arg(long, default_value = "casemate", value_parser = user)]
    user: String,
    /// Where `casemate` lies on the host.
    #[arg(
        long,
        value_name = "PROGRAM",
        default_value = "/usr/local/bin/casemate"
    )]
    program: PathBuf,
}

pub(super) fn run(it: &Arguments) -> Result<(), CommandError> {
    let folder = Folder::open(&it.machine.image).map_err(of_folder)?;
    print!("{}", unit(it, &folder)?);
    Ok(())
}

fn unit(it: &Arguments, folder: &Folder) -> Result<String, CommandError> {
    let machine = &it.machine;
    let mut words = vec![
        path(&it.program)?,
        "image boot".into(),
        "--image".into(),
        path(folder.path())?,
    ];
    let mut writable = Vec::new();
    if let Some(disk) = &machine.disk {
        words.extend([
            "--disk".into(),
            path(disk)?,
            "--serial".into(),
            machine.serial.clone(),
        ]);
    }
    for forward in &machine.forward {
        words.extend([
            "--forward".into(),
            format!("{}:{}", forward.host, forward.guest),
        ]);
    }
    if let Some(state) = &machine.tpm_state {
        words.extend(["--tpm-state".into(), path(state)?]);
        writable.push(path(state)?);
    }
    if let Some(cpu) = &machine.cpu {
        words.extend(["--cpu".into(), cpu.clone()]);
    }
    let way = clap::ValueEnum::to_possible_value(&machine.boot);
    words.extend([
        "--boot".into(),
        way.map_or_else(String::new, |it| it.get_name().to_owned()),
    ]);
    words.extend([
        "--memory".into(),
        machine.memory.to_string(),
        "--vcpus".into(),
        machine.vcpus.to_string(),
    ]);
    words.extend([
        "--accelerator".into(),
        machine.accelerator.name().into(),
        "--qemu".into(),
        machine.qemu.display().to_string(),
    ]);
    let devices = match machine.accelerator {
        super::boot::Accelerator::Kvm => "DeviceAllow=/dev/kvm rw\nSupplementaryGroups=kvm\n",
        super::boot::Accelerator::Tcg => "",
    };
    let writable = match writable.is_empty() {
        true => String::new(),
        false => format!("ReadWritePaths={}\n", writable.join(" ")),
    };
    Ok(format!(
        "[Unit]\nDescription=Casemate guest\nDocumentation=file:docs/OPERATE.md\nWants=network-online.target\nAfter=network-online.target\n\n\
        [Service]\nUser={}\nExecStart={}\nRestart=on-failure\nRestartSec=10\n\
        # What casemate image boot ends with when another try would end the same way.\n\
        RestartPreventExitStatus=2 3 10 12 20 30\nNoNewPrivileges=yes\nProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\n\
        DevicePolicy=closed\n{devices}{writable}LimitCORE=0\n\n[Install]\nWantedBy=multi-user.target\n",
        it.user,
        words.join(" ")
    ))
}

/// An absolute path that a unit takes as it is.
fn path(path: &Path) -> Result<String, CommandError> {
    let wrong =
        |what: &str| CommandError::new(ExitCode::Usage, format!("{} {what}", path.display()));
    let absolute = std::path::absolute(path).map_err(|error| wrong(&error.to_string()))?;
    let text = absolute.to_str().ok_or_else(|| wrong("is not text"))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./+@:".contains(c);
    match text.chars().all(plain) {
        true => Ok(text.to_owned()),
        false => Err(wrong(
            "has characters that a unit would read as its own; choose a plainer path",
        )),
    }
}

fn user(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    let is_user = !text.is_empty() && text.len() <= 32 && text.chars().all(plain);
    is_user
        .then(|| text.to_owned())
        .ok_or_else(|| "a user is lower-case letters, digits, - and _".to_owned())
}
