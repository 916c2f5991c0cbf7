//! The metrics of a comparison by their names: what each needs of either side, and what it may be
//! called.

/// A metric, as `metrics` of a `fid` stage names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Fréchet distance of pooled features.
    Fid,
    /// The same of Inception's spatial features (Nash et al. 2021).
    Sfid,
    /// Inception Score (Salimans et al. 2016); of the samples alone.
    Is,
    /// Improved precision (Kynkäänniemi et al. 2019).
    Precision,
    /// Improved recall.
    Recall,
    /// Density (Naeem et al. 2020), precision that counts balls.
    Density,
    /// Coverage of the same, recall by the reference's balls.
    Coverage,
    /// Kernel distance (Bińkowski et al. 2018).
    Kid,
    /// Maximum mean discrepancy of CLIP's embeddings (Jayasumana et al. 2024).
    Cmmd,
}

/// What is to be known of a side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Mean and covariance of pooled features.
    pub pool: bool,
    /// The same of spatial features.
    pub spatial: bool,
    /// Pooled features of single images.
    pub vectors: bool,
    /// Class scores of single images.
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

    /// As users write it.
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

    /// What its value is called among results. FID and KID are of Inception's features; the same
    /// distances of others' are `fd` and `kd`.
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
    /// Of the samples.
    pub fn of(metrics: &[Metric]) -> Self {
        metrics.iter().map(|m| m.needs()).fold(Self::default(), |a, b| Self {
            pool: a.pool || b.pool,
            spatial: a.spatial || b.spatial,
            vectors: a.vectors || b.vectors,
            score: a.score || b.score,
        })
    }

    /// Of what the samples are held against.
    pub fn of_reference(metrics: &[Metric]) -> Self {
        Self { score: false, ..Self::of(metrics) }
    }

    pub fn any(self) -> bool {
        self != Self::default()
    }
}
