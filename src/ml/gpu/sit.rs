//! A SiT in training on a GPU: what is trained, and where everything lies. [`super::step`] makes the
//! programs of a step.
//!
//! What differs from step to step is in memory: the batch, and the numbers of
//! [`Scalars`]. Losses are the velocity's and the cosine alignment; the alignment's other forms,
//! dispersion and convolutional projectors are trained by candle's operations.

use super::arena::Arena;
use super::block::{Kept, Modulations, Parameters, Scratch, Sizes, VECTORS};
use super::layers::{FlatBuffers, Layers, Linear};
use super::layout::Layout;
use crate::models::projector::ProjectorKind;
use crate::models::sit::{SavedActivations, SiTConfig};
use candle_core::{Result, bail};
use erw_gpu::kernels::boundary::{Shape, Table};
use erw_gpu::kernels::embedding::{Image, SINUSOID};
use erw_gpu::kernels::loss;
use erw_gpu::kernels::optimizer;
use erw_gpu::kernels::qk_norm_rope::Tables;
use erw_gpu::kernels::scalars::{Results, Scalars};
use erw_gpu::program::{Address, Type};

/// What is trained, and how.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub config: SiTConfig,
    /// Samples of a micro-batch.
    pub batch: usize,
    /// Micro-batches of a step.
    pub micro_batches: usize,
    /// Of the products.
    pub ty: Type,
    pub keep: SavedActivations,
    /// Averages of the weights.
    pub averages: usize,
    /// Factor alpha of the z-score of features, if they are normalised.
    pub spatial_norm: Option<f64>,
}

impl Recipe {
    /// # Errors
    /// What these programs cannot train; the message names it.
    pub fn check(&self) -> Result<()> {
        let c = &self.config;
        if c.projector == ProjectorKind::Conv3 && !c.z_dims.is_empty() {
            bail!("`projector = \"conv3\"`");
        }
        if !c.hidden.is_multiple_of(4)
            || !c.mlp_width().is_multiple_of(4)
            || !(c.in_channels * c.patch_size * c.patch_size).is_multiple_of(4)
        {
            bail!("a width that is not a multiple of 4");
        }
        if c.head_dim() > 256 || !c.head_dim().is_multiple_of(2) {
            bail!("a head dimension of {}", c.head_dim());
        }
        Ok(())
    }

    pub(super) fn image(&self) -> Image {
        let c = &self.config;
        Image { samples: self.batch, channels: c.in_channels, side: c.input_size, patch: c.patch_size }
    }

    fn sizes(&self) -> Sizes {
        let c = &self.config;
        let stream = Shape { batch: self.batch, tokens: c.tokens(), width: c.hidden, ty: self.ty };
        Sizes { stream, heads: c.heads, inner: c.mlp_width(), mlp: c.mlp }
    }
}

/// The flat buffers of weights, gradients and the optimizer.
#[derive(Debug, Clone)]
pub struct State {
    pub flat: FlatBuffers,
    pub moments: [Address; 2],
    pub averages: Vec<Address>,
    /// Bits of [`Layout::decays`].
    pub decays: Address,
    /// Fixed tables, f32: positions `[N, D]`, cosines and sines `[N, head]`.
    pub positions: Address,
    pub rope: Option<Tables>,
}

impl State {
    pub fn new(recipe: &Recipe, layout: &Layout, arena: &mut Arena) -> Self {
        let (c, count) = (&recipe.config, layout.count());
        let weights = arena.take(count, Type::F32);
        let operands = if recipe.ty == Type::F32 { weights } else { arena.take(count, recipe.ty) };
        let gradients = arena.take(count, Type::F32);
        let table = |arena: &mut Arena| arena.take(c.tokens() * c.head_dim(), Type::F32);
        Self {
            flat: FlatBuffers { weights, gradients, operands, ty: recipe.ty },
            moments: [arena.take(count, Type::F32), arena.take(count, Type::F32)],
            averages: (0..recipe.averages).map(|_| arena.take(count, Type::F32)).collect(),
            decays: arena.take_bytes(optimizer::decay_words(count) * 4),
            positions: arena.take(c.tokens() * c.hidden, Type::F32),
            rope: c.rope.then(|| Tables { cos: table(arena), sin: table(arena) }),
        }
    }
}

