#!/usr/bin/env python3
"""Times reading photographs to squares of pixels: decode, crop as ADM does, resize, pack.

    python3 -m venv target/peers && target/peers/bin/pip install torch torchvision pillow numpy ffcv
    target/peers/bin/python benches/data/decode.py --erw target/release/erw

The peers do what their users do: a pool of Pillow's processes, torchvision's ImageFolder behind a
DataLoader, both of which write the pixels into one file of numpy, and FFCV's writer, which stores
what its loaders read. All have as many processes or threads as `--jobs`. torchvision and FFCV resize
in their own ways, so their pixels differ from Pillow's; erw's `images` are Pillow's. What does not
install is left out, with a word.

Rounds in turns; prints Markdown: the best time, photographs and megabytes of JPEG per second, the
peak memory of all processes together. Run it on an idle machine.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 256


def photograph(seed: int) -> Image.Image:
    """Of 500 x 375 pixels, the usual size of ImageNet's: smooth, with some grain."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = random.normal(0, 6, smooth.shape).astype(np.int16)
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def write(folder: Path, count: int) -> int:
    for i in range(count):
        path = folder / f"class-{i % 10}" / f"{i:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph(i).save(path, quality=90)
    return sum(path.stat().st_size for path in folder.rglob("*.jpg"))


def center_crop(path: Path) -> np.ndarray:
    """ADM's: halve by boxes while twice too large, resize the shorter side bicubically, crop."""
    image = Image.open(path).convert("RGB")
    while min(image.size) >= 2 * SIDE:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.Resampling.BOX)
    scale = SIDE / min(image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), resample=Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    top, left = (pixels.shape[0] - SIDE) // 2, (pixels.shape[1] - SIDE) // 2
    return pixels[top : top + SIDE, left : left + SIDE]


def packed(out: Path, count: int) -> np.memmap:
    return np.lib.format.open_memmap(out, mode="w+", dtype=np.uint8, shape=(count, SIDE, SIDE, 3))


def by_pillow(folder: Path, out: Path, jobs: int) -> None:
    from multiprocessing import Pool

    files = sorted(folder.rglob("*.jpg"))
    rows = packed(out, len(files))
    with Pool(jobs) as pool:
        for i, pixels in enumerate(pool.imap(center_crop, files, chunksize=16)):
            rows[i] = pixels


def by_torchvision(folder: Path, out: Path, jobs: int) -> None:
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    steps = [transforms.Resize(SIDE, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(SIDE)]
    images = datasets.ImageFolder(folder, transforms.Compose([*steps, transforms.PILToTensor()]))
    rows = packed(out, len(images))
    done = 0
    for batch, _ in DataLoader(images, batch_size=64, num_workers=jobs):
        rows[done : done + len(batch)] = batch.permute(0, 2, 3, 1).numpy()
        done += len(batch)


def by_ffcv(folder: Path, out: Path, jobs: int) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from torchvision.datasets import ImageFolder

    field = RGBImageField(write_mode="raw", max_resolution=SIDE)
    DatasetWriter(str(out), {"image": field, "label": IntField()}, num_workers=jobs).from_indexed_dataset(
        ImageFolder(folder)
    )


PEERS = {"Pillow": by_pillow, "torchvision": by_torchvision, "FFCV": by_ffcv}


def erw(program: str, folder: Path, out: Path, jobs: int) -> list[str]:
    text = f"""
        [stages.images]
        kind = "images"
        params = {{ source = "{folder}", transform = "center-crop-dhariwal", resolution = {SIDE} }}
    """
    out.mkdir()
    (out / "p.toml").write_text("\n".join(line.strip() for line in text.splitlines()))
    return [program, "run", str(out / "p.toml"), "--cache-dir", str(out / "cache"), "--threads", str(jobs), "--plain"]


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds, and the peak memory in MiB of the process and all that it started."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        time.sleep(0.02)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit status {process.returncode}")
    return time.monotonic() - start, peak / 2**20


def resident(pid: int) -> int:
    """Bytes that a process and its descendants hold, shared pages counted once a sharer."""
    try:
        parts = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        own = next(int(line.split()[1]) for line in parts if line.startswith("Pss:")) * 1024
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, StopIteration):
        return 0
    return own + sum(resident(int(child)) for child in children)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--erw", default="target/release/erw")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peer", nargs=3, metavar=("NAME", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        name, folder, out = options.peer
        PEERS[name](Path(folder), Path(out), options.jobs)
        return
    absent = {"torchvision": "torchvision", "FFCV": "ffcv"}
    absent = {name for name, module in absent.items() if importlib.util.find_spec(module) is None}
    for name in sorted(absent):
        print(f"{name} is not installed and left out", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "photographs"
        size = write(folder, options.images)
        times: dict[str, list[tuple[float, float]]] = {}
        for round in range(options.rounds):
            for name in ["erw", *(peer for peer in PEERS if peer not in absent)]:
                out = Path(scratch) / f"{name}-{round}"
                if name == "erw":
                    command = erw(options.erw, folder, out, options.jobs)
                else:
                    command = [sys.executable, __file__, "--jobs", str(options.jobs), "--peer", name, folder, out]
                times.setdefault(name, []).append(timed([str(part) for part in command]))
                subprocess.run(["rm", "-rf", out], check=True)
    print(f"{options.images} photographs of 500 x 375, {size / 1e6:.0f} MB of JPEG, to {SIDE} x {SIDE}\n")
    print("| | s | photographs/s | MB/s | erw's time to it | peak MiB |\n|---|---|---|---|---|---|")
    best = min(times["erw"])[0]
    for name, all_times in times.items():
        seconds, peak = min(all_times)
        rates = f"{options.images / seconds:.0f} | {size / 1e6 / seconds:.0f}"
        print(f"| {name} | {seconds:.2f} | {rates} | {best / seconds:.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
