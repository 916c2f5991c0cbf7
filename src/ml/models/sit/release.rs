//! Published checkpoints of SiT, REPA and ERW: their dictionaries, the configuration that they
//! imply, and writing them back.

use super::{MlpKind, NormKind, SiT, SiTConfig};
use crate::models::projector::ProjectorKind;
use crate::models::state_dict;
use crate::nn::params::{self, Adopted, LoadReport, Tensors};
use candle_core::{DType, Result, bail};

/// Dictionaries of a checkpoint: the averaged weights, for sampling, and the weights for further
/// training.
pub const EMA: &str = "ema";
pub const MODEL: &str = "model";

/// The first layer.
pub const LANDMARKS: &[&str] = &["x_embedder.proj.weight"];

/// What the names of parameters begin with that only a training needs.
pub const HEADS: &[&str] = &["projectors.", "ap_head.", "latent_head."];

/// Tables that are computed, not trained.
pub const TABLES: &[&str] = &["pos_embed", "feat_rope.freqs_cos", "feat_rope.freqs_sin"];

/// The tensors of a dictionary in f32, without name parts from wrappers and trainers.
pub fn adopt(file: Tensors) -> Result<Adopted> {
    let inside = state_dict::network(file, LANDMARKS)?;
    // Numbers that are no floats are counters and masks, unless they are the network itself.
    let is_first = |name: &&String| LANDMARKS.iter().any(|first| state_dict::plain(name).ends_with(first));
    if LANDMARKS.iter().all(|first| !inside.tensors.contains_key(*first))
        && let Some(name) = inside.beside.keys().find(is_first)
    {
        bail!("its `{name}` holds whole numbers, as int8 weights do, not floats: quantised weights are not read");
    }
    let mut adopted = Adopted { dropped: inside.beside.into_keys().collect(), ..Adopted::default() };
    for (ours, (theirs, tensor)) in inside.tensors {
        adopted.tensors.insert(ours.clone(), tensor.to_dtype(DType::F32)?.contiguous()?);
        if ours != theirs {
            adopted.renamed.insert(ours, theirs);
        }
    }
    Ok(adopted)
}

/// Reports how adopted tensors fit this network. Fixed tables may be absent (REPA's files omit
/// those of the rotary embedding); a table of an option that is off must be.
pub fn fit(config: &SiTConfig, tensors: &Tensors) -> Result<LoadReport> {
    let (model, mut shapes) = params::census(|vb| SiT::new(config, vb))?;
    let tables = model.buffers().into_iter().filter(|(name, _)| tensors.contains_key(name));
    shapes.extend(tables.map(|(name, t)| (name, t.shape().clone())));
    Ok(params::compare(&shapes, tensors))
}

/// The state dict for `load_state_dict(strict=True)` in the published code: `tensors` and the fixed
/// tables.
pub fn state_dict(config: &SiTConfig, mut tensors: Tensors) -> Result<Tensors> {
    let report = fit(config, &tensors)?;
    if !report.is_exact() {
        bail!("the weights do not match config.json: {}", report.faults().join("; "));
    }
    let (model, _) = params::census(|vb| SiT::new(config, vb))?;
    for (name, table) in model.buffers() {
        tensors.entry(name).or_insert(table);
    }
    Ok(tensors)
}

impl SiTConfig {
    /// The configuration of an adopted published dictionary. The size comes from `name`, or else
    /// from the width. The tensors give the rest. Their class table is assumed to have a row for
    /// the null class, as in all published files.
    pub fn of_release(name: Option<&str>, file: &Tensors) -> Result<Self> {
        let size = |tensor: &str, dim: usize| file.get(tensor).and_then(|t| t.dims().get(dim).copied());
        let needed = |tensor: &str, dim: usize| match size(tensor, dim) {
            Some(n) => Ok(n),
            None => bail!("the file has no `{tensor}`, so it is not a SiT with the published names"),
        };
        let (hidden, patch_size) = (needed("x_embedder.proj.weight", 0)?, needed("x_embedder.proj.weight", 2)?);
        let (hidden, depth, heads, patch_size) = match name {
            Some(name) => Self::sizes(name)?,
            None => Self::sizes(&named(hidden, patch_size)?)?,
        };
        let blocks = (0..depth).take_while(|i| file.contains_key(&format!("blocks.{i}.attn.qkv.weight"))).count();
        let projector = match file.contains_key("projectors.0.projection_layer.weight") {
            true => ProjectorKind::Conv3,
            false => ProjectorKind::Mlp,
        };
        let last = match projector {
            ProjectorKind::Mlp => "4",
            ProjectorKind::Conv3 => "projection_layer",
        };
        let warmup_depth = (!file.contains_key("final_layer.linear.weight")).then_some(blocks);
        Ok(Self {
            // A class token has a position too.
            input_size: needed("pos_embed", 1)?
                .saturating_sub(usize::from(file.contains_key("cls_projectors2.weight")))
                .isqrt()
                * patch_size,
            in_channels: needed("x_embedder.proj.weight", 1)?,
            patch_size,
            hidden,
            depth,
            heads,
            mlp_ratio: 4.0,
            mlp: match file.contains_key("blocks.0.mlp.w12.weight") {
                true => MlpKind::SwiGlu,
                false => MlpKind::Gelu,
            },
            norm: match file.contains_key("blocks.0.norm1.weight") {
                true => NormKind::Rms,
                false => NormKind::Layer,
            },
            num_classes: needed("y_embedder.embedding_table.weight", 0)?.saturating_sub(1),
            class_dropout: 0.1,
            z_dims: (0..).map_while(|k| size(&format!("projectors.{k}.{last}.weight"), 0)).collect(),
            projector,
            projector_dim: size("projectors.0.0.weight", 0).unwrap_or(2048),
            // The file does not tell where the projectors were: assume REPA's place. Sampling does
            // not use them.
            encoder_depth: vec![warmup_depth.unwrap_or(depth.min(8))],
            rope: file.contains_key("feat_rope.freqs_cos"),
            qk_norm: file.contains_key("blocks.0.attn.q_norm.weight"),
            class_token: size("cls_projectors2.weight", 1),
            // Nor does it tell where the heads of SRA and SRA 2 were: assume their place in XL.
            self_alignment: file.contains_key("ap_head.linear1.weight").then_some(blocks.min(8)),
            latent_alignment: file.contains_key("latent_head.0.weight").then_some(blocks.min(8)),
            warmup_depth,
        })
    }
}

