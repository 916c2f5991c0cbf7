//! Lists of commands for a [`Machine`](crate::machine::Machine): launches of kernels and matrix
//! products. A program is made once from shapes; what differs from step to step is in memory. So
//! a step can be captured as a CUDA graph, and tests run the same list on the CPU.

use std::sync::atomic::{AtomicU64, Ordering};

/// A place in the machine's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Address(pub u64);

impl Address {
    /// Where a kernel takes none.
    pub const NULL: Self = Self(0);

    /// So many bytes further on.
    pub fn offset(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// The type of numbers in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    F32,
    Bf16,
    F16,
}

impl Type {
    /// Bytes of a number.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// The name in those of kernels.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument {
    Pointer(Address),
    /// `int`
    Int(i32),
    /// `int64_t`
    Long(i64),
    /// `float`
    Float(f32),
}

impl Argument {
    /// As the emulator writes signatures.
    pub fn letter(self) -> char {
        match self {
            Self::Pointer(_) => 'p',
            Self::Int(_) => 'i',
            Self::Long(_) => 'l',
            Self::Float(_) => 'f',
        }
    }
}

impl From<Address> for Argument {
    fn from(a: Address) -> Self {
        Self::Pointer(a)
    }
}

impl From<i32> for Argument {
    fn from(i: i32) -> Self {
        Self::Int(i)
    }
}

impl From<i64> for Argument {
    fn from(i: i64) -> Self {
        Self::Long(i)
    }
}

impl From<f32> for Argument {
    fn from(x: f32) -> Self {
        Self::Float(x)
    }
}

/// One launch of a kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    pub kernel: String,
    pub grid: [u32; 2],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared: u32,
    pub arguments: Vec<Argument>,
}

/// Which factors of a [`Matmul`] are transposed. All matrices are stored row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// a `[m, k]`, b `[n, k]`: x W^T, a layer's forward pass.
    Nt,
    /// a `[m, k]`, b `[k, n]`: dy W, the gradient of its input.
    Nn,
    /// a `[k, m]`, b `[k, n]`: dy^T x, the gradient of its weight.
    Tn,
}

/// What happens to a product before it is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Epilogue {
    None,
    /// Adds a bias `[n]` of the type of a.
    Bias(Address),
    /// Adds a bias, stores the sum `[m, n]` in the type of d at the second address, and applies
    /// GELU (tanh form).
    GeluKeep(Address, Address),
    /// Multiplies by the derivative of GELU at the kept sum.
    GeluBackward(Address),
}

/// d = a b, or d += a b with `accumulate`, for `count` matrices that lie `strides` numbers apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Matmul {
    pub form: Form,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Where the matrix is, and numbers from one row to the next.
    pub a: (Address, usize),
    pub b: (Address, usize),
    pub d: (Address, usize),
    /// Of a and b.
    pub input: Type,
    /// Of d.
    pub output: Type,
    pub accumulate: bool,
    /// Factor of the product.
    pub alpha: f32,
    pub epilogue: Epilogue,
    pub count: usize,
    pub strides: [usize; 3],
}

/// A command.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    Launch(Launch),
    Matmul(Matmul),
}

/// A list of commands.
#[derive(Debug)]
pub struct Program {
    pub commands: Vec<Command>,
    number: u64,
}

impl Default for Program {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { commands: vec![], number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Program {
    /// Tells programs apart, so that a machine can remember what it made of one. Commands do not
    /// change after the first run.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn launch(&mut self, launch: Launch) {
        self.commands.push(Command::Launch(launch));
    }

    pub fn matmul(&mut self, matmul: Matmul) {
        self.commands.push(Command::Matmul(matmul));
    }
}
