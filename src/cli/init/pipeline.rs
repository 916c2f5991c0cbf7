//! The text of a pipeline for a set of images: from the images to a grid of samples, and to a
//! distance from held-out images where there are enough of them.

use super::images::{Images, SetArgs};
use super::sizes::Sizes;
use crate::schema::FILE as SCHEMA;
use std::path::Path;

/// Name of the pipeline; its file is called so, too.
pub const NAME: &str = "mine";
/// Every so many images of a class are held out; the default of `images`.
const HOLDOUT_EVERY: usize = 5;
/// A distance of fewer held-out images says little: it needs more of them than features.
const MEASURABLE: usize = 256;

/// What the pipeline is for, and its text.
#[derive(Debug)]
pub struct Plan<'a> {
    set: &'a SetArgs,
    /// The path of the images as the pipeline states it.
    source: &'a str,
    images: &'a Images,
    pub sizes: Sizes,
    /// Whether images are held out and samples compared with them.
    pub measured: bool,
}

impl<'a> Plan<'a> {
    pub fn of(set: &'a SetArgs, source: &'a str, images: &'a Images, resolution: Option<usize>) -> Self {
        let held_out = images.held_out(HOLDOUT_EVERY);
        let side = images.usual_side();
        let is_published = Sizes::of(side, images.count, resolution).published();
        let measured = !is_published && images.classes() > 1 && held_out >= MEASURABLE;
        let trained = images.count - if measured { held_out } else { 0 };
        Self { set, source, images, sizes: Sizes::of(side, trained, resolution), measured }
    }

    /// What a set of images lacks that its samples could be measured with.
    pub fn why_unmeasured(&self) -> Option<String> {
        match self.images.classes() {
            _ if self.measured || self.sizes.published() => None,
            0 | 1 => Some("the network that measures them tells classes apart, so it takes two or more".into()),
            _ => Some(format!(
                "too few images to hold every {HOLDOUT_EVERY}th out; {} suffice",
                MEASURABLE * HOLDOUT_EVERY
            )),
        }
    }

    /// The whole file.
    pub fn text(&self) -> String {
        let networks = if self.sizes.published() { self.published() } else { self.trained() };
        let measurement = if self.measured { MEASUREMENT } else { "" };
        [self.head(), self.data(), networks, self.method(), self.sample(), measurement.into()].concat()
    }

    fn head(&self) -> String {
        let Sizes { resolution, .. } = self.sizes;
        let (count, classes, sizes) = (self.images.count, self.images.classes(), self.images.sizes());
        let what = match classes {
            1 => format!("{count} images of one class"),
            _ => format!("{count} images of {classes} classes"),
        };
        let networks = match self.sizes.published() {
            true => "Autoencoder and encoder are published ones, which are downloaded.",
            false => "Autoencoder and encoder are trained here, so that nothing is downloaded.",
        };
        let unlabelled = match classes {
            1 => "# There is one class, so nothing is learnt from labels, and sampling has no guidance.\n",
            _ => "",
        };
        format!(
            "\
#:schema ./{SCHEMA}
#
# From your images to a grid of samples, at {resolution} x {resolution} pixels.
#
# Written by `erw init mine` for {what}
# ({sizes}).
# {networks}
# All sizes are first guesses. Change them here, or try one by `--set train.steps=5000`;
# `erw plan {NAME}.toml` shows what would run again, `erw explain {NAME}.toml train` every parameter.
{unlabelled}name = \"{NAME}\"

"
        )
    }

