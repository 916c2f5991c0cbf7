//! Names of the file formats for tensors.

use std::fmt;

/// A supported format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Safetensors,
    TorchZip,
    TorchLegacy,
    TorchScript,
    Npz,
    Npy,
    /// A model in this many files.
    SafetensorsFiles(usize),
    TorchFiles(usize),
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "a safetensors file",
            Self::TorchZip => "a PyTorch checkpoint (zip)",
            Self::TorchLegacy => "a PyTorch checkpoint (before 1.6)",
            Self::TorchScript => "a TorchScript archive",
            Self::Npz => "an npz archive of NumPy",
            Self::Npy => "a NumPy array",
            Self::SafetensorsFiles(n) => return write!(f, "a model in {n} safetensors files"),
            Self::TorchFiles(n) => return write!(f, "a model in {n} PyTorch checkpoints"),
        })
    }
}