/// What the host writes before a micro-batch.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// f32 `[B]`
    pub times: Address,
    /// f32 `[B, C, S, S]`: the point on the path.
    pub point: Address,
    /// Its velocity, like the point.
    pub target: Address,
    /// u32 `[B]`
    pub labels: Address,
    /// f32 `[B, N, Z]` for each encoder.
    pub features: Vec<Address>,
    pub scalars: Scalars,
    pub results: Results,
}

impl Inputs {
    fn new(recipe: &Recipe, arena: &mut Arena) -> Self {
        let (c, image) = (&recipe.config, recipe.image().count());
        Self {
            times: arena.take(recipe.batch, Type::F32),
            point: arena.take(image, Type::F32),
            target: arena.take(image, Type::F32),
            labels: arena.take_bytes(recipe.batch * 4),
            features: c.z_dims.iter().map(|z| arena.take(recipe.batch * c.tokens() * z, Type::F32)).collect(),
            scalars: Scalars(arena.take(Scalars::SIZE, Type::F32)),
            results: Results(arena.take(Results::SIZE, Type::F32)),
        }
    }
}

/// Outputs of the network's ends, and space for their gradients.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) patches: Address,
    pub(super) embedded: Address,
    pub(super) waves: Address,
    /// The time MLP: after its first layer, its activation, and its second layer.
    pub(super) time: [Address; 3],
    /// The gradient of its hidden layer.
    pub(super) dtime: Address,
    pub(super) condition: Address,
    pub(super) active: Address,
    pub(super) dactive: Address,
    pub(super) dcondition: Address,
    pub(super) dcondition_half: Address,
    /// The final modulated norm, its statistics, and the velocity as tokens.
    pub(super) final_h: Address,
    pub(super) final_stats: Address,
    pub(super) out: Address,
    pub(super) dout: Address,
    /// f64 partial sums of losses and norms.
    pub(super) partial: Address,
}

/// Space for the projector of an encoder: two layers, their activations, the projections, and
/// gradients of the layers.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProjectorSpace {
    pub(super) input: Address,
    pub(super) layers: [Address; 2],
    pub(super) active: [Address; 2],
    pub(super) output: Address,
    pub(super) gradients: [Address; 2],
}

/// A projector's layers, and the block behind which it sits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Projector {
    pub(super) layers: [Linear; 3],
    pub(super) tap: usize,
}

/// The programs of a training step.
pub struct SitPrograms {
    pub(super) recipe: Recipe,
    pub(super) layout: Layout,
    pub state: State,
    pub inputs: Inputs,
    pub(super) sizes: Sizes,
    pub(super) ends: Ends,
    pub(super) modulations: Modulations,
    pub(super) scratch: Scratch,
    pub(super) space: Option<ProjectorSpace>,
    /// For each block.
    pub(super) kept: Vec<Kept>,
    /// The stream behind the last block, f32.
    pub(super) last: Address,
    pub(super) layers: Layers,
    pub(super) blocks: Vec<Parameters>,
    pub(super) projectors: Vec<Projector>,
    pub(super) bytes: usize,
}

