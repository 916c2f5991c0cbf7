//! Arrays as numpy writes them, and arrays of random numbers.

use candle_core::{Device, Tensor};
use erw::ml::rng;
use erw::ml::rng::Purpose;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// An npz of f64 arrays: name, shape, numbers in row-major order.
pub fn write_arrays(path: &Path, arrays: &[(&str, Vec<usize>, Vec<f64>)]) {
    let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
    for (name, shape, data) in arrays {
        let shape: String = shape.iter().map(|d| format!("{d}, ")).collect();
        let mut header = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({shape}), }}");
        while (10 + header.len() + 1) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        zip.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(b"\x93NUMPY\x01\x00").unwrap();
        zip.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        zip.write_all(header.as_bytes()).unwrap();
        data.iter().for_each(|x| zip.write_all(&x.to_le_bytes()).unwrap());
    }
    zip.finish().unwrap();
}

/// An npy file, version 1.0, C order.
pub fn npy(descr: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let shape: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    while !(header.len() + 11).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

pub fn npy_f32(shape: &[usize], values: &[f32]) -> Vec<u8> {
    npy("<f4", shape, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

/// The name of the moments of an image, as REPA's preparation writes it.
pub fn moments_name(i: usize) -> String {
    format!("{:05}/img-mean-std-{i:08}.npy", i / 1000)
}

/// `n` normally distributed arrays.
pub fn normals(n: u64, seed: u64, shape: &[usize]) -> Tensor {
    rng::normal_rows(seed, Purpose::Probe, 0, &(0..n).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}
