//! Linear layers and their gradients, as commands.

use super::arena::Arena;
use super::layout::Layout;
use candle_core::{Result, bail};
use erw_gpu::kernels::column_sums;
use erw_gpu::kernels::product::EPILOGUES;
use erw_gpu::program::{Address, Epilogue, Form, Matmul, Program, Type};

/// The weights of a network on the machine, in the order of its [`Layout`].
#[derive(Debug, Clone, Copy)]
pub struct Weights {
    /// f32: those from number `first` of the order on.
    pub full: Address,
    pub first: usize,
    /// All weights in the type of the products; `full` itself if that is f32.
    pub operands: Address,
    /// Of `operands`.
    pub ty: Type,
}

impl Weights {
    /// For a training, which updates all weights in f32; with a copy of them in a half type.
    pub fn trained(count: usize, ty: Type, arena: &mut Arena) -> Self {
        let full = arena.take(count, Type::F32);
        let operands = if ty == Type::F32 { full } else { arena.take(count, ty) };
        Self { full, first: 0, operands, ty }
    }

    /// For the forward pass alone: in f32 only what kernels read in f32.
    pub fn frozen(layout: &Layout, ty: Type, arena: &mut Arena) -> Self {
        let operands = arena.take(layout.count(), ty);
        let region = layout.read_in_f32();
        match ty {
            Type::F32 => Self { full: operands, first: 0, operands, ty },
            _ => Self { full: arena.take(region.len(), Type::F32), first: region.start, operands, ty },
        }
    }

    /// The weight from number `first` on, as products and their epilogues take it.
    pub fn operand(&self, first: usize) -> Address {
        self.operands.offset(first * self.ty.size())
    }

    /// The weight from number `first` on in f32. Without a training it must be one of
    /// [`Layout::read_in_f32`].
    pub fn full(&self, first: usize) -> Address {
        self.full.offset(first.saturating_sub(self.first) * Type::F32.size())
    }

    /// y `[rows, outputs]` = x W^T + b.
    pub fn forward(&self, program: &mut Program, layer: &Linear, x: Address, y: Address, rows: usize) -> Result<()> {
        self.product(program, layer, x, y, rows, Epilogue::Bias(self.operand(layer.bias)))
    }

    /// y = GELU(x W^T + b). The sums before GELU go to `keep`, unless it is null.
    pub fn forward_gelu(
        &self,
        program: &mut Program,
        layer: &Linear,
        x: Address,
        keep: Address,
        y: Address,
        rows: usize,
    ) -> Result<()> {
        let bias = self.operand(layer.bias);
        let epilogue = if keep == Address::NULL { Epilogue::Gelu(bias) } else { Epilogue::GeluKeep(bias, keep) };
        self.product(program, layer, x, y, rows, epilogue)
    }

    fn product(
        &self,
        program: &mut Program,
        layer: &Linear,
        x: Address,
        y: Address,
        rows: usize,
        epilogue: Epilogue,
    ) -> Result<()> {
        let weight = self.operand(layer.weight);
        let [k, n] = [layer.inputs, layer.outputs];
        let product = Matmul::new(Form::Nt, [rows, n, k], [x, weight, y], self.ty);
        EPILOGUES.put(program, Matmul { epilogue, ..product })
    }
}

/// Places of a linear layer's parameters in the flat buffers, and its sizes.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    pub weight: usize,
    pub bias: usize,
    pub inputs: usize,
    pub outputs: usize,
}

impl Linear {
    /// The layer of this name. A convolution whose patches do not overlap is one, too.
    pub fn find(layout: &Layout, name: &str) -> Result<Self> {
        let (weight, bias) = (layout.place(&format!("{name}.weight"))?, layout.place(&format!("{name}.bias"))?);
        let [outputs, inputs @ ..] = &weight.dims[..] else { bail!("{name}.weight has no dimension") };
        Ok(Self { weight: weight.first, bias: bias.first, inputs: inputs.iter().product(), outputs: *outputs })
    }
}

/// What the backward pass of every layer needs.
#[derive(Debug, Clone, Copy)]
pub struct Gradients {
    pub weights: Weights,
    /// f32, in the order of the weights.
    pub flat: Address,
    /// Partial sums of biases, f32.
    partial: Address,
}

impl Gradients {
    /// For gradients of up to so many rows and columns, each as `[rows, width]`.
    pub fn new(weights: Weights, flat: Address, largest: &[[usize; 2]], arena: &mut Arena) -> Self {
        let count = largest.iter().map(|[rows, width]| column_sums::chunks(*rows) * width).max();
        Self { weights, flat, partial: arena.take(count.unwrap_or(0), Type::F32) }
    }

    /// The gradient of the weight from number `first` on.
    pub fn of(&self, first: usize) -> Address {
        self.flat.offset(first * Type::F32.size())
    }

    /// dx `[rows, inputs]` = dy W, times what `epilogue` says.
    pub fn input(
        &self,
        program: &mut Program,
        layer: &Linear,
        dy: Address,
        dx: Address,
        rows: usize,
        epilogue: Epilogue,
    ) -> Result<()> {
        let weight = self.weights.operand(layer.weight);
        let [n, k] = [layer.inputs, layer.outputs];
        let product = Matmul::new(Form::Nn, [rows, n, k], [dy, weight, dx], self.weights.ty);
        EPILOGUES.put(program, Matmul { epilogue, ..product })
    }

    /// The gradient of the weight, from dy `[rows, outputs]` and x `[rows, inputs]`.
    pub fn weight(&self, program: &mut Program, layer: &Linear, dy: Address, x: Address, rows: usize) {
        let [m, n] = [layer.outputs, layer.inputs];
        let gradient = self.of(layer.weight);
        program.matmul(Matmul {
            output: Type::F32,
            ..Matmul::new(Form::Tn, [m, n, rows], [dy, x, gradient], self.weights.ty)
        });
    }

    /// The gradient of the bias: the sum of dy `[rows, outputs]` over rows.
    pub fn bias(&self, program: &mut Program, layer: &Linear, dy: Address, rows: usize) -> Result<()> {
        let width = layer.outputs;
        program.launch(column_sums::column_sums(dy, self.partial, rows, width, self.weights.ty)?);
        let (chunks, to) = (column_sums::chunks(rows), self.of(layer.bias));
        program.launch(column_sums::column_sums_end(self.partial, to, chunks, width)?);
        Ok(())
    }

    /// Both gradients of the parameters.
    pub fn parameters(
        &self,
        program: &mut Program,
        layer: &Linear,
        dy: Address,
        x: Address,
        rows: usize,
    ) -> Result<()> {
        self.weight(program, layer, dy, x, rows);
        self.bias(program, layer, dy, rows)
    }
}
