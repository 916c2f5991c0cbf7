//! The places between two branches of the residual stream, forward and backward.

use super::support::{TYPES, epsilon, error, normal, round_all, run, unwritten, upload};
use erw_gpu::kernels::boundary::{
    Branch, BranchBackward, GateNorm, GateSums, LayerNorm, Modulation, NormGate, PartialSums, Shape, Table,
    gate_norm_forward, layer_norm_forward, norm_gate_backward, partial_len, partial_sums, sums_of_samples,
};
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Program, Type};

const EPS: f32 = 1e-6;

/// Every width with a version of its own, and two for the version for any: less and more than one
/// pass of a block.
const WIDTHS: [usize; 7] = [128, 384, 768, 1024, 1152, 36, 1284];

/// Vectors in a row of the table of modulations, and of the table of gates.
const MODULATIONS: usize = 3;
const GATES: usize = 2;

/// Random inputs, rounded to the type, and places of vectors in their tables.
struct Inputs {
    s: Shape,
    x: Vec<f32>,
    y: Vec<f32>,
    modulation: Vec<f32>,
    gates: Vec<f32>,
    dh: Vec<f32>,
    dx: Vec<f32>,
    /// Of an RMSNorm.
    weight: Option<Vec<f32>>,
}

/// The tables have a few numbers in front of the vectors.
const SKIP: usize = 8;

impl Inputs {
    fn new(width: usize, tokens: usize, ty: Type, rms: bool) -> Self {
        let s = Shape { batch: 2, tokens, width, ty };
        let count = s.batch * tokens * width;
        let half = |seed, count| round_all(&normal(seed, count), ty);
        let x = normal(1, count).iter().map(|x| 3.0 * x + 0.5).collect();
        let table = |seed, vectors| half(seed, s.batch * (SKIP + vectors * width));
        let (modulation, gates) = (table(3, MODULATIONS), table(4, GATES));
        let weight = rms.then(|| normal(7, width));
        Self { s, x, y: half(2, count), modulation, gates, dh: half(5, count), dx: normal(6, count), weight }
    }

    fn modulation(&self, address: Address) -> Modulation {
        let width = SKIP + MODULATIONS * self.s.width;
        Modulation { table: Table { address, width }, shift: SKIP + 2 * self.s.width, scale: SKIP, weight: None }
    }

    fn modulation_on(&self, card: &dyn Machine) -> Modulation {
        let weight = self.weight.as_ref().map(|w| upload(card, w, Type::F32));
        Modulation { weight, ..self.modulation(upload(card, &self.modulation, self.s.ty)) }
    }

    fn branch(&self, y: Address, gates: Address) -> Branch {
        let width = SKIP + GATES * self.s.width;
        Branch { y, gates: Table { address: gates, width }, gate: SKIP + self.s.width }
    }

    fn row(&self, values: &[f32], row: usize) -> Vec<f64> {
        f64s(&values[row * self.s.width..][..self.s.width])
    }

    /// A vector of a row's sample.
    fn vector(&self, table: &[f32], width: usize, place: usize, row: usize) -> Vec<f64> {
        f64s(&table[row / self.s.tokens * width + place..][..self.s.width])
    }

    fn shift(&self, row: usize) -> Vec<f64> {
        let m = self.modulation(Address::NULL);
        self.vector(&self.modulation, m.table.width, m.shift, row)
    }

    fn scale(&self, row: usize) -> Vec<f64> {
        let m = self.modulation(Address::NULL);
        self.vector(&self.modulation, m.table.width, m.scale, row)
    }

    /// The weight of the norm; 1 for a LayerNorm.
    fn weight(&self) -> Vec<f64> {
        self.weight.as_ref().map_or(vec![1.0; self.s.width], |w| f64s(w))
    }

    /// x^ of a row of the stream, mean and 1 / deviation.
    fn normalised(&self, x: &[f64]) -> (Vec<f64>, f64, f64) {
        normalised(x, EPS, self.weight.is_none())
    }

    fn gate(&self, row: usize) -> Vec<f64> {
        let b = self.branch(Address::NULL, Address::NULL);
        self.vector(&self.gates, b.gates.width, b.gate, row)
    }

    fn rows(&self) -> usize {
        self.s.batch * self.s.tokens
    }

    /// The stream behind the boundary.
    fn stream(&self, branch: bool) -> Vec<Vec<f64>> {
        let row = |r: usize| {
            let (x, y, gate) = (self.row(&self.x, r), self.row(&self.y, r), self.gate(r));
            x.iter().zip(y.iter().zip(gate)).map(|(x, (y, g))| if branch { x + g * y } else { *x }).collect()
        };
        (0..self.rows()).map(row).collect()
    }
}

fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// x^, mean and 1 / deviation. Without `centred`, of an RMSNorm.
fn normalised(x: &[f64], eps: f32, centred: bool) -> (Vec<f64>, f64, f64) {
    let n = x.len() as f64;
    let mean = if centred { x.iter().sum::<f64>() / n } else { 0.0 };
    let inverse = 1.0 / (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + f64::from(eps)).sqrt();
    (x.iter().map(|x| (x - mean) * inverse).collect(), mean, inverse)
}

/// Numbers of the type are off by their rounding, and all by some units of f32: at most 1.8e-7 of the
/// largest were measured.
fn tolerance(ty: Type) -> f64 {
    1.01 * epsilon(ty) + F32_TOLERANCE
}

const F32_TOLERANCE: f64 = 1e-6;

/// Where the stream behind the boundary goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stream {
    Written,
    InPlace,
    Dropped,
}

fn check_forward(width: usize, tokens: usize, ty: Type, branch: bool, stream: Stream) {
    for rms in [false, true] {
        check_forward_of(&Inputs::new(width, tokens, ty, rms), branch, stream);
    }
}

fn check_forward_of(i: &Inputs, branch: bool, stream: Stream) {
    let Shape { width, ty, .. } = i.s;
    let count = i.x.len();
    let got = run(|card| {
        let x = upload(card, &i.x, Type::F32);
        let x_out = match stream {
            Stream::Written => unwritten(card, count, Type::F32),
            Stream::InPlace => x,
            Stream::Dropped => Address::NULL,
        };
        let (h, stats) = (unwritten(card, count, ty), unwritten(card, 2 * i.rows(), Type::F32));
        let a = GateNorm {
            x,
            branch: branch.then(|| i.branch(upload(card, &i.y, ty), upload(card, &i.gates, ty))),
            modulation: i.modulation_on(card),
            x_out,
            h,
            stats,
            eps: EPS,
        };
        let mut program = Program::default();
        program.launch(gate_norm_forward(i.s, &a).unwrap());
        let mut outputs = vec![(h, count, ty), (stats, 2 * i.rows(), Type::F32)];
        if stream != Stream::Dropped {
            outputs.push((x_out, count, Type::F32));
        }
        (program, outputs)
    });
    let want = i.stream(branch);
    let (mut h, mut stats) = (vec![], vec![]);
    for (r, x) in want.iter().enumerate() {
        let (normal, mean, inverse) = i.normalised(x);
        let (scale, shift, weight) = (i.scale(r), i.shift(r), i.weight());
        h.extend((0..width).map(|c| normal[c] * (1.0 + scale[c]) * weight[c] + shift[c]));
        stats.extend([mean, inverse]);
    }
    let what = format!("{width} {ty:?} {branch} {stream:?} rms {}", i.weight.is_some());
    let off = error(&got[0], &h);
    assert!(off < tolerance(ty), "{what}: h {off:.1e}");
    let off = error(&got[1], &stats);
    assert!(off < F32_TOLERANCE, "{what}: stats {off:.1e}");
    if let Some(x) = got.get(2) {
        let off = error(x, &want.concat());
        assert!(off < F32_TOLERANCE, "{what}: x {off:.1e}");
    }
}

/// What lies above the boundary.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Above {
    /// A branch; the stream behind it was kept.
    Kept,
    /// A branch; the stream behind it is computed again.
    Again,
    Nothing,
}

fn check_backward(width: usize, tokens: usize, ty: Type, above: Above, begins: bool) {
    for rms in [false, true] {
        check_backward_of(&Inputs::new(width, tokens, ty, rms), above, begins);
    }
}

