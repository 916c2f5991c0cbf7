//! Translates the tensor names of published autoencoders to those of current diffusers: from
//! diffusers before 0.15 and from the original code of latent diffusion (CompVis), alone or inside
//! a whole Stable Diffusion model.

use super::VaeConfig;
use crate::models::state_dict;
use crate::nn::params::{Adopted, Tensors};
use candle_core::{DType, Result, bail};

/// The decoder's first layer, which has the same name everywhere.
pub const LANDMARKS: &[&str] = &["decoder.conv_in.weight"];

/// Tensors that only training needs, by prefix: losses and their networks, the encoder to which
/// latents are aligned (VA-VAE), and the step count of an average.
const UNUSED: &[&str] =
    &["loss.", "discriminator.", "perceptual_loss.", "foundation_model.", "linear_proj.", "model_ema."];

/// The tensors of a file with the names of diffusers, without those for training and the rest of a
/// Stable Diffusion model.
pub fn adopt(config: &VaeConfig, file: Tensors) -> Result<Adopted> {
    let inside = state_dict::network(file, LANDMARKS)?;
    let mut adopted = Adopted { dropped: inside.beside.into_keys().collect(), ..Adopted::default() };
    for (name, (theirs, tensor)) in inside.tensors {
        if UNUSED.iter().any(|unused| name.starts_with(unused)) {
            adopted.dropped.push(theirs);
            continue;
        }
        let ours = modern_name(&diffusers_name(&name, config.block_out_channels.len()));
        // The projections of attention were once 1x1 convolutions.
        let tensor = match tensor.dims() {
            [_, _, 1, 1] if ours.contains(".attentions.") => tensor.flatten_from(1)?,
            _ => tensor,
        };
        let twice = adopted.tensors.insert(ours.clone(), tensor.to_dtype(DType::F32)?.contiguous()?);
        if twice.is_some() {
            bail!("two tensors of the file map to {ours}, one of them {theirs}");
        }
        if ours != theirs {
            adopted.renamed.insert(ours, theirs);
        }
    }
    Ok(adopted)
}

/// The current name for attention tensors from before diffusers 0.15.
fn modern_name(name: &str) -> String {
    const RENAMED: [(&str, &str); 4] =
        [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];
    match name.contains(".attentions.") {
        true => RENAMED.iter().fold(name.to_string(), |name, (old, new)| name.replace(old, new)),
        false => name.to_string(),
    }
}

/// diffusers' name for a CompVis name; other names are unchanged. CompVis counts the decoder's
/// levels from the other end.
fn diffusers_name(name: &str, levels: usize) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        [half, "down", i, "block", j, rest @ ..] => format!("{half}.down_blocks.{i}.resnets.{j}.{}", unit(rest)),
        [half, "down", i, "downsample", rest @ ..] => {
            format!("{half}.down_blocks.{i}.downsamplers.0.{}", rest.join("."))
        }
        [half, "up", i, "block", j, rest @ ..] => {
            format!("{half}.up_blocks.{}.resnets.{j}.{}", from_the_end(i, levels), unit(rest))
        }
        [half, "up", i, "upsample", rest @ ..] => {
            format!("{half}.up_blocks.{}.upsamplers.0.{}", from_the_end(i, levels), rest.join("."))
        }
        [half, "mid", "block_1", rest @ ..] => format!("{half}.mid_block.resnets.0.{}", unit(rest)),
        [half, "mid", "block_2", rest @ ..] => format!("{half}.mid_block.resnets.1.{}", unit(rest)),
        [half, "down", i, "attn", j, part, rest @ ..] => {
            format!("{half}.down_blocks.{i}.attentions.{j}.{}.{}", attention(part), rest.join("."))
        }
        [half, "up", i, "attn", j, part, rest @ ..] => {
            let i = from_the_end(i, levels);
            format!("{half}.up_blocks.{i}.attentions.{j}.{}.{}", attention(part), rest.join("."))
        }
        [half, "mid", "attn_1", part, rest @ ..] => {
            format!("{half}.mid_block.attentions.0.{}.{}", attention(part), rest.join("."))
        }
        [half, "norm_out", rest @ ..] => format!("{half}.conv_norm_out.{}", rest.join(".")),
        _ => name.to_string(),
    }
}

fn attention(part: &str) -> &str {
    match part {
        "norm" => "group_norm",
        "q" => "to_q",
        "k" => "to_k",
        "v" => "to_v",
        "proj_out" => "to_out.0",
        other => other,
    }
}

fn unit(rest: &[&str]) -> String {
    match rest {
        ["nin_shortcut", rest @ ..] => format!("conv_shortcut.{}", rest.join(".")),
        _ => rest.join("."),
    }
}

/// An invalid level is kept, and is then reported as not in the network.
fn from_the_end(level: &str, levels: usize) -> String {
    match level.parse::<usize>() {
        Ok(i) if i < levels => (levels - 1 - i).to_string(),
        _ => level.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_names_are_known() {
        let name = |theirs: &str| modern_name(&diffusers_name(theirs, 4));
        let pairs = [
            ("encoder.down.0.block.1.norm1.weight", "encoder.down_blocks.0.resnets.1.norm1.weight"),
            ("encoder.down.1.block.0.nin_shortcut.bias", "encoder.down_blocks.1.resnets.0.conv_shortcut.bias"),
            ("encoder.down.2.downsample.conv.weight", "encoder.down_blocks.2.downsamplers.0.conv.weight"),
            ("decoder.up.3.block.2.conv2.weight", "decoder.up_blocks.0.resnets.2.conv2.weight"),
            ("decoder.up.1.upsample.conv.bias", "decoder.up_blocks.2.upsamplers.0.conv.bias"),
            ("decoder.mid.block_2.conv1.weight", "decoder.mid_block.resnets.1.conv1.weight"),
            ("encoder.down.3.attn.1.q.weight", "encoder.down_blocks.3.attentions.1.to_q.weight"),
            ("decoder.up.3.attn.0.proj_out.bias", "decoder.up_blocks.0.attentions.0.to_out.0.bias"),
            ("encoder.mid.attn_1.norm.bias", "encoder.mid_block.attentions.0.group_norm.bias"),
            ("encoder.mid.attn_1.proj_out.weight", "encoder.mid_block.attentions.0.to_out.0.weight"),
            ("encoder.mid_block.attentions.0.query.weight", "encoder.mid_block.attentions.0.to_q.weight"),
            ("encoder.norm_out.weight", "encoder.conv_norm_out.weight"),
            ("quant_conv.weight", "quant_conv.weight"),
            ("decoder.up.9.block.0.conv1.bias", "decoder.up_blocks.9.resnets.0.conv1.bias"),
        ];
        for (theirs, ours) in pairs {
            assert_eq!(name(theirs), ours);
            assert_eq!(name(ours), ours, "today's names stay");
        }
    }
}
