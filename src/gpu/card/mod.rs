//! An NVIDIA card as a [`Machine`]: kernels from the machine code in the program, one stream, its own
//! memory. Products are in [`products`], the way to other cards in `nccl`. This file and
//! [`libraries`] hold the unsafe code of the GPU's side.
//!
//! A program that runs for the third time is captured as a CUDA graph and replayed from then on:
//! the same kernels in the same order, launched at once.

mod libraries;
#[cfg(feature = "nccl")]
pub mod nccl;
mod products;

use crate::driver_error;
use crate::machine::Machine;
use crate::program::{Address, Argument, Command, Launch, Program};
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUevent_flags, CUfunction_attribute, CUgraphInstantiate_flags, CUstreamCaptureMode,
};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaModule, CudaSlice, CudaStream, DevicePtr, DriverError,
    PinnedHostSlice, result,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::{Error, Result, bail};
use products::{Products, WORKSPACE};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Machine code of each file of kernels for the supported architectures, and PTX for later ones.
static KERNELS: &[&[u8]] = include!(concat!(env!("OUT_DIR"), "/binaries.rs"));

/// Bytes of the largest and the smallest staging buffer, and how many there may be.
const STAGING: usize = 32 << 20;
const SMALL: usize = 4096;
const BUFFERS: usize = 64;

/// Dynamic shared memory that a kernel gets without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// A card.
pub struct Card {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    modules: Vec<Arc<CudaModule>>,
    state: Mutex<State>,
}

struct State {
    /// Dropped first: its products use the memory below.
    products: Products,
    functions: HashMap<String, CudaFunction>,
    memory: Vec<CudaSlice<u8>>,
    staging: Vec<Staging>,
    /// By the number of the program.
    replays: HashMap<u64, Replay>,
}

/// Page-locked memory, from which the card copies while the host goes on.
struct Staging {
    buffer: PinnedHostSlice<u8>,
    copied: CudaEvent,
}

#[derive(Default)]
struct Replay {
    runs: u32,
    graph: Option<CudaGraph>,
}

/// A driver's error with what was tried.
fn driver(what: &str) -> impl FnOnce(DriverError) -> Error + '_ {
    move |e| {
        let text = e.to_string();
        let cause = driver_error::meaning(&text).map_or_else(String::new, |(cause, _)| format!(": {cause}"));
        Error::msg(format!("{what}{cause} ({text})"))
    }
}

impl Card {
    /// Card number `ordinal` of those that CUDA_VISIBLE_DEVICES leaves.
    ///
    /// # Errors
    /// No such card, or none that this program has machine code for.
    pub fn new(ordinal: usize) -> Result<Self> {
        let context = CudaContext::new(ordinal).map_err(driver("cannot open the GPU"))?;
        // One stream uses this memory: no events are needed between streams.
        #[allow(unsafe_code, reason = "all work of this context is on one stream")]
        unsafe {
            context.disable_event_tracking();
        }
        let stream = context.new_stream().map_err(driver("cannot make a stream on the GPU"))?;
        let load = |code: &&[u8]| context.load_module(Ptx::from_binary(code.to_vec()));
        let modules = KERNELS.iter().map(load).collect::<std::result::Result<_, _>>();
        let modules = modules.map_err(driver("cannot load the kernels"))?;
        let state = State {
            products: Products::new(take(&stream, WORKSPACE)?)?,
            functions: HashMap::new(),
            memory: vec![],
            staging: vec![],
            replays: HashMap::new(),
        };
        Ok(Self { context, stream, modules, state: Mutex::new(state) })
    }

    /// Name, and bytes of memory: free and in all.
    ///
    /// # Errors
    /// A card that was taken away.
    pub fn describe(&self) -> Result<(String, usize, usize)> {
        let name = self.context.name().map_err(driver("cannot ask the GPU"))?;
        let (free, all) = self.context.mem_get_info().map_err(driver("cannot ask the GPU"))?;
        Ok((name, free, all))
    }

