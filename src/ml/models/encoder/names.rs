//! Translates the tensor names of published encoder files to ours, which are those of DINOv2's hub.
//!
//! Official checkpoints, files of Hugging Face transformers (old and current names) and timm's
//! differ in names, in whether queries, keys and values are one matrix, and in what else is in the
//! file. Unknown names are kept, and are then reported as not in the network.

use super::config::{EncoderConfig, Positions};
use super::head::HEAD;
use super::resample::table_grid;
use crate::models::sit::sincos_2d;
use crate::models::state_dict::{self, Inside};
use crate::models::vit::{Mlp, VitConfig};
use crate::nn::params::{Adopted, Tensors};
use candle_core::{DType, Result, Tensor, bail};
use std::collections::BTreeMap;

/// The first layer: in transformers, in its CLIP and SigLIP, in its DINOv3, and in official code and
/// timm. OpenAI's CLIP calls it `conv1`, as many networks do, but it has one class embedding.
pub const LANDMARKS: &[&str] = &[
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embedding.weight",
    "embeddings.patch_embeddings.weight",
    "patch_embed.proj.weight",
    "class_embedding",
];

/// Tensors that features do not need, by name or prefix: heads (including those of DINO's
/// training), poolers, decoders, the mask token, position numbers, the periods of DINOv3's positions.
const UNUSED: &[&str] = &[
    "mask_token",
    "head.",
    "classifier.",
    "pooler.",
    "attn_pool.",
    "rope_embed.",
    "decoder.",
    "decoder_",
    "proj",
    "embeddings.position_ids",
    "dino_head.",
    "ibot_head.",
    "linear_head.",
];

/// CLIP's projection of the class token: their names, outside or inside the wrapper, and ours.
/// `proj` is stored transposed.
const CLIP_HEAD: &[(&str, &str)] = &[
    ("ln_post.weight", HEAD[0]),
    ("ln_post.bias", HEAD[1]),
    ("proj", HEAD[2]),
    ("post_layernorm.weight", HEAD[0]),
    ("post_layernorm.bias", HEAD[1]),
    ("visual_projection.weight", HEAD[2]),
    ("norm.weight", HEAD[0]),
    ("norm.bias", HEAD[1]),
    ("head.weight", HEAD[2]),
];

/// Names outside of blocks: theirs, ours. A suffix `weight` or `bias` is kept.
const WHOLE: &[(&str, &str)] = &[
    // timm.
    ("reg_token", "register_tokens"),
    // DINOv3's code.
    ("storage_tokens", "register_tokens"),
    // OpenAI's CLIP.
    ("conv1", "patch_embed.proj"),
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    ("ln_pre", "norm_pre"),
    ("ln_post", "norm"),
    // transformers, among them its CLIP with a misspelt norm.
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("embeddings.patch_embeddings", "patch_embed.proj"),
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.position_embedding.weight", "pos_embed"),
    ("embeddings.register_tokens", "register_tokens"),
    ("embeddings.mask_token", "mask_token"),
    ("pre_layrnorm", "norm_pre"),
    ("post_layernorm", "norm"),
    ("layernorm", "norm"),
];

/// What precedes the number of a block.
const BLOCKS: &[&str] =
    &["blocks.", "transformer.resblocks.", "encoder.layer.", "encoder.layers.", "layers.", "layer.", "model.layer."];

