//! The metrics of a comparison by name: what each needs of both sides, and the name of its value.

/// A metric that `metrics` of a `fid` stage can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Fréchet distance of pooled features.
    Fid,
    /// Fréchet distance of Inception's spatial features (Nash et al. 2021).
    Sfid,
    /// Inception Score (Salimans et al. 2016). Uses only the samples.
    Is,
    /// Improved precision (Kynkäänniemi et al. 2019).
    Precision,
    /// Improved recall (Kynkäänniemi et al. 2019).
    Recall,
    /// Density (Naeem et al. 2020): like precision, but counts the balls that contain a sample.
    Density,
    /// Coverage (Naeem et al. 2020): like recall, but with the balls of the reference.
    Coverage,
    /// Kernel distance (Bińkowski et al. 2018).
    Kid,
    /// Maximum mean discrepancy of CLIP embeddings (Jayasumana et al. 2024).
    Cmmd,
}

/// What metrics need of one side of a comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Mean and covariance of pooled features.
    pub pool: bool,
    /// Mean and covariance of spatial features.
    pub spatial: bool,
    /// Pooled features of individual images.
    pub vectors: bool,
    /// Class scores of individual images.
    pub score: bool,
}

impl Metric {
    pub const ALL: [Self; 9] = [
        Self::Fid,
        Self::Sfid,
        Self::Is,
        Self::Precision,
        Self::Recall,
        Self::Density,
        Self::Coverage,
        Self::Kid,
        Self::Cmmd,
    ];

    /// The name that users write.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fid => "fid",
            Self::Sfid => "sfid",
            Self::Is => "is",
            Self::Precision => "precision",
            Self::Recall => "recall",
            Self::Density => "density",
            Self::Coverage => "coverage",
            Self::Kid => "kid",
            Self::Cmmd => "cmmd",
        }
    }

    /// The name of its value in results. FID and KID are defined on Inception's features; with
    /// another network's features the same distances are called `fd` and `kd`.
    pub fn called(self, inception: bool) -> &'static str {
        match self {
            Self::Fid if !inception => "fd",
            Self::Kid if !inception => "kd",
            Self::Is => "inception_score",
            other => other.name(),
        }
    }

    pub fn of_inception_only(self) -> bool {
        matches!(self, Self::Sfid | Self::Is)
    }

    fn needs(self) -> Needs {
        let none = Needs::default();
        match self {
            Self::Fid => Needs { pool: true, ..none },
            Self::Sfid => Needs { spatial: true, ..none },
            Self::Is => Needs { score: true, ..none },
            Self::Precision | Self::Recall | Self::Density | Self::Coverage | Self::Kid | Self::Cmmd => {
                Needs { vectors: true, ..none }
            }
        }
    }
}

impl Needs {
    /// What these metrics need of the samples.
    pub fn of(metrics: &[Metric]) -> Self {
        metrics.iter().map(|m| m.needs()).fold(Self::default(), |a, b| Self {
            pool: a.pool || b.pool,
            spatial: a.spatial || b.spatial,
            vectors: a.vectors || b.vectors,
            score: a.score || b.score,
        })
    }

    /// What these metrics need of the reference, which is the same without class scores.
    pub fn of_reference(metrics: &[Metric]) -> Self {
        Self { score: false, ..Self::of(metrics) }
    }

    pub fn any(self) -> bool {
        self != Self::default()
    }
}
