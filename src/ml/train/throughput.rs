//! The speed of a training, in steps and samples per second. Only steps of this process count, not
//! those before a resume. All time counts, including checkpoints and validations.

use std::time::Instant;

pub(super) struct Rate {
    /// When this process began, and after how many steps.
    began: (Instant, u64),
    /// Samples per step; 0 if unknown.
    samples: usize,
}

impl Rate {
    pub fn new(step: u64, samples: usize) -> Self {
        Self { began: (Instant::now(), step), samples }
    }

    /// A summary as text, for the end. `None` if this process took no step.
    pub fn summary(&self, step: u64) -> Option<String> {
        let (began, from) = self.began;
        words(step - from, from, began.elapsed().as_secs_f64(), self.samples)
    }
}

fn per_second(steps: u64, seconds: f64, samples: usize) -> Vec<(&'static str, f64)> {
    if steps == 0 || seconds <= 0.0 {
        return vec![];
    }
    let rate = steps as f64 / seconds;
    let mut rates = vec![("steps_per_s", rate)];
    if samples > 0 {
        rates.push(("samples_per_s", rate * samples as f64));
    }
    rates
}

fn words(steps: u64, resumed: u64, seconds: f64, samples: usize) -> Option<String> {
    let rates = per_second(steps, seconds, samples);
    if rates.is_empty() {
        return None;
    }
    let since = if resumed > 0 { format!(" since step {resumed}") } else { String::new() };
    let rates: Vec<String> =
        rates.iter().map(|(name, rate)| format!("{rate:.3} {}", name.replace("_per_s", "/s"))).collect();
    Some(format!("{steps} steps{since} in {seconds:.1} s: {}", rates.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_training_counts_its_own_steps() {
        let told = words(30, 10, 20.0, 4).unwrap();
        assert_eq!(told, "30 steps since step 10 in 20.0 s: 1.500 steps/s, 6.000 samples/s");
        assert_eq!(words(5, 0, 2.0, 0).unwrap(), "5 steps in 2.0 s: 2.500 steps/s");
        assert_eq!(words(0, 10, 2.0, 4), None);
    }
}
