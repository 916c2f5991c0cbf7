//! A SiT's training step as programs: gradients of a micro-batch, their norm, and the update.
//!
//! What differs from step to step is in memory: the batch, and the numbers of
//! [`Scalars`]. Losses are the velocity's and the cosine alignment; the alignment's other forms,
//! dispersion and convolutional projectors are trained by candle's operations.

use super::arena::Arena;
use super::block::{Blocks, Boundary, GATE_MLP, Kept, Modulations, Parameters, Scratch, Sizes, VECTORS};
use super::layers::{FlatBuffers, Layers, Linear};
use super::layout::Layout;
use crate::models::projector::ProjectorKind;
use crate::models::sit::{SavedActivations, SiTConfig};
use candle_core::{Result, bail};
use erw_gpu::kernels::activation::{self, Activation, Backward, Pass};
use erw_gpu::kernels::boundary::{Shape, Table};
use erw_gpu::kernels::embedding::{
    self, AddPositions, ConditionBackward, ConditionForward, Image, LabelRows, SINUSOID,
};
use erw_gpu::kernels::loss::{self, CosineLoss, LossEnd, VelocityLoss, ZScore};
use erw_gpu::kernels::optimizer::{self, AdamW, Average, NormEnd};
use erw_gpu::kernels::qk_norm_rope::Tables;
use erw_gpu::kernels::scalars::{Results, Scalars};
use erw_gpu::program::{Address, Epilogue, Program, Type};

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

    fn image(&self) -> Image {
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
struct Ends {
    patches: Address,
    embedded: Address,
    waves: Address,
    /// The time MLP: after its first layer, its activation, and its second layer.
    time: [Address; 3],
    /// The gradient of its hidden layer.
    dtime: Address,
    condition: Address,
    active: Address,
    dactive: Address,
    dcondition: Address,
    dcondition_half: Address,
    /// The final modulated norm, its statistics, and the velocity as tokens.
    final_h: Address,
    final_stats: Address,
    out: Address,
    dout: Address,
    /// f64 partial sums of losses and norms.
    partial: Address,
}

/// Space for the projector of an encoder: two layers, their activations, the projections, and
/// gradients of the layers.
#[derive(Debug, Clone, Copy)]
struct ProjectorSpace {
    input: Address,
    layers: [Address; 2],
    active: [Address; 2],
    output: Address,
    gradients: [Address; 2],
}

/// A projector's layers, and the block behind which it sits.
#[derive(Debug, Clone, Copy)]
struct Projector {
    layers: [Linear; 3],
    tap: usize,
}

/// The programs of a training step.
pub struct SitPrograms {
    recipe: Recipe,
    layout: Layout,
    pub state: State,
    pub inputs: Inputs,
    sizes: Sizes,
    ends: Ends,
    modulations: Modulations,
    scratch: Scratch,
    space: Option<ProjectorSpace>,
    /// For each block.
    kept: Vec<Kept>,
    /// The stream behind the last block, f32.
    last: Address,
    layers: Layers,
    blocks: Vec<Parameters>,
    projectors: Vec<Projector>,
    bytes: usize,
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

    /// Losses of a micro-batch to the results, and its gradients to the flat buffer: set by the
    /// first micro-batch, added to by the others. Without `aligned` projectors are not run.
    pub fn gradients(&self, first: bool, aligned: bool) -> Result<Program> {
        let mut program = Program::default();
        let step = MicroBatch {
            all: self,
            aligned: aligned && !self.projectors.is_empty(),
            first,
            blocks: Blocks {
                sizes: self.sizes,
                layers: self.layers.accumulating(!first),
                scratch: self.scratch,
                modulations: self.modulations,
                rope: self.state.rope,
            },
        };
        step.forward(&mut program)?;
        step.backward(&mut program)?;
        Ok(program)
    }

    /// The norm of the gradients to the results.
    pub fn norm(&self, aligned: bool) -> Result<Program> {
        let mut program = Program::default();
        let count = self.trained(aligned);
        program.launch(optimizer::gradient_norm(self.state.flat.gradients, self.ends.partial, count)?);
        program.launch(optimizer::gradient_norm_end(&NormEnd {
            partial: self.ends.partial,
            partial_count: optimizer::partial_count(count),
            scalars: self.inputs.scalars,
            results: self.inputs.results,
            losses: 0,
        })?);
        Ok(program)
    }

    /// The update of weights, moments and averages.
    pub fn update(&self, aligned: bool) -> Result<Program> {
        let mut program = Program::default();
        let (state, ty) = (&self.state, self.recipe.ty);
        let update = AdamW {
            weights: state.flat.weights,
            gradients: state.flat.gradients,
            moments: state.moments,
            copy: if ty == Type::F32 { Address::NULL } else { state.flat.operands },
            ty,
            decays: state.decays,
            scalars: self.inputs.scalars,
            results: self.inputs.results,
            count: self.trained(aligned),
        };
        let [first, further @ ..] = &state.averages[..] else { bail!("training needs at least one average") };
        program.launch(optimizer::adamw_average(&update, &Average { values: *first, index: 0 })?);
        for (i, values) in further.iter().enumerate() {
            program.launch(optimizer::average(&update, &Average { values: *values, index: i + 1 })?);
        }
        Ok(program)
    }

    /// Numbers that an update changes: projectors rest where nothing is aligned.
    pub fn trained(&self, aligned: bool) -> usize {
        if aligned { self.layout.count() } else { self.layout.network() }
    }
}

impl Ends {
    fn new(recipe: &Recipe, layout: &Layout, arena: &mut Arena) -> Self {
        let (c, ty, b) = (&recipe.config, recipe.ty, recipe.batch);
        let (rows, d, image) = (b * c.tokens(), c.hidden, recipe.image().count());
        let cosine = rows.div_ceil(32);
        let partials = image.div_ceil(4096).max(cosine).max(optimizer::partial_count(layout.count()));
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

/// The commands of one micro-batch.
struct MicroBatch<'a> {
    all: &'a SitPrograms,
    aligned: bool,
    first: bool,
    blocks: Blocks,
}

impl MicroBatch<'_> {
    fn layers(&self) -> &Layers {
        &self.blocks.layers
    }

    fn find(&self, name: &str) -> Result<Linear> {
        Linear::find(&self.all.layout, name)
    }

    /// The product that makes all modulations: the adaLN layers lie side by side.
    fn modulation(&self) -> Result<Linear> {
        let first = self.find("blocks.0.adaLN_modulation.1")?;
        Ok(Linear { outputs: self.all.modulations.table.width, ..first })
    }

    /// The boundary in front of block `i`; behind the last block that of the final layer.
    fn boundary(&self, i: usize) -> Boundary {
        let (all, s) = (self.all, &self.all.sizes);
        let m = &all.modulations;
        let branch = i.checked_sub(1).map(|above| m.branch(s, all.kept[above].y2, VECTORS * above + GATE_MLP));
        let (x, x_out) = match i {
            0 => (all.kept[0].x, Address::NULL),
            i => (all.scratch.between, all.kept.get(i).map_or(all.last, |kept| kept.x)),
        };
        let (h, stats, vector) = match all.kept.get(i) {
            Some(kept) => (kept.h1, kept.stats1, VECTORS * i),
            None if self.has_final() => (all.ends.final_h, all.ends.final_stats, VECTORS * i),
            // Without a final layer only the stream is wanted. The norm goes nowhere.
            None => (all.ends.final_h, all.ends.final_stats, VECTORS * (i - 1)),
        };
        Boundary { branch, modulation: m.modulation(s, vector), x, x_out, h, stats }
    }

    fn has_final(&self) -> bool {
        self.all.recipe.config.warmup_depth.is_none()
    }

    fn forward(&self, program: &mut Program) -> Result<()> {
        let (all, b) = (self.all, self.all.recipe.batch);
        let (c, ends, inputs, ty) = (&all.recipe.config, &all.ends, &all.inputs, all.recipe.ty);
        let (rows, d) = (all.sizes.rows(), c.hidden);
        program.launch(embedding::patch_gather(&all.recipe.image(), ty, inputs.point, ends.patches)?);
        self.layers().forward(program, &self.find("x_embedder.proj")?, ends.patches, ends.embedded, rows);
        program.launch(embedding::add_positions(&AddPositions {
            ty,
            y: ends.embedded,
            positions: all.state.positions,
            x: all.kept[0].x,
            samples: b,
            tokens: c.tokens(),
            width: d,
        })?);
        program.launch(embedding::time_sinusoid(ty, inputs.times, ends.waves, b)?);
        let [hidden, active, out] = ends.time;
        self.layers().forward(program, &self.find("t_embedder.mlp.0")?, ends.waves, hidden, b);
        program.launch(activation::forward(Activation::Silu, &Pass { ty, from: hidden, to: active, count: b * d })?);
        self.layers().forward(program, &self.find("t_embedder.mlp.2")?, active, out, b);
        let table = all.layout.place("y_embedder.embedding_table.weight")?.first;
        program.launch(embedding::condition_forward(&ConditionForward {
            ty,
            time: out,
            table: all.state.flat.weight(table),
            labels: inputs.labels,
            c: ends.condition,
            active: ends.active,
            samples: b,
            width: d,
        })?);
        let modulation = self.modulation()?;
        self.layers().forward(program, &modulation, ends.active, all.modulations.table.address, b);
        for (i, (parameters, kept)) in all.blocks.iter().zip(&all.kept).enumerate() {
            self.blocks.boundary(program, &self.boundary(i))?;
            self.blocks.forward(program, i, parameters, kept)?;
        }
        self.blocks.boundary(program, &self.boundary(all.blocks.len()))?;
        if self.has_final() {
            self.layers().forward(program, &self.find("final_layer.linear")?, ends.final_h, ends.out, rows);
            let velocity = VelocityLoss {
                image: all.recipe.image(),
                ty,
                out: ends.out,
                target: inputs.target,
                factor: inputs.scalars.at(Scalars::VELOCITY_FACTOR),
                dout: ends.dout,
                partial: ends.partial,
            };
            program.launch(loss::velocity_loss(&velocity)?);
            program.launch(loss::loss_end(&LossEnd {
                partial: ends.partial,
                count: velocity.partial_count(),
                result: inputs.results.at(Results::VELOCITY),
                terms: all.recipe.image().count() * all.recipe.micro_batches,
                add: !self.first,
            })?);
        }
        Ok(())
    }

    fn backward(&self, program: &mut Program) -> Result<()> {
        let (all, scratch) = (self.all, &self.all.scratch);
        let (rows, depth) = (all.sizes.rows(), all.blocks.len());
        // Whether the stream has a gradient already.
        let mut begun = false;
        if self.has_final() {
            let linear = self.find("final_layer.linear")?;
            self.layers().backward_parameters(program, &linear, all.ends.dout, all.ends.final_h, rows)?;
            self.layers().backward_input(program, &linear, all.ends.dout, scratch.dh, rows, Epilogue::None);
        } else {
            // Nothing comes through the norm behind the last block.
            program
                .launch(embedding::fill_zero(scratch.dh, rows * all.recipe.config.hidden * all.recipe.ty.size() / 4)?);
        }
        let mut add = !self.first;
        for i in (0..=depth).rev() {
            let boundary = self.boundary(i);
            let taps = all.projectors.iter().enumerate().filter(|(_, p)| self.aligned && i > 0 && p.tap == i);
            for (k, projector) in taps {
                if !begun {
                    program.launch(embedding::fill_zero(scratch.dx, rows * all.recipe.config.hidden)?);
                }
                self.project(program, k, projector, boundary.x_out, add)?;
                (begun, add) = (true, true);
            }
            let above = i.checked_sub(1);
            if let Some(above) = above {
                self.recompute(program, above)?;
            }
            let bias = above.map(|above| all.blocks[above].last_bias());
            self.blocks.boundary_backward(program, &boundary, bias, !begun, false)?;
            begun = true;
            if let Some(above) = above {
                self.blocks.backward(program, above, &all.blocks[above], &all.kept[above])?;
            }
        }
        self.ends_backward(program)
    }

    /// With checkpointing, what block `i` kept was overwritten by blocks behind it: computes it
    /// again from the stream at its entry. What the last two blocks kept is still there.
    fn recompute(&self, program: &mut Program, i: usize) -> Result<()> {
        let all = self.all;
        if all.recipe.keep == SavedActivations::Everything || i + 2 >= all.blocks.len() {
            return Ok(());
        }
        let boundary = self.boundary(i);
        let entry = Boundary { branch: None, x: all.kept[i].x, x_out: Address::NULL, ..boundary };
        self.blocks.boundary(program, &entry)?;
        self.blocks.forward(program, i, &all.blocks[i], &all.kept[i])
    }

    /// Projector `k` on the stream `x` with its loss, forward and backward: the gradient of the
    /// stream gains its part. Its mean negative cosine is added to the result if `add`.
    fn project(&self, program: &mut Program, k: usize, p: &Projector, x: Address, add: bool) -> Result<()> {
        let (all, layers, rows) = (self.all, self.layers(), self.all.sizes.rows());
        let Some(space) = &all.space else { bail!("a projector without space") };
        let (ty, c, inputs) = (all.recipe.ty, &all.recipe.config, &all.inputs);
        let silu =
            |from, to| activation::forward(Activation::Silu, &Pass { ty, from, to, count: rows * c.projector_dim });
        program.launch(activation::narrow(&Pass { ty, from: x, to: space.input, count: rows * c.hidden })?);
        layers.forward(program, &p.layers[0], space.input, space.layers[0], rows);
        program.launch(silu(space.layers[0], space.active[0])?);
        layers.forward(program, &p.layers[1], space.active[0], space.layers[1], rows);
        program.launch(silu(space.layers[1], space.active[1])?);
        layers.forward(program, &p.layers[2], space.active[1], space.output, rows);
        let (features, width) = (inputs.features[k], c.z_dims[k]);
        if let Some(alpha) = all.recipe.spatial_norm {
            let (samples, tokens) = (all.recipe.batch, c.tokens());
            let alpha = alpha as f32;
            program.launch(loss::z_score(&ZScore {
                ty: Type::F32,
                x: features,
                y: features,
                samples,
                tokens,
                width,
                alpha,
            })?);
        }
        let cosine = CosineLoss {
            ty,
            projections: space.output,
            features,
            features_type: Type::F32,
            factor: inputs.scalars.at(Scalars::ALIGNMENT_FACTOR),
            dprojections: space.output,
            partial: all.ends.partial,
            rows,
            width,
        };
        program.launch(loss::cosine_loss(&cosine)?);
        program.launch(loss::loss_end(&LossEnd {
            partial: all.ends.partial,
            count: cosine.partial_count(),
            result: inputs.results.at(Results::ALIGNMENT),
            terms: rows * c.z_dims.len() * all.recipe.micro_batches,
            add,
        })?);
        let [d0, d1] = space.gradients;
        let slope = |dy, x| {
            activation::backward(Activation::Silu, &Backward { ty, dy, x, dx: dy, count: rows * c.projector_dim })
        };
        layers.backward_parameters(program, &p.layers[2], space.output, space.active[1], rows)?;
        layers.backward_input(program, &p.layers[2], space.output, d1, rows, Epilogue::None);
        program.launch(slope(d1, space.layers[1])?);
        layers.backward_parameters(program, &p.layers[1], d1, space.active[0], rows)?;
        layers.backward_input(program, &p.layers[1], d1, d0, rows, Epilogue::None);
        program.launch(slope(d0, space.layers[0])?);
        layers.backward_parameters(program, &p.layers[0], d0, space.input, rows)?;
        layers.backward_input(program, &p.layers[0], d0, space.input, rows, Epilogue::None);
        let add = Pass { ty, from: space.input, to: all.scratch.dx, count: rows * c.hidden };
        program.launch(activation::add(&add)?);
        Ok(())
    }

    /// From the gradients of the stream and of the modulations to those of the embeddings.
    fn ends_backward(&self, program: &mut Program) -> Result<()> {
        let (all, b, layers) = (self.all, self.all.recipe.batch, self.layers());
        let (c, ends, ty) = (&all.recipe.config, &all.ends, all.recipe.ty);
        let (rows, d) = (all.sizes.rows(), c.hidden);
        let (modulation, gradients) = (self.modulation()?, all.modulations.gradients);
        layers.backward_parameters(program, &modulation, gradients, ends.active, b)?;
        layers.backward_input(program, &modulation, gradients, ends.dactive, b, Epilogue::None);
        program.launch(embedding::condition_backward(&ConditionBackward {
            ty,
            dactive: ends.dactive,
            input: ty,
            c: ends.condition,
            dc: ends.dcondition,
            dc_half: ends.dcondition_half,
            count: b * d,
        })?);
        let table = all.layout.place("y_embedder.embedding_table.weight")?;
        let dtable = all.state.flat.gradient(table.first);
        if self.first {
            program.launch(embedding::fill_zero(dtable, table.count())?);
        }
        program.launch(embedding::label_rows_backward(&LabelRows {
            dc: ends.dcondition,
            labels: all.inputs.labels,
            dtable,
            samples: b,
            width: d,
        })?);
        let (first, second) = (self.find("t_embedder.mlp.0")?, self.find("t_embedder.mlp.2")?);
        let ([hidden, active, _], dhidden) = (ends.time, ends.dtime);
        layers.backward_parameters(program, &second, ends.dcondition_half, active, b)?;
        layers.backward_input(program, &second, ends.dcondition_half, dhidden, b, Epilogue::None);
        let slope = Backward { ty, dy: dhidden, x: hidden, dx: dhidden, count: b * d };
        program.launch(activation::backward(Activation::Silu, &slope)?);
        layers.backward_parameters(program, &first, dhidden, ends.waves, b)?;
        let narrow = Pass { ty, from: all.scratch.dx, to: ends.embedded, count: rows * d };
        program.launch(activation::narrow(&narrow)?);
        layers.backward_parameters(program, &self.find("x_embedder.proj")?, ends.embedded, ends.patches, rows)
    }
}
