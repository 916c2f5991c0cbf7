//! Arrays as numpy writes them.

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