fn check_backward_of(i: &Inputs, above: Above, begins: bool) {
    let Shape { width, tokens, ty, .. } = i.s;
    let (count, rows, batch) = (i.x.len(), i.rows(), i.s.batch);
    let branch = above != Above::Nothing;
    let stream = i.stream(branch);
    let kept: Vec<f32> = stream.iter().flatten().map(|x| *x as f32).collect();
    let stats: Vec<f32> = stream
        .iter()
        .flat_map(|x| {
            let (_, mean, inverse) = i.normalised(x);
            [mean as f32, inverse as f32]
        })
        .collect();
    let (m, b) = (i.modulation(Address::NULL), i.branch(Address::NULL, Address::NULL));
    let got = run(|card| {
        let f32s = |x: &[f32]| upload(card, x, Type::F32);
        let dx = if begins { unwritten(card, count, Type::F32) } else { f32s(&i.dx) };
        let dy = unwritten(card, count, ty);
        let branch = branch.then(|| i.branch(upload(card, &i.y, ty), upload(card, &i.gates, ty)));
        let partial = unwritten(card, partial_len(i.s), Type::F32);
        let modulation = i.modulation_on(card);
        let a = NormGate {
            dx,
            begins,
            dh: upload(card, &i.dh, ty),
            stream: f32s(if above == Above::Again { &i.x } else { &kept }),
            stats: f32s(&stats),
            modulation,
            branch: branch.map(|branch| BranchBackward { branch, dy, again: above == Above::Again }),
            partial,
        };
        let (dm, dg) = (upload(card, &i.modulation, ty), upload(card, &i.gates, ty));
        let [bias_of_sample, weight_of_sample] = [(); 2].map(|()| unwritten(card, batch * width, Type::F32));
        let gate = branch.map(|branch| GateSums { branch, dgates: dg, bias_of_sample });
        let mut program = Program::default();
        program.launch(norm_gate_backward(i.s, &a).unwrap());
        let sums = PartialSums { partial, modulation, dmodulation: dm, weight_of_sample, gate };
        program.launch(partial_sums(i.s, &sums).unwrap());
        let [bias, weight] = [(); 2].map(|()| unwritten(card, width, Type::F32));
        let mut outputs = vec![(dx, count, Type::F32), (dm, batch * m.table.width, ty)];
        if i.weight.is_some() {
            program.launch(sums_of_samples(i.s, weight_of_sample, weight).unwrap());
            outputs.push((weight, width, Type::F32));
        }
        if branch.is_some() {
            program.launch(sums_of_samples(i.s, bias_of_sample, bias).unwrap());
            outputs.extend([(dy, count, ty), (dg, batch * b.gates.width, ty)]);
            outputs.push((bias, width, Type::F32));
        }
        (program, outputs)
    });

    // What no kernel writes stays in the tables.
    let (mut dm, mut dg) = (f64s(&i.modulation), f64s(&i.gates));
    for sample in 0..batch {
        for place in [m.shift, m.scale] {
            dm[sample * m.table.width + place..][..width].fill(0.0);
        }
        dg[sample * b.gates.width + b.gate..][..width].fill(0.0);
    }
    let (mut dx, mut dy, mut db, mut dw) = (vec![], vec![], vec![0.0; width], vec![0.0; width]);
    for r in 0..rows {
        let (normal, _, inverse) = i.normalised(&stream[r]);
        let (dh, scale, gate, y) = (i.row(&i.dh, r), i.scale(r), i.gate(r), i.row(&i.y, r));
        let weight = i.weight();
        let g: Vec<f64> = (0..width).map(|c| dh[c] * (1.0 + scale[c]) * weight[c]).collect();
        let mean = if i.weight.is_some() { 0.0 } else { g.iter().sum::<f64>() / width as f64 };
        let along = g.iter().zip(&normal).map(|(g, n)| g * n).sum::<f64>() / width as f64;
        let (dm, dg) = (&mut dm[r / tokens * m.table.width..], &mut dg[r / tokens * b.gates.width..]);
        for c in 0..width {
            let up = if begins { 0.0 } else { f64::from(i.dx[r * width + c]) };
            let d = up + inverse * (g[c] - mean - normal[c] * along);
            dx.push(d);
            dy.push(gate[c] * d);
            dm[m.shift + c] += dh[c];
            dm[m.scale + c] += dh[c] * normal[c] * weight[c];
            dw[c] += dh[c] * normal[c] * (1.0 + scale[c]);
            dg[b.gate + c] += d * y[c];
            db[c] += gate[c] * d;
        }
    }
    let f32s = |name| (name, F32_TOLERANCE);
    let halves = |name| (name, tolerance(ty));
    let of_weight = i.weight.is_some().then_some((f32s("dweight"), dw));
    let of_branch = [(halves("dy"), dy), (halves("dgates"), dg), (f32s("db"), db)];
    let want = [(f32s("dx"), dx), (halves("dmodulation"), dm)].into_iter().chain(of_weight).chain(of_branch);
    for (((name, limit), want), got) in want.zip(&got) {
        let off = error(got, &want);
        assert!(off < limit, "{width} x {tokens} {ty:?} {above:?}: {name} {off:.1e}");
    }
}

