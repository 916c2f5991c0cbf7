//! What `erw --version` says: the version, the commit that the program was built from, and the
//! optional features that it was built with.

use std::sync::LazyLock;

static TEXT: LazyLock<String> = LazyLock::new(|| {
    let commit = match env!("ERW_BUILD_COMMIT") {
        "" => String::new(),
        commit => format!(" ({commit})"),
    };
    let features = [
        ("cuda", cfg!(feature = "cuda")),
        ("cudnn", cfg!(feature = "cudnn")),
        ("mpi", cfg!(feature = "mpi")),
        ("nccl", cfg!(feature = "nccl")),
    ];
    let built: Vec<&str> = features.into_iter().filter(|(_, is_built)| *is_built).map(|(name, _)| name).collect();
    let built = if built.is_empty() { "none".into() } else { built.join(", ") };
    format!("{}{commit}\nfeatures: {built}", env!("CARGO_PKG_VERSION"))
});

/// Version and commit; features follow in a line of their own. There is no commit if the program
/// was built from a crate.
pub fn text() -> &'static str {
    &TEXT
}
