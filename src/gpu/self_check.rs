//! Checks a machine before it is trusted: a product of every form, with every epilogue, against f64
//! on the host. Kernels are erw's own and tested; how a library reads a layout, a bias or GELU is
//! not, and a wrong product would train a network to nothing without an error.

use crate::kernels::product::EPILOGUES;
use crate::machine::Machine;
use crate::program::{Address, Epilogue, Form, Matmul, Program, Type};
use candle_core::{Result, bail};

/// Sizes as odd as products of a network get, in multiples of 8.
const M: usize = 40;
const N: usize = 24;
const K: usize = 72;

/// # Errors
/// A product that is further from f64 than rounding explains.
pub fn check_products(machine: &dyn Machine, ty: Type) -> Result<()> {
    let (a, b) = (numbers(1, M * K, ty), numbers(2, K * N, ty));
    let (bias, kept, old) = (numbers(3, N, ty), numbers(4, M * N, ty), numbers(5, M * N, Type::F32));
    let device = |x: &[f64], ty: Type| -> Result<Address> {
        let at = machine.allocate(x.len() * ty.size())?;
        machine.write(at, &ty.encode(&x.iter().map(|x| *x as f32).collect::<Vec<_>>()))?;
        Ok(at)
    };
    let (at_bias, at_kept) = (device(&bias, ty)?, device(&kept, ty)?);
    for form in [Form::Nt, Form::Nn, Form::Tn] {
        // Stored as the form wants them; read here as a [M, K] and b [K, N].
        let stored_a = if form == Form::Tn { transposed(&a, M, K) } else { a.clone() };
        let stored_b = if form == Form::Nt { transposed(&b, K, N) } else { b.clone() };
        let places = [device(&stored_a, ty)?, device(&stored_b, ty)?];
        let product = matrix_product(&a, &b);
        let aux = machine.allocate(M * N * ty.size())?;
        // The products of a network: forward, through its input, gradients of weights.
        let cases: &[(Epilogue, Type)] = match form {
            Form::Nt => &[
                (Epilogue::None, ty),
                (Epilogue::Bias(at_bias), ty),
                (Epilogue::Gelu(at_bias), ty),
                (Epilogue::GeluKeep(at_bias, aux), ty),
            ],
            Form::Nn => &[(Epilogue::None, ty), (Epilogue::GeluBackward(at_kept), ty)],
            Form::Tn => &[(Epilogue::None, Type::F32)],
        };
        for (epilogue, output) in cases {
            let d = device(&old, *output)?;
            let mut program = Program::default();
            let plain = Matmul::new(form, [M, N, K], [places[0], places[1], d], ty);
            EPILOGUES.put(&mut program, Matmul { output: *output, epilogue: *epilogue, ..plain })?;
            machine.run(&program)?;
            let sums = |i: usize| product[i] + bias[i % N];
            let want: Vec<f64> = (0..M * N)
                .map(|i| match epilogue {
                    Epilogue::None => product[i],
                    Epilogue::Bias(_) => sums(i),
                    Epilogue::Gelu(_) | Epilogue::GeluKeep(..) => gelu(sums(i)),
                    Epilogue::GeluBackward(_) => product[i] * gelu_slope(kept[i]),
                })
                .collect();
            let what = format!("a product {form:?} of {} with {}", ty.name(), name(epilogue));
            compare(machine, d, &want, *output, &what)?;
            if matches!(epilogue, Epilogue::GeluKeep(..)) {
                compare(machine, aux, &(0..M * N).map(sums).collect::<Vec<_>>(), ty, &format!("the sums of {what}"))?;
            }
        }
    }
    Ok(())
}

fn name(epilogue: &Epilogue) -> &'static str {
    match epilogue {
        Epilogue::None => "no epilogue",
        Epilogue::Bias(_) => "a bias",
        Epilogue::Gelu(_) => "GELU",
        Epilogue::GeluKeep(..) => "GELU and its sums",
        Epilogue::GeluBackward(_) => "the derivative of GELU",
    }
}

/// Numbers in -1 to 1 that the type can represent, the same at every call.
fn numbers(seed: u64, count: usize, ty: Type) -> Vec<f64> {
    let mut state = seed;
    let next = || {
        // Knuth's linear congruential generator; its upper bits are good enough.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f32 / (1u64 << 30) as f32 - 1.0
    };
    let all: Vec<f32> = std::iter::repeat_with(next).take(count).collect();
    ty.decode(&ty.encode(&all)).into_iter().map(f64::from).collect()
}

fn compare(machine: &dyn Machine, at: Address, want: &[f64], ty: Type, what: &str) -> Result<()> {
    let mut bytes = vec![0; want.len() * ty.size()];
    machine.read(at, &mut bytes)?;
    let got = ty.decode(&bytes);
    let largest = want.iter().fold(0f64, |a, b| a.max(b.abs()));
    // Half a unit of the type, twice over, and what sums in f32 and approximated tanh add.
    let bound = match ty {
        Type::F32 => 1e-5,
        Type::Bf16 => 1.0 / 128.0,
        Type::F16 => 1.0 / 500.0,
    };
    let apart = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).abs() / largest);
    let worst = apart.fold(0f64, |a, b| if b.is_nan() { f64::INFINITY } else { a.max(b) });
    if worst > bound {
        bail!("the GPU computes {what} wrongly: results are off by {worst:e} of the largest, {bound:e} is allowed");
    }
    Ok(())
}

/// a `[M, K]` times b `[K, N]`.
fn matrix_product(a: &[f64], b: &[f64]) -> Vec<f64> {
    let one = |i: usize| (0..K).map(|k| a[i / N * K + k] * b[k * N + i % N]).sum();
    (0..M * N).map(one).collect()
}

fn transposed(x: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| x[r * columns + c])).collect()
}

/// sqrt(2 / pi), and the factor of the cube, of GELU's tanh form.
const ROOT: f64 = 0.797_884_560_802_865_4;
const CUBE: f64 = 0.044_715;

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + (ROOT * (x + CUBE * x.powi(3))).tanh())
}

fn gelu_slope(x: f64) -> f64 {
    let t = (ROOT * (x + CUBE * x.powi(3))).tanh();
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * ROOT * (1.0 + 3.0 * CUBE * x * x)
}
