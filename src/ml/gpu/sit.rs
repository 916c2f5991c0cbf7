//! A SiT in training on a GPU: what is trained, and where everything lies. `step` makes the
//! programs of a step.
//!
//! What differs from step to step is in memory: the batch, and the numbers of
//! [`Scalars`]. Losses are the velocity's squared error and its cosine, that of class tokens, the
//! alignment by the cosine or NT-Xent, and dispersion; other losses are trained by candle's operations.

use super::arena::Arena;
use super::block_backward::{BlocksBackward, Scratch};
use super::class_token::ClassTokenGradients;
use super::forward::{self, FixedTables, Forward, Keep};
use super::layers::{Gradients, Weights};
use super::layout::Layout;
use super::projector::{Projector, ProjectorSpace};
use super::reduction;
use crate::diffusion::alignment::{Alignment, AlignmentLoss};
use crate::diffusion::loss::Dispersion;
use crate::models::projector::ProjectorKind;
use crate::models::sit::{NormKind, SavedActivations, SiT, SiTConfig};
use crate::nn::params;
use crate::ranks::tree;
use candle_core::{Result, bail};
use erw_gpu::kernels::loss;
use erw_gpu::kernels::optimizer;
use erw_gpu::kernels::pairs;
use erw_gpu::kernels::scalars::{Results, Scalars};
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Type};

/// What is trained, and how.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub config: SiTConfig,
    /// Samples of a micro-batch.
    pub batch: usize,
    /// Micro-batches of a step, and how many GPUs share them.
    pub micro_batches: usize,
    pub ranks: usize,
    /// Of the products.
    pub ty: Type,
    pub keep: SavedActivations,
    /// Averages of the weights.
    pub averages: usize,
    pub alignment: Alignment,
    /// Weight of the cosine loss of the velocity; 0: none.
    pub velocity_cosine: f64,
    pub dispersion: Option<Dispersion>,
    /// Weight of the velocity of class tokens, for a network that has them.
    pub class_token: f64,
    /// Bytes of what runs between the steps: validation and previews. It takes the place of the step's
    /// results.
    pub between: usize,
}

impl Recipe {
    /// One micro-batch on one GPU, with one average and a cosine alignment.
    pub fn new(config: SiTConfig, batch: usize, ty: Type) -> Self {
        Self {
            config,
            batch,
            micro_batches: 1,
            ranks: 1,
            ty,
            keep: SavedActivations::Everything,
            averages: 1,
            alignment: Alignment::COSINE,
            velocity_cosine: 0.0,
            dispersion: None,
            class_token: 0.0,
            between: 0,
        }
    }

    /// # Errors
    /// What these programs cannot train; the message names it.
    pub fn check(&self) -> Result<()> {
        let (c, aligned) = (&self.config, !self.config.z_dims.is_empty());
        // The tokens and the class token are no square grid.
        if aligned && c.projector == ProjectorKind::Conv3 && c.class_token.is_some() {
            bail!("`projector = \"conv3\"` with `class_token`");
        }
        if aligned && self.alignment.relation > 0.0 {
            bail!("`relation`");
        }
        if aligned && self.alignment.loss == AlignmentLoss::NtXent && self.batch > pairs::MOST_IMAGES {
            bail!("`alignment_loss = \"nt-xent\"` over {} images", self.batch);
        }
        forward::check(c)
    }
}

/// The flat buffers of weights, gradients and the optimizer.
#[derive(Debug, Clone)]
pub struct State {
    pub weights: Weights,
    pub gradients: Address,
    /// For sums over ranks.
    pub rows: Address,
    /// Sums of gradients, see [`tree`].
    pub kept_sums: Vec<Address>,
    pub moments: [Address; 2],
    pub averages: Vec<Address>,
    /// Bits of [`Layout::decays`].
    pub decays: Address,
    pub tables: FixedTables,
}

