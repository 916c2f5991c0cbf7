//! A frozen vision transformer as commands for a GPU, in f32: features must stay what they are on
//! other devices. Weights and activations stay in the GPU's memory; normalised images go in and
//! tokens come out.
//!
//! Between two products is one pass: the boundary adds the branch above it, times its LayerScale, to
//! the stream and writes the norm for the branch below. The bias of the patch embedding is part of
//! the table that is added to patches, as their positions are.
//!
//! Does not know image files or which tokens are wanted ([`super::encoder`] does).

use super::arena::Arena;
use super::host;
use super::layers::{Linear, Weights};
use super::layout::Layout;
use crate::models::vit::{Mlp, Vit, VitConfig};
use crate::nn::params::{self, Tensors};
use candle_core::{Device, Result, Tensor, bail};
use erw_gpu::kernels::activation::{self, Pass, SwiGlu};
use erw_gpu::kernels::attention::Attention;
use erw_gpu::kernels::boundary::{self, LayerNorm};
use erw_gpu::kernels::embedding::{self, AddPositions, Image};
use erw_gpu::kernels::qk_norm_rope::{self, Shape, Steps, Tables};
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Form, Matmul, Program, Type};
use std::collections::BTreeMap;
use std::sync::Arc;

const TY: Type = Type::F32;

/// The transformer that is evaluated, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct VitEvaluation {
    pub config: VitConfig,
    /// Patches along a side of the images.
    pub grid: usize,
    /// Images of the largest batch.
    pub batch: usize,
}

impl VitEvaluation {
    /// # Errors
    /// A transformer that the GPU's programs do not cover; the message names why.
    pub fn check(&self) -> Result<()> {
        let c = &self.config;
        c.check()?;
        if [c.dim, c.mlp_dim, 3 * c.patch_size * c.patch_size].iter().any(|width| !width.is_multiple_of(4)) {
            bail!("a width that is not a multiple of 4");
        }
        if c.dim / c.heads > 256 {
            bail!("a head dimension of {}", c.dim / c.heads);
        }
        Ok(())
    }

    /// Bytes of GPU memory that it takes.
    ///
    /// # Errors
    /// A transformer that is not covered.
    pub fn memory(&self) -> Result<usize> {
        let mut arena = Arena::measure();
        Space::new(self, &self.layout()?, &mut arena)?;
        Ok(arena.bytes())
    }

    /// All tokens of an image.
    fn tokens(&self) -> usize {
        self.config.prefix() + self.grid * self.grid
    }

    fn image(&self) -> Image {
        let patch = self.config.patch_size;
        Image { samples: self.batch, channels: 3, side: self.grid * patch, patch }
    }

    /// All weights but those that are added to tokens, which are in a table.
    fn layout(&self) -> Result<Layout> {
        let (_, mut shapes) = params::census(|vb| Vit::new(&self.config, vb))?;
        shapes.retain(|name, _| !ADDED.contains(&name.as_str()));
        Ok(Layout::plain(&shapes))
    }

    /// What is added to each token, f32 `[tokens, D]`: class token with its position, registers, and
    /// for patches positions and the bias of their embedding. `positions` are `[1, class + T, D]`.
    fn table(&self, tensors: &Tensors, positions: &Tensor) -> Result<Tensor> {
        let (c, patches, class) = (&self.config, self.grid * self.grid, usize::from(self.config.class_token));
        if positions.dims() != [1, class + patches, c.dim] {
            bail!("{patches} patches of width {} do not match positions {:?}", c.dim, positions.dims());
        }
        let tensor = |name: &str| match tensors.get(name) {
            Some(tensor) => Ok(tensor),
            None => bail!("there is no tensor {name}"),
        };
        let of_patches = positions.narrow(1, class, patches)?;
        let of_patches = match c.no_patch_bias {
            true => of_patches,
            false => of_patches.broadcast_add(tensor(PATCH_BIAS)?)?,
        };
        let mut parts = vec![];
        if c.class_token {
            parts.push((tensor(CLASS_TOKEN)? + positions.narrow(1, 0, 1)?)?);
        }
        if c.registers > 0 {
            parts.push(tensor(REGISTERS)?.clone());
        }
        parts.push(of_patches);
        Tensor::cat(&parts, 1)
    }
}

