//! The forward pass of a SiT as commands: embeddings, blocks, final layer. A training
//! (`micro_batch`) keeps what its backward pass needs; sampling ([`super::velocity`]) does
//! not. Knows neither losses nor projectors.

use super::arena::Arena;
use super::block::{Activations, Blocks, Boundary, Parameters, Shared, Sizes, VECTORS};
use super::class_token::ClassToken;
use super::layers::{Linear, Weights};
use super::layout::{CLASS_TABLE, Layout};
use crate::kernels::block::GATE_MLP;
use crate::models::sit::{NORM_EPS, NormKind, QK_NORM_EPS, SavedActivations, SiTConfig};
use candle_core::{Result, bail};
use erw_gpu::kernels::activation::{self, Activation, Pass};
use erw_gpu::kernels::boundary::{Shape, Table};
use erw_gpu::kernels::embedding::{self, AddPositions, ConditionForward, Image, SINUSOID};
use erw_gpu::kernels::qk_norm_rope::Tables;
use erw_gpu::program::{Address, Program, Type};

/// # Errors
/// A network that the kernels do not cover; the message names why.
pub fn check(c: &SiTConfig) -> Result<()> {
    if c.class_token.is_some_and(|width| !width.is_multiple_of(4)) {
        bail!("a class token whose width is not a multiple of 4");
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

/// Tables that are not trained, f32: positions `[N, D]`, cosines and sines `[N, head]`.
#[derive(Debug, Clone, Copy)]
pub struct FixedTables {
    pub positions: Address,
    pub rope: Option<Tables>,
}

impl FixedTables {
    pub fn new(c: &SiTConfig, arena: &mut Arena) -> Self {
        let table = |arena: &mut Arena| arena.take(c.tokens() * c.head_dim(), Type::F32);
        Self {
            positions: arena.take(c.all_tokens() * c.hidden, Type::F32),
            rope: c.rope.then(|| Tables { cos: table(arena), sin: table(arena) }),
        }
    }
}

/// What the host writes before a forward pass of up to B samples.
#[derive(Debug, Clone, Copy)]
pub struct Inputs {
    /// f32 `[B]`
    pub times: Address,
    /// f32 `[B, C, S, S]`: the point on the path.
    pub point: Address,
    /// u32 `[B]`
    pub labels: Address,
    /// f32 `[B, Z]`: class tokens on the path; null for a network without them.
    pub class: Address,
}

impl Inputs {
    fn new(c: &SiTConfig, batch: usize, arena: &mut Arena) -> Self {
        Self {
            times: arena.take(batch, Type::F32),
            point: arena.take(batch * c.in_channels * c.input_size * c.input_size, Type::F32),
            labels: arena.take_bytes(batch * 4),
            class: c.class_token.map_or(Address::NULL, |width| arena.take(batch * width, Type::F32)),
        }
    }
}

/// What stays of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// What the backward pass needs.
    ForBackward(SavedActivations),
    /// The velocity; of a warmup, the stream behind the last block.
    Nothing,
}

/// Outputs of the network's ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) patches: Address,
    pub(super) embedded: Address,
    pub(super) waves: Address,
    /// The time MLP: after its first layer, its activation, and its second layer.
    pub(super) time: [Address; 3],
    pub(super) condition: Address,
    pub(super) active: Address,
    /// The final modulated norm, its statistics, and the velocity as tokens.
    pub(super) final_h: Address,
    pub(super) final_stats: Address,
    pub(super) out: Address,
}

/// The layers outside of the blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct EndLayers {
    pub(super) patches: Linear,
    pub(super) time: [Linear; 2],
    /// The first number of the class table, and its rows.
    pub(super) classes: usize,
    /// The adaLN layers, which lie side by side, as one.
    pub(super) modulation: Linear,
    /// Place of the weight of the final norm, if that is an RMSNorm.
    norm: Option<usize>,
    /// `None` in a warmup.
    pub(super) last: Option<Linear>,
}

impl EndLayers {
    fn find(layout: &Layout, c: &SiTConfig, modulations: usize) -> Result<Self> {
        let (find, whole) = (|name: &str| Linear::find(layout, name), c.warmup_depth.is_none());
        let rms = whole && c.norm == NormKind::Rms;
        Ok(Self {
            patches: find("x_embedder.proj")?,
            time: [find("t_embedder.mlp.0")?, find("t_embedder.mlp.2")?],
            classes: layout.place(CLASS_TABLE)?.first,
            modulation: Linear { outputs: modulations, ..find("blocks.0.adaLN_modulation.1")? },
            norm: if rms { Some(layout.place("final_layer.norm_final.weight")?.first) } else { None },
            last: if whole { Some(find("final_layer.linear")?) } else { None },
        })
    }
}

