//! Whose evaluation is imitated. Tools differ in how images come to the network and in how metrics are taken from its
//! features, and a number compares only with numbers of the same tool. Knows neither: networks and metrics ask for it.

use serde::{Deserialize, Serialize};

/// A published tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The evaluation suite of ADM (Dhariwal and Nichol 2021, guided-diffusion), whose numbers papers on ImageNet report;
    /// hence the default.
    #[default]
    Adm,
    /// pytorch-fid, and the script in ERW's release.
    PytorchFid,
    /// clean-fid (Parmar et al. 2022) in its mode `clean`.
    CleanFid,
    /// torch-fidelity.
    TorchFidelity,
}

impl Mode {
    pub const ALL: [Self; 4] = [Self::Adm, Self::PytorchFid, Self::CleanFid, Self::TorchFidelity];

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Adm => "adm",
            Self::PytorchFid => "pytorch-fid",
            Self::CleanFid => "clean-fid",
            Self::TorchFidelity => "torch-fidelity",
        }
    }
}
