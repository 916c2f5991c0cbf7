//! The engine of a SiT's training on a GPU: batches go in, [`SitPrograms`] run, losses and norms
//! come out. Weights, gradients, moments and averages stay in the GPU's memory.
//!
//! While the GPU works on a micro-batch, the host copies the next one for it: commands run in
//! order, so the new inputs arrive when the old ones have been read.

use super::super::adamw::AdamWConfig;
use super::super::checkpoint::Checkpoint;
use super::super::config::FitConfig;
use super::super::engine::{Engine, Losses, StepGradients};
use crate::gpu::host;
use crate::gpu::layers::Weights;
use crate::gpu::layout::{Place, is_projector};
use crate::gpu::reduction::Reduction;
use crate::gpu::sit::SitPrograms;
use crate::kernels::adamw::Mix;
use crate::kernels::with_slices;
use crate::models::sit::SiT;
use crate::nn::params::{self, LoadReport, Tensors};
use crate::ranks::Ranks;
use crate::ranks::tree::{self, Merge};
use candle_core::{DType, Device, Result, Tensor, bail};
use erw_gpu::kernels::activation::{self, Pass};
use erw_gpu::kernels::scalars::{Results, Scalars};
use erw_gpu::machine::{Link, Machine};
use erw_gpu::program::{Address, Program, Type};
use std::ops::Range;
use std::rc::Rc;

/// A micro-batch, on the CPU.
pub struct Feed {
    /// Times `[B]`.
    pub times: Tensor,
    /// Points on the path `[B, C, S, S]`.
    pub point: Tensor,
    /// Their velocities; `None` in a warmup, which has no final layer.
    pub target: Option<Tensor>,
    /// Classes u32 `[B]`.
    pub classes: Tensor,
    /// Points of class tokens and their velocities, `[B, Z]` each, for a network that has them.
    pub class_token: Option<[Tensor; 2]>,
    /// Features `[B, N, Z]` per encoder, f32 or f16, with class tokens those in front; empty if nothing
    /// is aligned in this step.
    pub features: Vec<Tensor>,
    /// Coefficient of the alignment; 0 if nothing is aligned.
    pub alignment_weight: f64,
}

/// Gives the micro-batch of a step.
pub type Feeder<'a> = dyn FnMut(u64, usize) -> Result<Feed> + 'a;

/// The engine. See [`Engine`].
pub struct GpuEngine<'a> {
    machine: &'a dyn Machine,
    /// Weights to start from, unless a checkpoint replaces them.
    initial: Tensors,
    programs: &'a SitPrograms,
    /// By whether projectors are trained.
    lists: [Lists; 2],
    /// For each encoder: its features from f16 to f32.
    widen: Vec<Program>,
    feed: &'a mut Feeder<'a>,
    /// Without one, sums over ranks go through main memory.
    reduction: Option<Reduction>,
    /// The step and micro-batch whose inputs are written, with its alignment's coefficient.
    written: Option<((u64, usize), f64)>,
    /// Steps of the training: nothing is fed after them.
    steps: u64,
    optimizer: AdamWConfig,
    decays: Vec<f64>,
    /// Updates done.
    updates: u64,
    /// Whether the last step was aligned.
    aligned: bool,
}

/// Programs of a step.
struct Lists {
    gradients: Program,
    /// For each sum of micro-batches that can be kept.
    kept: Vec<KeptSum>,
    norm: Program,
    update: Program,
}

/// Keeps the gradients at a place, and adds to them from there.
struct KeptSum {
    keep: Program,
    add: Program,
}

impl Lists {
    fn new(programs: &SitPrograms, aligned: bool) -> Result<Self> {
        Ok(Self {
            gradients: programs.gradients(aligned)?,
            kept: (0..programs.state.kept_sums.len())
                .map(|i| Ok(KeptSum { keep: programs.keep(i, aligned)?, add: programs.add_kept(i, aligned)? }))
                .collect::<Result<_>>()?,
            norm: programs.norm(aligned)?,
            update: programs.update(aligned)?,
        })
    }
}