/// A network's forward pass: where everything lies.
#[derive(Debug, Clone)]
pub struct Forward {
    pub(super) config: SiTConfig,
    pub(super) blocks: Blocks,
    pub(super) parameters: Vec<Parameters>,
    pub(super) layers: EndLayers,
    pub inputs: Inputs,
    /// Where the memory of results begins. Each pass makes them anew; what is handed out before stays.
    pub(super) results: Address,
    pub(super) ends: Ends,
    pub(super) class: Option<ClassToken>,
    positions: Address,
    /// For each block.
    pub(super) activations: Vec<Activations>,
    /// The stream behind the last block, f32; null if nobody reads it.
    pub(super) last: Address,
}

impl Forward {
    /// Lays out the memory of a forward pass of up to `batch` samples.
    ///
    /// # Errors
    /// A network that the kernels do not cover.
    pub fn new(
        c: &SiTConfig,
        layout: &Layout,
        weights: Weights,
        tables: FixedTables,
        batch: usize,
        keep: Keep,
        arena: &mut Arena,
    ) -> Result<Self> {
        check(c)?;
        let ty = weights.ty;
        let stream = Shape { batch, tokens: c.all_tokens(), width: c.hidden, ty };
        let sizes = Sizes { stream, heads: c.heads, inner: c.mlp_width(), mlp: c.mlp };
        let (depth, rows, d) = (c.blocks(), sizes.rows(), c.hidden);
        let image = batch * c.in_channels * c.input_size * c.input_size;
        let inputs = Inputs::new(c, batch, arena);
        let results = arena.here();
        let vectors = VECTORS * depth + if c.warmup_depth.is_none() { 2 } else { 0 };
        let modulations = Table { address: arena.take(batch * vectors * d, ty), width: vectors * d };
        let (activations, last) = match keep {
            Keep::ForBackward(keep) => (kept(c, &sizes, keep, arena), arena.take(rows * d, Type::F32)),
            Keep::Nothing => {
                let passing = Activations::passing(&sizes, arena);
                let last = c.warmup_depth.map_or(Address::NULL, |_| passing.x);
                (vec![passing; depth], last)
            }
        };
        let (embedded, final_h, final_stats) = match (keep, activations.first()) {
            // Space that blocks do not use then.
            (Keep::Nothing, Some(at)) => (at.y2, at.h1, at.stats1),
            _ => (arena.take(rows * d, ty), arena.take(rows * d, ty), arena.take(2 * rows, Type::F32)),
        };
        // Space that nobody uses behind the last block then.
        let free = activations.first().filter(|_| keep == Keep::Nothing).map(|at| at.y2);
        let class = ClassToken::new(c, layout, &sizes, inputs.class, free, arena)?;
        let qk_eps = if c.norm == NormKind::Rms { NORM_EPS } else { QK_NORM_EPS };
        Ok(Self {
            blocks: Blocks { sizes, weights, qk_eps, modulations, rope: tables.rope },
            parameters: (0..depth).map(|i| Parameters::find(layout, c, i)).collect::<Result<_>>()?,
            layers: EndLayers::find(layout, c, modulations.width)?,
            inputs,
            results,
            ends: Ends {
                patches: arena.take(image, ty),
                embedded,
                waves: arena.take(batch * SINUSOID, ty),
                time: std::array::from_fn(|_| arena.take(batch * d, ty)),
                condition: arena.take(batch * d, Type::F32),
                active: arena.take(batch * d, ty),
                final_h,
                final_stats,
                out: arena.take(image, ty),
            },
            class,
            positions: tables.positions,
            activations,
            last,
            config: c.clone(),
        })
    }

    /// The same forward pass, in the same space, of fewer samples.
    pub fn of(&self, batch: usize) -> Self {
        let mut fewer = self.clone();
        fewer.blocks.sizes.stream.batch = batch;
        fewer
    }

    pub fn batch(&self) -> usize {
        self.blocks.sizes.stream.batch
    }

    /// Points and velocities.
    pub fn image(&self) -> Image {
        let c = &self.config;
        Image { samples: self.batch(), channels: c.in_channels, side: c.input_size, patch: c.patch_size }
    }

    /// Rows of patches.
    pub(super) fn patch_rows(&self) -> usize {
        self.batch() * self.config.tokens()
    }

    /// The final norm of the patches.
    pub(super) fn patch_h(&self) -> Address {
        self.class.map_or(self.ends.final_h, |class| class.patch_h)
    }

