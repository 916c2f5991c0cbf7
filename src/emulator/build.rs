//! Compiles the kernels, and those with planted faults, with the C++ compiler of the machine.

use std::path::{Path, PathBuf};

/// The parts of the emulator itself.
const EMULATOR: [&str; 2] = ["emulator.cpp", "watch.cpp"];

fn main() {
    let kernels = Path::new("../gpu/kernels");
    println!("cargo:rerun-if-changed=../gpu/kernels");
    for file in EMULATOR.iter().chain(&["build.rs", "emulator.h", "watch.h", "faults.cu"]) {
        println!("cargo:rerun-if-changed={file}");
    }
    let mut sources: Vec<_> = std::fs::read_dir(kernels)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    sources.push("faults.cu".into());
    sources.sort();
    let mut emulated = compiler(kernels);
    // Calls a function of watch.cpp for each access. The library of the sanitizer is not linked.
    emulated.flag("-fsanitize=thread").flag("--param=tsan-instrument-func-entry-exit=0");
    for source in &sources {
        emulated.file(wrapper(source));
    }
    // Kernels register themselves: nobody refers to their objects.
    emulated.link_lib_modifier("+whole-archive").compile("emulated_kernels");
    compiler(kernels).files(EMULATOR).compile("emulator");
}

fn compiler(kernels: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").include(".").include(kernels).opt_level(2);
    // In front of the kernels, which know nothing of it.
    build.flag("-include").flag("emulator.h");
    // nvcc contracts a b + c to one rounding where it likes; here nothing is.
    build.flag("-ffp-contract=off").flag("-Wno-unknown-pragmas").flag("-Wno-unused-function");
    build
}

/// A file that includes a kernel: the compiler takes `.cu` for nothing that it knows.
fn wrapper(source: &Path) -> PathBuf {
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    let wrapper = Path::new(&out).join(source.with_extension("cpp").file_name().unwrap_or_default());
    let source = source.canonicalize().unwrap_or_else(|_| source.to_owned());
    let text = format!("#include \"{}\"\n", source.display());
    std::fs::write(&wrapper, text).expect("writes to OUT_DIR");
    wrapper
}
