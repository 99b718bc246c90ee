//! With the feature `cuda`: compiles the kernels for GPUs with nvcc, for the GPU that CUDA_COMPUTE_CAP names and later
//! ones.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

const SOURCES: [&str; 2] = ["decode", "packed"];
const SHARED: &str = "src/cuda/common.cuh";

fn main() {
    println!("cargo::rerun-if-changed={SHARED}");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    for name in SOURCES {
        println!("cargo::rerun-if-changed=src/cuda/{name}.cu");
        if env::var_os("CARGO_FEATURE_CUDA").is_some() {
            compile(name);
        }
    }
}

/// Makes `name.fatbin` of a source.
fn compile(name: &str) {
    let variable = |name: &str| env::var(name).ok();
    let capability = variable("CUDA_COMPUTE_CAP").unwrap_or_else(|| "80".to_owned());
    let compiler = variable("CUDA_HOME").map_or_else(
        || PathBuf::from("nvcc"),
        |home| PathBuf::from(home).join("bin/nvcc"),
    );
    let source = format!("src/cuda/{name}.cu");
    let made =
        PathBuf::from(variable("OUT_DIR").unwrap_or_default()).join(format!("{name}.fatbin"));
    let code = format!("arch=compute_{capability},code=[sm_{capability},compute_{capability}]");
    let finished = Command::new(&compiler)
        .args(["-O3", "-std=c++17", "-fatbin", "-gencode", &code, "-o"])
        .arg(&made)
        .arg(&source)
        .output();
    let refused = match finished {
        Ok(finished) if finished.status.success() && fs::metadata(&made).is_ok() => return,
        Ok(finished) => String::from_utf8_lossy(&finished.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    println!(
        "cargo::error={} does not compile {source} for {capability} (scripts/build-cuda brings a toolkit): {refused}",
        compiler.display()
    );
}
