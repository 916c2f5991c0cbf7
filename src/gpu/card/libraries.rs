//! The calls of cuBLASLt and NCCL that the compiler cannot check, each behind a function. They and the
//! driver's in [`super`] are the unsafe code of the GPU's side.
//!
//! Does not know what is multiplied or sent.

use candle_core::cuda_backend::cudarc::cublaslt::result::{self, CublasError};
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use std::ffi::c_void;

type Done<T = ()> = Result<T, CublasError>;

/// How a product is computed: its description, the layouts of cuBLASLt's a, b and d, and the algorithm.
pub struct Plan {
    pub description: sys::cublasLtMatmulDesc_t,
    pub layouts: [sys::cublasLtMatrixLayout_t; 3],
    pub algorithm: sys::cublasLtMatmulAlgo_t,
}

/// d = a b, with the epilogue of the plan: addresses on the card, with the sizes of the plan.
pub fn multiply(
    handle: sys::cublasLtHandle_t,
    plan: &Plan,
    addresses: [u64; 3],
    (workspace, bytes): (u64, usize),
    stream: &CudaStream,
) -> Done {
    let (alpha, beta) = (1f32, 0f32);
    let pointer = |at: u64| at as *mut c_void;
    let [a, b, d] = addresses.map(pointer);
    #[allow(unsafe_code, reason = "descriptors of this plan, and addresses with the sizes of the product")]
    unsafe {
        result::matmul(
            handle,
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
            bytes,
            stream.cu_stream().cast(),
        )
    }
}

/// The algorithm that the heuristic names first.
pub fn algorithm(
    handle: sys::cublasLtHandle_t,
    description: sys::cublasLtMatmulDesc_t,
    [a, b, d]: [sys::cublasLtMatrixLayout_t; 3],
    preference: sys::cublasLtMatmulPreference_t,
) -> Done<sys::cublasLtMatmulAlgo_t> {
    #[allow(unsafe_code, reason = "descriptors that were just made")]
    let found = unsafe { result::get_matmul_algo_heuristic(handle, description, a, b, d, d, preference) };
    found.map(|found| found.algo)
}

/// Ends a preference, which is not used again.
pub fn forget_preference(preference: sys::cublasLtMatmulPreference_t) -> Done {
    #[allow(unsafe_code, reason = "made by who calls this, and not used again")]
    unsafe {
        result::destroy_matmul_pref(preference)
    }
}

pub fn set<T>(
    description: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> Done {
    #[allow(unsafe_code, reason = "the description is alive, and reads as many bytes as the value has")]
    unsafe {
        result::set_matmul_desc_attribute(description, attribute, std::ptr::from_ref(value).cast(), size_of::<T>())
    }
}

pub fn wish<T>(
    preference: sys::cublasLtMatmulPreference_t,
    attribute: sys::cublasLtMatmulPreferenceAttributes_t,
    value: &T,
) -> Done {
    #[allow(unsafe_code, reason = "the preference is alive, and reads as many bytes as the value has")]
    unsafe {
        result::set_matmul_pref_attribute(preference, attribute, std::ptr::from_ref(value).cast(), size_of::<T>())
    }
}

/// Ends cuBLASLt and these plans, which are not used again. An error has no one to go to.
pub fn end<'a>(handle: sys::cublasLtHandle_t, plans: impl Iterator<Item = &'a Plan>) {
    #[allow(unsafe_code, reason = "made by who calls this, and used by nobody else")]
    unsafe {
        for plan in plans {
            let _ = result::destroy_matmul_desc(plan.description);
            for layout in plan.layouts {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
        let _ = result::destroy_handle(handle);
    }
}

/// NCCL's calls.
#[cfg(feature = "nccl")]
pub mod nccl {
    use candle_core::cuda_backend::cudarc::driver::CudaStream;
    use candle_core::cuda_backend::cudarc::nccl::result::{self, NcclError};
    use candle_core::cuda_backend::cudarc::nccl::sys;
    use std::ffi::{c_int, c_void};

    const F32: sys::ncclDataType_t = sys::ncclDataType_t::ncclFloat32;

    /// Waits until all ranks have connected.
    pub fn connect(id: sys::ncclUniqueId, rank: usize, size: usize) -> Result<sys::ncclComm_t, NcclError> {
        let mut comm = std::ptr::null_mut();
        #[allow(unsafe_code, reason = "the handle is written before it is used")]
        unsafe {
            result::comm_init_rank(&raw mut comm, size as c_int, id, rank as c_int)?;
        }
        Ok(comm)
    }

    /// Ends a connection, which is not used again, without waiting for what is queued.
    pub fn abort(comm: sys::ncclComm_t) {
        #[allow(unsafe_code, reason = "made by `connect`, and not used again")]
        let _ = unsafe { result::comm_abort(comm) };
    }

    /// Queues that so many numbers from `out` go to a rank, and so many from there to `into`.
    pub fn exchange(
        comm: sys::ncclComm_t,
        stream: &CudaStream,
        peer: usize,
        [out, into]: [u64; 2],
        count: usize,
    ) -> Result<(), NcclError> {
        let stream = stream.cu_stream().cast();
        #[allow(unsafe_code, reason = "addresses of a machine, with the sizes of its program")]
        unsafe {
            result::send(out as *mut c_void, count, F32, peer as c_int, comm, stream)?;
            result::recv(into as *mut c_void, count, F32, peer as c_int, comm, stream)?;
        }
        Ok(())
    }

    /// Queues that so many numbers from `mine` of all ranks come to `all`.
    pub fn gather(
        comm: sys::ncclComm_t,
        stream: &CudaStream,
        mine: u64,
        all: u64,
        count: usize,
    ) -> Result<(), NcclError> {
        let (mine, all) = (mine as *const c_void, all as *mut c_void);
        #[allow(unsafe_code, reason = "addresses of a machine, with the sizes of its program")]
        unsafe {
            result::all_gather(mine, all, count, F32, comm, stream.cu_stream().cast()).map(drop)
        }
    }
}
