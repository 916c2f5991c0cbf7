//! Compiles the kernels, and those with planted faults, with the C++ compiler of the machine.

use std::path::Path;

fn main() {
    let kernels = Path::new("../gpu/kernels");
    println!("cargo:rerun-if-changed=../gpu/kernels");
    println!("cargo:rerun-if-changed=emulator.cpp");
    println!("cargo:rerun-if-changed=emulator.h");
    println!("cargo:rerun-if-changed=faults.cu");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").include(".").include(kernels).file("emulator.cpp").opt_level(2);
    // In front of the kernels, which know nothing of it.
    build.flag("-include").flag("emulator.h");
    // nvcc contracts a b + c to one rounding where it likes; here nothing is.
    build.flag("-ffp-contract=off").flag("-Wno-unknown-pragmas").flag("-Wno-unused-function");
    let mut sources: Vec<_> = std::fs::read_dir(kernels)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    sources.push("faults.cu".into());
    sources.sort();
    for source in &sources {
        // The compiler takes `.cu` for nothing that it knows.
        let out = std::env::var("OUT_DIR").unwrap_or_default();
        let wrapper = Path::new(&out).join(source.with_extension("cpp").file_name().unwrap_or_default());
        let source = source.canonicalize().unwrap_or_else(|_| source.clone());
        let text = format!("#include \"{}\"\n", source.display());
        std::fs::write(&wrapper, text).expect("writes to OUT_DIR");
        build.file(wrapper);
    }
    // Kernels register themselves: nobody refers to their objects.
    build.link_lib_modifier("+whole-archive").compile("emulated_kernels");
}
