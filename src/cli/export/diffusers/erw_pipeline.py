"""Images from a SiT that erw trained: noise at t = 1, an Euler, Heun or Euler-Maruyama integration
to data at t = 0 with classifier-free guidance, and the autoencoder's decoder.

The steps are those of erw, which are those of REPA: the state is in 64 bits, the network gets 32,
and the stochastic sampler takes a last step without noise from t = 0.04.

`pipe(seed=0, images=range(8))` makes images 0 to 7 of erw's `sample` stage with that seed. erw's
random numbers are those of Philox4x32-10 as a function of (seed, purpose, step, image), so that an
image does not depend on the batch that it is made in. They are in this file because diffusers
fetches no other beside it from a hub.
"""

import math

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

SAMPLERS = ("ode-euler", "ode-heun", "sde")
LAST_STEP = 0.04
# What random numbers are for: the noise at the start and of a step, the class of an image.
START, STEP, LABEL = 7, 8, 9
LOW = np.uint64(0xFFFFFFFF)


def philox(counter, key):
    """Blocks of four words. Words are 32 bits wide, in arrays of 64 bits."""
    c, k = [np.asarray(word, dtype=np.uint64) for word in counter], [np.uint64(word) for word in key]
    high = np.uint64(32)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> high) ^ c[1] ^ k[0], b & LOW, (a >> high) ^ c[3] ^ k[1], a & LOW]
        k = [(k[0] + np.uint64(0x9E3779B9)) & LOW, (k[1] + np.uint64(0xBB67AE85)) & LOW]
    return c


def words(seed, purpose, step, image, first, count):
    """`count` blocks from block `first` on, in the order in which erw draws them."""
    low = 0xFFFFFFFF
    high = (step >> 32 & 0xFF) << 16 | image >> 32 & 0xFFFF
    key = philox([seed & low, seed >> 32 & low, purpose, high], [0x45525731, 0])
    blocks = np.arange(first, first + count, dtype=np.uint64)
    fixed = [np.full_like(blocks, word) for word in (step & low, image & low)]
    return np.stack(philox([blocks, *fixed, np.full_like(blocks, key[2])], key[:2]), axis=1).reshape(-1)


