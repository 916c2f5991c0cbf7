//! `docs/design/rooflines.md` says what the programs of a training step tell. That they tell the
//! truth is held by the emulator, in every test that runs a kernel.
//!
//! After a change of kernels or programs: `ERW_BLESS=1 cargo test --locked gpu::rooflines::`, then
//! read the difference.

use candle_core::Result;
use erw::ml::gpu::arena::Arena;
use erw::ml::gpu::layout::Layout;
use erw::ml::gpu::sit::{Recipe, SitPrograms};
use erw::ml::models::sit::{SiT, SiTConfig};
use erw::ml::nn::params;
use erw_gpu::program::{Command, Cost, Epilogue, Type};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

const PAGE: &str = "docs/design/rooflines.md";
const BLESS: &str = "ERW_BLESS=1 cargo test --locked gpu::rooflines::";

/// What a card does at most.
struct Card {
    /// Bytes a second, and operations of tensor cores on half types.
    bandwidth: f64,
    rate: f64,
}

/// By their data sheets, both SXM, operations without sparsity.
const H100: Card = Card { bandwidth: 3.35e12, rate: 989e12 };
const H200: Card = Card { bandwidth: 4.8e12, rate: 989e12 };
/// An H200 as it copied, and as it multiplied matrices of 8192 x 8192.
const MEASURED: Card = Card { bandwidth: 4.3e12, rate: 790e12 };

impl Card {
    /// Milliseconds of a command.
    fn time(&self, cost: &Cost) -> f64 {
        let bytes = (cost.read + cost.written) as f64;
        1e3 * (bytes / self.bandwidth).max(cost.operations as f64 / self.rate)
    }
}

/// Commands of one kind.
#[derive(Default, Clone, Copy)]
struct Sum {
    launches: usize,
    cost: Cost,
    h100: f64,
    h200: f64,
    measured: f64,
}

impl Sum {
    fn add(&mut self, cost: &Cost) {
        self.launches += 1;
        self.cost.read += cost.read;
        self.cost.written += cost.written;
        self.cost.operations += cost.operations;
        self.h100 += H100.time(cost);
        self.h200 += H200.time(cost);
        self.measured += MEASURED.time(cost);
    }

    fn row(&self) -> String {
        let Cost { read, written, operations } = self.cost;
        let operations = if operations == 0 { String::new() } else { format!("{:.3}", operations as f64 / 1e12) };
        let [read, written] = [read, written].map(|bytes| bytes as f64 / 1e9);
        let Self { launches, h100, h200, .. } = self;
        format!("{launches} | {read:.3} | {written:.3} | {operations} | {h100:.3} | {h200:.3}")
    }
}

/// A step that is to be shown on an H200, and in how many milliseconds.
struct Step {
    model: &'static str,
    batch: usize,
    encoder_depth: usize,
    goal: f64,
}

const STEPS: [Step; 3] = [
    Step { model: "SiT-B/2", batch: 64, encoder_depth: 8, goal: 26.0 },
    Step { model: "SiT-XL/2", batch: 64, encoder_depth: 14, goal: 117.0 },
    Step { model: "SiT-XL/2", batch: 256, encoder_depth: 14, goal: 450.0 },
];

impl Step {
    fn name(&self) -> String {
        format!("{}, {} samples", self.model, self.batch)
    }

    /// All commands, with the settings of `pipelines/sit-xl.toml` and `sit-b.toml` but for the
    /// batch, which is one micro-batch.
    fn commands(&self) -> Result<Vec<Command>> {
        let network = SiTConfig::published(self.model, [4, 32], 1000, vec![768], self.encoder_depth)?;
        let recipe = Recipe::new(SiTConfig { rope: true, ..network }, self.batch, Type::Bf16);
        let (_, shapes) = params::census(|vb| SiT::new(&recipe.config, vb))?;
        let layout = Layout::new(&recipe.config, &shapes)?;
        let programs = SitPrograms::new(&recipe, &layout, Arena::measure())?;
        let all =
            [programs.widen_features(0)?, programs.gradients(true)?, programs.norm(true)?, programs.update(true)?];
        Ok(all.into_iter().flat_map(|program| program.commands).collect())
    }
}

