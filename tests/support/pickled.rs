//! Checkpoints of PyTorch of any structure, as trainers leave them: dictionaries, lists, texts and
//! tensors.

use candle_core::{DType, Tensor};
use std::io::Write;
use std::path::Path;
use zip::write::SimpleFileOptions;

pub enum Value {
    /// In this order.
    Dict(Vec<(String, Value)>),
    List(Vec<Value>),
    Text(String),
    Number(i64),
    Tensor(Tensor),
    /// Of a type that is not read: so many complex numbers of 64 bits.
    Complex(usize),
}

pub fn dict<K: Into<String>>(entries: impl IntoIterator<Item = (K, Value)>) -> Value {
    Value::Dict(entries.into_iter().map(|(k, v)| (k.into(), v)).collect())
}

/// Writes a zip checkpoint whose pickle is of protocol 0, but for the marks of storages.
pub fn save(path: &Path, value: &Value) {
    let mut written = Written { pickle: String::new(), storages: vec![] };
    written.value(value);
    written.pickle.push('.');
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut entry = |name: String, bytes: &[u8]| {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    };
    entry("a/data.pkl".into(), written.pickle.as_bytes());
    for (i, bytes) in written.storages.iter().enumerate() {
        entry(format!("a/data/{i}"), bytes);
    }
    zip.finish().unwrap();
}

struct Written {
    pickle: String,
    storages: Vec<Vec<u8>>,
}

impl Written {
    fn value(&mut self, value: &Value) {
        match value {
            Value::Dict(entries) => {
                self.pickle.push_str("(d");
                for (key, value) in entries {
                    self.pickle.push_str(&format!("S'{key}'\n"));
                    self.value(value);
                    self.pickle.push('s');
                }
            }
            Value::List(items) => {
                self.pickle.push_str("(l");
                for item in items {
                    self.value(item);
                    self.pickle.push('a');
                }
            }
            Value::Text(text) => self.pickle.push_str(&format!("S'{text}'\n")),
            Value::Number(n) => self.pickle.push_str(&format!("I{n}\n")),
            Value::Tensor(tensor) => {
                let (class, bytes) = match tensor.dtype() {
                    DType::I64 => (
                        "LongStorage",
                        bytes(&tensor.flatten_all().unwrap().to_vec1::<i64>().unwrap(), i64::to_le_bytes),
                    ),
                    _ => (
                        "FloatStorage",
                        bytes(&tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap(), f32::to_le_bytes),
                    ),
                };
                self.tensor(class, tensor.dims(), bytes);
            }
            Value::Complex(n) => self.tensor("ComplexFloatStorage", &[*n], vec![0; 8 * n]),
        }
    }

    fn tensor(&mut self, class: &str, shape: &[usize], bytes: Vec<u8>) {
        let list = |sizes: &[usize]| sizes.iter().map(|n| format!("I{n}\n")).collect::<String>();
        let strides: Vec<usize> = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
        let (key, count) = (self.storages.len(), shape.iter().product::<usize>());
        self.pickle.push_str(&format!(
            "ctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\n{class}\nS'{key}'\nS'cpu'\nI{count}\ntQI0\n({}t({}tI00\nNtR",
            list(shape),
            list(&strides)
        ));
        self.storages.push(bytes);
    }
}

fn bytes<T: Clone, const N: usize>(values: &[T], le: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().cloned().flat_map(le).collect()
}
