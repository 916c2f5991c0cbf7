//! Inception as commands for a GPU, in f32 as everywhere: distances are compared between devices.

use super::feature_maps::{Builder, Layer, Map, Part};
use super::frozen::Plan;
use crate::kernels::avg_pool::Pool;
use crate::models::inception::Inception;
use crate::models::inception::blocks::{Branch, Mixed, Unit};
use candle_core::{Result, bail};
use erw_gpu::program::Type;

/// Inception for batches of `batch` prepared images `[n, 3, side, side]`, with the outputs that
/// [`Inception::computed_by`] takes.
pub fn plan(inception: &Inception, side: usize, batch: usize) -> Plan<'_> {
    Plan::new(batch, Type::F32, move |net| {
        let mut x = net.input([3, side, side]);
        for units in [&inception.stem[..], &inception.neck[..]] {
            for unit in units {
                x = net.convolved(&layer(unit), x)?;
            }
            let y = net.pool(Pool::MaxHalving, &x)?;
            net.free(std::mem::replace(&mut x, y));
        }
        let (before, behind) = inception.middle.split_at(Inception::MIXED_6D);
        for each in inception.early.iter().chain(before) {
            x = mixed(net, each, x)?;
        }
        let spatial = net.convolution(&layer(&inception.spatial), &x, None)?;
        net.output(&spatial);
        net.free(spatial);
        for each in behind.iter().chain(&inception.late) {
            x = mixed(net, each, x)?;
        }
        let pool = net.mean(&x)?;
        net.output(&pool);
        let logits = net.linear(&inception.scores, &pool, None)?;
        net.output(&logits);
        Ok(())
    })
}

fn layer(unit: &Unit) -> Layer<'_> {
    let (stride, padding) = unit.geometry();
    Layer { weight: &unit.weight, bias: Some(&unit.bias), stride, padding, relu: true, upsample: false }
}

/// A block. Of each branch the last layers write beside those of the others.
fn mixed(net: &mut Builder, block: &Mixed, x: Map) -> Result<Map> {
    // Maps in front of the last layers; `None` is the input itself.
    let mut maps: Vec<Option<Map>> = vec![];
    for Branch { pool, chain, fork } in &block.branches {
        let before = if fork.is_empty() { chain.len().saturating_sub(1) } else { chain.len() };
        let mut map = match pool {
            Some(pool) if !chain.is_empty() => Some(net.pool(*pool, &x)?),
            _ => None,
        };
        for unit in &chain[..before] {
            let y = net.convolution(&layer(unit), map.as_ref().unwrap_or(&x), None)?;
            if let Some(used) = map.replace(y) {
                net.free(used);
            }
        }
        maps.push(map);
    }
    let mut parts = vec![];
    for (Branch { pool, chain, fork }, map) in block.branches.iter().zip(&maps) {
        let from = map.as_ref().unwrap_or(&x);
        match (chain.last(), pool) {
            _ if !fork.is_empty() => parts.extend(fork.iter().map(|unit| (Part::Layer(layer(unit)), from))),
            (Some(unit), _) => parts.push((Part::Layer(layer(unit)), from)),
            (None, Some(pool)) => parts.push((Part::Pool(*pool), from)),
            (None, None) => bail!("a branch without a layer"),
        }
    }
    let y = net.beside(&parts)?;
    maps.into_iter().flatten().chain([x]).for_each(|map| net.free(map));
    Ok(y)
}
