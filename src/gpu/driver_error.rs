//! What errors of the NVIDIA driver mean to a user. They reach us as texts that contain the
//! driver's names.

/// Cause and hint for a driver's error, if it has a usual one.
pub fn meaning(text: &str) -> Option<(&'static str, &'static str)> {
    let says = |names: &[&str]| names.iter().any(|name| text.contains(name));
    if says(&["NO_DEVICE", "INVALID_DEVICE"]) {
        return Some(("no such GPU is visible", "`nvidia-smi` lists them; `CUDA_VISIBLE_DEVICES` selects among them"));
    }
    if says(&["OUT_OF_MEMORY"]) {
        return Some((
            "the GPU has too little free memory",
            "`nvidia-smi` shows who uses it; a training takes less with `checkpointing = \"blocks\"` or a larger \
             `accumulate`, other stages with a smaller `batch`",
        ));
    }
    if says(&["NO_BINARY_FOR_GPU", "INVALID_PTX", "UNSUPPORTED_PTX", "INVALID_IMAGE"]) {
        return Some((
            "this program has no machine code for the GPU, and its driver cannot translate it",
            "supported are Ampere and later, with a driver as new as the CUDA toolkit that built this program",
        ));
    }
    if says(&["INSUFFICIENT_DRIVER", "SYSTEM_DRIVER_MISMATCH", "STUB_LIBRARY", "COMPAT_NOT_SUPPORTED"]) {
        return Some((
            "the NVIDIA driver is older than this program needs, or does not match its library",
            "`nvidia-smi` shows the driver's version; update it, or build with an older CUDA toolkit",
        ));
    }
    if says(&["DEVICE_UNAVAILABLE", "ECC_UNCORRECTABLE", "DEVICES_UNAVAILABLE", "DEVICE_LOST", "LAUNCH_TIMEOUT"]) {
        return Some((
            "the GPU is not available any more",
            "the last checkpoint is kept; rerun to resume from it, on this GPU or another",
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_errors_have_a_cause_and_a_hint() {
        let cause = |text: &str| meaning(text).map(|(cause, _)| cause);
        let none = cause("DriverError(CUDA_ERROR_NO_DEVICE, \"no CUDA-capable device is detected\")");
        assert_eq!(none, Some("no such GPU is visible"));
        assert!(cause("CUDA_ERROR_OUT_OF_MEMORY").is_some_and(|c| c.contains("memory")));
        assert!(cause("CUDA_ERROR_UNSUPPORTED_PTX_VERSION").is_some_and(|c| c.contains("machine code")));
        assert!(cause("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH").is_some_and(|c| c.contains("driver")));
        assert_eq!(cause("CUDA_ERROR_ILLEGAL_ADDRESS"), None);
    }
}
