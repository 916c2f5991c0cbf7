//! What Slurm says of a job, and what that means. Does not know how it is asked.

/// A job as the scheduler sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    pub id: String,
    pub state: String,
    /// Why it waits or has ended.
    pub reason: String,
    pub nodes: String,
}

/// What a state means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Pending,
    Running,
    /// It will never start again by itself: the controller had forgotten its start.
    Held,
    Ended(JobEnd),
}

/// How a job ended, in the scheduler's opinion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobEnd {
    Completed,
    Failed,
    /// By a person.
    Cancelled,
    OutOfMemory,
    /// No fault of the job: preempted, its node died, its time was over.
    Interrupted,
}

/// Reasons that do not end by themselves.
const ENDLESS: [&str; 9] = [
    "BadConstraints",
    "PartitionTimeLimit",
    "PartitionNodeLimit",
    "PartitionDown",
    "PartitionInactive",
    "DependencyNeverSatisfied",
    "JobHeldUser",
    "JobHeldAdmin",
    "ReqNodeNotAvail",
];

impl JobStatus {
    pub fn phase(&self) -> Phase {
        match self.state.as_str() {
            "PENDING" if self.reason.contains("launch failed requeued held") => Phase::Held,
            "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "RESIZING" | "SPECIAL_EXIT"
            | "RESV_DEL_HOLD" => Phase::Pending,
            "RUNNING" | "COMPLETING" | "SIGNALING" | "SUSPENDED" | "STOPPED" | "STAGE_OUT" => Phase::Running,
            "COMPLETED" => Phase::Ended(JobEnd::Completed),
            "CANCELLED" => Phase::Ended(JobEnd::Cancelled),
            "OUT_OF_MEMORY" => Phase::Ended(JobEnd::OutOfMemory),
            "PREEMPTED" | "NODE_FAIL" | "BOOT_FAIL" | "TIMEOUT" | "REVOKED" | "DEADLINE" => {
                Phase::Ended(JobEnd::Interrupted)
            }
            _ => Phase::Ended(JobEnd::Failed),
        }
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.phase(), Phase::Ended(_))
    }

    /// The number in its id; that of a task of an array begins with one.
    pub fn number(&self) -> u64 {
        self.id.split('_').next().and_then(|id| id.parse().ok()).unwrap_or(0)
    }

    /// The reason why it waits, if waiting will not help.
    pub fn endless(&self) -> Option<&str> {
        let never = |reason: &&str| self.reason.contains(*reason);
        let minutes = self.reason.starts_with("AssocGrp") && self.reason.ends_with("Minutes");
        (self.phase() == Phase::Pending && (minutes || ENDLESS.iter().any(never))).then_some(&self.reason)
    }
}

/// A line of `squeue -o "%i|%j|%T|%r|%N"`: the name of the job and its status. The task of an array
/// has a name of its own.
pub fn parse(line: &str) -> Option<(String, JobStatus)> {
    let mut fields = line.splitn(5, '|').map(|field| field.trim().to_string());
    let (id, name) = (fields.next()?, fields.next()?);
    let name = match id.split_once('_') {
        Some((_, task)) => format!("{name}_{task}"),
        None => name,
    };
    Some((name, JobStatus { id, state: fields.next()?, reason: fields.next()?, nodes: fields.next()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(state: &str, reason: &str) -> Phase {
        parse(&format!("7|erw-1|{state}|{reason}|n1")).unwrap().1.phase()
    }

    #[test]
    fn a_line_of_the_queue_is_read() {
        let (name, status) = parse("12|erw-0123456789abcdef|PENDING|Resources|").unwrap();
        assert_eq!((name.as_str(), status.id.as_str()), ("erw-0123456789abcdef", "12"));
        assert_eq!(parse("12|erw"), None);
        assert_eq!(parse("12_3|erw-1|RUNNING|None|n1").unwrap().0, "erw-1_3", "a task of an array");
    }

    #[test]
    fn states_have_a_meaning() {
        assert_eq!(phase("PENDING", "Priority"), Phase::Pending);
        assert_eq!(phase("PENDING", "launch failed requeued held"), Phase::Held);
        assert_eq!(phase("COMPLETING", "None"), Phase::Running);
        assert_eq!(phase("PREEMPTED", "None"), Phase::Ended(JobEnd::Interrupted));
        assert_eq!(phase("FAILED", "NonZeroExitCode"), Phase::Ended(JobEnd::Failed));
        assert_eq!(phase("A_STATE_OF_2030", ""), Phase::Ended(JobEnd::Failed));
    }

    #[test]
    fn reasons_that_never_end_are_known() {
        let endless = |reason: &str| parse(&format!("7|n|PENDING|{reason}|")).unwrap().1.endless().is_some();
        assert!(endless("PartitionTimeLimit") && endless("AssocGrpGRESMinutes") && endless("JobHeldUser"));
        assert!(!endless("Priority") && !endless("Resources") && !endless("BeginTime"));
    }
}
