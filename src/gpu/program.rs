//! Lists of commands for a [`Machine`](crate::machine::Machine): launches of kernels and matrix
//! products. A program is made once from shapes; what differs from step to step is in memory. So
//! a step can be captured as a CUDA graph, and tests run the same list on the CPU.

use half::{bf16, f16};
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

    /// Numbers as bytes in memory, rounded to the nearest, ties to even.
    pub fn encode(self, numbers: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => numbers.iter().flat_map(|x| x.to_ne_bytes()).collect(),
            Self::Bf16 => numbers.iter().flat_map(|x| bf16::from_f32(*x).to_ne_bytes()).collect(),
            Self::F16 => numbers.iter().flat_map(|x| f16::from_f32(*x).to_ne_bytes()).collect(),
        }
    }

    /// Bytes in memory as numbers.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_ne_bytes(*b)).collect(),
            Self::Bf16 => bytes.as_chunks().0.iter().map(|b| bf16::from_ne_bytes(*b).to_f32()).collect(),
            Self::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_ne_bytes(*b).to_f32()).collect(),
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
    /// Adds a bias and applies GELU (tanh form).
    Gelu(Address),
    /// Adds a bias, stores the sum `[m, n]` in the type of d at the second address, and applies
    /// GELU (tanh form).
    GeluKeep(Address, Address),
    /// Multiplies by the derivative of GELU at the kept sum.
    GeluBackward(Address),
}

/// d = a b. Matrices have no gaps between rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Matmul {
    pub form: Form,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Address,
    pub b: Address,
    /// `[m, n]`
    pub d: Address,
    /// Of a and b.
    pub input: Type,
    /// Of d.
    pub output: Type,
    pub epilogue: Epilogue,
}

impl Matmul {
    /// The plain product of these sizes, all in one type.
    pub fn new(form: Form, [m, n, k]: [usize; 3], [a, b, d]: [Address; 3], ty: Type) -> Self {
        Self { form, m, n, k, a, b, d, input: ty, output: ty, epilogue: Epilogue::None }
    }

    /// Rows and columns of a and b as they are stored.
    pub fn stored(&self) -> [[usize; 2]; 2] {
        let Self { m, n, k, .. } = *self;
        match self.form {
            Form::Nt => [[m, k], [n, k]],
            Form::Nn => [[m, k], [k, n]],
            Form::Tn => [[k, m], [k, n]],
        }
    }
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