const PATCH_WEIGHT: &str = "patch_embed.proj.weight";
const PATCH_BIAS: &str = "patch_embed.proj.bias";
const CLASS_TOKEN: &str = "cls_token";
const REGISTERS: &str = "register_tokens";
/// Tensors that are added to tokens.
const ADDED: [&str; 4] = [PATCH_BIAS, CLASS_TOKEN, REGISTERS, "pos_embed"];

/// Where weight and bias of a norm lie.
#[derive(Debug, Clone, Copy)]
struct Norm {
    weight: Address,
    bias: Address,
}

/// Where a block's parameters lie. A LayerScale is a vector of ones where there is none.
#[derive(Debug, Clone, Copy)]
struct Block {
    norms: [Norm; 2],
    qkv: Linear,
    proj: Linear,
    first: Linear,
    second: Linear,
    scales: [Address; 2],
}

/// Where everything lies.
struct Space {
    evaluation: VitEvaluation,
    weights: Weights,
    patch_weight: Linear,
    blocks: Vec<Block>,
    norm_pre: Option<Norm>,
    norm: Option<Norm>,
    /// Of [`VitEvaluation::table`].
    table: Address,
    /// Cosines and sines f32 `[tokens, D of a head]`, with rotary positions.
    rope: Option<Tables>,
    /// f32 `[D]`
    ones: Address,
    images: Address,
    patches: Address,
    embedded: Address,
    /// The stream, a norm or the output of attention, the output of a branch, `[rows, D]` each.
    x: Address,
    h: Address,
    y: Address,
    /// Queries, keys and values, or hidden rows before the activation.
    wide: Address,
    active: Address,
    /// The tokens `[rows, D]`.
    out: Address,
}

impl Space {
    fn new(evaluation: &VitEvaluation, layout: &Layout, arena: &mut Arena) -> Result<Self> {
        evaluation.check()?;
        let (c, rows) = (&evaluation.config, evaluation.batch * evaluation.tokens());
        let weights = Weights::frozen(layout, TY, arena);
        let ones = arena.take(c.dim, TY);
        let at = |name: &str| layout.place(name).map(|place| weights.operand(place.first));
        let norm = |name: &str| -> Result<Norm> {
            Ok(Norm { weight: at(&format!("{name}.weight"))?, bias: at(&format!("{name}.bias"))? })
        };
        let (first, second) = match c.mlp {
            Mlp::SwiGlu => ("mlp.w12", "mlp.w3"),
            Mlp::Gelu | Mlp::QuickGelu => ("mlp.fc1", "mlp.fc2"),
        };
        let block = |i: usize| -> Result<Block> {
            let linear = |name: &str| Linear::find(layout, &format!("blocks.{i}.{name}"));
            let scale = |name: &str| match c.layer_scale {
                true => at(&format!("blocks.{i}.{name}.gamma")),
                false => Ok(ones),
            };
            Ok(Block {
                norms: [norm(&format!("blocks.{i}.norm1"))?, norm(&format!("blocks.{i}.norm2"))?],
                qkv: linear("attn.qkv")?,
                proj: linear("attn.proj")?,
                first: linear(first)?,
                second: linear(second)?,
                scales: [scale("ls1")?, scale("ls2")?],
            })
        };
        let blocks = (0..c.depth).map(block).collect::<Result<Vec<_>>>()?;
        let widest = blocks.iter().map(|b| b.first.outputs).fold(3 * c.dim, usize::max);
        let image = evaluation.image().count();
        Ok(Self {
            patch_weight: Linear {
                weight: layout.place(PATCH_WEIGHT)?.first,
                bias: 0,
                inputs: 3 * c.patch_size * c.patch_size,
                outputs: c.dim,
            },
            norm_pre: if c.pre_norm { Some(norm("norm_pre")?) } else { None },
            norm: if c.final_norm { Some(norm("norm")?) } else { None },
            blocks,
            table: arena.take(evaluation.tokens() * c.dim, TY),
            rope: c.rope_theta.map(|_| {
                let count = evaluation.tokens() * c.dim / c.heads;
                Tables { cos: arena.take(count, TY), sin: arena.take(count, TY) }
            }),
            ones,
            images: arena.take(image, TY),
            patches: arena.take(image, TY),
            embedded: arena.take(evaluation.batch * evaluation.grid * evaluation.grid * c.dim, TY),
            x: arena.take(rows * c.dim, TY),
            h: arena.take(rows * c.dim, TY),
            y: arena.take(rows * c.dim, TY),
            wide: arena.take(rows * widest, TY),
            active: arena.take(rows * c.mlp_dim, TY),
            out: arena.take(rows * c.dim, TY),
            evaluation: evaluation.clone(),
            weights,
        })
    }

