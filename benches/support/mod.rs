//! Shared by the benchmarks: a process for each case, the table, and the machine's rate of matrix
//! products for comparison.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and fails by panicking")]

use candle_core::Result;
use erw::ml::kernels::matmul::{Mat, Threads, matmul};
use serde_json::{Value, json};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Asks a child for one case.
const CHILD: &str = "--child";

/// Makes this process like one that trains: begins it anew where it lacks the variables that such a
/// one has.
pub fn as_a_worker() {
    let lacking = erw::process::FOR_WORKERS.into_iter().filter(|(name, _)| std::env::var_os(name).is_none());
    let lacking: Vec<_> = lacking.collect();
    if !lacking.is_empty() {
        let mut anew = Command::new(std::env::current_exe().unwrap());
        panic!("{}", anew.args(std::env::args_os().skip(1)).envs(lacking).exec());
    }
    erw::process::tune(true);
    erw::process::build_pool(true).expect("a pool of threads");
}

/// The `main` of a benchmark: prints a line for every case that the command line names, or for all,
/// each measured in a process of its own, so that its peak memory is its own.
pub fn table(cases: &[&str], unit: &str, measure: impl Fn(&str) -> Result<Value>) {
    as_a_worker();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, case] = args.as_slice()
        && flag == CHILD
    {
        println!("{}", measure(case).unwrap());
        return;
    }
    // cargo adds `--bench`.
    let wanted: Vec<&str> = args.iter().map(String::as_str).filter(|a| !a.starts_with("--")).collect();
    if let Some(unknown) = wanted.iter().find(|w| !cases.contains(w)) {
        println!("no case {unknown}; there are {}", cases.join(", "));
        std::process::exit(2);
    }
    println!(
        "{:<18} {:>8} {unit:>9} {:>8} {:>15} {:>9} {:>9}",
        "case", "seconds", "GFLOP/s", "matmul GFLOP/s", "of matmul", "peak MiB"
    );
    for case in cases.iter().filter(|c| wanted.is_empty() || wanted.contains(*c)) {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args([CHILD, case]).stderr(Stdio::inherit()).output().unwrap();
        let m: Value = serde_json::from_slice(&output.stdout).expect("a case that runs");
        let show = |name: &str, digits: usize| m[name].as_f64().map_or("-".into(), |x| format!("{x:.digits$}"));
        let digits = if m["per_s"].as_f64().is_some_and(|x| x < 100.0) { 2 } else { 0 };
        println!(
            "{case:<18} {:>8} {:>9} {:>8} {:>15} {:>9} {:>9}",
            show("seconds", 3),
            show("per_s", digits),
            show("gflops", 0),
            show("matmul_gflops", 0),
            show("of_matmul", 2),
            show("peak_mib", 0)
        );
    }
}

/// A line of the table for something that took `seconds` for `gflop` 10^9 operations. Takes the
/// peak memory now and measures the matmul rate after it.
pub fn rated(seconds: f64, gflop: f64, per_s: Option<f64>) -> Result<Value> {
    let (rate, peak) = (gflop / seconds, peak_mib());
    let matmul = matmul_gflops()?;
    Ok(json!({"seconds": seconds, "per_s": per_s, "gflops": rate, "matmul_gflops": matmul, "of_matmul": rate / matmul,
        "peak_mib": peak}))
}

/// Seconds of the fastest of `repeats` runs, after one that is not counted.
pub fn best(repeats: usize, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let mut fastest = f64::INFINITY;
    for _ in 0..repeats {
        let start = Instant::now();
        run()?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    Ok(fastest)
}

fn matmul_gflops() -> Result<f64> {
    const N: usize = 2048;
    let (a, b, mut c) = (vec![0.5f32; N * N], vec![0.25f32; N * N], vec![0f32; N * N]);
    let seconds = best(5, || {
        matmul(&mut c, false, 1.0, Mat::new(&a, N, N), Mat::new(&b, N, N), Threads::Pool);
        Ok(())
    })?;
    Ok(2.0 * (N as f64).powi(3) / seconds / 1e9)
}

/// Largest resident size of this process so far; NaN where the system does not say.
pub fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).map_or(f64::NAN, |kib| kib / 1024.0)
}