/// Names inside a block: theirs, ours or a [part](PARTS) of ours.
const INSIDE: &[(&str, &str)] = &[
    // A mistake in MoCo v3's ViT-L: the number of the block got into names of blocks 13 and 14.
    ("norm13", "norm1"),
    ("norm14", "norm2"),
    ("mlp.fc13", "mlp.fc1"),
    ("mlp.fc14", "mlp.fc2"),
    // OpenAI's CLIP.
    ("ln_1", "norm1"),
    ("ln_2", "norm2"),
    ("attn.in_proj_weight", "attn.qkv.weight"),
    ("attn.in_proj_bias", "attn.qkv.bias"),
    ("attn.out_proj", "attn.proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    // transformers: ViT, ViTMAE, I-JEPA, DINOv2.
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("attention.attention.query", "attn.q"),
    ("attention.attention.key", "attn.k"),
    ("attention.attention.value", "attn.v"),
    ("attention.output.dense", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
    ("mlp.weights_in", "mlp.w12"),
    ("mlp.weights_out", "mlp.w3"),
    // The names inside transformers 5, if it does not translate them on saving.
    ("attention.q_proj", "attn.q"),
    ("attention.k_proj", "attn.k"),
    ("attention.v_proj", "attn.v"),
    ("attention.o_proj", "attn.proj"),
    ("mlp.gate_proj", "mlp.gate"),
    ("mlp.up_proj", "mlp.up"),
    ("mlp.down_proj", "mlp.w3"),
    // timm: DINOv3.
    ("gamma_1", "ls1.gamma"),
    ("gamma_2", "ls2.gamma"),
    ("attn.q_bias", "attn.q.bias"),
    ("attn.v_bias", "attn.v.bias"),
    // transformers: CLIP, SigLIP.
    ("layer_norm1", "norm1"),
    ("layer_norm2", "norm2"),
    ("self_attn.q_proj", "attn.q"),
    ("self_attn.k_proj", "attn.k"),
    ("self_attn.v_proj", "attn.v"),
    ("self_attn.out_proj", "attn.proj"),
];

/// Layers that some files store in parts: our name, and the parts from top to bottom.
const PARTS: &[(&str, &[&str])] =
    &[("attn.qkv", &["attn.q", "attn.k", "attn.v"]), ("mlp.w12", &["mlp.gate", "mlp.up"])];

/// A tensor and its name in the file.
struct NamedTensor {
    theirs: String,
    tensor: Tensor,
}

/// Converts the tensors of a published file to those of the configured transformer: our names, f32,
/// parts joined, unnecessary tensors removed. The position table keeps the grid of the file; a
/// fixed table that the file omits is computed.
///
/// # Errors
/// When two tensors map to one name, or parts of one layer do not match.
pub fn adopt(config: &EncoderConfig, file: Tensors) -> Result<Adopted> {
    let (mut found, mut dropped) = translated(&config.vit, file)?;
    if config.vit.rope_theta.is_some() {
        dropped.extend(without_key_bias(&config.vit, &mut found)?);
    }
    join_parts(&mut found)?;
    let mut adopted = Adopted { dropped, ..Adopted::default() };
    for (ours, NamedTensor { theirs, tensor }) in found {
        let (tensor, theirs) = match ours.as_str() {
            "pos_embed" => with_class_position(&config.vit, batched(tensor)?, theirs)?,
            "cls_token" | "register_tokens" => (batched(tensor)?, theirs),
            _ if ours == HEAD[2] && theirs.ends_with("proj") => (tensor.t()?.contiguous()?, theirs),
            _ => (tensor, theirs),
        };
        if theirs != ours {
            adopted.renamed.insert(ours.clone(), theirs);
        }
        adopted.tensors.insert(ours, tensor);
    }
    if !adopted.tensors.contains_key("pos_embed")
        && let Some(table) = fixed_table(config)?
    {
        adopted.tensors.insert("pos_embed".into(), table);
    }
    Ok(adopted)
}

/// Tensors by our names, and the names of those omitted. CLIP's head is used whole or not at all: a
/// file without the projection, or with a classifier in its place (timm's classifiers have a
/// nonzero bias), has no embedding.
fn translated(vit: &VitConfig, file: Tensors) -> Result<(BTreeMap<String, NamedTensor>, Vec<String>)> {
    let Inside { prefix, tensors, beside } = state_dict::network(file, LANDMARKS)?;
    let (mut found, mut dropped) = (BTreeMap::<String, NamedTensor>::new(), Vec::new());
    let classifies = tensors.get("head.bias").is_some_and(|(_, bias)| !is_zero(bias));
    let mut keep = |ours: String, theirs: String, tensor: Tensor| {
        if let Some(first) = found.get(&ours) {
            bail!("both {} and {theirs} in the file map to {ours}", first.theirs);
        }
        let tensor = tensor.to_dtype(DType::F32).map_err(|e| e.context(theirs.clone()))?;
        found.insert(ours, NamedTensor { theirs, tensor });
        Ok(())
    };
    for (inner, (theirs, tensor)) in tensors {
        let head = super::head::has_head(vit).then(|| head_name(&inner)).flatten();
        match head.unwrap_or_else(|| our_name(&inner, vit.mlp)) {
            ours if HEAD.contains(&ours.as_str()) && super::head::has_head(vit) => keep(ours, theirs, tensor)?,
            ours if is_unused(&ours, vit) => dropped.push(theirs),
            ours => keep(ours, theirs, tensor)?,
        }
    }
    for (theirs, tensor) in beside {
        match projects(&prefix, &theirs).filter(|_| super::head::has_head(vit)) {
            Some(ours) => keep(ours, theirs, tensor)?,
            None => dropped.push(theirs),
        }
    }
    if classifies || !HEAD.iter().all(|name| found.contains_key(*name)) {
        dropped.extend(HEAD.iter().filter_map(|name| Some(found.remove(*name)?.theirs)));
    }
    Ok((found, dropped))
}

fn head_name(name: &str) -> Option<String> {
    CLIP_HEAD.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| ours.to_string())
}

/// Our name for the projection that transformers' CLIP stores beside the transformer of `prefix`;
/// `None` for other tensors.
fn projects(prefix: &str, theirs: &str) -> Option<String> {
    let beside = prefix.ends_with("vision_model.") && state_dict::is_projection(theirs, state_dict::around(prefix));
    beside.then(|| HEAD[2].to_string())
}

fn is_zero(tensor: &Tensor) -> bool {
    let values = tensor.flatten_all().and_then(|t| t.to_dtype(DType::F32)?.to_vec1::<f32>());
    values.is_ok_and(|values| values.iter().all(|v| *v == 0.0))
}

fn is_unused(ours: &str, vit: &VitConfig) -> bool {
    among(UNUSED, ours) || (!vit.final_norm && ours.starts_with("norm."))
}

/// Whether `name` is in a list of names and prefixes; prefixes end in a dot or an underscore.
fn among(list: &[&str], name: &str) -> bool {
    list.iter().any(|entry| if entry.ends_with(['.', '_']) { name.starts_with(entry) } else { name == *entry })
}

/// Our name for a tensor that the file calls `name`, without the prefix.
fn our_name(name: &str, mlp: Mlp) -> String {
    let Some((number, inside)) = BLOCKS.iter().find_map(|b| block_and_rest(name.strip_prefix(b)?)) else {
        return look_up(WHOLE, name);
    };
    let inside = look_up(INSIDE, inside);
    // timm uses the same layer names for every MLP.
    let inside = match mlp {
        Mlp::SwiGlu => inside.replacen("mlp.fc1.", "mlp.w12.", 1).replacen("mlp.fc2.", "mlp.w3.", 1),
        // transformers calls the layers of DINOv3 as those of a gated MLP, without the gate.
        Mlp::Gelu | Mlp::QuickGelu => inside.replacen("mlp.up.", "mlp.fc1.", 1).replacen("mlp.w3.", "mlp.fc2.", 1),
    };
    format!("blocks.{number}.{inside}")
}

/// DINOv2's training code stores blocks in chunks but numbers them consecutively: `blocks.1.7.attn`
/// is block 7.
fn block_and_rest(name: &str) -> Option<(usize, &str)> {
    let number = |name: &str| name.split_once('.').and_then(|(number, _)| number.parse::<usize>().ok());
    let (outer, rest) = (number(name)?, name.split_once('.')?.1);
    match number(rest) {
        Some(inner) => Some((inner, rest.split_once('.')?.1)),
        None => Some((outer, rest)),
    }
}

/// Looks up the whole name, or the name without a final `weight` or `bias`. Returns unknown names
/// unchanged.
fn look_up(table: &[(&str, &str)], name: &str) -> String {
    let ours = |name: &str| table.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| *ours);
    match name.rsplit_once('.') {
        _ if ours(name).is_some() => ours(name).unwrap_or(name).to_string(),
        Some((stem, end @ ("weight" | "bias"))) => format!("{}.{end}", ours(stem).unwrap_or(stem)),
        _ => name.to_string(),
    }
}