    fn data(&self) -> String {
        let SetArgs { part, labels, classes, .. } = self.set;
        let source = format!("source = {}", quoted(self.source));
        // `source` of a published network would be a file of it.
        let is_shared = !self.sizes.published();
        let mut text = format!("[params]\nseed = 0\n{}", if is_shared { format!("{source}\n") } else { String::new() });
        if let Some(part) = part {
            text += &format!("part = {}\n", quoted(part));
        }
        if let Some(labels) = labels.as_deref().and_then(Path::to_str) {
            text += &format!("labels = {}\n", quoted(labels));
        }
        if classes != "auto" {
            text += &format!("classes = {}\n", quoted(classes));
        }
        if self.images.has_unreadable() {
            text += &stated("on_error = \"skip\"", "some images cannot be read: the log names them");
        }
        text += &stated(&format!("resolution = {}", self.sizes.resolution), "side of an image in pixels");
        text += &stated("transform = \"center-crop-dhariwal\"", "scales the shorter side, crops the longer one");
        text += "\n";
        text += &rule("data");
        text += &match (self.measured, is_shared) {
            (true, _) => "\
# Every fifth image of a class is held out, to compare samples with.

[stages.images]
kind = \"images\"
params = { split = \"train\" }

[stages.held-out]
kind = \"images\"
params = { split = \"holdout\" }

"
            .to_string(),
            (false, true) => "\n[stages.images]\nkind = \"images\"\n\n".to_string(),
            (false, false) => format!("\n[stages.images]\nkind = \"images\"\nparams = {{ {source} }}\n\n"),
        };
        text
    }

    fn published(&self) -> String {
        rule("autoencoder and encoder: published files, see `erw weights list`")
            + "
[stages.vae]
kind = \"weights\"
params = { as = \"vae\", name = \"sd-vae-ft-mse\" }

[stages.encoder]
kind = \"weights\"
params = { as = \"encoder\", name = \"dinov2-vit-b\" }

" + LATENTS
    }

    fn trained(&self) -> String {
        let large = self.sizes.resolution > 32;
        let (vae_steps, encoder_steps) = if large { (1000, 600) } else { (600, 300) };
        let objective = match self.images.classes() {
            1 => ", objective = \"self-supervised\"",
            _ => "",
        };
        let patch_size = self.sizes.pixels_per_token();
        rule("autoencoder and encoder, one thread each, so that they train side by side")
            + &format!(
                "
[stages.vae]
kind = \"train-vae\"
inputs = {{ images = \"images\" }}
params = {{ steps = {vae_steps} }}
resources = {{ threads = 1 }}

# Its patches are as large as a token of the SiT: {patch_size} pixels.
[stages.encoder]
kind = \"train-encoder\"
inputs = {{ images = \"images\" }}
params = {{ patch_size = {patch_size}, steps = {encoder_steps}{objective} }}
resources = {{ threads = 1 }}

"
            )
            + LATENTS
    }

    fn method(&self) -> String {
        let Sizes { resolution, patch_size, batch, warmup_steps, steps, .. } = self.sizes;
        let (latent, tokens) = (self.sizes.latent_side(), self.sizes.tokens());
        let published = self.sizes.published();
        let network = match (published, resolution > 32) {
            (true, _) => "model = \"SiT-B/2\"\n".to_string(),
            (false, large) => {
                let (hidden, blocks, heads) = if large { (192, 8, 6) } else { (128, 6, 4) };
                [
                    "model = \"custom\"\n".into(),
                    stated(&format!("hidden = {hidden}"), "width of a token"),
                    format!("blocks = {blocks}\nheads = {heads}\n"),
                    stated(&format!("patch_size = {patch_size}"), "side of a patch in latents"),
                    "projector_dim = 256\n".into(),
                ]
                .concat()
            }
        };
        let (depth, rates, train_rates, every) = match published {
            true => ("", "", "", 1000),
            false => ("depth = 3\n", "lr = 1e-3\n", "lr = 1e-3\nbeta2 = 0.99\nema_decay = 0.995\n", 250),
        };
        let aligned = if published { "" } else { "encoder_depth = 3\nalignment_weight = 1.0\n" };
        let half_life =
            stated(&format!("alignment_steps = {}", steps / 3), "in which the weight of the alignment halves");
        rule("the method: warmup, then training with an alignment that fades")
            + &format!(
                "\
# {resolution} x {resolution} pixels are {latent} x {latent} latents, and {tokens} x {tokens} tokens of {patch_size} x {patch_size} latents.
# Both phases state the same network.

[stages.warmup]
kind = \"warmup\"
inputs = {{ latents = \"latents\", features = \"features\" }}
operation = {{ checkpoint_every = {every}, log_every = 10 }}

[stages.warmup.params]
{network}{depth}steps = {warmup_steps}
batch = {batch}
{rates}
[stages.train]
kind = \"train\"
inputs = {{ latents = \"latents\", features = \"features\", init = \"warmup\" }}
operation = {{ checkpoint_every = {every}, log_every = 10 }}

[stages.train.params]
{network}{aligned}alignment = \"half-life\"
{half_life}steps = {steps}
batch = {batch}
{train_rates}
"
            )
    }

    fn sample(&self) -> String {
        let guidance = match self.images.classes() {
            1 => String::new(),
            _ => {
                stated("cfg_scale = 1.5", "guidance, within an interval of times (arXiv 2404.07724)")
                    + "guidance_low = 0.1\nguidance_high = 0.9\n"
            }
        };
        let labels = stated("labels = \"balanced\"", "the classes in turn");
        let count = if self.measured { 500 } else { 64 };
        rule("samples")
            + &format!(
                "\
# `erw run` prints the path of grid.png; `erw export {NAME}.toml sample FOLDER` copies all images.

[stages.sample]
kind = \"sample\"
inputs = {{ sit = \"train\", vae = \"vae\" }}
operation = {{ batch = 64 }}

[stages.sample.params]
sampler = \"ode-heun\"
steps = 20
count = {count}
{guidance}{labels}"
            )
    }
}

const LATENTS: &str = "\
[stages.latents]
kind = \"latents\"
inputs = { images = \"images\", vae = \"vae\" }

[stages.features]
kind = \"features\"
inputs = { images = \"images\", encoder = \"encoder\" }

";

const MEASUREMENT: &str = "
# ---- measurement, on images that no stage was trained on -----------------------------------------
# Distances in the features of a classifier of your classes, which is not FID. `fd-floor` is that of
# real images from other real images, which samples can hardly beat.

[stages.classifier]
kind = \"train-classifier\"
inputs = { images = \"images\", holdout = \"held-out\" }
params = { seed = 1 }
resources = { threads = 1 }

[stages.fd]
kind = \"fid\"
inputs = { samples = \"sample\", reference = \"held-out\", network = \"classifier\" }

[stages.fd-floor]
kind = \"fid\"
inputs = { samples = \"images\", reference = \"held-out\", network = \"classifier\" }
";

/// A line with a comment.
fn stated(value: &str, comment: &str) -> String {
    format!("{value:<35} # {comment}\n")
}

/// The comment above a part.
fn rule(title: &str) -> String {
    format!("# ---- {title} {}\n", "-".repeat(92usize.saturating_sub(title.chars().count())))
}

/// A text as a basic string of TOML, in one line. Those of JSON are, but for one character.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}