    /// From so many images to their tokens.
    fn program(&self, batch: usize) -> Result<Program> {
        let mut program = Program::default();
        let evaluation = VitEvaluation { batch, ..self.evaluation.clone() };
        let (c, patches) = (&evaluation.config, batch * evaluation.grid * evaluation.grid);
        let rows = batch * evaluation.tokens();
        program.launch(embedding::patch_gather(&evaluation.image(), TY, self.images, self.patches)?);
        let Linear { weight, inputs, outputs, .. } = self.patch_weight;
        let places = [self.patches, self.weights.operand(weight), self.embedded];
        program.matmul(Matmul::new(Form::Nt, [patches, outputs, inputs], places, TY));
        // With a norm in front of the blocks, its result is the stream.
        let first = if self.norm_pre.is_some() { self.out } else { self.x };
        program.launch(embedding::add_positions(&AddPositions {
            ty: TY,
            y: self.embedded,
            positions: self.table,
            x: first,
            samples: batch,
            prefix: c.prefix(),
            tokens: evaluation.tokens(),
            width: c.dim,
        })?);
        let norm = |x, branch, norm: Norm, x_out, h| {
            let Norm { weight, bias } = norm;
            let launch = LayerNorm { x, branch, weight, bias, x_out, h, eps: c.eps as f32 };
            boundary::layer_norm_forward(rows, c.dim, TY, &launch)
        };
        if let Some(pre) = self.norm_pre {
            program.launch(norm(first, None, pre, Address::NULL, self.x)?);
        }
        let mut above = None;
        for block in &self.blocks {
            let x_out = if above.is_some() { self.x } else { Address::NULL };
            program.launch(norm(self.x, above, block.norms[0], x_out, self.h)?);
            self.weights.forward(&mut program, &block.qkv, self.h, self.wide, rows)?;
            if let Some(tables) = self.rope {
                let steps = Steps { norms: None, rope: Some(tables), eps: 0.0 };
                program.launch(qk_norm_rope::forward(self.heads(rows), &steps, self.wide, self.wide)?);
            }
            program.launch(self.attention(&evaluation).forward()?);
            self.weights.forward(&mut program, &block.proj, self.h, self.y, rows)?;
            program.launch(norm(self.x, Some((self.y, block.scales[0])), block.norms[1], self.x, self.h)?);
            self.mlp(&mut program, block, rows)?;
            above = Some((self.y, block.scales[1]));
        }
        program.launch(match self.norm {
            Some(last) => norm(self.x, above, last, Address::NULL, self.out)?,
            // Only the stream is wanted. The norm goes nowhere.
            None => norm(self.x, above, Norm { weight: self.ones, bias: self.ones }, self.out, self.h)?,
        });
        Ok(program)
    }

    /// Queries, keys and values of so many rows.
    fn heads(&self, rows: usize) -> Shape {
        let VitConfig { heads, dim, .. } = self.evaluation.config;
        Shape { rows, tokens: self.evaluation.tokens(), heads, dim: dim / heads, ty: TY }
    }

    fn attention(&self, evaluation: &VitEvaluation) -> Attention {
        let VitConfig { heads, dim, .. } = evaluation.config;
        Attention {
            qkv: self.wide,
            out: self.h,
            log_sums: Address::NULL,
            batch: evaluation.batch,
            tokens: evaluation.tokens(),
            heads,
            head_dim: dim / heads,
            ty: TY,
        }
    }

    /// From the norm `h` to the branch's output `y`.
    fn mlp(&self, program: &mut Program, block: &Block, rows: usize) -> Result<()> {
        let (c, weights) = (&self.evaluation.config, &self.weights);
        let pass = Pass { ty: TY, from: self.wide, to: self.active, count: rows * c.mlp_dim };
        let tanh = c.mlp == Mlp::Gelu && !c.exact_gelu;
        if tanh {
            weights.forward_gelu(program, &block.first, self.h, Address::NULL, self.active, rows)?;
        } else {
            weights.forward(program, &block.first, self.h, self.wide, rows)?;
            program.launch(match c.mlp {
                Mlp::Gelu => activation::gelu_erf(&pass)?,
                Mlp::QuickGelu => activation::quick_gelu(&pass)?,
                Mlp::SwiGlu => {
                    let rows = SwiGlu { ty: TY, x: self.wide, rows, width: c.mlp_dim };
                    activation::swiglu_forward(&rows, self.active)?
                }
            });
        }
        weights.forward(program, &block.second, self.active, self.y, rows)?;
        Ok(())
    }
}

