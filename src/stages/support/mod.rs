//! Helpers shared by stages: parameters and devices, GPUs and frozen networks on them, facts for
//! manifests, files of artifacts, the artifact of a trained SiT.

pub mod card;
pub mod ema_files;
pub mod facts;
pub mod files;
pub mod frozen_networks;
#[cfg(feature = "mpi")]
pub mod mpi;
#[cfg(feature = "nccl")]
mod nccl_id;
pub mod observer;
pub mod params;
pub mod same_classes;
pub mod same_images;
pub mod sit_artifact;
pub mod trained_on;

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
