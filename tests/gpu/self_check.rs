//! A machine whose products are wrong is refused.

use super::support::{TYPES, card};
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Command, Epilogue, Form, Program, Type};
use erw_gpu::self_check::check_products;
use std::sync::Arc;

#[test]
fn right_products_pass() {
    for ty in TYPES {
        check_products(&*card(), ty).unwrap();
    }
}

/// A card whose library misunderstands something.
struct Mistaken<F>(Arc<dyn Machine>, F);

impl<F: Fn(&mut Command) + Send + Sync> Machine for Mistaken<F> {
    fn allocate(&self, bytes: usize) -> candle_core::Result<Address> {
        self.0.allocate(bytes)
    }
    fn write(&self, to: Address, bytes: &[u8]) -> candle_core::Result<()> {
        self.0.write(to, bytes)
    }
    fn read(&self, from: Address, bytes: &mut [u8]) -> candle_core::Result<()> {
        self.0.read(from, bytes)
    }
    fn run(&self, program: &Program) -> candle_core::Result<()> {
        let mut wrong = Program::default();
        wrong.commands = program.commands.clone();
        wrong.commands.iter_mut().for_each(&self.1);
        self.0.run(&wrong)
    }
}

fn said(mistake: impl Fn(&mut Command) + Send + Sync) -> String {
    check_products(&Mistaken(card(), mistake), Type::Bf16).unwrap_err().to_string()
}

#[test]
fn a_misread_layout_or_bias_is_named() {
    let swapped = said(|command| {
        if let Command::Matmul(p) = command
            && p.form == Form::Tn
        {
            std::mem::swap(&mut p.a, &mut p.b);
            std::mem::swap(&mut p.m, &mut p.n);
        }
    });
    assert!(swapped.contains("a product Tn of bf16 with no epilogue wrongly"), "{swapped}");
    let forgotten = said(|command| {
        if let Command::Matmul(p) = command
            && matches!(p.epilogue, Epilogue::Bias(_))
        {
            p.epilogue = Epilogue::None;
        }
    });
    assert!(forgotten.contains("a product Nt of bf16 with a bias wrongly"), "{forgotten}");
}