impl State {
    pub fn new(recipe: &Recipe, layout: &Layout, arena: &mut Arena) -> Self {
        let count = layout.count();
        Self {
            weights: Weights::trained(count, recipe.ty, arena),
            gradients: arena.take(count + reduction::padding(recipe.ranks), Type::F32),
            rows: reduction::space(recipe.ranks, arena),
            kept_sums: (0..tree::most_kept(recipe.micro_batches / recipe.ranks.max(1)))
                .map(|_| arena.take(count, Type::F32))
                .collect(),
            moments: [arena.take(count, Type::F32), arena.take(count, Type::F32)],
            averages: (0..recipe.averages).map(|_| arena.take(count, Type::F32)).collect(),
            decays: arena.take_bytes(optimizer::decay_words(count) * 4),
            tables: FixedTables::new(&recipe.config, arena),
        }
    }
}

/// What the host writes before a micro-batch beside the network's inputs, and reads behind it.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// Velocity at the point, f32 `[B, C, S, S]`.
    pub target: Address,
    /// Velocity of the class tokens, f32 `[B, Z]`; null without them.
    pub class_target: Address,
    /// f32 `[B, N, Z]` for each encoder; with class tokens those in front.
    pub features: Vec<Address>,
    /// f16, for the features of one encoder before they are widened.
    pub narrow_features: Address,
    pub scalars: Scalars,
    pub results: Results,
}

/// Space for the gradients of the network's ends, and for sums.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    /// Of the time MLP's hidden layer.
    pub(super) dtime: Address,
    pub(super) dactive: Address,
    pub(super) dcondition: Address,
    pub(super) dcondition_half: Address,
    pub(super) dout: Address,
    /// f64 partial sums of losses and norms.
    pub(super) partial: Address,
}

/// Space for the dispersive loss: states without their mean and the gradient of the states, f32
/// `[B, N D]`; the products of all pairs, and what states are multiplied by, f32 `[B, B]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct DispersionSpace {
    pub(super) centred: Address,
    pub(super) gradient: Address,
    pub(super) products: Address,
    pub(super) pairs: Address,
}

/// The programs of a training step.
pub struct SitPrograms {
    pub(super) recipe: Recipe,
    pub(super) layout: Layout,
    pub state: State,
    pub forward: Forward,
    pub inputs: Inputs,
    pub(super) backward: BlocksBackward,
    pub(super) ends: Ends,
    pub(super) space: Option<ProjectorSpace>,
    pub(super) dispersion: Option<DispersionSpace>,
    pub(super) class: Option<ClassTokenGradients>,
    pub(super) projectors: Vec<Projector>,
    between: Address,
    bytes: usize,
}

/// Bytes of GPU memory that a training needs.
///
/// # Errors
/// A recipe that the GPU's programs do not cover.
pub fn memory(recipe: &Recipe) -> Result<usize> {
    Ok(SitPrograms::new(recipe, &layout(recipe)?, Arena::measure())?.bytes())
}

fn layout(recipe: &Recipe) -> Result<Layout> {
    let (_, shapes) = params::census(|vb| SiT::new(&recipe.config, vb))?;
    Layout::new(&recipe.config, &shapes)
}

impl SitPrograms {
    /// Takes the memory of a training from a machine.
    ///
    /// # Errors
    /// A recipe that the GPU's programs do not cover; too little memory.
    pub fn on(machine: &dyn Machine, recipe: &Recipe) -> Result<Self> {
        Self::new(recipe, &layout(recipe)?, Arena::at(machine.allocate(memory(recipe)?)?))
    }

