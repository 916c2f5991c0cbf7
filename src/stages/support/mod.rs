//! What several stages share: reading parameters and devices, writing and moving files, counting answers.

pub mod batches;
pub mod ema_files;
pub mod facts;
pub mod files;
pub mod pairing;
pub mod params;
pub mod scale;
pub mod sit_artifact;

#[cfg(test)]
mod tests {
    use crate::support::batches::spread;
    use crate::support::params::device;

    #[test]
    fn a_part_of_a_set_is_of_all_its_classes() {
        assert_eq!(spread(3, 5), [0, 1, 2]);
        assert_eq!(spread(0, 5), [0; 0]);
        for (n, count) in [(500, 300), (50_000, 10_000), (1000, 10)] {
            let chosen = spread(n, count);
            assert_eq!(chosen.len() as u64, count);
            for (i, at) in chosen.iter().enumerate() {
                let i = i as u64;
                assert!((i * n / count..(i + 1) * n / count).contains(at), "{at} of {n}");
            }
        }
        // Labels of samples are 0 to 9 over and over.
        let mut counts = [0; 10];
        spread(50_000, 10_000).iter().for_each(|i| counts[(i % 10) as usize] += 1);
        assert!(counts.iter().all(|n| (900..1100).contains(n)), "{counts:?}");
    }

    #[test]
    fn a_device_that_this_program_cannot_use_is_refused() {
        let said = |name: &str| device(name).err().map(|e| e.message);
        assert_eq!(said("cpu"), None);
        assert_eq!(said("tpu").unwrap(), "unknown device `tpu`");
        assert_eq!(said("cuda:x").unwrap(), "unknown device `cuda:x`");
        #[cfg(not(feature = "cuda"))]
        assert_eq!(said("cuda:0").unwrap(), "this erw was built without CUDA");
    }
}