impl SitPrograms {
    /// Lays out all memory from `base` on.
    pub fn new(recipe: &Recipe, layout: &Layout, mut arena: Arena) -> Result<Self> {
        recipe.check()?;
        let (c, arena) = (&recipe.config, &mut arena);
        let (sizes, depth) = (recipe.sizes(), c.blocks());
        let (rows, d, ty) = (sizes.rows(), c.hidden, recipe.ty);
        let state = State::new(recipe, layout, arena);
        let inputs = Inputs::new(recipe, arena);
        let widest = (3 * d).max(2 * sizes.inner).max(c.projector_dim);
        let widest = c.z_dims.iter().fold(widest, |w, z| w.max(*z));
        let vectors = VECTORS * depth + if c.warmup_depth.is_none() { 2 } else { 0 };
        let table = Table { address: arena.take(recipe.batch * vectors * d, ty), width: vectors * d };
        let modulations = Modulations { table, gradients: arena.take(recipe.batch * vectors * d, ty) };
        let layers = Layers::new(state.flat, &[[rows, widest], [recipe.batch, vectors * d]], arena);
        let kept = match recipe.keep {
            SavedActivations::Everything => {
                let each = (0..depth).map(|_| arena.take(rows * d, Type::F32)).collect::<Vec<_>>();
                each.into_iter().map(|x| Kept::new(&sizes, x, arena)).collect::<Vec<_>>()
            }
            // Two spaces in turn, but for the stream at the entries: the boundary between two blocks
            // needs both.
            SavedActivations::Inputs => {
                let each = (0..depth).map(|_| arena.take(rows * d, Type::F32)).collect::<Vec<_>>();
                let shared = [Kept::new(&sizes, Address::NULL, arena), Kept::new(&sizes, Address::NULL, arena)];
                each.into_iter().enumerate().map(|(i, x)| shared[i % 2].with_stream(x)).collect()
            }
        };
        let widest_features = c.z_dims.iter().copied().max();
        let space = widest_features.map(|z| ProjectorSpace {
            input: arena.take(rows * d, ty),
            layers: [arena.take(rows * c.projector_dim, ty), arena.take(rows * c.projector_dim, ty)],
            active: [arena.take(rows * c.projector_dim, ty), arena.take(rows * c.projector_dim, ty)],
            output: arena.take(rows * z, ty),
            gradients: [arena.take(rows * c.projector_dim, ty), arena.take(rows * c.projector_dim, ty)],
        });
        let projector = |k: usize| -> Result<Projector> {
            let layer = |at: &str| Linear::find(layout, &format!("projectors.{k}.{at}"));
            Ok(Projector { layers: [layer("0")?, layer("2")?, layer("4")?], tap: c.tap(k) })
        };
        Ok(Self {
            ends: Ends::new(recipe, layout, arena),
            scratch: Scratch::new(&sizes, c.qk_norm, arena),
            last: arena.take(rows * d, Type::F32),
            blocks: (0..depth).map(|i| Parameters::find(layout, c, i)).collect::<Result<_>>()?,
            projectors: (0..c.z_dims.len()).map(projector).collect::<Result<_>>()?,
            bytes: arena.bytes(),
            recipe: recipe.clone(),
            layout: layout.clone(),
            state,
            inputs,
            sizes,
            modulations,
            space,
            kept,
            layers,
        })
    }

    /// Bytes of memory that a training needs.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

impl Ends {
    fn new(recipe: &Recipe, layout: &Layout, arena: &mut Arena) -> Self {
        let (c, ty, b) = (&recipe.config, recipe.ty, recipe.batch);
        let (rows, d, image) = (b * c.tokens(), c.hidden, recipe.image().count());
        let losses = loss::velocity_partials(&recipe.image()).max(loss::cosine_partials(rows));
        let partials = losses.max(optimizer::partial_count(layout.count()));
        Self {
            patches: arena.take(image, ty),
            embedded: arena.take(rows * d, ty),
            waves: arena.take(b * SINUSOID, ty),
            time: std::array::from_fn(|_| arena.take(b * d, ty)),
            dtime: arena.take(b * d, ty),
            condition: arena.take(b * d, Type::F32),
            active: arena.take(b * d, ty),
            dactive: arena.take(b * d, ty),
            dcondition: arena.take(b * d, Type::F32),
            dcondition_half: arena.take(b * d, ty),
            final_h: arena.take(rows * d, ty),
            final_stats: arena.take(2 * rows, Type::F32),
            out: arena.take(image, ty),
            dout: arena.take(image, ty),
            partial: arena.take_bytes(partials * 8),
        }
    }
}
