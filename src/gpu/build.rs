//! Compiles the kernels with nvcc, for builds with feature `cuda`. `NVCC` names the compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Machine code for Ampere and Hopper, and PTX, which drivers of later cards translate.
const CODE: [&str; 3] = [
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_80,code=compute_80",
];

fn main() {
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo:rerun-if-env-changed=NVCC");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo names it"));
    let mut sources: Vec<PathBuf> = std::fs::read_dir("kernels")
        .expect("the kernels lie beside this file")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    sources.sort();
    let binaries: Vec<PathBuf> = sources.iter().map(|source| binary(source, &out)).collect();
    // Each at a time would leave processors idle.
    std::thread::scope(|scope| {
        for (source, binary) in sources.iter().zip(&binaries) {
            scope.spawn(|| compile(source, binary));
        }
    });
    let included = binaries.iter().map(|path| format!("include_bytes!({:?})", path.display().to_string()));
    let text = format!("&[{}]", included.collect::<Vec<_>>().join(", "));
    std::fs::write(out.join("binaries.rs"), text).expect("writes to OUT_DIR");
}

fn binary(source: &Path, out: &Path) -> PathBuf {
    out.join(source.with_extension("fatbin").file_name().expect("a source has a name"))
}

fn compile(source: &Path, binary: &Path) {
    let nvcc = std::env::var_os("NVCC").unwrap_or_else(|| "nvcc".into());
    let mut command = Command::new(&nvcc);
    command.args(["-std=c++17", "-O3", "-fatbin", "-Werror", "all-warnings"]).args(CODE);
    command.arg("-o").arg(binary).arg(source);
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{command:?}: {status}"),
        Err(e) => panic!("cannot run {}: {e}; feature `cuda` needs nvcc 12 or newer", nvcc.to_string_lossy()),
    }
}