/// Keys of DINOv3 have no bias, where other transformers store one for queries, keys and values: its
/// code has a mask beside it, transformers leaves it out, and timm leaves all three out where they are
/// zero. Fills in zeros, and returns the names of masks.
fn without_key_bias(vit: &VitConfig, found: &mut BTreeMap<String, NamedTensor>) -> Result<Vec<String>> {
    let mut masks = vec![];
    for block in 0..vit.depth {
        let name = |part: &str| format!("blocks.{block}.attn.{part}");
        if let Some(mask) = found.remove(&name("qkv.bias_mask")) {
            masks.push(mask.theirs);
            if let Some(bias) = found.get_mut(&name("qkv.bias")).filter(|b| b.tensor.dims() == [3 * vit.dim]) {
                let [q, v] = [0, 2].map(|i| bias.tensor.narrow(0, i * vit.dim, vit.dim));
                let q = q?;
                bias.tensor = Tensor::cat(&[&q, &q.zeros_like()?, &v?], 0)?;
            }
        }
        let add = |part: &str, like: &NamedTensor, rows: usize| {
            let tensor = Tensor::zeros(rows, DType::F32, like.tensor.device())?;
            Ok::<_, candle_core::Error>((name(part), NamedTensor { theirs: "zeros".into(), tensor }))
        };
        let added = match (found.get(&name("q.bias")), found.get(&name("qkv.weight"))) {
            (Some(q), _) if !found.contains_key(&name("k.bias")) => Some(add("k.bias", q, vit.dim)?),
            (None, Some(weight)) if !found.contains_key(&name("qkv.bias")) => {
                Some(add("qkv.bias", weight, 3 * vit.dim)?)
            }
            _ => None,
        };
        found.extend(added);
    }
    Ok(masks)
}

