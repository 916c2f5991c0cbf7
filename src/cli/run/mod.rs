//! `erw run`: runs what is stale in a pipeline.

mod detach;
pub mod execute;
pub mod flags;
pub mod lock;
pub mod watch;

use erw_base::error::Result;
use erw_runner::kind::Registry;
use execute::once;
use flags::Args;
use std::path::Path;

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    if args.watch { watch::run(args, cache, registry) } else { once(args, cache, registry) }
}
