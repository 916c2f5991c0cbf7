"""Loads an export as diffusers does and says how far it is from erw, as JSON.

Usage: check_diffusers.py EXPORT VELOCITY SAMPLES...: a safetensors file of points, times, classes
and erw's velocities, or `-`, and folders of samples that erw drew with the weights of the export.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

export, velocity, *samples = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(export, trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
said = {"parameters": sum(p.numel() for p in pipe.transformer.parameters()), "pictures": {}, "defaults": []}
said["by_default"] = {}

if velocity != "-":
    given = load_file(velocity)
    with torch.no_grad():
        made = pipe.transformer(given["x"], given["t"], given["y"].long()).sample
    said["velocity"] = (made - given["v"]).abs().max().item()
    said["scale"] = given["v"].abs().max().item()


def furthest(images, theirs):
    """The largest difference of a pixel."""
    return max(int(abs(np.asarray(a, dtype=int) - b).max()) for a, b in zip(images, theirs))


for folder in map(Path, samples):
    meta = json.loads((folder / "meta.json").read_text())
    sampler = meta["sampler"]
    pipe.register_to_config(labels=meta["labels"])
    numbers = range(meta["count"])
    images = pipe(
        seed=meta["seed"],
        images=numbers,
        sampler=sampler["method"],
        num_inference_steps=sampler["steps"],
        time_shift=sampler.get("shift"),
        atol=sampler.get("atol"),
        rtol=sampler.get("rtol"),
        guidance_scale=sampler["cfg_scale"],
        guidance_interval=(sampler["guidance_low"], sampler["guidance_high"]),
    ).images
    theirs = [np.asarray(Image.open(folder / f"png/{i:06d}.png").convert("RGB"), dtype=int) for i in numbers]
    said["pictures"][folder.name] = furthest(images, theirs)
    said["by_default"][folder.name] = furthest(pipe(seed=meta["seed"], images=numbers).images, theirs)
    said["spread"] = float(np.std(theirs))

# As a user would: torch's noise, a class by its name, the defaults of the export.
name = list(pipe.config.id2label.values())[-1]
[first], [again], [other] = (pipe([name], generator=torch.manual_seed(seed)).images for seed in (0, 0, 1))
first, again, other = (np.asarray(image).tobytes() for image in (first, again, other))
said["repeats"] = first == again != other
of_another = dict(class_labels=[0], sampler="sde", time_shift=2.0)
for wrong in (
    dict(class_labels=["no such class"]),
    dict(class_labels=[99]),
    dict(class_labels=[0], sampler="x"),
    {},
    of_another,
):
    try:
        pipe(**wrong)
        said["defaults"].append("accepted")
    except ValueError as error:
        said["defaults"].append(str(error))
half = DiffusionPipeline.from_pretrained(export, trust_remote_code=True, dtype=torch.bfloat16)
half.set_progress_bar_config(disable=True)
said["half"] = bool(np.isfinite(half([0], sampler="ode-heun", num_inference_steps=3, output_type="np").images).all())

card = ModelCard.load(Path(export, "README.md"))
said["card"] = [[r.metric_type, r.metric_value, r.metric_name, r.dataset_name] for r in card.data.eval_results or []]
said["library"] = card.data.library_name
for part in ("transformer", "vae"):
    with safe_open(Path(export, part, "diffusion_pytorch_model.safetensors"), "pt") as file:
        said[part] = file.metadata()
print(json.dumps(said))
