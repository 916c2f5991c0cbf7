//! The class of this machine: what decides in which order sums are taken and with which instructions. On machines of one
//! class a stage makes the same bytes; between classes only kinds that their manifest calls exact everywhere do.
//!
//! Knows nothing of stages. GPUs are no part of it: records name the device besides.

use std::process::Command;
use std::sync::OnceLock;

/// Instruction sets, cache sizes (kernels cut their blocks by them), and the C library, whose functions round their own way.
pub fn class() -> &'static str {
    static CLASS: OnceLock<String> = OnceLock::new();
    CLASS.get_or_init(|| {
        let mut words = vec![std::env::consts::ARCH.to_string()];
        #[cfg(target_arch = "x86_64")]
        for (name, there) in [
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ] {
            words.extend(there.then(|| name.to_string()));
        }
        for index in 0..4 {
            let size = std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size"));
            words.push(size.map_or("?".into(), |s| s.trim().to_string()));
        }
        let libc = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
        words.push(libc.map_or("?".into(), |o| String::from_utf8_lossy(&o.stdout).trim().replace(' ', "-")));
        words.join(" ")
    })
}
