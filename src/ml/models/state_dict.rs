//! Finds networks in a file by their tensor names. Trainers put prefixes before a network's names
//! (`model.`, `state.model.`, `first_stage_model.`), PyTorch's wrappers insert parts anywhere
//! (`blocks.0._orig_mod.attn`), and many files hold several copies, such as a model and its
//! average. A network is found by a landmark, a tensor that every copy has exactly once, so no list
//! of prefixes is needed.
//!
//! It knows names only. Each model defines its landmarks.

use crate::nn::params::Tensors;
use candle_core::{Result, bail};
use std::collections::BTreeMap;

/// Name parts that wrappers insert: data parallelism and averaged models; `torch.compile`; FSDP,
/// new and old; activation checkpointing; Lightning Fabric; Opacus.
const WRAPPERS: [&str; 9] = [
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "_original_module",
    "_ddp_module",
    "_module",
];

/// Maximum number of copies. No trainer saves as many, and comparing more could take forever.
const MOST: usize = 64;

/// A name without the parts that wrappers inserted.
pub fn plain(name: &str) -> String {
    name.split('.').filter(|part| !WRAPPERS.contains(part)).collect::<Vec<_>>().join(".")
}

/// The prefix before the landmark in a plain name.
fn before<'a>(plain: &'a str, landmark: &str) -> Option<&'a str> {
    plain.strip_suffix(landmark).filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
}

/// The plain prefixes of the copies among these names, empty or with a dot at their end, in the
/// order of the names. The first landmark that occurs is used.
pub fn prefixes<'a>(names: impl Iterator<Item = &'a str> + Clone, landmarks: &[&str]) -> Vec<String> {
    let of = |landmark: &&str| {
        let mut found: Vec<String> = vec![];
        for name in names.clone() {
            if let Some(prefix) = before(&plain(name), landmark)
                && found.len() < MOST
                && !found.iter().any(|p| p == prefix)
            {
                found.push(prefix.to_string());
            }
        }
        found
    };
    landmarks.iter().map(of).find(|found| !found.is_empty()).unwrap_or_default()
}

/// Whether a name belongs to the copy at `prefix`, and not to a copy nested in it.
pub fn belongs(name: &str, prefix: &str, all: &[String]) -> bool {
    let name = plain(name);
    let within =
        |other: &&String| other.len() > prefix.len() && other.starts_with(prefix) && name.starts_with(&***other);
    name.starts_with(prefix) && !all.iter().any(|other| within(&other))
}

/// The prefix without its last part: `model.` of `model.vision_model.`.
pub fn around(prefix: &str) -> &str {
    let rest = prefix.strip_suffix('.').unwrap_or(prefix);
    rest.rfind('.').map_or("", |at| &prefix[..=at])
}

/// Whether this is the projection that transformers' CLIP stores beside its transformer, which
/// embeddings need.
pub fn is_projection(name: &str, around: &str) -> bool {
    plain(name).strip_prefix(around) == Some("visual_projection.weight")
}

/// One copy, extracted from its surroundings.
#[derive(Debug, Default)]
pub struct Inside {
    pub prefix: String,
    /// By plain names after the prefix: the name in the file, and the tensor.
    pub tensors: BTreeMap<String, (String, candle_core::Tensor)>,
    /// Tensors outside the copy, by their names in the file; also counters, masks and scalars in
    /// it, which are not weights.
    pub beside: Tensors,
}

/// Extracts the network from a file.
///
/// # Errors
/// When there are several copies and none is [preferred], or two tensors have one plain name.
pub fn network(file: Tensors, landmarks: &[&str]) -> Result<Inside> {
    let all = prefixes(file.keys().map(String::as_str), landmarks);
    let labels: Vec<String> = all.iter().map(|p| p.trim_end_matches('.').to_string()).collect();
    let prefix = match (all.as_slice(), preferred(&labels)) {
        ([], _) => String::new(),
        (_, Some(one)) => all[one].clone(),
        (_, None) => bail!("the file holds the network several times: {}", labels.join(", ")),
    };
    let mut inside = Inside { prefix, ..Inside::default() };
    for (theirs, tensor) in file {
        if !belongs(&theirs, &inside.prefix, &all) || !tensor.dtype().is_float() || tensor.rank() == 0 {
            inside.beside.insert(theirs, tensor);
            continue;
        }
        let ours = plain(&theirs)[inside.prefix.len()..].to_string();
        if let Some((first, _)) = inside.tensors.insert(ours.clone(), (theirs.clone(), tensor)) {
            bail!("two tensors of the file map to {ours}: {first} and {theirs}");
        }
    }
    Ok(inside)
}

