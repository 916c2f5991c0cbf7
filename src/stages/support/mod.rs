//! What several stages share: reading parameters and devices, writing and moving files, counting
//! answers.

pub mod ema_files;
pub mod facts;
pub mod files;
pub mod observer;
pub mod pairing;
pub mod params;
pub mod sit_artifact;

#[cfg(test)]
mod tests {
    use crate::support::params::device;

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
