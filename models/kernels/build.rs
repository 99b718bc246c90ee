//! With the feature `cuda`: compiles the kernels for GPUs with nvcc, for the GPU that CUDA_COMPUTE_CAP names and later
//! ones.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

const SOURCE: &str = "src/cuda/decode.cu";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let variable = |name: &str| env::var(name).ok();
    let capability = variable("CUDA_COMPUTE_CAP").unwrap_or_else(|| "80".to_owned());
    let compiler = variable("CUDA_HOME").map_or_else(
        || PathBuf::from("nvcc"),
        |home| PathBuf::from(home).join("bin/nvcc"),
    );
    let made = PathBuf::from(variable("OUT_DIR").unwrap_or_default()).join("decode.fatbin");
    let code = format!("arch=compute_{capability},code=[sm_{capability},compute_{capability}]");
    let finished = Command::new(&compiler)
        .args(["-O3", "-std=c++17", "-fatbin", "-gencode", &code, "-o"])
        .arg(&made)
        .arg(SOURCE)
        .output();
    let refused = match finished {
        Ok(finished) if finished.status.success() && fs::metadata(&made).is_ok() => return,
        Ok(finished) => String::from_utf8_lossy(&finished.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    println!(
        "cargo::error={} does not compile {SOURCE} for {capability} (scripts/build-cuda brings a toolkit): {refused}",
        compiler.display()
    );
}