#[test]
fn forward_matches_in_every_size_and_type() {
    for ty in TYPES {
        for width in WIDTHS {
            // Rows that do not fill the last block.
            check_forward(width, 5, ty, true, Stream::Written);
        }
    }
}

#[test]
fn forward_takes_missing_tensors_and_the_stream_in_place() {
    for width in [128, 36] {
        for stream in [Stream::Written, Stream::InPlace, Stream::Dropped] {
            check_forward(width, 4, Type::Bf16, false, stream);
            check_forward(width, 4, Type::Bf16, true, stream);
        }
    }
}

#[test]
fn backward_matches_in_every_size_and_type() {
    for ty in TYPES {
        for width in WIDTHS {
            // Chunks of four rows.
            check_backward(width, 12, ty, Above::Again, false);
        }
    }
}

#[test]
fn backward_takes_missing_tensors() {
    for width in [128, 36] {
        for above in [Above::Kept, Above::Nothing] {
            check_backward(width, 4, Type::F16, above, false);
            check_backward(width, 4, Type::Bf16, above, true);
        }
    }
}

/// Chunks of one row for an odd number of tokens, and the largest.
#[test]
fn chunks_follow_the_tokens() {
    for tokens in [7, 64] {
        check_backward(128, tokens, Type::Bf16, Above::Kept, false);
    }
    let s = Shape { batch: 3, tokens: 64, width: 8, ty: Type::F32 };
    assert_eq!(partial_len(s), 3 * 2 * 4 * 8);
}

fn check_layer_norm(rows: usize, width: usize, ty: Type, branch: bool) {
    let eps = 1e-5f32;
    let (x, y) = (normal(1, rows * width), round_all(&normal(2, rows * width), ty));
    let [gamma, weight, bias] = [3, 4, 5].map(|seed| normal(seed, width));
    let got = run(|card| {
        let f32s = |x: &[f32]| upload(card, x, Type::F32);
        let (h, x_out) = (unwritten(card, x.len(), ty), unwritten(card, x.len(), Type::F32));
        let a = LayerNorm {
            x: f32s(&x),
            branch: branch.then(|| (upload(card, &y, ty), f32s(&gamma))),
            weight: f32s(&weight),
            bias: f32s(&bias),
            x_out: if branch { x_out } else { Address::NULL },
            h,
            eps,
        };
        let mut program = Program::default();
        program.launch(layer_norm_forward(rows, width, ty, &a).unwrap());
        let stream = branch.then_some((x_out, x.len(), Type::F32));
        (program, [Some((h, x.len(), ty)), stream].into_iter().flatten().collect())
    });
    let (mut h, mut stream) = (vec![], vec![]);
    for (x, y) in x.chunks(width).zip(y.chunks(width)) {
        let gained = f64s(y).into_iter().zip(&gamma).map(|(y, g)| if branch { y * f64::from(*g) } else { 0.0 });
        let x: Vec<f64> = f64s(x).iter().zip(gained).map(|(x, y)| x + y).collect();
        let (normal, ..) = normalised(&x, eps, true);
        h.extend((0..width).map(|c| normal[c] * f64::from(weight[c]) + f64::from(bias[c])));
        stream.extend(x);
    }
    let off = error(&got[0], &h);
    assert!(off < tolerance(ty), "{width} {ty:?} {branch}: h {off:.1e}");
    if branch {
        let off = error(&got[1], &stream);
        assert!(off < F32_TOLERANCE, "{width} {ty:?}: x {off:.1e}");
    }
}

#[test]
fn layer_norm_with_weights_matches() {
    for ty in TYPES {
        for width in WIDTHS {
            check_layer_norm(9, width, ty, true);
            check_layer_norm(3, width, ty, false);
        }
    }
}

#[test]
fn impossible_shapes_are_refused() {
    let i = Inputs::new(128, 4, Type::Bf16, false);
    let none = Address::NULL;
    let modulation = i.modulation(none);
    let a = GateNorm { x: none, branch: None, modulation, x_out: none, h: none, stats: none, eps: EPS };
    let refused = |s: Shape, m: Modulation| gate_norm_forward(s, &GateNorm { modulation: m, ..a }).is_err();
    assert!(!refused(i.s, modulation));
    assert!(refused(Shape { width: 126, ..i.s }, modulation));
    assert!(refused(Shape { tokens: 0, ..i.s }, modulation));
    // Not aligned; behind the end of the row.
    assert!(refused(i.s, Modulation { shift: 2, ..modulation }));
    assert!(refused(i.s, Modulation { scale: SKIP + 3 * 128, ..modulation }));
}
