//! Projectors from a SiT's tokens to features, with their gradients, as commands: an MLP per token,
//! or a 3 x 3 convolution over the grid of tokens as a product over windows.

use super::arena::Arena;
use super::layers::{Gradients, Linear, Weights};
use super::layout::Layout;
use crate::models::projector::ProjectorKind;
use crate::models::sit::SiTConfig;
use candle_core::{Result, bail};
use erw_gpu::kernels::activation::{self, Activation, Backward, Pass};
use erw_gpu::kernels::unfold::Grids;
use erw_gpu::program::{Address, Epilogue, Program, Type};

/// A projector's layers, and the block behind which it sits.
#[derive(Debug, Clone, Copy)]
pub struct Projector {
    layers: Layers,
    pub tap: usize,
}

#[derive(Debug, Clone, Copy)]
enum Layers {
    Mlp([Linear; 3]),
    Conv3(Linear),
}

impl Projector {
    /// That of encoder `k`.
    pub fn find(config: &SiTConfig, layout: &Layout, k: usize) -> Result<Self> {
        let layer = |at: &str| Linear::find(layout, &format!("projectors.{k}.{at}"));
        let layers = match config.projector {
            ProjectorKind::Mlp => Layers::Mlp([layer("0")?, layer("2")?, layer("4")?]),
            ProjectorKind::Conv3 => Layers::Conv3(layer("projection_layer")?),
        };
        Ok(Self { layers, tap: config.tap(k) })
    }
}

/// Space for one projector at a time.
#[derive(Debug, Clone, Copy)]
pub struct ProjectorSpace {
    ty: Type,
    rows: usize,
    /// Numbers of a token, and those of an MLP's hidden layers.
    widths: [usize; 2],
    /// The tokens in the type of the products, and later the gradient of the stream.
    input: Address,
    inside: Inside,
    /// The projections, and later their gradient.
    pub output: Address,
}

#[derive(Debug, Clone, Copy)]
enum Inside {
    /// Two layers, their activations, and gradients of the layers.
    Mlp { layers: [Address; 2], active: [Address; 2], gradients: [Address; 2] },
    /// Windows around tokens, and later their gradient.
    Conv3 { grids: Grids, windows: Address },
}

impl ProjectorSpace {
    /// For `batch` samples. `None` without encoders.
    pub fn new(config: &SiTConfig, batch: usize, ty: Type, arena: &mut Arena) -> Option<Self> {
        let widest = config.z_dims.iter().copied().max()?;
        let (rows, width) = (batch * config.all_tokens(), config.projector_dim);
        let input = arena.take(rows * config.hidden, ty);
        let mut two = |count: usize| [arena.take(count, ty), arena.take(count, ty)];
        let inside = match config.projector {
            ProjectorKind::Mlp => {
                Inside::Mlp { layers: two(rows * width), active: two(rows * width), gradients: two(rows * width) }
            }
            ProjectorKind::Conv3 => Inside::Conv3 {
                grids: Grids { samples: batch, side: config.tokens().isqrt(), width: config.hidden, ty },
                windows: arena.take(rows * 9 * config.hidden, ty),
            },
        };
        let widths = [config.hidden, width];
        Some(Self { ty, rows, widths, input, inside, output: arena.take(rows * widest, ty) })
    }

    /// The same space, of fewer samples.
    pub fn of(self, samples: usize, tokens: usize) -> Self {
        let inside = match self.inside {
            Inside::Conv3 { grids, windows } => Inside::Conv3 { grids: Grids { samples, ..grids }, windows },
            mlp @ Inside::Mlp { .. } => mlp,
        };
        Self { rows: samples * tokens, inside, ..self }
    }

    /// From the f32 stream `x` to projections in `output`.
    pub fn forward(&self, program: &mut Program, weights: &Weights, p: &Projector, x: Address) -> Result<()> {
        let (rows, ty) = (self.rows, self.ty);
        let [count, hidden] = self.widths.map(|width| rows * width);
        program.launch(activation::narrow(&Pass { ty, from: x, to: self.input, count })?);
        match (&p.layers, self.inside) {
            (Layers::Mlp([first, second, third]), Inside::Mlp { layers, active, .. }) => {
                let silu = |from, to| activation::forward(Activation::Silu, &Pass { ty, from, to, count: hidden });
                weights.forward(program, first, self.input, layers[0], rows)?;
                program.launch(silu(layers[0], active[0])?);
                weights.forward(program, second, active[0], layers[1], rows)?;
                program.launch(silu(layers[1], active[1])?);
                weights.forward(program, third, active[1], self.output, rows)?;
            }
            (Layers::Conv3(layer), Inside::Conv3 { grids, windows }) => {
                program.launch(grids.unfold(self.input, windows)?);
                weights.forward(program, layer, windows, self.output, rows)?;
            }
            _ => bail!("space for a projector of another kind"),
        }
        Ok(())
    }

    /// From the gradient of the projections, in `output`, to those of the parameters; that of the
    /// stream is added to `dx`, f32.
    pub fn backward(&self, program: &mut Program, of: &Gradients, p: &Projector, dx: Address) -> Result<()> {
        let (rows, ty, dy) = (self.rows, self.ty, self.output);
        let [count, hidden] = self.widths.map(|width| rows * width);
        match (&p.layers, self.inside) {
            (Layers::Mlp([first, second, third]), Inside::Mlp { layers, active, gradients: [d0, d1] }) => {
                let slope =
                    |dy, x| activation::backward(Activation::Silu, &Backward { ty, dy, x, dx: dy, count: hidden });
                of.parameters(program, third, dy, active[1], rows)?;
                of.input(program, third, dy, d1, rows, Epilogue::None)?;
                program.launch(slope(d1, layers[1])?);
                of.parameters(program, second, d1, active[0], rows)?;
                of.input(program, second, d1, d0, rows, Epilogue::None)?;
                program.launch(slope(d0, layers[0])?);
                of.parameters(program, first, d0, self.input, rows)?;
                of.input(program, first, d0, self.input, rows, Epilogue::None)?;
            }
            (Layers::Conv3(layer), Inside::Conv3 { grids, windows }) => {
                of.parameters(program, layer, dy, windows, rows)?;
                of.input(program, layer, dy, windows, rows, Epilogue::None)?;
                program.launch(grids.fold(windows, self.input)?);
            }
            _ => bail!("space for a projector of another kind"),
        }
        program.launch(activation::add(&Pass { ty, from: self.input, to: dx, count })?);
        Ok(())
    }
}
