//! Pipelines, the cache and the scheduler, mostly through the built program.

mod artifacts;
mod braces;
mod cache_key;
mod execution;
mod external_inputs;
mod gc;
mod lockfile;
mod messages;
mod partial_runs;
mod pipeline;
mod processes;
mod properties;
mod ranks;
mod remote;
mod resume;
mod scheduler;
mod search;
mod sweep;
mod up_to_date;
mod watched_files;
