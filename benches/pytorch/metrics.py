#!/usr/bin/env python3
"""Compares erw with published evaluation tools on the same image files and the same weights.

    pip install torch torchvision pytorch-fid torch-fidelity clean-fid scipy pillow numpy
    cargo build --release
    benches/pytorch/metrics.py [CASE...] [--images 256] [--side 256] [--threads 2] \\
        [--erw target/release/erw]

Prints the values and times of both. Weights are random, in the layout of pytorch-fid's file, so
nothing is downloaded. A tool's time covers its call in a process that has already loaded its
libraries. erw's time covers the whole program, which also reads the weights and images into a new
cache. On a busy machine the times are meaningless; the values are not affected.
"""
import argparse
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from unittest import mock

from harness import peak_mib

# The metrics of each tool. The keys are also the `--mode` with which erw agrees with the tool.
CASES = {
    "pytorch-fid": ["fid"],
    "clean-fid": ["fid"],
    "torch-fidelity": ["fid", "inception_score", "kid", "precision", "recall"],
}
SEED = 7


def make_images(folder, count, side, seed):
    """Writes PNG files with colour gradients, discs and noise; `seed` shifts the colours."""
    import numpy as np
    from PIL import Image
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    for i in range(count):
        colours = rng.uniform(0, 255, (3, 3)) + 20 * seed
        (cx, cy), r = rng.uniform(0.2, 0.8, 2), rng.uniform(0.1, 0.4)
        disc = ((x - cx) ** 2 + (y - cy) ** 2 < r * r)[..., None]
        image = colours[0] * x[..., None] + colours[1] * y[..., None]
        image = np.where(disc, colours[2], image) + rng.normal(0, 12, (side, side, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05}.png")


def make_weights(path):
    """Writes random weights: He initialisation, so that features neither vanish nor explode.

    The parameters of the norms are random too, so that the norms have an effect.
    """
    import torch
    net = inception(None)
    generator = torch.Generator().manual_seed(SEED)
    state = net.state_dict()
    for name, tensor in state.items():
        if tensor.ndim > 1:
            gain = 2 if tensor.ndim == 4 else 4
            tensor.normal_(0, (gain / tensor[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("bn.weight", "running_var")):
            tensor.uniform_(0.8, 1.2, generator=generator)
        elif name.endswith(("bias", "running_mean")):
            tensor.normal_(0, 0.1, generator=generator)
    torch.save(state, path)


def inception(weights):
    """pytorch-fid's network, loaded from the file `weights` instead of a URL."""
    import pytorch_fid.inception as fid
    import torch
    from torchvision.models import Inception3
    if weights is None:
        with mock.patch.object(fid, "load_state_dict_from_url", lambda *a, **k: {}), \
             mock.patch.object(Inception3, "load_state_dict", lambda *a, **k: None):
            return fid.fid_inception_v3().eval()
    with mock.patch.object(fid, "load_state_dict_from_url", lambda *a, **k: torch.load(weights)):
        return fid.fid_inception_v3().eval()


def pytorch_fid(a, b, weights, batch, threads):
    import pytorch_fid.fid_score as score
    import pytorch_fid.inception as fid
    import torch
    with mock.patch.object(fid, "load_state_dict_from_url", lambda *_, **__: torch.load(weights)):
        value = score.calculate_fid_given_paths([str(a), str(b)], batch, "cpu", 2048, num_workers=threads)
    return dict(fid=float(value))


def clean_fid(a, b, weights, batch, threads):
    """clean-fid with pytorch-fid's network in place of the TorchScript file that it downloads.

    That file holds the same network. clean-fid requests features of 299 pixel images with values
    from 0 to 255.
    """
    import torch
    from cleanfid import fid
    from pytorch_fid.inception import InceptionV3
    import pytorch_fid.inception as port
    with mock.patch.object(port, "load_state_dict_from_url", lambda *_, **__: torch.load(weights)):
        net = InceptionV3([3], resize_input=False, normalize_input=False).eval()
    features = lambda x: net((x - 128) / 128)[0].flatten(1)
    with mock.patch.object(fid, "build_feature_extractor", lambda *_, **__: features):
        value = fid.compute_fid(str(a), str(b), mode="clean", device=torch.device("cpu"), batch_size=batch,
                                num_workers=threads, use_dataparallel=False, verbose=False)
    return dict(fid=float(value))


def torch_fidelity(a, b, weights, batch, threads):
    """torch-fidelity, with precision and recall on Inception's features; its default is VGG's."""
    import torch_fidelity
    got = torch_fidelity.calculate_metrics(
        input1=str(a), input2=str(b), cuda=False, batch_size=batch, isc=True, fid=True, kid=True, prc=True, cache=False,
        kid_subset_size=kid_subset(a), feature_extractor="inception-v3-compat", feature_layer_prc="2048",
        feature_extractor_weights_path=str(weights), verbose=False)
    names = {"fid": "frechet_inception_distance", "inception_score": "inception_score_mean", "kid": "kernel_inception_distance_mean",
             "precision": "precision", "recall": "recall"}
    return {ours: float(got[theirs]) for ours, theirs in names.items()}


def kid_subset(folder):
    """Images per KID subset: 1,000, or all images if there are fewer."""
    return min(1000, sum(1 for _ in folder.iterdir()))


TOOLS = {"pytorch-fid": pytorch_fid, "clean-fid": clean_fid, "torch-fidelity": torch_fidelity}


def child(args):
    """Runs one tool in its own process and prints its values, seconds and peak memory."""
    import torch
    torch.set_num_threads(args.threads)
    sys.stdout, out = sys.stderr, sys.stdout
    # Libraries are loaded before the clock starts.
    import cleanfid.fid, pytorch_fid.fid_score, scipy.linalg, torch_fidelity  # noqa: E401, F401
    a, b, weights = (pathlib.Path(p) for p in args.child[1:])
    start = time.perf_counter()
    with torch.no_grad():
        values = TOOLS[args.child[0]](a, b, weights, args.batch, args.loaders)
    print(json.dumps(dict(values=values, seconds=time.perf_counter() - start, peak_mib=peak_mib())), file=out)


def erw(binary, case, a, b, weights, threads, room):
    """Runs `erw eval` in the tool's mode with a new cache."""
    command = [binary, "--cache-dir", str(room / "cache" / case), "eval", "all" if len(CASES[case]) > 1 else "fid"]
    command += [str(a), str(b), "--mode", case, "--network", str(weights), "--threads", str(threads), "--json"]
    if "kid" in CASES[case]:
        command += ["--kid-subset-size", str(kid_subset(a))]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return dict(values=json.loads(done.stdout)["metrics"], seconds=time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--images", type=int, default=256, help="images per side of the comparison")
    parser.add_argument("--side", type=int, default=256, help="height and width of the images in pixels")
    parser.add_argument("--threads", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--loaders", type=int, default=0, help="image decoding processes of the tools")
    parser.add_argument("--batch", type=int, default=32, help="batch size of the tools")
    parser.add_argument("--erw", default="target/release/erw")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args)
    unknown = set(args.cases) - set(CASES)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    with tempfile.TemporaryDirectory() as folder:
        compare(args, pathlib.Path(folder))


def compare(args, room):
    a, b, weights = room / "a", room / "b", room / "inception.pth"
    make_images(a, args.images, args.side, 0)
    make_images(b, args.images, args.side, 1)
    make_weights(weights)
    print(f"{args.images} and {args.images} images of {args.side} pixels, {args.threads} threads")
    print(f"{'tool':<15} {'metric':<16} {'theirs':>14} {'erw':>14} {'relative':>9} {'s':>7} {'erw s':>7} {'ratio':>6}")
    for case in args.cases or CASES:
        command = [sys.executable, __file__, "--child", case, a, b, weights, "--threads", args.threads]
        command += ["--loaders", args.loaders, "--batch", args.batch]
        environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "TQDM_DISABLE": "1"}
        done = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, env=environment)
        theirs = json.loads(done.stdout.splitlines()[-1])
        ours = erw(args.erw, case, a, b, weights, args.threads, room)
        for i, metric in enumerate(CASES[case]):
            x, y = theirs["values"][metric], ours["values"][metric]
            times = (theirs["seconds"], ours["seconds"])
            last = "{:>7.1f} {:>7.1f} {:>6.2f}".format(*times, times[1] / times[0]) if i == 0 else ""
            off = abs(x - y) / max(abs(x), 1e-12)
            print(f"{case:<15} {metric:<16} {x:>14.8g} {y:>14.8g} {off:>9.1e} {last}", flush=True)


if __name__ == "__main__":
    main()
