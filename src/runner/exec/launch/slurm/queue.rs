//! The jobs of this user, asked of the scheduler in one question for all of them. Whoever wants a
//! fresh answer asks, and everyone gets it; the time between two questions grows while nothing
//! changes. Does not know what the jobs do.

use super::commands::{Answer, LIMIT, run};
use super::state::{JobStatus, parse};
use erw_base::error::Result;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The shortest time between two questions.
const SHORTEST: Duration = Duration::from_secs(2);

/// The answers of the scheduler.
#[derive(Debug)]
pub struct Queue {
    longest: Duration,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// By name, oldest first.
    jobs: HashMap<String, Vec<JobStatus>>,
    /// When it was last asked, and when it last answered.
    asked: Option<Instant>,
    answered: Option<Instant>,
    interval: Duration,
    silence: Option<String>,
}

/// What is known of the jobs of one name.
#[derive(Debug, Clone)]
pub struct Sight {
    /// The newest one; `None`: the scheduler knows of none.
    pub job: Option<JobStatus>,
    /// When the scheduler said so.
    pub at: Instant,
}

impl Queue {
    /// Asks at least every `longest`.
    pub fn new(longest: Duration) -> Self {
        let known =
            Known { jobs: HashMap::new(), asked: None, answered: None, interval: SHORTEST.min(longest), silence: None };
        Self { longest, known: Mutex::new(known) }
    }

    /// The newest job of a name as of `since` or later, or an older answer while the next question
    /// is not due yet. `Err`: why the scheduler does not answer.
    ///
    /// # Errors
    /// When this machine has no `squeue`.
    pub fn look(&self, name: &str, since: Instant) -> Result<std::result::Result<Sight, String>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = known.asked.is_none_or(|asked| asked.elapsed() >= known.interval);
        let is_old = known.answered.is_none_or(|answered| answered < since);
        let is_soon = known.asked.is_some_and(|asked| asked.elapsed() < SHORTEST.min(self.longest));
        if is_due || (is_old && !is_soon) {
            known.ask(self.longest)?;
        }
        let job = known.jobs.get(name).and_then(|jobs| jobs.last()).cloned();
        Ok(match (known.answered, &known.silence) {
            (Some(at), None) => Ok(Sight { job, at }),
            (_, silence) => Err(silence.clone().unwrap_or_else(|| "the scheduler was not asked yet".into())),
        })
    }

    /// Something was submitted or cancelled: the next questions follow quickly.
    pub fn stir(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.interval = SHORTEST.min(self.longest);
    }
}

impl Known {
    fn ask(&mut self, longest: Duration) -> Result<()> {
        let arguments = ["--me", "--noheader", "--array", "--states=all", "-o", "%i|%j|%T|%r|%N"].map(String::from);
        self.asked = Some(Instant::now());
        match run("squeue", &arguments, LIMIT)? {
            Answer::Text(text) => {
                let mut jobs: HashMap<String, Vec<JobStatus>> = HashMap::new();
                for (name, status) in text.lines().filter_map(parse) {
                    jobs.entry(name).or_default().push(status);
                }
                jobs.values_mut().for_each(|jobs| jobs.sort_by_key(JobStatus::number));
                let is_same = jobs == self.jobs;
                self.interval = if is_same { (self.interval * 3 / 2).min(longest) } else { SHORTEST.min(longest) };
                (self.jobs, self.answered, self.silence) = (jobs, self.asked, None);
            }
            Answer::Refused(words) | Answer::Silence(words) => {
                self.interval = (self.interval * 3 / 2).min(longest);
                self.silence = Some(words);
            }
        }
        Ok(())
    }
}
