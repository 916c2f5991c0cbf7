#!/usr/bin/env python3
"""The PyTorch counterpart of benches/networks.rs. Prints the same table.

    pip install torch torchvision timm diffusers pytorch-fid pillow numpy
    benches/pytorch/networks.py [CASE...] [--threads 2] [--repeats 3] [--flops]

Runs the same networks at the same shapes with random weights, and decodes the same images with
Pillow. The peak memory of `images` is the sum over all its processes. `--flops` prints the
operations of one forward pass as counted by torch; benches/networks.rs takes its numbers from it.
With DEVICE=cuda in the environment it is the counterpart of `cargo bench --bench gpu -- frozen`:
batches are sixteen times as large (Inception's eight), and convolutions use TF32, as PyTorch does by
itself.
"""
import multiprocessing
import os
import pathlib
import resource
import sys
from unittest import mock

from harness import best, main, matmul_gflops, peak_mib

DEVICE = os.environ.get("DEVICE", "cpu")
IMAGES = pathlib.Path(__file__).resolve().parents[2] / "target" / "bench-images"


def dinov2():
    import timm
    import torch
    net = timm.create_model("vit_base_patch14_dinov2", pretrained=False, img_size=224).eval()
    x = torch.randn(4, 3, 224, 224)
    return net, x, lambda net, x: net.forward_features(x)


def vae():
    from diffusers import AutoencoderKL
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4, norm_num_groups=32,
        sample_size=256).eval()


def vae_encode():
    import torch
    net, x = vae(), torch.randn(1, 3, 256, 256)
    return net, x, lambda net, x: net.encode(x).latent_dist.mean


def vae_decode():
    import torch
    return vae(), torch.randn(1, 4, 32, 32), lambda net, z: net.decode(z).sample


def inception():
    import pytorch_fid.inception as fid
    import torch
    from torchvision.models import Inception3
    with mock.patch.object(fid, "load_state_dict_from_url", lambda *a, **k: {}), \
         mock.patch.object(Inception3, "load_state_dict", lambda *a, **k: None):
        net = fid.fid_inception_v3().eval()
    x = torch.randn(8, 3, 299, 299)
    return net, x, lambda net, x: net(x)


def center_crop(path):
    """The pixels of an image file after ADM's centre crop to 256 pixels, as bytes."""
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


def run_of(case, device):
    """One forward pass on a device, and its images."""
    import torch
    net, x, forward = NETWORKS[case]()
    if device == "cpu":
        return lambda: forward(net, x), len(x)
    net, x = net.to(device), x.repeat(8 if case == "inception" else 16, 1, 1, 1).to(device)
    return lambda: (forward(net, x), torch.cuda.synchronize()), len(x)


NETWORKS = {"dinov2-b": dinov2, "vae-encode": vae_encode, "vae-decode": vae_decode, "inception": inception}


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
        return dict(seconds=seconds, count=len(files), peak_mib=peak_mib() + workers)
    import torch
    torch.set_num_threads(threads)
    with torch.inference_mode():
        run, count = run_of(case, DEVICE)
        seconds = best(run, repeats)
    return dict(seconds=seconds, count=count, peak_mib=peak_mib(), matmul_gflops=matmul_gflops())


def flops():
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    for case in NETWORKS:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            run_of(case, "cpu")[0]()
        print(f"{case:<12} {counter.get_total_flops() / 1e9:.1f} GFLOP")


if __name__ == "__main__":
    main(__file__, __doc__, [*NETWORKS, "images"], "images/s", measure, flops)
