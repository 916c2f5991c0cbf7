//! What one report is to be like, as arguments. Does not know what it is about.

use crate::run::flags::size;
use erw_runner::text::units;

/// Unless somebody wants another size.
const MAX_SIZE: &str = "10MB";

#[derive(Debug, Clone, clap::Args)]
pub struct Wishes {
    /// Leave out pictures until the page is no larger
    #[arg(long, value_name = "SIZE", default_value = MAX_SIZE, value_parser = size, allow_negative_numbers = true)]
    pub max_size: u64,
    /// Leave out paths, host and user
    #[arg(long)]
    pub anonymous: bool,
}

impl Default for Wishes {
    fn default() -> Self {
        Self { max_size: units::bytes(MAX_SIZE).unwrap_or(u64::MAX), anonymous: false }
    }
}
