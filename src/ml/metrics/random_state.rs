//! The part of `numpy.random.RandomState` that tools use to draw subsets and permutations:
//! published values name its seed, so reproducing them needs the same stream. It is used for
//! nothing else; see [`crate::rng`].
//!
//! MT19937 of Matsumoto and Nishimura (1998), seeded by one 32-bit number. numpy has frozen this
//! stream (NEP 19).

const SIZE: usize = 624;
const SHIFT: usize = 397;

/// The state of the generator.
#[derive(Debug, Clone)]
pub struct RandomState {
    state: [u32; SIZE],
    position: usize,
}

impl RandomState {
    /// Like `numpy.random.RandomState(seed)`.
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; SIZE];
        for i in 1..SIZE {
            let last = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Self { state, position: SIZE }
    }

    fn next_u32(&mut self) -> u32 {
        if self.position == SIZE {
            self.refill();
        }
        let mut y = self.state[self.position];
        self.position += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }

    fn refill(&mut self) {
        for i in 0..SIZE {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % SIZE] & 0x7FFF_FFFF);
            let twist = if y & 1 == 0 { 0 } else { 0x9908_B0DF };
            self.state[i] = self.state[(i + SHIFT) % SIZE] ^ (y >> 1) ^ twist;
        }
        self.position = 0;
    }

    /// Uniform in `0..=largest`, by rejection under the smallest bit mask that covers it.
    fn up_to(&mut self, largest: u32) -> u32 {
        let mask = u32::MAX.checked_shr(largest.leading_zeros()).unwrap_or(0);
        loop {
            let value = self.next_u32() & mask;
            if value <= largest {
                return value;
            }
        }
    }

    /// Like `permutation(n)`: `0..n` in random order.
    pub fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i as usize, self.up_to(i) as usize);
        }
        order
    }

    /// Like `choice(n, size, replace=False)`: the beginning of a permutation. At most `n` values.
    pub fn choice(&mut self, n: u32, size: usize) -> Vec<u32> {
        let mut order = self.permutation(n);
        order.truncate(size);
        order
    }
}