/// The role of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Averaged over the steps of a training.
    Average,
    /// The weights that the optimizer updates.
    Model,
    /// Its name does not say.
    Unknown,
}

/// Words that only mean "a network".
const NETWORK: &[&str] = &[
    "model",
    "net",
    "network",
    "state",
    "dict",
    "states",
    "params",
    "param",
    "parameters",
    "weights",
    "module",
    "online",
    "student",
    "current",
    "raw",
    "generator",
    "gen",
    "g",
    "diffusion",
    "denoiser",
    "transformer",
    "backbone",
    "dit",
    "sit",
    "unet",
    "vae",
    "autoencoder",
    "encoder",
    "vision",
    "visual",
    "trunk",
    "vit",
    "dinov",
    "ijepa",
    "first",
    "stage",
    "pipeline",
    "trainer",
    "wrapped",
    "unwrapped",
    "inner",
    "base",
    "fp",
    "bf",
    "checkpoint",
    "ckpt",
];
/// Words that mean an average.
const AVERAGE: &[&str] = &[
    "ema",
    "emas",
    "average",
    "averaged",
    "averages",
    "averaging",
    "avg",
    "swa",
    "polyak",
    "shadow",
    "shadows",
    "smoothed",
    "moving",
    "lookahead",
];

/// The role of a copy by its name, or by that of its dictionary.
pub fn role(label: &str) -> Role {
    let words = words(label);
    // A model stored beside its average in one dictionary: `ema.online_model`.
    if words.iter().any(|w| w == "online") {
        return Role::Model;
    }
    let averaged = |word: &String| {
        let around = word.strip_prefix("ema").or_else(|| word.strip_suffix("ema"));
        AVERAGE.contains(&word.as_str()) || around.is_some_and(|rest| NETWORK.contains(&rest))
    };
    if words.iter().any(averaged) {
        Role::Average
    } else if words.iter().all(|word| NETWORK.contains(&word.as_str())) {
        Role::Model
    } else {
        Role::Unknown
    }
}

