//! What is said of a set of images that was listed, one sentence each. Nothing of it enters a
//! result but the notes, which statistics of images keep.

/// Sentences about a set.
#[derive(Debug, Default)]
pub struct Said {
    /// What a measurement of the set must state.
    pub notes: Vec<String>,
    /// What may not be meant so.
    pub warnings: Vec<String>,
    /// What was decided, for whoever wants to know.
    pub remarks: Vec<String>,
}
