#!/usr/bin/env python3
"""The PyTorch twin of benches/networks.rs: the same networks at the same shapes with random weights, and the same images
through Pillow. Prints the same table.

    pip install torch torchvision timm diffusers pytorch-fid pillow numpy
    benches/pytorch/networks.py [CASE...] [--threads 2] [--repeats 3] [--flops]

Each case runs in a process of its own, so that its peak memory (VmHWM) is its own, with what PyTorch's
libraries take; that of `images` is of all its processes together. `--flops` prints the operations of one forward pass as torch counts them, from which benches/networks.rs has
its numbers.
"""
import argparse
import json
import math
import multiprocessing
import pathlib
import resource
import subprocess
import sys
import time
from unittest import mock

IMAGES = pathlib.Path(__file__).resolve().parents[2] / "target" / "bench-images"


def dinov2():
    import timm
    import torch
    net = timm.create_model("vit_base_patch14_dinov2", pretrained=False, img_size=224).eval()
    x = torch.randn(4, 3, 224, 224)
    return lambda: net.forward_features(x)


def vae():
    from diffusers import AutoencoderKL
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4, norm_num_groups=32,
        sample_size=256).eval()


def vae_encode():
    import torch
    net, x = vae(), torch.randn(1, 3, 256, 256)
    return lambda: net.encode(x).latent_dist.mean


def vae_decode():
    import torch
    net, z = vae(), torch.randn(1, 4, 32, 32)
    return lambda: net.decode(z).sample


def inception():
    import pytorch_fid.inception as fid
    import torch
    from torchvision.models import Inception3
    with mock.patch.object(fid, "load_state_dict_from_url", lambda *a, **k: {}), \
         mock.patch.object(Inception3, "load_state_dict", lambda *a, **k: None):
        net = fid.fid_inception_v3().eval()
    x = torch.randn(8, 3, 299, 299)
    return lambda: net(x)


def center_crop(path):
    """ADM's centre crop to 256 pixels, of a file, to bytes."""
    import numpy as np
    from PIL import Image
    size = 256
    image = Image.open(path).convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size))).tobytes()


NETWORKS = {"dinov2-b": dinov2, "vae-encode": vae_encode, "vae-decode": vae_decode, "inception": inception}


def best(run, repeats):
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_mib():
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return math.nan


def measure(case, threads, repeats):
    if case == "images":
        files = sorted(IMAGES.iterdir()) if IMAGES.is_dir() else []
        if not files:
            sys.exit(f"{IMAGES} is empty: `cargo bench --bench networks -- images` makes the files")
        with multiprocessing.Pool(threads) as pool:
            seconds = best(lambda: [len(x) for x in pool.imap(center_crop, files, chunksize=8)], repeats)
            pool.close()
            pool.join()
        workers = threads * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        return dict(case=case, seconds=seconds, images=len(files), peak_mib=peak_mib() + workers)
    import torch
    torch.set_num_threads(threads)
    with torch.inference_mode():
        seconds = best(NETWORKS[case](), repeats)
        peak = peak_mib()
        a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
        matmul = 2 * 2048**3 / best(lambda: a @ b, 5) / 1e9
    return dict(case=case, seconds=seconds, peak_mib=peak, matmul_gflops=matmul)


def flops():
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    for case, make in NETWORKS.items():
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            make()()
        print(f"{case:<12} {counter.get_total_flops() / 1e9:.1f} GFLOP")


def main():
    cases = [*NETWORKS, "images"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(cases))
    parser.add_argument("--threads", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--flops", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = set(args.cases) - set(cases)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(cases)}")
    if args.flops:
        return flops()
    if args.child:
        return print(json.dumps(measure(args.child, args.threads, args.repeats)))
    print(f"{'case':<12} {'seconds':>8} {'images/s':>9} {'matmul GFLOP/s':>15} {'peak MiB':>9}")
    for case in args.cases or cases:
        command = [sys.executable, __file__, "--child", case]
        command += ["--threads", str(args.threads), "--repeats", str(args.repeats)]
        m = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
        rate = f"{m['images'] / m['seconds']:.0f}" if "images" in m else "-"
        matmul = f"{m['matmul_gflops']:.0f}" if "matmul_gflops" in m else "-"
        print(f"{case:<12} {m['seconds']:>8.2f} {rate:>9} {matmul:>15} {m['peak_mib']:>9.0f}", flush=True)


if __name__ == "__main__":
    main()
