//! Named tensors: trainable parameters, reading and writing safetensors, and reporting mismatches.
//!
//! Parameters are stored in a sorted map, not in candle's `VarMap`: its hash order differs between
//! processes, which would change the order of sums and the layout of files. Initial values are
//! functions of (seed, parameter name), so adding a layer does not change the others.

use crate::kernels;
use crate::rng::{self, Purpose};
use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use erw_base::umask;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// Tensors by name, sorted.
pub type Tensors = BTreeMap<String, Tensor>;

/// The trainable parameters of a model, by name, sorted. Cloning shares the same variables.
#[derive(Clone, Default)]
pub struct ParamSet {
    vars: Arc<Mutex<BTreeMap<String, Var>>>,
}

impl ParamSet {
    /// An empty set and the builder that fills it: every tensor that a model requests becomes a
    /// variable, initialised from (seed, name) as the model says.
    pub fn init(seed: u64, dtype: DType, device: &Device) -> (Self, VarBuilder<'static>) {
        let set = Self::default();
        let backend = Initialiser { set: set.clone(), seed };
        (set, VarBuilder::from_backend(Box::new(backend), dtype, device.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Var>> {
        self.vars.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Name and variable, sorted by name.
    pub fn vars(&self) -> Vec<(String, Var)> {
        self.lock().iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    pub fn get(&self, name: &str) -> Option<Var> {
        self.lock().get(name).cloned()
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of trainable values.
    pub fn count(&self) -> usize {
        self.lock().values().map(|v| v.elem_count()).sum()
    }

    /// Current values. They share storage with the variables: copy them before further training.
    pub fn tensors(&self) -> Tensors {
        self.lock().iter().map(|(k, v)| (k.clone(), v.as_tensor().clone())).collect()
    }

    /// Copies every tensor of `from` whose name and shape match into its variable, and reports the
    /// rest.
    pub fn assign(&self, from: &Tensors) -> Result<LoadReport> {
        let mut report = LoadReport::default();
        let vars = self.lock();
        for (name, var) in vars.iter() {
            match from.get(name) {
                None => report.missing.push(name.clone()),
                Some(t) if t.dims() != var.dims() => {
                    report.mismatched.push(format!(
                        "{name} is {:?} in the file, {:?} in the model",
                        t.dims(),
                        var.dims()
                    ));
                }
                Some(t) => {
                    var.set(&t.to_dtype(var.dtype())?.to_device(var.device())?)?;
                    report.loaded.push(name.clone());
                }
            }
        }
        report.unexpected = from.keys().filter(|k| !vars.contains_key(*k)).cloned().collect();
        Ok(report)
    }
}

/// The tensors of a foreign file under the names of our networks.
#[derive(Debug, Default, Clone)]
pub struct Adopted {
    pub tensors: Tensors,
    /// Our name to the name in the file, where they differ; several parts are joined by ` + `.
    pub renamed: BTreeMap<String, String>,
    /// Names in the file that are known to be unnecessary, such as the `mask_token` of DINOv2.
    pub dropped: Vec<String>,
}

/// The result of a transfer of weights.
#[derive(Debug, Default, Clone)]
pub struct LoadReport {
    pub loaded: Vec<String>,
    /// In the model, not in the file.
    pub missing: Vec<String>,
    /// In the file, not in the model.
    pub unexpected: Vec<String>,
    pub mismatched: Vec<String>,
}

impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} loaded, {} missing, {} unexpected, {} of another shape",
            self.loaded.len(),
            self.missing.len(),
            self.unexpected.len(),
            self.mismatched.len()
        )
    }
}

impl LoadReport {
    /// Whether every tensor of the file has its place in the model, and every place its tensor.
    pub fn is_exact(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }

    /// The mismatches: a line for each kind, with the first names.
    pub fn faults(&self) -> Vec<String> {
        const NAMED: usize = 3;
        let tell = |what: &str, names: &[String]| {
            let first = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            let more = names.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            (!names.is_empty()).then(|| format!("{} {what}: {first}{more}", names.len()))
        };
        [
            tell("not in the file", &self.missing),
            tell("not in the network", &self.unexpected),
            tell("of another shape", &self.mismatched),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The names and shapes that a model requests, and the model with zeros that take no memory.
pub fn census<T>(build: impl FnOnce(VarBuilder) -> Result<T>) -> Result<(T, BTreeMap<String, Shape>)> {
    let asked = Census::default();
    let model = build(VarBuilder::from_backend(Box::new(asked.clone()), DType::F32, Device::Cpu))?;
    let shapes = asked.shapes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    Ok((model, shapes))
}

/// Compares tensors with the names and shapes of a model.
pub fn compare(model: &BTreeMap<String, Shape>, file: &Tensors) -> LoadReport {
    let mut report = LoadReport::default();
    for (name, shape) in model {
        match file.get(name) {
            None => report.missing.push(name.clone()),
            Some(t) if t.shape() == shape => report.loaded.push(name.clone()),
            Some(t) => {
                report.mismatched.push(format!(
                    "{name} is {:?} in the file, {:?} in the network",
                    t.dims(),
                    shape.dims()
                ));
            }
        }
    }
    report.unexpected = file.keys().filter(|name| !model.contains_key(*name)).cloned().collect();
    report
}

/// Records the requested names and shapes.
#[derive(Clone, Default)]
struct Census {
    shapes: Arc<Mutex<BTreeMap<String, Shape>>>,
}

impl SimpleBackend for Census {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut shapes = self.shapes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shapes.insert(name.to_string(), shape.clone());
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("parameter {name} is requested without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        false
    }
}

struct Initialiser {
    set: ParamSet,
    seed: u64,
}

impl SimpleBackend for Initialiser {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        if let Some(var) = self.set.lock().get(name) {
            if var.shape() != &shape {
                bail!("parameter {name} is requested with shapes {shape:?} and {:?}", var.shape());
            }
            return Ok(var.as_tensor().clone());
        }
        let value = initial(&shape, name, init, self.seed)?.to_dtype(dtype)?.to_device(device)?;
        let var = Var::from_tensor(&value)?;
        let tensor = var.as_tensor().clone();
        self.set.lock().insert(name.to_string(), var);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("parameter {name} is requested without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.set.lock().contains_key(name)
    }
}

/// Initial value, f32 on the CPU.
fn initial(shape: &Shape, name: &str, init: Init, seed: u64) -> Result<Tensor> {
    let n = shape.elem_count();
    let mut s = rng::stream(seed, Purpose::Init, 0, rng::name_id(name));
    let data: Vec<f32> = match init {
        Init::Const(c) => vec![c as f32; n],
        Init::Randn { mean, stdev } => {
            let mut v = vec![0f32; n];
            s.fill_normal(&mut v);
            v.iter().map(|x| (f64::from(*x) * stdev + mean) as f32).collect()
        }
        Init::Uniform { lo, up } => (0..n).map(|_| (lo + (up - lo) * f64::from(s.uniform())) as f32).collect(),
        Init::Kaiming { dist, fan, non_linearity } => {
            let std = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
            match dist {
                candle_nn::init::NormalOrUniform::Normal => {
                    return initial(shape, name, Init::Randn { mean: 0.0, stdev: std }, seed);
                }
                candle_nn::init::NormalOrUniform::Uniform => {
                    let b = 3f64.sqrt() * std;
                    return initial(shape, name, Init::Uniform { lo: -b, up: b }, seed);
                }
            }
        }
    };
    Tensor::from_vec(data, shape.clone(), &Device::Cpu)
}

/// Xavier (Glorot) uniform for a weight `[out, in]`: bound sqrt(6 / (in + out)).
pub fn xavier_uniform(fan_in: usize, fan_out: usize) -> Init {
    let b = (6.0 / (fan_in + fan_out) as f64).sqrt();
    Init::Uniform { lo: -b, up: b }
}

/// A builder over loaded tensors that records which were used. Missing names and wrong shapes are
/// errors.
#[derive(Clone)]
pub struct Frozen {
    tensors: Arc<Tensors>,
    used: Arc<Mutex<BTreeSet<String>>>,
}

impl Frozen {
    pub fn new(tensors: Tensors) -> Self {
        Self { tensors: Arc::new(tensors), used: Arc::default() }
    }

    /// A builder for a model that uses these tensors.
    pub fn builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone())
    }

    /// Names in the file that no model has requested so far.
    pub fn unused(&self) -> Vec<String> {
        let used = self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.tensors.keys().filter(|k| !used.contains(*k)).cloned().collect()
    }
}

impl SimpleBackend for Frozen {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let t = self.get_unchecked(name, dtype, device)?;
        if t.shape() != &shape {
            bail!("tensor {name} has shape {:?} in the file, but the model needs {shape:?}", t.shape());
        }
        Ok(t)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(t) = self.tensors.get(name) else { bail!("tensor {name} is not in the file") };
        self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(name.to_string());
        t.to_dtype(dtype)?.to_device(device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

/// Refuses tensors with NaN or infinite values, and names the first such tensor.
pub fn check_finite(tensors: &Tensors) -> Result<()> {
    for (name, t) in tensors {
        let bad = not_finite(t)?;
        if bad > 0 {
            bail!("tensor {name}: {bad} of its {} values are NaN or infinite", t.elem_count());
        }
    }
    Ok(())
}

/// The number of NaN or infinite values in a tensor.
pub fn not_finite(t: &Tensor) -> Result<usize> {
    use rayon::prelude::*;
    /// Values per task.
    const CHUNK: usize = 1 << 16;
    let numbers = t.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous()?;
    let count = |x: &[f32]| x.iter().filter(|v| !v.is_finite()).count();
    kernels::with_slices([&numbers], |[x]| x.par_chunks(CHUNK).map(count).sum())
}

/// Reads a whole safetensors file. The error names the file.
pub fn load(path: &Path, device: &Device) -> Result<Tensors> {
    match candle_core::safetensors::load(path, device) {
        Ok(map) => Ok(map.into_iter().collect()),
        Err(e) => bail!("cannot read {} as safetensors: {e}", path.display()),
    }
}

/// Writes a safetensors file to a temporary name, syncs and renames it, so that a reader never sees
/// a partial file.
pub fn save(tensors: &Tensors, path: &Path) -> Result<()> {
    let map: HashMap<String, Tensor> =
        tensors.iter().map(|(k, v)| Ok((k.clone(), v.contiguous()?))).collect::<Result<_>>()?;
    let tmp = path.with_extension("tmp");
    let write = || -> Result<()> {
        safetensors::serialize_to_file(map, None, &tmp).map_err(candle_core::Error::wrap)?;
        umask::as_new(&tmp)?;
        std::fs::File::open(&tmp)?.sync_all()?;
        Ok(std::fs::rename(&tmp, path)?)
    };
    match write() {
        Ok(()) => Ok(()),
        Err(e) => {
            // Remove the partial file: a full disk needs the space.
            let _ = std::fs::remove_file(&tmp);
            bail!("cannot write {}: {e}", path.display())
        }
    }
}
