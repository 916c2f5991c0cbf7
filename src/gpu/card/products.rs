//! Matrix products by cuBLASLt's raw interface.
//!
//! Bits must repeat: one stream, a workspace of our own, compute type f32 without TF32, and the
//! algorithm that the heuristic names first, never one that was timed. Descriptors and algorithm are
//! made once for each shape.

use super::libraries::{Plan, algorithm, end, forget_preference, multiply, set, wish};
use crate::program::{Epilogue, Form, Matmul, Type};
use candle_core::cuda_backend::cudarc::cublaslt::result::{self, CublasError};
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use candle_core::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// As NVIDIA recommends for Hopper.
pub const WORKSPACE: usize = 32 << 20;

/// cuBLASLt with its plans.
pub struct Products {
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    plans: HashMap<Key, Plan>,
}

/// All of a product but addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    form: Form,
    sizes: [usize; 3],
    types: [Type; 2],
    epilogue: u8,
}

fn failed(product: &Matmul) -> impl Fn(CublasError) -> Error + '_ {
    let Matmul { form, m, n, k, .. } = product;
    move |e| Error::msg(format!("cuBLASLt refuses a product {form:?} of {m} x {n} x {k}: {e}"))
}

impl Products {
    /// With a workspace of [`WORKSPACE`] bytes.
    pub fn new(workspace: CudaSlice<u8>) -> Result<Self> {
        let handle = result::create_handle().map_err(|e| Error::msg(format!("cannot start cuBLASLt: {e}")))?;
        Ok(Self { handle, workspace, plans: HashMap::new() })
    }

    pub fn run(&mut self, stream: &Arc<CudaStream>, product: &Matmul) -> Result<()> {
        let key = Key::of(product);
        if !self.plans.contains_key(&key) {
            let plan = self.plan(product).map_err(failed(product))?;
            self.plans.insert(key, plan);
        }
        let plan = &self.plans[&key];
        let workspace = (self.workspace.device_ptr(stream).0, WORKSPACE);
        let addresses = [product.b, product.a, product.d].map(|address| address.0);
        let done = point(plan.description, &product.epilogue)
            .and_then(|()| multiply(self.handle, plan, addresses, workspace, stream));
        done.map_err(failed(product))
    }

    /// cuBLASLt stores matrices by columns. Read that way, d `[m, n]` is its transpose, and the
    /// transpose of a b is that of b times that of a: so b is its first matrix.
    fn plan(&self, p: &Matmul) -> std::result::Result<Plan, CublasError> {
        let (input, output) = (data_type(p.input), data_type(p.output));
        // Row by row is column by column of the transpose.
        let layout = |ty, [rows, columns]: [usize; 2]| {
            result::create_matrix_layout(ty, columns as u64, rows as u64, columns as i64)
        };
        let [a, b] = p.stored();
        let layouts = [layout(input, b)?, layout(input, a)?, layout(output, [p.m, p.n])?];
        use sys::cublasLtMatmulDescAttributes_t as Of;
        let f32 = sys::cudaDataType_t::CUDA_R_32F;
        let description = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, f32)?;
        // CUBLAS_OP_N and CUBLAS_OP_T.
        let transposed = |t: bool| i32::from(t);
        set(description, Of::CUBLASLT_MATMUL_DESC_TRANSA, &transposed(p.form == Form::Nt))?;
        set(description, Of::CUBLASLT_MATMUL_DESC_TRANSB, &transposed(p.form == Form::Tn))?;
        let epilogue = match p.epilogue {
            Epilogue::None => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
            Epilogue::Bias(_) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            Epilogue::Gelu(_) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_BIAS,
            Epilogue::GeluKeep(..) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
            Epilogue::GeluBackward(_) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DGELU,
        };
        set(description, Of::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        if matches!(p.epilogue, Epilogue::Bias(_) | Epilogue::Gelu(_) | Epilogue::GeluKeep(..)) {
            set(description, Of::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &input)?;
        }
        if matches!(p.epilogue, Epilogue::GeluKeep(..) | Epilogue::GeluBackward(_)) {
            set(description, Of::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &(p.n as i64))?;
            set(description, Of::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, &output)?;
        }
        // The heuristic looks at whether pointers are set, not at what they are.
        point(description, &p.epilogue)?;
        let preference = result::create_matmul_pref()?;
        use sys::cublasLtMatmulPreferenceAttributes_t as Wish;
        // Sums in f32, in an order that the algorithm fixes.
        let schemes = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        let found = wish(preference, Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(WORKSPACE as u64))
            .and_then(|()| wish(preference, Wish::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes))
            .and_then(|()| algorithm(self.handle, description, layouts, preference));
        forget_preference(preference)?;
        Ok(Plan { description, layouts, algorithm: found? })
    }
}

/// Sets the addresses of the epilogue.
fn point(description: sys::cublasLtMatmulDesc_t, epilogue: &Epilogue) -> std::result::Result<(), CublasError> {
    use sys::cublasLtMatmulDescAttributes_t as Of;
    let (bias, kept) = match epilogue {
        Epilogue::None => (None, None),
        Epilogue::Bias(bias) | Epilogue::Gelu(bias) => (Some(bias), None),
        Epilogue::GeluKeep(bias, kept) => (Some(bias), Some(kept)),
        Epilogue::GeluBackward(kept) => (None, Some(kept)),
    };
    if let Some(bias) = bias {
        set(description, Of::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.0)?;
    }
    if let Some(kept) = kept {
        set(description, Of::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &kept.0)?;
    }
    Ok(())
}

impl Key {
    fn of(p: &Matmul) -> Self {
        let epilogue = match p.epilogue {
            Epilogue::None => 0,
            Epilogue::Bias(_) => 1,
            Epilogue::GeluKeep(..) => 2,
            Epilogue::GeluBackward(_) => 3,
            Epilogue::Gelu(_) => 4,
        };
        Self { form: p.form, sizes: [p.m, p.n, p.k], types: [p.input, p.output], epilogue }
    }
}

fn data_type(ty: Type) -> sys::cudaDataType {
    match ty {
        Type::F32 => sys::cudaDataType_t::CUDA_R_32F,
        Type::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        Type::F16 => sys::cudaDataType_t::CUDA_R_16F,
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        end(self.handle, self.plans.values());
    }
}
