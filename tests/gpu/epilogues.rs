//! Epilogues by passes give what those within a product give.

use super::support::{TYPES, epsilon, error, normal, round_all, run, unwritten, upload};
use erw_gpu::kernels::product::{By, EPILOGUES, Epilogues};
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Command, Epilogue, Form, Matmul, Program, Type};

/// Rows of one and of two shares of a block.
const SIZES: [[usize; 3]; 2] = [[40, 24, 72], [8, 1032, 16]];

/// Every epilogue with the form that it has in a network, and how many passes take its place.
const CASES: [(&str, Form, usize); 4] = [
    ("bias", Form::Nt, 1),
    ("GELU", Form::Nt, 2),
    ("GELU with its sums", Form::Nt, 2),
    ("the derivative of GELU", Form::Nn, 1),
];

fn epilogue(case: usize, bias: Address, aux: Address) -> Epilogue {
    match case {
        0 => Epilogue::Bias(bias),
        1 => Epilogue::Gelu(bias),
        2 => Epilogue::GeluKeep(bias, aux),
        _ => Epilogue::GeluBackward(aux),
    }
}

#[test]
fn passes_give_what_the_product_gives() {
    for (ty, [m, n, k]) in TYPES.into_iter().flat_map(|ty| SIZES.map(|sizes| (ty, sizes))) {
        let [a, b] = [(1, m * k), (2, n * k)].map(|(seed, count)| round_all(&normal(seed, count), ty));
        // Sums of the size at which GELU bends.
        let b: Vec<f32> = round_all(&b.iter().map(|x| x / (k as f32).sqrt()).collect::<Vec<_>>(), ty);
        let (bias, kept) = (round_all(&normal(3, n), ty), round_all(&normal(4, m * n), ty));
        for (case, (name, form, passes)) in CASES.into_iter().enumerate() {
            let got = run(|card: &dyn Machine| {
                let (mut program, mut outputs) = (Program::default(), vec![]);
                let [x, w, bias] = [&a, &b, &bias].map(|t| upload(card, t, ty));
                for by in [By::Library, By::Pass] {
                    let (d, before) = (unwritten(card, m * n, ty), program.commands.len());
                    let aux = if case == 3 { upload(card, &kept, ty) } else { unwritten(card, m * n, ty) };
                    let product = Matmul::new(form, [m, n, k], [x, w, d], ty);
                    let product = Matmul { epilogue: epilogue(case, bias, aux), ..product };
                    Epilogues::all(by).put(&mut program, product).unwrap();
                    let commands = program.commands.len() - before;
                    assert_eq!(commands, if by == By::Pass { 1 + passes } else { 1 }, "{name}");
                    outputs.extend([(d, m * n, ty)].into_iter().chain((case == 2).then_some((aux, m * n, ty))));
                }
                (program, outputs)
            });
            // Each pass rounds once more; f32's exponential costs a few units.
            let most = (2.0 + passes as f64) * epsilon(ty) + 32.0 * epsilon(Type::F32);
            let half = got.len() / 2;
            for (fused, apart) in got[..half].iter().zip(&got[half..]) {
                let wide: Vec<f64> = fused.iter().map(|x| f64::from(*x)).collect();
                assert!(error(apart, &wide) < most, "{name} in {ty:?}: {}", error(apart, &wide));
            }
        }
    }
}

#[test]
fn an_entry_of_the_table_changes_its_epilogue_only() {
    let at = |i: u64| Address(i << 20);
    let commands = |table: &Epilogues, case: usize| {
        let mut program = Program::default();
        let product = Matmul::new(CASES[case].1, [8; 3], [at(1), at(2), at(3)], Type::Bf16);
        table.put(&mut program, Matmul { epilogue: epilogue(case, at(4), at(5)), ..product }).unwrap();
        program.commands
    };
    let all = Epilogues::all(By::Library);
    let tables = [
        Epilogues { bias: By::Pass, ..all },
        Epilogues { gelu: By::Pass, ..all },
        Epilogues { gelu_keep: By::Pass, ..all },
        Epilogues { gelu_backward: By::Pass, ..all },
    ];
    for (entry, table) in tables.iter().enumerate() {
        for (case, (name, ..)) in CASES.iter().enumerate() {
            let commands = commands(table, case);
            assert!(matches!(commands[0], Command::Matmul(_)));
            assert_eq!(commands.len(), if case == entry { 2 } else { 1 }, "{entry} {name}");
        }
    }
    let plain = Matmul::new(Form::Tn, [8; 3], [at(1), at(2), at(3)], Type::Bf16);
    let mut program = Program::default();
    EPILOGUES.put(&mut program, plain.clone()).unwrap();
    assert_eq!(program.commands, [Command::Matmul(plain.clone())]);
    let wide = Matmul { output: Type::F32, epilogue: Epilogue::Bias(at(4)), ..plain };
    assert!(Epilogues::all(By::Pass).put(&mut program, wide).is_err());
}