def normals(seed, purpose, step, image, count):
    """`count` standard normals in 32 bits, by Box and Muller."""
    pairs = words(seed, purpose, step, image, 0, -(-count // 4)).astype(np.float64).reshape(-1, 2)
    radius = np.sqrt(-2.0 * np.log((pairs[:, 0] + 1.0) * 2.0**-32))
    angle = 2.0 * np.pi * (pairs[:, 1] * 2.0**-32)
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return both.reshape(-1)[:count].astype(np.float32)


def starts(seed, images, shape):
    """Starting noise [len(images), *shape]."""
    count = int(np.prod(shape))
    return np.stack([normals(seed, START, 0, image, count).reshape(shape) for image in images])


def steps(seed, step, images, shape):
    """Noise of a step of the stochastic sampler."""
    count = int(np.prod(shape))
    return np.stack([normals(seed, STEP, step, image, count).reshape(shape) for image in images])


def random_class(seed, image, classes):
    """The class of an image where they are drawn: Lemire's multiplication with rejection."""
    block = 0
    while True:
        four = [int(word) for word in words(seed, LABEL, 0, image, block, 1)]
        for first, second in (four[:2], four[2:]):
            product = (first << 32 | second) * classes
            if product & (2**64 - 1) >= (2**64 - classes) % classes:
                return product >> 64
        block += 1


def drift(velocity, x, t, path):
    """Of the reverse SDE with g^2 = 2t: v - t s, with the score s from the velocity."""
    if path == "linear":
        alpha, sigma, d_alpha, d_sigma = 1.0 - t, t, -1.0, 1.0
    else:
        angle, slope = t * math.pi / 2, math.pi / 2
        alpha, sigma = math.cos(angle), math.sin(angle)
        d_alpha, d_sigma = -slope * sigma, slope * alpha
    ratio = alpha / d_alpha
    score = (ratio * velocity - x) / (sigma * sigma - ratio * d_sigma * sigma)
    return velocity - t * score


class SiTPipeline(DiffusionPipeline):
    """`path` is that of the training, `sampling` the defaults of a call, `id2label` the names of
    the classes, and `labels` how erw gives images their classes, "balanced" or "random"."""

    model_cpu_offload_seq = "transformer->vae"

    def __init__(self, transformer, vae, path="linear", sampling=None, id2label=None, labels="random"):
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae)
        self.register_to_config(path=path, sampling=sampling or {}, id2label=id2label or {}, labels=labels)

    def class_number(self, label):
        """A class by its name or number."""
        if isinstance(label, str):
            numbers = {name: int(number) for number, name in self.config.id2label.items()}
            if label not in numbers:
                raise ValueError(f"no class {label!r}; the classes are {', '.join(numbers)}")
            return numbers[label]
        if not 0 <= label < self.transformer.config.num_classes:
            raise ValueError(f"class {label} is not one of the {self.transformer.config.num_classes} classes")
        return int(label)

    def image_class(self, seed, image):
        """The class that erw gives this image of a seed."""
        classes = self.transformer.config.num_classes
        return image % classes if self.config.labels == "balanced" else random_class(seed, image, classes)

    @torch.no_grad()
    def __call__(
        self,
        class_labels=None,
        num_inference_steps=None,
        guidance_scale=None,
        guidance_interval=None,
        sampler=None,
        generator=None,
        latents=None,
        seed=None,
        images=None,
        output_type="pil",
        return_dict=True,
    ):
        """An image for each class in `class_labels`, names or numbers.

        `guidance_interval` are the lowest and the highest time t at which guidance acts, t = 1
        being noise; a scale of 1 or less is none. `sampler` is one of "ode-euler", "ode-heun",
        "sde".

        The noise is torch's, from `generator`, or with `seed` that of erw for the images of these
        numbers (default: 0, 1, ...), whose classes are then erw's too unless given. `latents`
        replaces the noise at the start. `output_type` is "pil", "np", "pt" or "latent".
        """
        default = self.config.sampling
        count = num_inference_steps or default.get("steps", 250)
        scale = default.get("cfg_scale", 1.0) if guidance_scale is None else guidance_scale
        interval = (default.get("guidance_low", 0.0), default.get("guidance_high", 1.0))
        low, high = guidance_interval or interval
        sampler = sampler or default.get("sampler", "sde")
        config, device = self.transformer.config, self._execution_device
        if sampler not in SAMPLERS:
            raise ValueError(f"no sampler {sampler!r}; there are {', '.join(SAMPLERS)}")
        if scale > 1 and config.class_dropout <= 0:
            raise ValueError("the model was trained without class dropout and has no null class to guide with")

        if isinstance(class_labels, (str, int)):
            class_labels = [class_labels]
        if seed is None and (class_labels is None or images is not None):
            raise ValueError("give class_labels, or a seed of erw with the numbers of its images")
        if seed is not None:
            images = list(range(len(class_labels or [0])) if images is None else images)
            if class_labels is None:
                class_labels = [self.image_class(seed, image) for image in images]
            if len(images) != len(class_labels):
                raise ValueError(f"{len(images)} images, but {len(class_labels)} classes")
        classes = torch.tensor([self.class_number(label) for label in class_labels], device=device)
        null = torch.full_like(classes, config.num_classes)

        # MPS has no 64 bits.
        wide = torch.float32 if device.type == "mps" else torch.float64
        shape = (len(classes), config.in_channels, config.input_size, config.input_size)

        def noise(step=None):
            if seed is None:
                return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32).to(wide)
            drawn = starts(seed, images, shape[1:]) if step is None else steps(seed, step, images, shape[1:])
            return torch.from_numpy(drawn).to(device, wide)

        def evaluate(x, t, labels):
            times = torch.full((len(x),), t, dtype=torch.float32, device=device)
            return self.transformer(x.to(self.transformer.dtype), times, labels, return_dict=False)[0].to(wide)

        def guided(x, t, active, slope=lambda velocity: velocity):
            """`slope` of the velocity, mixed with that of the null class where guidance is active."""
            if not active:
                return slope(evaluate(x, t, classes))
            both = evaluate(torch.cat([x, x]), t, torch.cat([classes, null]))
            of_class, of_null = (slope(velocity) for velocity in both.chunk(2))
            return of_null + scale * (of_class - of_null)

        def is_active(t):
            return scale > 1 and low <= t <= high

        x = noise() if latents is None else latents.to(device, wide)
        with self.progress_bar(total=count) as progress:
            if sampler == "sde":
                times = torch.linspace(1.0, LAST_STEP, count, dtype=torch.float64).tolist()
                for i, (t, later) in enumerate(zip(times, times[1:])):
                    moved = guided(x, t, is_active(t), lambda velocity: drift(velocity, x, t, self.config.path))
                    x = x + moved * (later - t) + noise(i) * math.sqrt(2 * t) * math.sqrt(t - later)
                    progress.update()
                t = times[-1]
                x = x - t * guided(x, t, is_active(t), lambda velocity: drift(velocity, x, t, self.config.path))
                progress.update()
            else:
                times = torch.linspace(1.0, 0.0, count + 1, dtype=torch.float64).tolist()
                for i, (t, later) in enumerate(zip(times, times[1:])):
                    # Whether guidance is active is decided at t for both slopes.
                    slope = guided(x, t, is_active(t))
                    if sampler == "ode-heun" and i + 1 < count:
                        ahead = guided(x + slope * (later - t), later, is_active(t))
                        slope = 0.5 * slope + 0.5 * ahead
                    x = x + slope * (later - t)
                    progress.update()
        result = x if output_type == "latent" else self.decode(x, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=result) if return_dict else (result,)

    def decode(self, latents, output_type):
        """Latents of the network to images."""
        config = self.vae.config
        shift, spread = getattr(config, "shift_factor", None) or 0.0, 1.0
        if getattr(config, "latents_mean", None) is not None:
            shift, spread = (latents.new_tensor(v).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))
        latents = latents / config.scaling_factor * spread + shift
        pixels = self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0].float()
        if output_type == "pt":
            return (pixels / 2 + 0.5).clamp(0, 1)
        if output_type == "np":
            return (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        # To the nearest level, as erw stores images.
        levels = (127.5 * pixels + 128).clamp(0, 255).permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)
        return self.numpy_to_pil(levels / 255.0)