/// Joins layers that the file stores in parts. Incomplete parts get their names in the file back.
fn join_parts(found: &mut BTreeMap<String, NamedTensor>) -> Result<()> {
    for (whole, parts) in PARTS {
        let pieces: Vec<String> = found.keys().filter(|n| parts.iter().any(|p| holds(n, p))).cloned().collect();
        for first in pieces.iter().filter(|n| holds(n, parts[0])) {
            let names: Vec<String> = parts.iter().map(|p| first.replacen(parts[0], p, 1)).collect();
            if !names.iter().all(|n| found.contains_key(n)) {
                continue;
            }
            let parts_found: Vec<NamedTensor> = names.iter().filter_map(|n| found.remove(n)).collect();
            let ours = first.replacen(parts[0], whole, 1);
            let theirs: Vec<&str> = parts_found.iter().map(|f| f.theirs.as_str()).collect();
            let theirs = theirs.join(" + ");
            let tensors: Vec<&Tensor> = parts_found.iter().map(|f| &f.tensor).collect();
            let tensor = Tensor::cat(&tensors, 0).map_err(|e| e.context(format!("joining {theirs}")))?;
            if found.insert(ours.clone(), NamedTensor { theirs, tensor }).is_some() {
                bail!("the file has {ours} both whole and in parts");
            }
        }
        for alone in pieces {
            if let Some(part) = found.remove(&alone) {
                found.insert(part.theirs.clone(), part);
            }
        }
    }
    Ok(())
}

fn holds(name: &str, part: &str) -> bool {
    name.split_once(part).is_some_and(|(before, after)| before.ends_with('.') && after.starts_with('.'))
}

/// `[D]` and `[T, D]` as `[1, T, D]`.
fn batched(tensor: Tensor) -> Result<Tensor> {
    (tensor.rank()..3).try_fold(tensor, |t, _| t.unsqueeze(0))
}

/// timm has no position for the class token in networks with registers. A row of zeros has the same
/// effect.
fn with_class_position(vit: &VitConfig, table: Tensor, theirs: String) -> Result<(Tensor, String)> {
    if !vit.class_token || table_grid(&table, 1).is_some() || table_grid(&table, 0).is_none() {
        return Ok((table, theirs));
    }
    Ok((table.pad_with_zeros(1, 1, 0)?, format!("{theirs} with a class position of zeros")))
}

fn fixed_table(config: &EncoderConfig) -> Result<Option<Tensor>> {
    if config.positions == Positions::Learned {
        return Ok(None);
    }
    let VitConfig { dim, class_token, .. } = config.vit;
    let mut table = sincos_2d(dim, config.vit.grid())?.unsqueeze(0)?;
    if config.positions == Positions::SincosRows {
        let half = dim / 2;
        table = Tensor::cat(&[table.narrow(2, half, half)?, table.narrow(2, 0, half)?], 2)?;
    }
    // The class token has a position of zero.
    if class_token { table.pad_with_zeros(1, 1, 0).map(Some) } else { Ok(Some(table)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated() {
        for (theirs, ours) in [
            ("blocks.13.norm13.weight", "blocks.13.norm1.weight"),
            ("blocks.13.mlp.fc13.bias", "blocks.13.mlp.fc1.bias"),
            ("blocks.14.norm14.bias", "blocks.14.norm2.bias"),
            ("blocks.14.mlp.fc14.weight", "blocks.14.mlp.fc2.weight"),
            ("blocks.13.norm2.weight", "blocks.13.norm2.weight"),
            ("transformer.resblocks.7.attn.in_proj_bias", "blocks.7.attn.qkv.bias"),
            ("encoder.layer.3.output.dense.weight", "blocks.3.mlp.fc2.weight"),
            ("embeddings.position_embedding.weight", "pos_embed"),
            ("class_embedding", "cls_token"),
            ("blocks.2.7.norm1.weight", "blocks.7.norm1.weight"),
            ("layers.x.norm13.weight", "layers.x.norm13.weight"),
            ("something.else", "something.else"),
        ] {
            assert_eq!(our_name(theirs, Mlp::Gelu), ours);
        }
        assert_eq!(our_name("blocks.2.mlp.fc1.weight", Mlp::SwiGlu), "blocks.2.mlp.w12.weight");
    }
}
