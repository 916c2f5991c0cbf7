//! The tool whose evaluation is reproduced. Tools differ in how they prepare images and compute
//! metrics, and values are comparable only within one tool. Networks and metrics look the mode up
//! here.

use serde::{Deserialize, Serialize};

/// A published tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The evaluation suite of ADM (Dhariwal and Nichol 2021, guided-diffusion), which papers on
    /// ImageNet use; hence the default.
    #[default]
    Adm,
    /// pytorch-fid, which the ERW authors' evaluation script uses too.
    PytorchFid,
    /// clean-fid (Parmar et al. 2022) in its mode `clean`.
    CleanFid,
    /// torch-fidelity.
    TorchFidelity,
}

impl Mode {
    pub const ALL: [Self; 4] = [Self::Adm, Self::PytorchFid, Self::CleanFid, Self::TorchFidelity];

    /// The name in parameters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Adm => "adm",
            Self::PytorchFid => "pytorch-fid",
            Self::CleanFid => "clean-fid",
            Self::TorchFidelity => "torch-fidelity",
        }
    }
}
