"""Images from a SiT that erw trained: noise at t = 1, an Euler, Heun, Dormand-Prince or
Euler-Maruyama integration to data at t = 0, guided away from the null class or from another
network, and the autoencoder's decoder.

The steps are those of erw. Fixed ones are those of REPA: the state is in 64 bits, the network gets
32, and the stochastic sampler takes a last step without noise from t = 0.04. Those of
Dormand-Prince are torchdiffeq's, but each image has its own.

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

SAMPLERS = ("ode-euler", "ode-heun", "ode-dopri5", "sde")
# Settings that only some samplers have.
OF_SAMPLERS = {"time_shift": ("ode-euler", "ode-heun"), "atol": ("ode-dopri5",), "rtol": ("ode-dopri5",)}
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


# Dormand and Prince (1980): the times of the stages as fractions of a step, and what each takes of
# the slopes before it; the error and the middle of a step by Shampine (1986).
NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (
    35 / 384 - 1951 / 21600,
    0.0,
    500 / 1113 - 22642 / 50085,
    125 / 192 - 451 / 720,
    -2187 / 6784 + 12231 / 42400,
    11 / 84 - 649 / 6300,
    -1 / 60,
)
MIDDLE = (
    6025192743 / 30085553152 / 2,
    0.0,
    51252292925 / 65400821598 / 2,
    -2691868925 / 45128329728 / 2,
    187940372067 / 1594534317056 / 2,
    -1776094331 / 19743644256 / 2,
    11237099 / 235043384 / 2,
)


def along(y, slopes, weights, step):
    for slope, weight in zip(slopes, weights):
        y = y + (step * weight)[:, None] * slope
    return y


def dopri5(slopes, y, atol, rtol, done):
    """Integrates rows `y` [n, d] from time 0 to 1. `slopes` are those of rows with these numbers at
    times and points, and `done` is told how many rows have ended."""

    def scaled(values, sizes):
        return (values / (atol + rtol * sizes)).square().mean(1).sqrt()

    rows, ends = torch.arange(len(y), device=y.device), torch.empty_like(y)
    t = torch.zeros_like(y[:, 0])
    first = slopes(rows, t, y)
    # The first step by Hairer, Norsett and Wanner.
    size, slope = scaled(y, y.abs()), scaled(first, y.abs())
    step = torch.where((size < 1e-5) | (slope < 1e-5), 1e-6, 0.01 * size / slope)
    bend = scaled(slopes(rows, step, along(y, [first], [1.0], step)) - first, y.abs()) / step
    flat = (slope <= 1e-15) & (bend <= 1e-15)
    longer = torch.where(flat, (1e-3 * step).clamp(min=1e-6), (0.01 / torch.maximum(slope, bend)) ** 0.2)
    step = torch.minimum(longer, 100 * step)
    while len(rows):
        if (t + step <= t).any():
            raise ValueError("the steps of dopri5 become too small: raise atol or rtol")
        asked = [first]
        for node, weights in zip(NODES, STAGES):
            end = along(y, asked, weights, step)
            asked.append(slopes(rows, t + node * step, end))
        error = along(torch.zeros_like(y), asked, ERROR, step)
        ratio = scaled(error, torch.maximum(y.abs(), end.abs()))
        # The end is read from the polynomial through start, middle and end, with the slopes at both.
        x, width = ((1 - t) / step)[:, None], step[:, None]
        middle, f0, f1 = along(y, asked, MIDDLE, step), width * asked[0], width * asked[-1]
        a = 2 * (f1 - f0) - 8 * (end + y) + 16 * middle
        b = 5 * f0 - 3 * f1 + 18 * y + 14 * end - 32 * middle
        c = f1 - 4 * f0 - 11 * y - 5 * end + 16 * middle
        value = y + x * (f0 + x * (c + x * (b + x * a)))
        lost, accepted = ratio.isnan(), ratio <= 1
        ended = lost | (accepted & (t + step >= 1))
        ends[rows[ended]] = torch.where(lost[:, None], math.nan, value)[ended]
        done(int(ended.sum()))
        t, y = torch.where(accepted, t + step, t), torch.where(accepted[:, None], end, y)
        first = torch.where(accepted[:, None], asked[-1], first)
        least = torch.where(ratio < 1, torch.ones_like(ratio), 0.2)
        step = step * torch.maximum(0.9 / ratio**0.2, least).clamp(max=10)
        rows, t, y, first, step = (values[~ended] for values in (rows, t, y, first, step))
    return ends


class SiTPipeline(DiffusionPipeline):
    """`guide` is the network that guidance leads away from; without one it leads away from the null
    class. `path` is that of the training, `sampling` the defaults of a call, `id2label` the names of
    the classes, and `labels` how erw gives images their classes, "balanced" or "random"."""

    model_cpu_offload_seq = "transformer->guide->vae"
    _optional_components = ["guide"]

    def __init__(self, transformer, vae, guide=None, path="linear", sampling=None, id2label=None, labels="random"):
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae, guide=guide)
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
        time_shift=None,
        atol=None,
        rtol=None,
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
        "ode-dopri5", "sde". `time_shift` is s of the times s t / (1 + (s - 1) t) of the first two.
        "ode-dopri5" takes no number of steps, but the tolerances `atol` and `rtol`.

        The noise is torch's, from `generator`, or with `seed` that of erw for the images of these
        numbers (default: 0, 1, ...), whose classes are then erw's too unless given. `latents`
        replaces the noise at the start. `output_type` is "pil", "np", "pt" or "latent".
        """
        default, given = self.config.sampling, {"time_shift": time_shift, "atol": atol, "rtol": rtol}
        count = num_inference_steps or default.get("steps", 250)
        scale = default.get("cfg_scale", 1.0) if guidance_scale is None else guidance_scale
        interval = (default.get("guidance_low", 0.0), default.get("guidance_high", 1.0))
        low, high = guidance_interval or interval
        sampler = sampler or default.get("sampler", "sde")
        config, device = self.transformer.config, self._execution_device
        if sampler not in SAMPLERS:
            raise ValueError(f"no sampler {sampler!r}; there are {', '.join(SAMPLERS)}")
        for name, value in given.items():
            if value is not None and sampler not in OF_SAMPLERS[name]:
                raise ValueError(f"{name} is a setting of {' and '.join(OF_SAMPLERS[name])}, not of {sampler}")
        shift, atol, rtol = (default.get(name) if value is None else value for name, value in given.items())
        if scale > 1 and config.class_dropout <= 0 and self.guide is None:
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

        # MPS has no 64 bits.
        wide = torch.float32 if device.type == "mps" else torch.float64
        shape = (len(classes), config.in_channels, config.input_size, config.input_size)

        def noise(step=None):
            if seed is None:
                return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32).to(wide)
            drawn = starts(seed, images, shape[1:]) if step is None else steps(seed, step, images, shape[1:])
            return torch.from_numpy(drawn).to(device, wide)

        def evaluate(network, x, t, labels):
            t = t.to(torch.float32)
            return network(x.to(network.dtype), t, labels, return_dict=False)[0].to(wide)

        def guided(x, t, labels, active, slope=lambda velocity, x: velocity):
            """`slope` of the velocities, led away from the other ones in the rows that are `active`."""
            chosen = active.nonzero()[:, 0]
            if len(chosen) == 0:
                return slope(evaluate(self.transformer, x, t, labels), x)
            part = (x[chosen], t[chosen], labels[chosen])
            if self.guide is None:
                part = (part[0], part[1], torch.full_like(chosen, config.num_classes))
                both = [torch.cat(pair) for pair in zip((x, t, labels), part)]
                own, other = evaluate(self.transformer, *both).split([len(x), len(chosen)])
            else:
                own, other = evaluate(self.transformer, x, t, labels), evaluate(self.guide, *part)
            own, other = slope(own, x), slope(other, part[0])
            return own.index_copy(0, chosen, other + scale * (own[chosen] - other))

        def is_active(t):
            # The last step of Dormand-Prince passes the end.
            t = t.clamp(min=0.0)
            return (low <= t) & (t <= high) if scale > 1 else torch.zeros_like(t, dtype=torch.bool)

        def all_at(t):
            return torch.full((len(classes),), t, dtype=wide, device=device)

        def drifted(x, t):
            def slope(velocity, x):
                return drift(velocity, x, t, self.config.path)

            return guided(x, all_at(t), classes, is_active(all_at(t)), slope)

        x = noise() if latents is None else latents.to(device, wide)
        with self.progress_bar(total=len(classes) if sampler == "ode-dopri5" else count) as progress:
            if sampler == "sde":
                times = torch.linspace(1.0, LAST_STEP, count, dtype=torch.float64).tolist()
                for i, (t, later) in enumerate(zip(times, times[1:])):
                    x = x + drifted(x, t) * (later - t) + noise(i) * math.sqrt(2 * t) * math.sqrt(t - later)
                    progress.update()
                x = x - times[-1] * drifted(x, times[-1])
                progress.update()
            elif sampler == "ode-dopri5":

                def slopes(rows, times, points):
                    t, points = 1 - times, points.view(-1, *shape[1:])
                    return -guided(points, t, classes[rows], is_active(t)).flatten(1)

                atol, rtol = 1e-6 if atol is None else atol, 1e-3 if rtol is None else rtol
                x = dopri5(slopes, x.flatten(1), atol, rtol, progress.update).view(shape)
            else:
                times = torch.linspace(1.0, 0.0, count + 1, dtype=torch.float64).tolist()
                if shift is not None:
                    times = [shift * t / (1 + (shift - 1) * t) for t in times]
                for i, (t, later) in enumerate(zip(times, times[1:])):
                    # Whether guidance is active is decided at t for both slopes.
                    active = is_active(all_at(t))
                    slope = guided(x, all_at(t), classes, active)
                    if sampler == "ode-heun" and i + 1 < count:
                        ahead = guided(x + slope * (later - t), all_at(later), classes, active)
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
