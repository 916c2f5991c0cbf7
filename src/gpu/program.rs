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
    pub const fn size(self) -> usize {
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

/// What a command does with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    /// Both.
    Update,
}

/// Memory that a command touches, every byte of it: rows of equal length at equal distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    pub access: Access,
    /// Null: nothing is touched.
    pub at: Address,
    pub rows: usize,
    /// Bytes of a row.
    pub bytes: usize,
    /// Bytes from a row to the next.
    pub pitch: usize,
    /// Where data decide what is touched of it: at most so many bytes.
    pub some: Option<usize>,
}

impl Region {
    pub fn read(at: Address, bytes: usize) -> Self {
        Self { access: Access::Read, at, rows: 1, bytes, pitch: bytes, some: None }
    }

    pub fn write(at: Address, bytes: usize) -> Self {
        Self { access: Access::Write, ..Self::read(at, bytes) }
    }

    pub fn update(at: Address, bytes: usize) -> Self {
        Self { access: Access::Update, ..Self::read(at, bytes) }
    }

    /// The same bytes of so many rows, `pitch` bytes apart.
    pub fn of_rows(self, rows: usize, pitch: usize) -> Self {
        Self { rows, pitch, ..self }
    }

    /// Data decide what is touched: at most so many bytes.
    pub fn at_most(self, bytes: usize) -> Self {
        Self { some: Some(bytes), ..self }
    }

    /// Data decide whether it is touched.
    pub fn perhaps(self) -> Self {
        self.at_most(self.rows * self.bytes)
    }

    /// Bytes that are touched.
    pub fn touched(&self) -> usize {
        self.some.unwrap_or(self.rows * self.bytes)
    }
}

/// What a command costs at least: bytes that it reads and writes, each counted once, and operations
/// of tensor cores, two for a multiplication with its addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    pub read: u64,
    pub written: u64,
    pub operations: u64,
}

impl Cost {
    fn of(regions: &[Region], operations: u64) -> Self {
        let bytes = |other: Access| {
            let touched = regions.iter().filter(|r| r.access != other).map(Region::touched);
            touched.sum::<usize>() as u64
        };
        Self { read: bytes(Access::Write), written: bytes(Access::Read), operations }
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
    /// Memory that the kernel touches. It changes nothing; the emulator holds the kernel to it.
    pub regions: Vec<Region>,
    /// Operations of tensor cores, held by the emulator, too.
    pub operations: u64,
}

impl Launch {
    /// The regions, each once: two arguments may be one tensor.
    pub fn touched(&self) -> Vec<Region> {
        let mut all: Vec<Region> = vec![];
        for region in &self.regions {
            if region.at != Address::NULL && !all.contains(region) {
                all.push(*region);
            }
        }
        all
    }

    pub fn cost(&self) -> Cost {
        Cost::of(&self.touched(), self.operations)
    }
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

    pub fn cost(&self) -> Cost {
        let Self { m, n, k, .. } = *self;
        let (input, output) = (self.input.size(), self.output.size());
        let mut regions = vec![
            Region::read(self.a, m * k * input),
            Region::read(self.b, k * n * input),
            Region::write(self.d, m * n * output),
        ];
        match self.epilogue {
            Epilogue::None => {}
            Epilogue::Bias(bias) | Epilogue::Gelu(bias) => regions.push(Region::read(bias, n * input)),
            Epilogue::GeluKeep(bias, keep) => {
                regions.extend([Region::read(bias, n * input), Region::write(keep, m * n * output)]);
            }
            Epilogue::GeluBackward(kept) => regions.push(Region::read(kept, m * n * output)),
        }
        Cost::of(&regions, 2 * (m * n * k) as u64)
    }
}

/// A command.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    Launch(Launch),
    Matmul(Matmul),
}

impl Command {
    pub fn cost(&self) -> Cost {
        match self {
            Self::Launch(launch) => launch.cost(),
            Self::Matmul(matmul) => matmul.cost(),
        }
    }
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
