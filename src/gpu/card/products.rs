//! Matrix products by cuBLASLt's raw interface.
//!
//! Bits must repeat: one stream, a workspace of our own, compute type f32 without TF32, and the
//! algorithm that the heuristic names first, never one that was timed. Descriptors and algorithm are
//! made once for each shape.

use crate::program::{Epilogue, Form, Matmul, Type};
use candle_core::cuda_backend::cudarc::cublaslt::result::{self, CublasError};
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use candle_core::{Error, Result};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

/// As NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

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

struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    /// Of cuBLASLt's a, b and d.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

fn failed(product: &Matmul) -> impl Fn(CublasError) -> Error + '_ {
    let Matmul { form, m, n, k, .. } = product;
    move |e| Error::msg(format!("cuBLASLt refuses a product {form:?} of {m} x {n} x {k}: {e}"))
}

impl Products {
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let handle = result::create_handle().map_err(|e| Error::msg(format!("cannot start cuBLASLt: {e}")))?;
        #[allow(unsafe_code, reason = "bytes may have any value")]
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE) };
        let workspace = workspace.map_err(|e| Error::msg(format!("no memory for the workspace of products: {e}")))?;
        Ok(Self { handle, workspace, plans: HashMap::new() })
    }

    pub fn run(&mut self, stream: &Arc<CudaStream>, product: &Matmul) -> Result<()> {
        let key = Key::of(product);
        if !self.plans.contains_key(&key) {
            let plan = self.plan(product).map_err(failed(product))?;
            self.plans.insert(key, plan);
        }
        let plan = &self.plans[&key];
        let workspace = self.workspace.device_ptr(stream).0;
        let (alpha, beta) = (1f32, 0f32);
        let pointer = |at: u64| at as *mut c_void;
        let [a, b, d] = [product.b, product.a, product.d].map(|address| pointer(address.0));
        let done = plan.point(&product.epilogue).and_then(|()| {
            #[allow(unsafe_code, reason = "descriptors of this plan, and addresses with the sizes of the product")]
            unsafe {
                result::matmul(
                    self.handle,
                    plan.description,
                    std::ptr::from_ref(&alpha).cast(),
                    std::ptr::from_ref(&beta).cast(),
                    a,
                    plan.layouts[0],
                    b,
                    plan.layouts[1],
                    d,
                    plan.layouts[2],
                    d,
                    plan.layouts[2],
                    &plan.algorithm,
                    pointer(workspace),
                    WORKSPACE,
                    stream.cu_stream().cast(),
                )
            }
        });
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
        let plan = |algorithm| Plan { description, layouts, algorithm };
        // The heuristic looks at whether pointers are set, not at what they are.
        let blank: sys::cublasLtMatmulAlgo_t = sys::cublasLtMatmulAlgo_t { data: [0; 8] };
        plan(blank).point(&p.epilogue)?;
        let preference = result::create_matmul_pref()?;
        use sys::cublasLtMatmulPreferenceAttributes_t as Wish;
        // Sums in f32, in an order that the algorithm fixes.
        let schemes = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        let found = wish(preference, Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(WORKSPACE as u64))
            .and_then(|()| wish(preference, Wish::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes))
            .and_then(|()| {
                #[allow(unsafe_code, reason = "descriptors that were just made")]
                unsafe {
                    let [a, b, d] = layouts;
                    result::get_matmul_algo_heuristic(self.handle, description, a, b, d, d, preference)
                }
            });
        #[allow(unsafe_code, reason = "made above, and not used again")]
        unsafe {
            result::destroy_matmul_pref(preference)?;
        }
        Ok(plan(found?.algo))
    }
}

impl Plan {
    /// Sets the addresses of the epilogue.
    fn point(&self, epilogue: &Epilogue) -> std::result::Result<(), CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Of;
        let (bias, kept) = match epilogue {
            Epilogue::None => (None, None),
            Epilogue::Bias(bias) | Epilogue::Gelu(bias) => (Some(bias), None),
            Epilogue::GeluKeep(bias, kept) => (Some(bias), Some(kept)),
            Epilogue::GeluBackward(kept) => (None, Some(kept)),
        };
        if let Some(bias) = bias {
            set(self.description, Of::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.0)?;
        }
        if let Some(kept) = kept {
            set(self.description, Of::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &kept.0)?;
        }
        Ok(())
    }
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

fn set<T>(
    description: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> std::result::Result<(), CublasError> {
    #[allow(unsafe_code, reason = "the description is alive, and reads as many bytes as the value has")]
    unsafe {
        result::set_matmul_desc_attribute(description, attribute, std::ptr::from_ref(value).cast(), size_of::<T>())
    }
}

fn wish<T>(
    preference: sys::cublasLtMatmulPreference_t,
    attribute: sys::cublasLtMatmulPreferenceAttributes_t,
    value: &T,
) -> std::result::Result<(), CublasError> {
    #[allow(unsafe_code, reason = "the preference is alive, and reads as many bytes as the value has")]
    unsafe {
        result::set_matmul_pref_attribute(preference, attribute, std::ptr::from_ref(value).cast(), size_of::<T>())
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        #[allow(unsafe_code, reason = "made by this value, and used by nobody else; an error has no one to go to")]
        unsafe {
            for plan in self.plans.values() {
                let _ = result::destroy_matmul_desc(plan.description);
                for layout in plan.layouts {
                    let _ = result::destroy_matrix_layout(layout);
                }
            }
            let _ = result::destroy_handle(self.handle);
        }
    }
}