/// The words of a name in lower case, without digits: `netG_ema.0.stateDict` is net, g, ema, state,
/// dict.
fn words(label: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut small = false;
    for c in label.chars() {
        if !c.is_alphabetic() || (small && c.is_uppercase()) {
            words.push(String::new());
        }
        small = c.is_lowercase();
        if let (true, Some(word)) = (c.is_alphabetic(), words.last_mut()) {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Pairs of name parts of copies: the first is ignored if the second exists. In self-distillation
/// and contrastive training, published features are those of the second.
const PASSED_BY: [(&str, &str); 4] = [
    ("student", "teacher"),
    ("momentum_encoder", "base_encoder"),
    ("target_encoder", "encoder"),
    ("online_model", "ema_model"),
];

/// The index of the copy to use: the only one after the pairs above; or the only average beside its
/// model, because published values come from averages.
pub fn preferred(labels: &[String]) -> Option<usize> {
    let has = |label: &str, part: &str| label.split('.').any(|p| p == part);
    let passed = |label: &str| {
        let by = |(first, second): &(&str, &str)| has(label, first) && labels.iter().any(|other| has(other, second));
        PASSED_BY.iter().any(by)
    };
    let left: Vec<usize> = (0..labels.len()).filter(|i| !passed(&labels[*i])).collect();
    let of = |wanted: Role| left.iter().copied().filter(|i| role(&labels[*i]) == wanted).collect::<Vec<_>>();
    match (left.as_slice(), of(Role::Average).as_slice(), of(Role::Model).as_slice()) {
        ([only], _, _) => Some(*only),
        ([_, _], [average], [_]) => Some(*average),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};

    #[test]
    fn wrappers_are_taken_out_of_any_place() {
        for (name, want) in [
            (
                "module._orig_mod.blocks.3._fsdp_wrapped_module._checkpoint_wrapped_module.attn.qkv.weight",
                "blocks.3.attn.qkv.weight",
            ),
            ("_forward_module.model._orig_mod.x", "model.x"),
            ("modules.x", "modules.x"),
            ("blocks.0.attn.module.qkv", "blocks.0.attn.qkv"),
        ] {
            assert_eq!(plain(name), want);
        }
    }

    #[test]
    fn copies_are_found_by_their_landmark() {
        let names = ["a.x.w", "state.module.x.w", "x.w", "x.w.v", "ax.w"];
        assert_eq!(prefixes(names.into_iter(), &["z", "x.w"]), ["a.", "state.", ""]);
        let all = ["a.".to_string(), String::new()];
        assert!(belongs("module.a.y", "a.", &all) && !belongs("a.y", "", &all) && belongs("b.y", "", &all));
    }

    #[test]
    fn roles_are_told_by_words() {
        for label in [
            "ema",
            "model_ema",
            "ema_model",
            "state_dict_ema",
            "ema.module",
            "ema_params1",
            "ema_0.9999",
            "EMA",
            "modelEMA",
            "G_ema",
            "netG_ema",
            "emas.0",
            "callbacks.EMA.ema_weights",
            "averaged_model",
            "swa_model",
            "ema.shadow",
            "state_dict.ema",
            "extra_state.ema_fp32_params",
            "module_ema",
            "modelema",
            "optimizer_states.0.ema",
            "model_avg",
            "ema_denoiser",
        ] {
            assert_eq!(role(label), Role::Average, "{label}");
        }
        for label in [
            "",
            "model",
            "state_dict",
            "net",
            "state.model",
            "state_dict.model",
            "generator",
            "ema.online_model",
            "model_1",
        ] {
            assert_eq!(role(label), Role::Model, "{label}");
        }
        for label in ["best_model", "slow", "target", "schema", "cinema", "model_old"] {
            assert_eq!(role(label), Role::Unknown, "{label}");
        }
    }

    #[test]
    fn one_of_several_is_preferred_or_none() {
        let of = |labels: &[&str]| preferred(&labels.iter().map(|l| l.to_string()).collect::<Vec<_>>());
        assert_eq!(of(&["student", "teacher.backbone"]), Some(1));
        assert_eq!(of(&["encoder", "target_encoder"]), Some(0));
        assert_eq!(of(&["state_dict.base_encoder", "state_dict.momentum_encoder"]), Some(0));
        assert_eq!(of(&["state_dict", "state_dict_ema"]), Some(1));
        assert_eq!(of(&["anything"]), Some(0));
        for unclear in [&["model", "net"][..], &["model", "ema1", "ema2"], &["ema", "slow"], &[]] {
            assert_eq!(of(unclear), None, "{unclear:?}");
        }
    }

    #[test]
    fn what_is_left_without_wrappers_is_there_once() {
        let of = |names: &[&str], dtype| {
            let tensor = Tensor::zeros(1, dtype, &Device::Cpu).unwrap();
            network(names.iter().map(|n| (n.to_string(), tensor.clone())).collect(), &["x.w"])
        };
        let inside = of(&["m.module.x.w", "m.y", "z"], DType::F32).unwrap();
        assert_eq!((inside.prefix.as_str(), inside.tensors["x.w"].0.as_str()), ("m.", "m.module.x.w"));
        assert_eq!(inside.beside.into_keys().collect::<Vec<_>>(), ["z"]);
        let error = of(&["module.x.w", "x.w"], DType::F32).unwrap_err().to_string();
        assert!(error.contains("two tensors of the file map to x.w: module.x.w and x.w"), "{error}");
        assert_eq!(of(&["x.w"], DType::I64).unwrap().beside.len(), 1);
    }
}
