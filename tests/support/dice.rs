//! Random moments of the tests that kill and damage. A failing test shows its seed, and
//! `ERW_SURVIVE_SEED` repeats it.

/// Random numbers (splitmix64) that can be drawn again.
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Self {
        let given = std::env::var("ERW_SURVIVE_SEED").ok().and_then(|s| s.parse().ok());
        let clock = || std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64);
        let seed = given.unwrap_or_else(clock);
        shown(seed);
        Self(seed)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len() as u64) as usize)
    }
    /// Sleeps up to `most`.
    pub fn wait(&mut self, most: std::time::Duration) {
        std::thread::sleep(std::time::Duration::from_micros(self.below(most.as_micros() as u64)));
    }
}

/// libtest shows it if the test fails.
#[expect(clippy::print_stdout, reason = "the test harness shows it when it matters")]
fn shown(seed: u64) {
    println!("drawn with ERW_SURVIVE_SEED={seed}");
}
