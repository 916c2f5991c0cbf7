//! Products with what happens to their results. A table says what of it cuBLASLt does, as an
//! epilogue of the product, and what a pass behind the plain product. It decides what is put into a
//! list of commands; a machine runs what it finds there.

use super::activation::{self, Activation, Backward, Bias, Pass};
use crate::program::{Epilogue, Matmul, Program};
use candle_core::{Result, bail};

/// Who does the work of an epilogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// cuBLASLt, within the product.
    Library,
    /// A pass behind the product: more bytes, and results are rounded once more.
    Pass,
}

/// Who does the work of each [`Epilogue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epilogues {
    pub bias: By,
    /// The bias that goes before GELU has the entry above.
    pub gelu: By,
    pub gelu_keep: By,
    pub gelu_backward: By,
}

/// What networks use. Not measured yet: the bench `gpu` times both forms, and this table is where
/// the faster one goes.
pub const EPILOGUES: Epilogues =
    Epilogues { bias: By::Library, gelu: By::Library, gelu_keep: By::Library, gelu_backward: By::Library };

impl Epilogues {
    /// All by the same.
    pub const fn all(by: By) -> Self {
        Self { bias: by, gelu: by, gelu_keep: by, gelu_backward: by }
    }

    /// The commands of a product with its epilogue.
    ///
    /// # Errors
    /// A product whose pass the kernels do not take: of a width that is no multiple of 4, or with a
    /// bias of another type than the result.
    pub fn put(&self, program: &mut Program, product: Matmul) -> Result<()> {
        let Matmul { m, n, d, output: ty, .. } = product;
        let count = m * n;
        let with = |d, epilogue| Matmul { d, epilogue, ..product.clone() };
        match product.epilogue {
            Epilogue::Bias(bias) if self.bias == By::Pass => {
                if product.input != ty {
                    bail!("a bias in {} for sums in {}", product.input.name(), ty.name());
                }
                program.matmul(with(d, Epilogue::None));
                program.launch(activation::add_bias(&Bias { ty, x: d, bias, rows: m, width: n })?);
            }
            Epilogue::Gelu(bias) if self.gelu == By::Pass => {
                self.put(program, with(d, Epilogue::Bias(bias)))?;
                program.launch(activation::forward(Activation::Gelu, &Pass { ty, from: d, to: d, count })?);
            }
            Epilogue::GeluKeep(bias, keep) if self.gelu_keep == By::Pass => {
                self.put(program, with(keep, Epilogue::Bias(bias)))?;
                program.launch(activation::forward(Activation::Gelu, &Pass { ty, from: keep, to: d, count })?);
            }
            Epilogue::GeluBackward(kept) if self.gelu_backward == By::Pass => {
                program.matmul(with(d, Epilogue::None));
                let slope = Backward { ty, dy: d, x: kept, dx: d, count };
                program.launch(activation::backward(Activation::Gelu, &slope)?);
            }
            _ => program.matmul(product),
        }
        Ok(())
    }
}
