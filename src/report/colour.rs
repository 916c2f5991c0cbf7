//! Whether what is printed has colour: one decision for errors, help and what clap says. Without
//! one, the stream decides: a terminal that can, unless `NO_COLOR` or `CLICOLOR=0` is set; anything
//! with `CLICOLOR_FORCE`.

use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};

/// The variables of others that decide where nobody has told erw.
pub const VARIABLES: [&str; 3] = ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"];

/// Decides by `auto`, `always` or `never`, wherever it is printed to. Other words decide nothing.
pub fn choose(word: &str) {
    match word {
        "auto" => ColorChoice::Auto.write_global(),
        "always" => ColorChoice::AlwaysAnsi.write_global(),
        "never" => ColorChoice::Never.write_global(),
        _ => {}
    }
}

/// Whether what goes to this stream has colour.
pub fn is_on(stream: &impl RawStream) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
}