impl<'a> GpuEngine<'a> {
    /// A training by `programs`, which lie on `machine`, from these weights. Writes the tables of
    /// `model`. `link` leads to the GPUs of the other ranks.
    ///
    /// # Errors
    /// A model without a table that the programs read.
    pub fn new(
        machine: &'a dyn Machine,
        programs: &'a SitPrograms,
        model: &SiT,
        weights: &Tensors,
        cfg: &FitConfig,
        link: Option<Rc<dyn Link>>,
        feed: &'a mut Feeder<'a>,
    ) -> Result<Self> {
        let encoders = programs.recipe().config.z_dims.len();
        let engine = Self {
            machine,
            initial: weights.clone(),
            lists: [Lists::new(programs, false)?, Lists::new(programs, true)?],
            widen: (0..encoders).map(|k| programs.widen_features(k)).collect::<Result<_>>()?,
            reduction: link.map(|link| Reduction::new(link, programs.state.rows)),
            programs,
            feed,
            written: None,
            steps: cfg.steps,
            optimizer: cfg.optimizer,
            decays: cfg.ema_decays.clone(),
            updates: 0,
            aligned: false,
        };
        let state = &engine.programs.state;
        host::write_tables(machine, &state.tables, &model.buffers())?;
        let layout = engine.programs.layout();
        let words = layout.decays(|name, rank| engine.optimizer.decay.takes(name, rank));
        machine.write(state.decays, bytemuck::cast_slice(&words))?;
        // Also the gaps between parameters, which stay 0.
        engine.write(state.gradients, &vec![0f32; layout.count()])?;
        Ok(engine)
    }

    /// Writes the weights in flat order, and their copy for products.
    fn write_weights(&self, weights: &[f32]) -> Result<()> {
        let Weights { full, operands, ty, .. } = self.programs.state.weights;
        self.write(full, weights)?;
        if ty != Type::F32 {
            let mut copy = Program::default();
            let count = self.programs.layout().count();
            copy.launch(activation::narrow(&Pass { ty, from: full, to: operands, count })?);
            self.machine.run(&copy)?;
        }
        Ok(())
    }

    fn write(&self, to: Address, numbers: &[f32]) -> Result<()> {
        host::write(self.machine, to, numbers)
    }

    fn write_tensor(&self, to: Address, tensor: &Tensor) -> Result<()> {
        host::write_tensor(self.machine, to, tensor)
    }

    /// Tensors in the order of the flat buffers.
    fn flat(&self, tensors: &Tensors) -> Result<Vec<f32>> {
        let layout = self.programs.layout();
        let mut all = vec![0f32; layout.count()];
        for (name, place) in layout.places() {
            let Some(tensor) = tensors.get(name) else { bail!("there is no tensor {name}") };
            if tensor.dims() != place.dims {
                bail!("tensor {name} is {:?}, not {:?}", tensor.dims(), place.dims);
            }
            let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
            with_slices([&tensor], |[numbers]| all[place.first..][..place.count()].copy_from_slice(numbers))?;
        }
        Ok(all)
    }

    /// The numbers of a flat buffer by name.
    fn named(&self, from: Address) -> Result<Tensors> {
        let layout = self.programs.layout();
        let mut all = vec![0f32; layout.count()];
        self.machine.read(from, bytemuck::cast_slice_mut(&mut all))?;
        let tensor = |(name, place): (&str, &Place)| {
            let numbers = &all[place.first..][..place.count()];
            Ok((name.to_string(), Tensor::from_slice(numbers, &place.dims[..], &Device::Cpu)?))
        };
        layout.places().map(tensor).collect()
    }

    fn results(&self) -> Result<[f32; Results::SIZE]> {
        let mut results = [0f32; Results::SIZE];
        self.machine.read(self.programs.inputs.results.0, bytemuck::cast_slice_mut(&mut results))?;
        Ok(results)
    }

    /// The losses among the results of a micro-batch, whose alignment has this coefficient.
    fn losses(&self, results: &[f32; Results::SIZE], weight: f64, loss_scale: f64) -> Losses {
        let alignment = if self.aligned { f64::from(results[Results::ALIGNMENT]) } else { 0.0 };
        if self.programs.recipe().config.warmup_depth.is_some() {
            return Losses { loss: alignment * weight * loss_scale, parts: vec![] };
        }
        let velocity = f64::from(results[Results::VELOCITY]);
        let mut parts = vec![("velocity", velocity), ("alignment", alignment), ("alignment_weight", weight)];
        let mut loss = velocity + weight * alignment;
        if self.programs.recipe().velocity_cosine > 0.0 {
            let cosine = f64::from(results[Results::VELOCITY_COSINE]);
            parts.push(("velocity_cosine", cosine));
            loss += self.programs.recipe().velocity_cosine * cosine;
        }
        if let Some(dispersion) = self.programs.recipe().dispersion {
            let spread = f64::from(results[Results::DISPERSIVE]);
            parts.push(("dispersive", spread));
            loss += dispersion.weight * spread;
        }
        if self.programs.recipe().config.class_token.is_some() {
            let class = f64::from(results[Results::CLASS_VELOCITY]);
            parts.push(("class_velocity", class));
            loss += self.programs.recipe().class_token * class;
        }
        Losses { loss: loss * loss_scale, parts }
    }