    /// For this thread, which may not be the one that opened the card.
    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(driver("using the GPU"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn execute(&self, state: &mut State, program: &Program) -> Result<()> {
        for command in &program.commands {
            match command {
                Command::Launch(launch) => self.launch(state, launch)?,
                Command::Matmul(product) => state.products.run(&self.stream, product)?,
            }
        }
        Ok(())
    }

    fn launch(&self, state: &mut State, launch: &Launch) -> Result<()> {
        let function = self.function(state, launch)?;
        let mut cells: Vec<u64> = launch.arguments.iter().map(|a| cell(*a)).collect();
        let mut pointers: Vec<*mut c_void> = cells.iter_mut().map(|c| std::ptr::from_mut(c).cast()).collect();
        let [x, y] = launch.grid;
        #[allow(unsafe_code, reason = "a kernel with the arguments of its builder, which the emulator checks")]
        let launched = unsafe {
            result::launch_kernel(
                function.cu_function(),
                (x, y, 1),
                (launch.threads, 1, 1),
                launch.shared,
                self.stream.cu_stream(),
                &mut pointers,
            )
        };
        launched.map_err(driver(&format!("kernel `{}`", launch.kernel)))
    }

    fn function(&self, state: &mut State, launch: &Launch) -> Result<CudaFunction> {
        if let Some(function) = state.functions.get(&launch.kernel) {
            return Ok(function.clone());
        }
        let what = format!("kernel `{}`", launch.kernel);
        let Some(function) = self.modules.iter().find_map(|m| m.load_function(&launch.kernel).ok()) else {
            bail!("there is no {what}");
        };
        if launch.shared > SHARED_WITHOUT_ASKING {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(most, launch.shared as i32).map_err(driver(&what))?;
        }
        state.functions.insert(launch.kernel.clone(), function.clone());
        Ok(function)
    }
}

/// An argument as eight bytes, the value first. The machines are little-endian.
fn cell(argument: Argument) -> u64 {
    match argument {
        Argument::Pointer(Address(a)) => a,
        Argument::Long(l) => l.cast_unsigned(),
        Argument::Int(i) => u64::from(i.cast_unsigned()),
        Argument::Float(f) => u64::from(f.to_bits()),
    }
}

/// Memory of the card.
fn take(stream: &Arc<CudaStream>, bytes: usize) -> Result<CudaSlice<u8>> {
    #[allow(unsafe_code, reason = "bytes may have any value")]
    let slice = unsafe { stream.alloc::<u8>(bytes) };
    slice.map_err(driver(&format!("cannot take {bytes} bytes on the GPU")))
}

impl Staging {
    fn new(context: &Arc<CudaContext>, bytes: usize) -> std::result::Result<Self, DriverError> {
        #[allow(unsafe_code, reason = "bytes may have any value")]
        let buffer = unsafe { context.alloc_pinned::<u8>(bytes)? };
        let copied = context.new_event(Some(CUevent_flags::CU_EVENT_DISABLE_TIMING))?;
        Ok(Self { buffer, copied })
    }
}

impl Machine for Card {
    fn allocate(&self, bytes: usize) -> Result<Address> {
        let slice = take(&self.stream, bytes)?;
        let address = Address(slice.device_ptr(&self.stream).0);
        self.lock().memory.push(slice);
        Ok(address)
    }

    fn write(&self, to: Address, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        let mut state = self.lock();
        for (i, part) in bytes.chunks(STAGING).enumerate() {
            let Staging { buffer, copied } = self.staging(&mut state.staging, part.len())?;
            let host = buffer.as_mut_slice().map_err(driver("copying to the GPU"))?;
            host[..part.len()].copy_from_slice(part);
            #[allow(unsafe_code, reason = "the buffer lives as long as the card, and is not touched until `copied`")]
            let copy = unsafe {
                result::memcpy_htod_async(to.offset(i * STAGING).0, &host[..part.len()], self.stream.cu_stream())
            };
            copy.and_then(|()| copied.record(&self.stream)).map_err(driver("copying to the GPU"))?;
        }
        Ok(())
    }

    fn read(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.bind()?;
        #[allow(unsafe_code, reason = "waits for the copy before the borrow ends")]
        let copy = unsafe { result::memcpy_dtoh_async(bytes, from.0, self.stream.cu_stream()) };
        copy.and_then(|()| self.stream.synchronize()).map_err(driver("copying from the GPU"))
    }

    fn run(&self, program: &Program) -> Result<()> {
        self.bind()?;
        let mut state = self.lock();
        let mut replay = state.replays.remove(&program.number()).unwrap_or_default();
        replay.runs = replay.runs.saturating_add(1);
        let done = match &replay.graph {
            Some(graph) => graph.launch().map_err(driver("replaying a program")),
            // The first two runs load kernels and choose algorithms, which a capture may not.
            None if replay.runs < 3 => self.execute(&mut state, program),
            None => self.capture(&mut state, program).and_then(|graph| {
                graph.launch().map_err(driver("replaying a program"))?;
                replay.graph = Some(graph);
                Ok(())
            }),
        };
        state.replays.insert(program.number(), replay);
        done
    }
}

impl Card {
    /// A free buffer of at least so many bytes. Copies wait for the commands before them, so a
    /// buffer is made where all are in use: the host goes on.
    fn staging<'a>(&self, all: &'a mut Vec<Staging>, bytes: usize) -> Result<&'a mut Staging> {
        let fits = |s: &Staging| s.buffer.len() >= bytes;
        let free = all.iter().position(|s| fits(s) && s.copied.is_complete());
        let found = match free {
            Some(found) => found,
            None if all.iter().filter(|s| fits(s)).count() < BUFFERS => {
                let bytes = bytes.next_power_of_two().clamp(SMALL, STAGING);
                all.push(Staging::new(&self.context, bytes).map_err(driver("cannot lock memory for the GPU"))?);
                all.len() - 1
            }
            None => {
                self.stream.synchronize().map_err(driver("waiting for copies to the GPU"))?;
                all.iter().position(fits).unwrap_or_default()
            }
        };
        Ok(&mut all[found])
    }

    fn capture(&self, state: &mut State, program: &Program) -> Result<CudaGraph> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(driver("capturing a program"))?;
        let executed = self.execute(state, program);
        // Also after an error, or the stream stays in capture.
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0)).map_err(driver("capturing a program"))?;
        executed?;
        match graph {
            Some(graph) => Ok(graph),
            None => bail!("the GPU captured nothing of a program"),
        }
    }
}

// CUDA graphs are used under the lock only.
#[allow(unsafe_code, reason = "the lock serialises all use of graphs and descriptors")]
unsafe impl Send for State {}
