//! Encoder and decoder of an autoencoder as commands for a GPU. Does not know how latents are
//! scaled.

use super::feature_maps::{Builder, Layer, Map};
use super::frozen::Plan;
use crate::kernels::conv::Conv2d;
use crate::models::vae::AutoencoderKl;
use crate::models::vae::blocks::{Attention, Level, Middle, Resize, Resnet};
use candle_core::Result;
use erw_gpu::program::Type;

/// From unscaled latents `[n, c, height, width]` to images, for batches of up to `batch`.
pub fn decoder(vae: &AutoencoderKl, [height, width]: [usize; 2], batch: usize, ty: Type) -> Plan<'_> {
    Plan::new(batch, ty, move |net| {
        let mut x = net.input([vae.config().latent_channels, height, width]);
        if let Some(conv) = &vae.post_quant {
            x = net.convolved(&layer(conv), x)?;
        }
        let decoder = &vae.decoder;
        x = net.convolved(&layer(&decoder.conv_in), x)?;
        x = middle(net, &decoder.middle, x)?;
        for each in &decoder.levels {
            x = level(net, each, x)?;
        }
        net.norm_in_place(&decoder.norm, &x)?;
        x = net.convolved(&layer(&decoder.conv_out), x)?;
        net.output(&x);
        Ok(())
    })
}

/// From images `[n, c, height, width]` in [-1, 1] to the moments of their latents, as
/// [`Posterior::from_moments`](crate::models::vae::Posterior::from_moments) takes them.
pub fn encoder(vae: &AutoencoderKl, [height, width]: [usize; 2], batch: usize, ty: Type) -> Plan<'_> {
    Plan::new(batch, ty, move |net| {
        let mut x = net.input([vae.config().in_channels, height, width]);
        let encoder = &vae.encoder;
        x = net.convolved(&layer(&encoder.conv_in), x)?;
        for each in &encoder.levels {
            x = level(net, each, x)?;
        }
        x = middle(net, &encoder.middle, x)?;
        net.norm_in_place(&encoder.norm, &x)?;
        x = net.convolved(&layer(&encoder.conv_out), x)?;
        if let Some(conv) = &vae.quant {
            x = net.convolved(&layer(conv), x)?;
        }
        net.output(&x);
        Ok(())
    })
}

fn layer(conv: &Conv2d) -> Layer<'_> {
    Layer {
        weight: &conv.weight,
        bias: conv.bias.as_ref(),
        stride: conv.stride.0,
        padding: conv.padding,
        relu: false,
        upsample: false,
    }
}

fn resnet(net: &mut Builder, resnet: &Resnet, x: Map) -> Result<Map> {
    let h = net.norm(&resnet.norm1, &x)?;
    let h = net.convolved(&layer(&resnet.conv1), h)?;
    net.norm_in_place(&resnet.norm2, &h)?;
    let x = match &resnet.shortcut {
        Some(conv) => net.convolved(&layer(conv), x)?,
        None => x,
    };
    let y = net.convolution(&layer(&resnet.conv2), &h, Some(&x))?;
    net.free(h);
    net.free(x);
    Ok(y)
}

fn attention(net: &mut Builder, attention: &Attention, x: Map) -> Result<Map> {
    let Attention { norm, q, k, v, out } = attention;
    let h = net.norm(norm, &x)?;
    let y = net.attention([q, k, v, out], h, &x)?;
    net.free(x);
    Ok(y)
}

fn middle(net: &mut Builder, middle: &Middle, x: Map) -> Result<Map> {
    let x = resnet(net, &middle.first, x)?;
    let x = match &middle.attention {
        Some(each) => attention(net, each, x)?,
        None => x,
    };
    resnet(net, &middle.second, x)
}

fn level(net: &mut Builder, level: &Level, mut x: Map) -> Result<Map> {
    for (i, each) in level.resnets.iter().enumerate() {
        x = resnet(net, each, x)?;
        if let Some(each) = level.attentions.get(i) {
            x = attention(net, each, x)?;
        }
    }
    match &level.resize {
        Resize::Keep => Ok(x),
        Resize::Halve(conv) => net.convolved(&layer(conv), x),
        Resize::Double(conv) => net.convolved(&Layer { upsample: true, ..layer(conv) }, x),
    }
}