    /// Writes the inputs of a micro-batch, unless they are there. Returns the coefficient of the
    /// alignment.
    fn feed(&mut self, place: (u64, usize)) -> Result<f64> {
        if let Some((_, weight)) = self.written.filter(|(written, _)| *written == place) {
            return Ok(weight);
        }
        let feed = (self.feed)(place.0, place.1)?;
        self.write_feed(&feed)?;
        self.written = Some((place, feed.alignment_weight));
        Ok(feed.alignment_weight)
    }

    fn write_feed(&self, feed: &Feed) -> Result<()> {
        let (inputs, of_network) = (&self.programs.inputs, &self.programs.forward.inputs);
        self.write_tensor(of_network.times, &feed.times)?;
        self.write_tensor(of_network.point, &feed.point)?;
        if let Some(target) = &feed.target {
            self.write_tensor(inputs.target, target)?;
        }
        match (&feed.class_token, self.programs.recipe().config.class_token) {
            (None, None) => {}
            (Some([point, target]), Some(_)) => {
                self.write_tensor(of_network.class, point)?;
                self.write_tensor(inputs.class_target, target)?;
            }
            _ => bail!("a network has class tokens where its batches have none, or the other way round"),
        }
        let classes = feed.classes.to_dtype(DType::U32)?.to_vec1::<u32>()?;
        self.machine.write(of_network.labels, bytemuck::cast_slice(&classes))?;
        for (i, features) in feed.features.iter().enumerate() {
            match (features.dtype(), self.widen.get(i), inputs.features.get(i)) {
                // Half the bytes to copy; the GPU widens them.
                (DType::F16, Some(widen), _) => {
                    host::write_half(self.machine, inputs.narrow_features, features)?;
                    self.machine.run(widen)?;
                }
                (_, _, Some(to)) => self.write_tensor(*to, features)?,
                _ => bail!("features of {} encoders, where there are {}", i + 1, inputs.features.len()),
            }
        }
        Ok(())
    }

    /// The numbers that gradients need.
    fn write_scalars(&self, loss_scale: f64, alignment_weight: f64) -> Result<()> {
        let (r, c) = (&self.programs.recipe(), &self.programs.recipe().config);
        let places = (r.batch * c.input_size * c.input_size) as f64;
        let numbers = places * c.in_channels as f64;
        let rows = (r.batch * c.all_tokens() * c.z_dims.len().max(1)) as f64;
        let scalars = self.programs.inputs.scalars;
        self.write(scalars.at(Scalars::UNSCALE), &[(1.0 / (r.micro_batches as f64 * loss_scale)) as f32, 0.0])?;
        let dispersion = r.dispersion.map_or(0.0, |d| d.weight);
        let factors = [
            loss_scale / numbers,
            loss_scale * alignment_weight / rows,
            loss_scale * r.velocity_cosine / places,
            loss_scale * dispersion,
        ];
        self.write(scalars.at(Scalars::VELOCITY_FACTOR), &factors.map(|f| f as f32))?;
        let Some(width) = c.class_token else { return Ok(()) };
        let factor = loss_scale * r.class_token / (r.batch * width) as f64;
        self.write(scalars.at(Scalars::CLASS_VELOCITY_FACTOR), &[factor as f32])
    }
}