fn named(hidden: usize, patch: usize) -> Result<String> {
    let size = match hidden {
        384 => "S",
        768 => "B",
        1024 => "L",
        1152 => "XL",
        _ => bail!("no published SiT has the width {hidden} of this file; give its config.json"),
    };
    Ok(format!("SiT-{size}/{patch}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Shape, Tensor};

    fn zeros(shape: Shape) -> Tensor {
        Tensor::zeros((), DType::F32, &Device::Cpu).unwrap().broadcast_as(shape).unwrap()
    }

    #[test]
    fn a_sit_file_shows_what_its_name_leaves_open() {
        let plain = SiTConfig {
            input_size: 32,
            in_channels: 4,
            patch_size: 8,
            hidden: 384,
            depth: 12,
            heads: 6,
            mlp_ratio: 4.0,
            mlp: MlpKind::Gelu,
            norm: NormKind::Layer,
            num_classes: 1000,
            class_dropout: 0.1,
            z_dims: vec![768, 1024],
            projector: ProjectorKind::Mlp,
            projector_dim: 2048,
            encoder_depth: vec![8],
            rope: false,
            qk_norm: false,
            class_token: None,
            self_alignment: None,
            latent_alignment: None,
            warmup_depth: None,
        };
        let warmed =
            SiTConfig { rope: true, qk_norm: true, encoder_depth: vec![4], warmup_depth: Some(4), ..plain.clone() };
        let later = SiTConfig { mlp: MlpKind::SwiGlu, projector: ProjectorKind::Conv3, ..plain.clone() };
        let lightning = SiTConfig { mlp: MlpKind::SwiGlu, norm: NormKind::Rms, qk_norm: true, ..plain.clone() };
        let aligned = SiTConfig { z_dims: vec![], self_alignment: Some(8), latent_alignment: Some(8), ..plain.clone() };
        let entangled = SiTConfig { class_token: Some(768), ..plain.clone() };
        for config in [plain, warmed, later, lightning, aligned, entangled] {
            let (model, shapes) = params::census(|vb| SiT::new(&config, vb)).unwrap();
            let mut file: Tensors = shapes.into_iter().map(|(name, s)| (name, zeros(s))).collect();
            file.extend(model.buffers());
            assert_eq!(SiTConfig::of_release(Some("SiT-S/8"), &file).unwrap(), config);
            assert_eq!(SiTConfig::of_release(None, &file).unwrap(), config);
            assert!(fit(&config, &file).unwrap().is_exact());
            assert_eq!(state_dict(&config, file.clone()).unwrap().len(), file.len());
            // Tables may be absent, and are added; other tensors may not.
            file.remove("pos_embed");
            assert!(fit(&config, &file).unwrap().is_exact());
            assert!(state_dict(&config, file.clone()).unwrap().contains_key("pos_embed"));
            file.remove("blocks.3.attn.proj.bias");
            assert_eq!(fit(&config, &file).unwrap().faults(), ["1 not in the file: blocks.3.attn.proj.bias"]);
            let error = SiTConfig::of_release(Some("SiT-S/8"), &file).unwrap_err();
            assert!(error.to_string().contains("`pos_embed`"));
        }
    }

    #[test]
    fn wrappers_are_taken_off() {
        let of = |names: &[&str]| adopt(names.iter().map(|n| (n.to_string(), zeros(1.into()))).collect());
        let adopted = of(&["module._orig_mod.pos_embed", "module.x_embedder.proj.bias"]).unwrap();
        assert_eq!(adopted.tensors.into_keys().collect::<Vec<_>>(), ["pos_embed", "x_embedder.proj.bias"]);
        assert_eq!(adopted.renamed["pos_embed"], "module._orig_mod.pos_embed");
        assert!(of(&["module.a", "a"]).unwrap_err().to_string().contains("two tensors"));
    }
}