/// The kernel turns neighbours of a head, these transformers turn number i with i + d / 2: the rows that
/// make queries and keys change places, all in the same way, by which their products stay.
fn with_neighbours(config: &VitConfig, tensors: &Tensors) -> Result<Tensors> {
    let d = config.dim / config.heads;
    let from = |row: usize| match row < 2 * config.dim {
        true => row / d * d + row % 2 * (d / 2) + row % d / 2,
        false => row,
    };
    let rows: Vec<u32> = (0..3 * config.dim).map(|row| from(row) as u32).collect();
    let rows = Tensor::new(rows, &Device::Cpu)?;
    let moved = |(name, tensor): (&String, &Tensor)| {
        let is_moved = name.ends_with(".attn.qkv.weight") || name.ends_with(".attn.qkv.bias");
        let tensor = if is_moved { tensor.to_device(&Device::Cpu)?.index_select(&rows, 0)? } else { tensor.clone() };
        Ok((name.clone(), tensor))
    };
    tensors.iter().map(moved).collect()
}

/// A vision transformer in the memory of a machine.
pub struct VitOnGpu {
    machine: Arc<dyn Machine>,
    space: Space,
    /// By the number of images: the last batch may be smaller.
    programs: BTreeMap<usize, Program>,
}

impl VitOnGpu {
    /// Lays out memory and writes weights, by their names in DINOv2's hub, with positions
    /// `[1, class + T, D]` for the grid.
    ///
    /// # Errors
    /// A transformer that is not covered; weights of another one; too little memory.
    pub fn new(
        machine: Arc<dyn Machine>,
        evaluation: &VitEvaluation,
        tensors: &Tensors,
        positions: &Tensor,
    ) -> Result<Self> {
        let layout = evaluation.layout()?;
        let base = machine.allocate(evaluation.memory()?)?;
        let space = Space::new(evaluation, &layout, &mut Arena::at(base))?;
        match space.rope {
            None => host::write_frozen(&*machine, &space.weights, &layout, tensors)?,
            Some(tables) => {
                let config = &evaluation.config;
                host::write_frozen(&*machine, &space.weights, &layout, &with_neighbours(config, tensors)?)?;
                let Some((cos, sin)) = config.rope(evaluation.grid * evaluation.grid, &Device::Cpu)? else {
                    bail!("rotary positions without tables")
                };
                for (to, table) in [(tables.cos, cos), (tables.sin, sin)] {
                    host::write_tensor(&*machine, to, &Tensor::stack(&[&table, &table], 2)?)?;
                }
            }
        }
        host::write_tensor(&*machine, space.table, &evaluation.table(tensors, positions)?)?;
        host::write(&*machine, space.ones, &vec![1f32; evaluation.config.dim])?;
        Ok(Self { machine, space, programs: BTreeMap::new() })
    }

    /// All tokens f32 `[n, prefix + T, D]`, on the CPU, of normalised images `[n, 3, S, S]`: a batch
    /// at a time, any number of images.
    ///
    /// # Errors
    /// Images of another size.
    pub fn encode(&mut self, images: &Tensor) -> Result<Tensor> {
        let (evaluation, image) = (&self.space.evaluation, self.space.evaluation.image());
        let count = images.dims().first().copied().unwrap_or(0);
        if images.dims() != [count, 3, image.side, image.side] || count == 0 {
            let side = image.side;
            bail!("the tokens of images {:?}, where memory is for {side} x {side} pixels", images.dims());
        }
        let dims = [count, evaluation.tokens(), evaluation.config.dim];
        let of_image = evaluation.tokens() * evaluation.config.dim;
        let mut tokens = vec![0f32; count * of_image];
        for (i, part) in tokens.chunks_mut(image.samples * of_image).enumerate() {
            let batch = part.len() / of_image;
            if !self.programs.contains_key(&batch) {
                self.programs.insert(batch, self.space.program(batch)?);
            }
            host::write_tensor(&*self.machine, self.space.images, &images.narrow(0, i * image.samples, batch)?)?;
            self.machine.run(&self.programs[&batch])?;
            self.machine.read(self.space.out, bytemuck::cast_slice_mut(part))?;
        }
        Tensor::from_vec(tokens, &dims, &Device::Cpu)
    }
}