impl Engine for GpuEngine<'_> {
    fn start(&mut self) -> Result<()> {
        let initial = std::mem::take(&mut self.initial);
        let start = self.flat(&initial)?;
        self.write_weights(&start)?;
        let state = &self.programs.state;
        state.averages.iter().try_for_each(|average| self.write(*average, &start))?;
        let zeros = vec![0f32; start.len()];
        state.moments.iter().try_for_each(|moments| self.write(*moments, &zeros))
    }

    fn gradients(&mut self, step: u64, share: Range<usize>, loss_scale: f64, ranks: &Ranks) -> Result<StepGradients> {
        let (count, mut losses, mut weight) = (share.len(), vec![], 0.0);
        for (leaf, micro) in share.clone().enumerate() {
            let of_batch = self.feed((step, micro))?;
            if leaf == 0 {
                weight = of_batch;
                self.aligned = weight != 0.0;
                self.write_scalars(loss_scale, weight)?;
            }
            let lists = &self.lists[usize::from(self.aligned)];
            self.machine.run(&lists.gradients)?;
            let Merge { mut add, keep } = tree::merge(leaf, count);
            add.try_for_each(|i| self.machine.run(&lists.kept[i].add))?;
            keep.map_or(Ok(()), |i| self.machine.run(&lists.kept[i].keep))?;
            let next = if leaf + 1 < count { (step, micro + 1) } else { (step + 1, share.start) };
            if next.0 < self.steps {
                self.feed(next)?;
            }
            // The last ones are read with the norm: waiting for them alone would leave the card idle.
            if leaf + 1 < count {
                losses.push(self.losses(&self.results()?, weight, loss_scale));
            }
        }
        let (gradients, trained) = (self.programs.state.gradients, self.programs.trained(self.aligned));
        match &mut self.reduction {
            Some(reduction) => reduction.sum(self.machine, gradients, trained)?,
            None if ranks.size() > 1 => {
                let mut all = vec![0f32; trained];
                self.machine.read(gradients, bytemuck::cast_slice_mut(&mut all))?;
                ranks.sum(&mut all)?;
                self.write(gradients, &all)?;
            }
            None => {}
        }
        self.machine.run(&self.lists[usize::from(self.aligned)].norm)?;
        let results = self.results()?;
        losses.push(self.losses(&results, weight, loss_scale));
        let norm = f64::from(results[Results::NORM]);
        Ok(StepGradients { losses, norm: norm * self.programs.recipe().micro_batches as f64 * loss_scale })
    }

    fn update(&mut self, learning_rate: f64, scale: f64) -> Result<()> {
        self.updates += 1;
        self.optimizer.lr = learning_rate;
        let c = self.optimizer.coefficients(self.updates, scale, 0.0);
        let inputs = &self.programs.inputs;
        let update =
            [c.first.keep, c.first.add, c.second.keep, c.second.add, c.eps, c.step_size, c.second_scale, c.decay];
        self.write(inputs.scalars.at(Scalars::UPDATE), &update)?;
        for (i, decay) in self.decays.iter().enumerate() {
            let mix = Mix::new(*decay);
            self.write(inputs.scalars.average(i), &[mix.keep, mix.add])?;
        }
        self.write(inputs.results.at(Results::FACTOR), &[c.grad_scale])?;
        self.machine.run(&self.lists[usize::from(self.aligned)].update)
    }

    fn unreached(&self) -> Vec<String> {
        let rests = |name: &&str| !self.aligned && is_projector(name);
        self.programs.layout().places().map(|(name, _)| name).filter(rests).map(String::from).collect()
    }

    fn named_gradients(&self) -> Result<Tensors> {
        let mut all = self.named(self.programs.state.gradients)?;
        self.unreached().iter().for_each(|name| drop(all.remove(name)));
        Ok(all)
    }

    fn model(&self) -> Result<Tensors> {
        self.named(self.programs.state.weights.full)
    }

    fn average(&self) -> Result<Tensors> {
        match self.programs.state.averages.first() {
            Some(average) => self.named(*average),
            None => bail!("training needs at least one average of the weights"),
        }
    }

    fn further_averages(&self) -> Result<Vec<(f64, Tensors)>> {
        let all = self.decays.iter().zip(&self.programs.state.averages);
        all.skip(1).map(|(decay, average)| Ok((*decay, self.named(*average)?))).collect()
    }

    fn moments(&self) -> Result<[Tensors; 2]> {
        let [first, second] = self.programs.state.moments;
        Ok([self.named(first)?, self.named(second)?])
    }

    fn restore(&mut self, saved: &mut Checkpoint, updates: u64) -> Result<LoadReport> {
        let shapes = self.programs.layout().places();
        let shapes = shapes.map(|(name, place)| (name.to_string(), place.dims.clone().into())).collect();
        let report = params::compare(&shapes, &saved.model);
        if !(report.missing.is_empty() && report.mismatched.is_empty()) {
            return Ok(report);
        }
        self.initial.clear();
        self.write_weights(&self.flat(&saved.model)?)?;
        let state = &self.programs.state;
        self.write(state.moments[0], &self.flat(&saved.first)?)?;
        self.write(state.moments[1], &self.flat(&saved.second)?)?;
        for (i, to) in state.averages.iter().enumerate() {
            let tensors = match i.checked_sub(1) {
                None => &saved.ema,
                Some(i) => &saved.further_average(i),
            };
            self.write(*to, &self.flat(tensors)?)?;
        }
        self.updates = updates;
        Ok(report)
    }
}