    /// The boundary in front of block `i`; behind the last block that of the final layer.
    pub(super) fn boundary(&self, i: usize) -> Boundary {
        let (blocks, at) = (&self.blocks, self.activations.get(i));
        let above = i.checked_sub(1).and_then(|above| Some((above, self.activations.get(above)?)));
        let branch = above.map(|(above, at)| blocks.branch(at.y2, VECTORS * above + GATE_MLP));
        let x_out = at.map_or(self.last, |at| at.x);
        let (x, x_out) = above.map_or((x_out, Address::NULL), |(_, above)| (above.between, x_out));
        let (h, stats) = at.map_or((self.ends.final_h, self.ends.final_stats), |at| (at.h1, at.stats1));
        // Without a final layer only the stream is wanted. The norm goes nowhere.
        let norm = if at.is_none() && self.layers.last.is_none() { i.saturating_sub(1) } else { i };
        let weight = self.parameters.get(norm).map_or(self.layers.norm, |p| p.norms.map(|[first, _]| first));
        Boundary { branch, modulation: blocks.modulation(VECTORS * norm, weight), weight, x, x_out, h, stats }
    }

    /// From the inputs to the velocity as tokens `ends.out`; in a warmup to the stream behind the
    /// last block.
    pub(super) fn commands(&self, program: &mut Program) -> Result<()> {
        let (blocks, ends, inputs) = (&self.blocks, &self.ends, &self.inputs);
        let (weights, layers, ty) = (&blocks.weights, &self.layers, blocks.sizes.stream.ty);
        let (samples, rows, width) = (self.batch(), self.patch_rows(), self.config.hidden);
        program.launch(embedding::patch_gather(&self.image(), ty, inputs.point, ends.patches)?);
        weights.forward(program, &layers.patches, ends.patches, ends.embedded, rows)?;
        program.launch(embedding::add_positions(&AddPositions {
            ty,
            y: ends.embedded,
            positions: self.positions,
            x: self.boundary(0).x,
            samples,
            prefix: usize::from(self.class.is_some()),
            tokens: self.config.all_tokens(),
            width,
        })?);
        if let Some(class) = &self.class {
            class.begin(program, &blocks.sizes, weights, self.positions, self.boundary(0).x)?;
        }
        program.launch(embedding::time_sinusoid(ty, inputs.times, ends.waves, samples)?);
        let [hidden, active, out] = ends.time;
        weights.forward(program, &layers.time[0], ends.waves, hidden, samples)?;
        let silu = Pass { ty, from: hidden, to: active, count: samples * width };
        program.launch(activation::forward(Activation::Silu, &silu)?);
        weights.forward(program, &layers.time[1], active, out, samples)?;
        program.launch(embedding::condition_forward(&ConditionForward {
            ty,
            time: out,
            table: weights.full(layers.classes),
            classes: self.config.table_rows(),
            labels: inputs.labels,
            c: ends.condition,
            active: ends.active,
            samples,
            width,
        })?);
        weights.forward(program, &layers.modulation, ends.active, blocks.modulations.address, samples)?;
        for (i, (parameters, at)) in self.parameters.iter().zip(&self.activations).enumerate() {
            blocks.boundary(program, &self.boundary(i))?;
            blocks.forward(program, i, parameters, at)?;
        }
        blocks.boundary(program, &self.boundary(self.parameters.len()))?;
        if let Some(class) = &self.class {
            class.finish(program, &blocks.sizes, weights, ends.final_h)?;
        }
        if let Some(last) = &layers.last {
            weights.forward(program, last, self.patch_h(), ends.out, rows)?;
        }
        Ok(())
    }
}

/// Space for every block of a training.
fn kept(c: &SiTConfig, sizes: &Sizes, keep: SavedActivations, arena: &mut Arena) -> Vec<Activations> {
    let shared = Shared::new(sizes, c.qk_norm, arena);
    let count = sizes.rows() * c.hidden;
    let streams: Vec<Address> = (0..c.blocks()).map(|_| arena.take(count, Type::F32)).collect();
    match keep {
        SavedActivations::Everything => {
            streams.into_iter().map(|x| Activations::kept(sizes, x, &shared, arena)).collect()
        }
        // Two spaces in turn, but for the stream at the entries: the boundary between two blocks
        // needs both.
        SavedActivations::Inputs => {
            let two = [0, 1].map(|_| Activations::kept(sizes, Address::NULL, &shared, arena));
            streams.into_iter().enumerate().map(|(i, x)| two[i % 2].with_stream(x)).collect()
        }
    }
}