    /// Lays out all memory from `base` on.
    pub fn new(recipe: &Recipe, layout: &Layout, mut arena: Arena) -> Result<Self> {
        recipe.check()?;
        let (c, arena, ty) = (&recipe.config, &mut arena, recipe.ty);
        let state = State::new(recipe, layout, arena);
        let (rows, image) = (recipe.batch * c.all_tokens(), recipe.batch * c.in_channels * c.input_size * c.input_size);
        // Before the results, which between the steps give way to others: a batch is written early.
        let inputs = Inputs {
            target: arena.take(image, Type::F32),
            class_target: c.class_token.map_or(Address::NULL, |width| arena.take(recipe.batch * width, Type::F32)),
            features: c.z_dims.iter().map(|z| arena.take(rows * z, Type::F32)).collect(),
            narrow_features: arena.take(rows * c.z_dims.iter().copied().max().unwrap_or(0), Type::F16),
            scalars: Scalars(arena.take(Scalars::SIZE, Type::F32)),
            results: Results(arena.take(Results::SIZE, Type::F32)),
        };
        let keep = Keep::ForBackward(recipe.keep);
        let forward = Forward::new(c, layout, state.weights, state.tables, recipe.batch, keep, arena)?;
        let (sizes, between) = (forward.blocks.sizes, forward.results);
        let (d, modulations) = (c.hidden, forward.blocks.modulations.width);
        let widest = (3 * d).max(2 * sizes.inner).max(c.projector_dim);
        let widest = c.z_dims.iter().fold(widest, |w, z| w.max(*z));
        let largest = [[rows, widest], [recipe.batch, modulations]];
        let backward = BlocksBackward {
            blocks: forward.blocks,
            gradients: Gradients::new(state.weights, state.gradients, &largest, arena),
            scratch: Scratch::new(&sizes, c.qk_norm, c.norm == NormKind::Rms, arena),
            dmodulations: arena.take(recipe.batch * modulations, ty),
        };
        let space = ProjectorSpace::new(c, recipe.batch, ty, arena);
        let cosine = recipe.velocity_cosine > 0.0;
        let velocity = loss::velocity_partials(&forward.image(), cosine) * if cosine { 2 } else { 1 };
        let alignment = match recipe.alignment.loss {
            AlignmentLoss::Cosine => loss::cosine_partials(rows),
            AlignmentLoss::NtXent => pairs::nt_xent_partials(rows),
        };
        let losses = [velocity, alignment, recipe.batch].into_iter().fold(0, usize::max);
        let partials = losses.max(optimizer::partial_count(layout.count()));
        let class = forward.class.map(|class| ClassTokenGradients::new(&class, &sizes, arena));
        let dispersion = recipe.dispersion.map(|_| DispersionSpace {
            centred: arena.take(rows * d, Type::F32),
            gradient: arena.take(rows * d, Type::F32),
            products: arena.take(recipe.batch * recipe.batch, Type::F32),
            pairs: arena.take(recipe.batch * recipe.batch, Type::F32),
        });
        let vectors = recipe.batch * d;
        let ends = Ends {
            dtime: arena.take(vectors, ty),
            dactive: arena.take(vectors, ty),
            dcondition: arena.take(vectors, Type::F32),
            dcondition_half: arena.take(vectors, ty),
            dout: arena.take(image, ty),
            partial: arena.take_bytes(partials * 8),
        };
        arena.take_bytes(recipe.between.saturating_sub((arena.here().0 - between.0) as usize));
        Ok(Self {
            ends,
            between,
            projectors: (0..c.z_dims.len()).map(|k| Projector::find(c, layout, k)).collect::<Result<_>>()?,
            bytes: arena.bytes(),
            recipe: recipe.clone(),
            layout: layout.clone(),
            state,
            forward,
            inputs,
            backward,
            space,
            dispersion,
            class,
        })
    }

    /// Bytes of memory that a training needs.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where so many bytes are free between the steps.
    ///
    /// # Errors
    /// More than [`Recipe::between`] says.
    pub fn between(&self, bytes: usize) -> Result<Address> {
        if bytes > self.recipe.between {
            bail!("{bytes} bytes between the steps of a training that has {}", self.recipe.between);
        }
        Ok(self.between)
    }

    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}
