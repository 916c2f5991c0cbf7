//! What accounting adds to an error, where a site has it. Nothing is decided by it: the database
//! may be away, and it keeps states that are long over. It is asked by name, user and time, never
//! by an id, since ids begin again.

use super::commands::{Answer, LIMIT, run};
use super::placed::Placed;
use std::time::{Duration, SystemTime};

/// Added to the age of a job: its submission and its note are not of the same second.
const SLACK: Duration = Duration::from_secs(60);

/// Words about the newest job of a note, if there are any.
pub(super) fn words(placed: &Placed) -> Option<String> {
    let at = humantime::parse_rfc3339(&placed.at).ok()?;
    let age = SystemTime::now().duration_since(at).unwrap_or_default() + SLACK;
    let arguments = [
        "--noheader".to_string(),
        "--parsable2".into(),
        "--allocations".into(),
        format!("--name={}", placed.name),
        format!("--user={}", placed.user),
        // Relative, so that the time zone of this host does not matter.
        format!("--starttime=now-{}", age.as_secs()),
        "--format=JobID,State,ExitCode,Elapsed,NodeList".into(),
    ];
    let Ok(Answer::Text(text)) = run("sacct", &arguments, LIMIT) else { return None };
    let mut fields = text.lines().last()?.split('|').map(str::trim);
    let mut next = || fields.next().filter(|field| !field.is_empty());
    let (id, state, exit, elapsed, nodes) = (next()?, next()?, next()?, next()?, next()?);
    let state = state.to_lowercase();
    Some(format!("accounting says of job {id}: {state} after {elapsed} on {nodes}, exit status and signal {exit}"))
}