/// The kind of a command, and the class of kinds.
fn kind(command: &Command) -> (String, &'static str) {
    match command {
        Command::Matmul(product) => {
            let epilogue = match product.epilogue {
                Epilogue::None => "",
                Epilogue::Bias(_) => ", bias",
                Epilogue::Gelu(_) => ", bias and GELU",
                Epilogue::GeluKeep(..) => ", bias and GELU, sums kept",
                Epilogue::GeluBackward(_) => ", times GELU'",
            };
            (format!("product {:?}{epilogue}", product.form), CLASSES[0])
        }
        Command::Launch(launch) => {
            let name = &launch.kernel;
            let class = match () {
                () if name.starts_with("attention_") => CLASSES[1],
                () if name.starts_with("gradient_norm") || name.starts_with("adamw") => CLASSES[3],
                () => CLASSES[2],
            };
            (format!("`{name}`"), class)
        }
    }
}

const CLASSES: [&str; 4] = ["products", "attention", "passes", "norm and update"];

const HEAD: &str = "\
# Rooflines of a training step

Computed, not measured; written by a test of the GPU's programs. A step is a list of commands
([Networks on a GPU](gpu.md)), and each command tells what it reads and writes: this page adds that
up for the settings of `pipelines/sit-xl.toml` and `pipelines/sit-b.toml` in bf16, a step with
alignment, the batch in one piece, features stored in f16.

- Bytes are those of the card's memory, each counted once a command. What a kernel reads again is
  taken to come from the cache, and nothing to be left there from the command before. So a step can
  move more bytes than this, and, where tensors are smaller than the cache of 50 MB, also fewer.
- Operations are those of tensor cores, two for a multiplication with its addition, padding of tiles
  included. What passes compute beside is not counted.
- The roofline of a command is the larger of its bytes by the card's bandwidth and its operations by
  the card's rate. Gaps between commands, and copies between host and card, are not counted.
- By their data sheets an H100 (SXM) moves 3.35 TB/s and an H200 4.8 TB/s, and both do 989 TFLOP/s
  in bf16 without sparsity. An H200 copied 4.3 TB/s and multiplied matrices of 8192 x 8192 with 790
  TFLOP/s.

The emulator holds every launch of every test to what it tells: each byte that is told is touched,
no other is, and tensor cores do as many operations. Of cuBLASLt's products the bytes are those of
their operands and results, and the operations follow from their sizes.

";

fn page() -> Result<String> {
    let (mut sums, mut classes, mut tables) = (String::new(), String::new(), String::new());
    let write = "writing to a string";
    for step in STEPS {
        let (mut all, mut by_kind, mut by_class) = (Sum::default(), BTreeMap::new(), BTreeMap::new());
        for command in step.commands()? {
            let (cost, (kind, class)) = (command.cost(), kind(&command));
            all.add(&cost);
            by_kind.entry(kind).or_insert_with(Sum::default).add(&cost);
            by_class.entry(class).or_insert_with(Sum::default).add(&cost);
        }
        let name = step.name();
        writeln!(sums, "| {name} | {} | {:.3} | {} |", all.row(), all.measured, step.goal).expect(write);
        let parts: Vec<String> = CLASSES.iter().map(|class| format!("{:.3}", by_class[class].h200)).collect();
        writeln!(classes, "| {name} | {} |", parts.join(" | ")).expect(write);
        writeln!(tables, "\n## {name}\n").expect(write);
        writeln!(tables, "| kernel | launches | GB read | GB written | TFLOP | H100, ms | H200, ms |").expect(write);
        writeln!(tables, "|---|--:|--:|--:|--:|--:|--:|").expect(write);
        let mut rows: Vec<(String, Sum)> = by_kind.into_iter().collect();
        rows.sort_by(|a, b| b.1.h200.total_cmp(&a.1.h200));
        rows.push(("all".into(), all));
        for (kind, sum) in rows {
            writeln!(tables, "| {kind} | {} |", sum.row()).expect(write);
        }
    }
    let columns = "| step | launches | GB read | GB written | TFLOP | H100, ms | H200, ms | 790 TFLOP/s, 4.3 TB/s, ms | goal on an H200, ms |";
    let by_class = format!("| on an H200, ms | {} |\n|---|{}", CLASSES.join(" | "), "--:|".repeat(CLASSES.len()));
    Ok(format!("{HEAD}{columns}\n|---|{}\n{sums}\n{by_class}\n{classes}{tables}", "--:|".repeat(8)))
}

#[test]
fn the_page_is_current() {
    let (path, current) = (Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE), page().unwrap());
    if std::env::var_os("ERW_BLESS").is_some_and(|v| v == "1") {
        fs::write(&path, &current).unwrap();
    }
    let is = fs::read_to_string(&path).unwrap_or_default();
    assert!(is == current, "{PAGE} is stale; write it anew with `{BLESS}`");
}
