//! Linear layers with their gradients, as commands.

use super::arena::Arena;
use super::layout::Layout;
use candle_core::{Result, bail};
use erw_gpu::kernels::column_sums;
use erw_gpu::program::{Address, Epilogue, Form, Matmul, Program, Type};

/// The flat buffers of a training.
#[derive(Debug, Clone, Copy)]
pub struct FlatBuffers {
    /// f32
    pub weights: Address,
    /// f32
    pub gradients: Address,
    /// The weights in the type of the products; `weights` itself if that is f32.
    pub operands: Address,
    /// Of `operands`.
    pub ty: Type,
}

impl FlatBuffers {
    /// The weight from number `first` on, as products and their epilogues take it.
    pub fn operand(&self, first: usize) -> Address {
        self.operands.offset(first * self.ty.size())
    }

    pub fn weight(&self, first: usize) -> Address {
        self.weights.offset(first * Type::F32.size())
    }

    pub fn gradient(&self, first: usize) -> Address {
        self.gradients.offset(first * Type::F32.size())
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

/// What every layer of a network needs.
#[derive(Debug, Clone, Copy)]
pub struct Layers {
    pub flat: FlatBuffers,
    /// Whether gradients of parameters are added to those that are there: for all micro-batches but
    /// the first.
    pub accumulate: bool,
    /// Partial sums of biases, f32.
    partial: Address,
}

impl Layers {
    /// For gradients of up to so many rows and columns, each as `[rows, width]`.
    pub fn new(flat: FlatBuffers, gradients: &[[usize; 2]], arena: &mut Arena) -> Self {
        let count = gradients.iter().map(|[rows, width]| column_sums::chunks(*rows) * width).max();
        Self { flat, accumulate: false, partial: arena.take(count.unwrap_or(0), Type::F32) }
    }

    pub fn accumulating(self, accumulate: bool) -> Self {
        Self { accumulate, ..self }
    }

    /// y `[rows, outputs]` = x W^T + b.
    pub fn forward(&self, program: &mut Program, layer: &Linear, x: Address, y: Address, rows: usize) {
        let epilogue = Epilogue::Bias(self.flat.operand(layer.bias));
        self.forward_with(program, layer, x, y, rows, epilogue);
    }

    /// y = GELU(x W^T + b), and the sums before GELU to `kept`.
    pub fn forward_gelu(
        &self,
        program: &mut Program,
        layer: &Linear,
        x: Address,
        kept: Address,
        y: Address,
        rows: usize,
    ) {
        let epilogue = Epilogue::GeluKeep(self.flat.operand(layer.bias), kept);
        self.forward_with(program, layer, x, y, rows, epilogue);
    }

    fn forward_with(
        &self,
        program: &mut Program,
        layer: &Linear,
        x: Address,
        y: Address,
        rows: usize,
        epilogue: Epilogue,
    ) {
        let weight = self.flat.operand(layer.weight);
        let [k, n] = [layer.inputs, layer.outputs];
        program.matmul(Matmul { epilogue, ..Matmul::new(Form::Nt, [rows, n, k], [x, weight, y], self.flat.ty) });
    }

    /// dx `[rows, inputs]` = dy W, times what `epilogue` says.
    pub fn backward_input(
        &self,
        program: &mut Program,
        layer: &Linear,
        dy: Address,
        dx: Address,
        rows: usize,
        epilogue: Epilogue,
    ) {
        let weight = self.flat.operand(layer.weight);
        let [n, k] = [layer.inputs, layer.outputs];
        program.matmul(Matmul { epilogue, ..Matmul::new(Form::Nn, [rows, n, k], [dy, weight, dx], self.flat.ty) });
    }

    /// The gradient of the weight, from dy `[rows, outputs]` and x `[rows, inputs]`.
    pub fn backward_weight(&self, program: &mut Program, layer: &Linear, dy: Address, x: Address, rows: usize) {
        let [m, n] = [layer.outputs, layer.inputs];
        let gradient = self.flat.gradient(layer.weight);
        program.matmul(Matmul {
            output: Type::F32,
            accumulate: self.accumulate,
            ..Matmul::new(Form::Tn, [m, n, rows], [dy, x, gradient], self.flat.ty)
        });
    }

    /// The gradient of the bias: the sum of dy `[rows, outputs]` over rows.
    pub fn backward_bias(&self, program: &mut Program, layer: &Linear, dy: Address, rows: usize) -> Result<()> {
        let width = layer.outputs;
        program.launch(column_sums::column_sums(dy, self.partial, rows, width, self.flat.ty)?);
        let (chunks, to) = (column_sums::chunks(rows), self.flat.gradient(layer.bias));
        program.launch(column_sums::column_sums_end(self.partial, to, chunks, width, self.accumulate)?);
        Ok(())
    }

    /// Both gradients of the parameters.
    pub fn backward_parameters(
        &self,
        program: &mut Program,
        layer: &Linear,
        dy: Address,
        x: Address,
        rows: usize,
    ) -> Result<()> {
        self.backward_weight(program, layer, dy, x, rows);
        self.backward_bias(program, layer, dy, rows)
    }
}
