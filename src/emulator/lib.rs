//! A [`Machine`] without a card: kernels run on the CPU by `emulator.h`, matrix products in f32 on
//! rounded numbers, each result rounded once, as tensor cores and cuBLASLt compute them up to the
//! order of sums.
//!
//! Every allocation begins as NaN and is surrounded by guard bytes, which are checked after every
//! command: a kernel that writes beside its tensors is named. Every byte that a kernel touches is
//! counted, and so are the operations of tensor cores: a launch that tells other
//! [regions](erw_gpu::program::Region) or operations than those is an error.

mod library;
mod matmul;
mod memory;

use candle_core::{Result, bail};
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Argument, Command, Launch, Program, Region};
use library::{Library, Outcome};
use memory::Memory;
use std::ffi::{CStr, CString, c_int, c_void};
use std::sync::{Mutex, PoisonError};

/// The order in which warps of a block run. All must give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// The first warp that can run.
    First,
    /// The last that can.
    Last,
    /// Any, by this seed above 1.
    Random(u32),
}

/// The emulated card.
#[derive(Debug)]
pub struct Emulator {
    memory: Mutex<Memory>,
    schedule: Schedule,
}

impl Default for Emulator {
    fn default() -> Self {
        Self::new(Schedule::First)
    }
}

impl Emulator {
    pub fn new(schedule: Schedule) -> Self {
        Self { memory: Mutex::default(), schedule }
    }

    /// Runs a kernel, and holds it to what its launch tells.
    fn launch(&self, memory: &mut Memory, launch: &Launch) -> Result<()> {
        let regions = launch.touched();
        let done = memory.permit(&regions).and_then(|()| {
            let (library, outcome) = (Library::get()?, self.call(memory, launch, &regions)?);
            if library.watches {
                memory.hold(&regions)?;
            }
            if outcome.operations != launch.operations {
                bail!(
                    "{} operations of tensor cores are told, and {} were done",
                    launch.operations,
                    outcome.operations
                );
            }
            Ok(())
        });
        memory.forget(&regions);
        done.map_err(|e| e.context(format!("kernel `{}`", launch.kernel)))
    }

    fn call(&self, memory: &mut Memory, launch: &Launch, regions: &[Region]) -> Result<Outcome> {
        let name = CString::new(launch.kernel.clone()).map_err(candle_core::Error::wrap)?;
        let mut cells: Vec<[u8; 8]> = launch.arguments.iter().map(|a| cell(*a)).collect();
        let mut pointers: Vec<*mut c_void> = cells.iter_mut().map(|c| c.as_mut_ptr().cast()).collect();
        let letters: String = launch.arguments.iter().map(|a| a.letter()).collect();
        let letters = CString::new(letters).map_err(candle_core::Error::wrap)?;
        let schedule = match self.schedule {
            Schedule::First => 0,
            Schedule::Last => 1,
            Schedule::Random(seed) => seed.max(2),
        };
        let (spans, mut outcome) = (memory.spans(), Outcome::default());
        let library = Library::get()?;
        #[allow(unsafe_code, reason = "calls the emulator with one pointer for each argument of the signature")]
        let fault = unsafe {
            let fault = (library.launch)(
                name.as_ptr(),
                launch.grid[0] as c_int,
                launch.grid[1] as c_int,
                launch.threads as c_int,
                launch.shared as usize,
                pointers.as_mut_ptr(),
                letters.as_ptr(),
                schedule,
                spans.as_ptr(),
                spans.len(),
                &raw mut outcome,
            );
            (!fault.is_null()).then(|| CStr::from_ptr(fault).to_string_lossy().into_owned())
        };
        match fault {
            Some(_) if outcome.size > 0 => bail!("{}", untold(&outcome, regions)),
            Some(fault) => bail!("{fault}"),
            None => Ok(outcome),
        }
    }
}

/// Where an access was that may not be.
fn untold(outcome: &Outcome, regions: &[Region]) -> String {
    let does = if outcome.write == 0 { "reads" } else { "writes" };
    let distance = |r: &Region| {
        let (first, at) = (r.at.0 as usize, outcome.at);
        let end = first + r.rows.saturating_sub(1) * r.pitch + r.bytes;
        first.saturating_sub(at).max((at + 1).saturating_sub(end))
    };
    let near = regions.iter().min_by_key(|r| distance(r));
    let near = near.map(|r| format!(", {} bytes from {r:?}", distance(r))).unwrap_or_default();
    format!("{does} {} bytes that its launch does not tell{near}", outcome.size)
}

impl Machine for Emulator {
    fn allocate(&self, bytes: usize) -> Result<Address> {
        Ok(self.lock().allocate(bytes))
    }

    fn write(&self, to: Address, bytes: &[u8]) -> Result<()> {
        self.lock().bytes(to, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(self.lock().bytes(from, bytes.len())?);
        Ok(())
    }

    fn run(&self, program: &Program) -> Result<()> {
        let mut memory = self.lock();
        for (i, command) in program.commands.iter().enumerate() {
            let what = match command {
                Command::Launch(launch) => {
                    self.launch(&mut memory, launch)?;
                    launch.kernel.as_str()
                }
                Command::Matmul(product) => {
                    matmul::run(&mut memory, product)?;
                    "matmul"
                }
            };
            memory.check_guards().map_err(|e| e.context(format!("command {i}, {what}")))?;
        }
        Ok(())
    }
}

impl Emulator {
    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of an argument.
fn cell(argument: Argument) -> [u8; 8] {
    let four = |b: [u8; 4]| [b[0], b[1], b[2], b[3], 0, 0, 0, 0];
    match argument {
        Argument::Pointer(a) => a.0.to_ne_bytes(),
        Argument::Long(l) => l.to_ne_bytes(),
        Argument::Int(i) => four(i.to_ne_bytes()),
        Argument::Float(f) => four(f.to_ne_bytes()),
    }
}
