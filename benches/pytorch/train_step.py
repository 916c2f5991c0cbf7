#!/usr/bin/env python3
"""The PyTorch counterpart of benches/train_step.rs. Prints the same table.

    pip install torch
    benches/pytorch/train_step.py [CASE...] [--threads 2] [--repeats 3]

Times one training step of a SiT with alignment, one warmup step and one forward pass for sampling,
with random weights and data. A step is what a careful user would write: autograd, clipping to norm
1, `torch.optim.AdamW` (foreach) and a moving average with `torch._foreach_lerp_`, in f32.
"""
import copy
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from harness import best, main, matmul_gflops, peak_mib

SIZE, CHANNELS, PATCH, CLASSES, DROPOUT = 32, 4, 2, 1000, 0.1
TAP, PROJECTOR, FEATURES = 4, 2048, 768
WIDTH_OF_TIME = 256
ALIGNMENT_WEIGHT, CLIP, DECAY = 0.5, 1.0, 0.9999
S, B = dict(width=384, depth=12, heads=6), dict(width=768, depth=12, heads=12)
XL = dict(width=1152, depth=28, heads=16)
CASES = {
    "sit-s/2": dict(kind="train", batch=8, net=S),
    "sit-b/2": dict(kind="train", batch=4, net=B),
    "warmup-b/2": dict(kind="warmup", batch=4, net=B | dict(depth=TAP, head=False)),
    "sample-b/2": dict(kind="sample", batch=4, net=B),
    "checkpointed-s/2": dict(kind="train", batch=8, net=S | dict(checkpointed=True)),
    "checkpointed-b/2": dict(kind="train", batch=4, net=B | dict(checkpointed=True)),
    "checkpointed-xl/2": dict(kind="train", batch=1, net=XL | dict(checkpointed=True)),
}
GPU_CASES = {
    "gpu-s/2": dict(kind="train", batch=64, net=S, device="cuda"),
    "gpu-b/2": dict(kind="train", batch=64, net=B, device="cuda"),
    "bf16-s/2": dict(kind="train", batch=64, net=S, device="cuda", bf16=True),
    "bf16-b/2": dict(kind="train", batch=64, net=B, device="cuda", bf16=True),
    "bf16-xl/2": dict(kind="train", batch=64, net=XL, device="cuda", bf16=True),
    "compiled-s/2": dict(kind="train", batch=64, net=S, device="cuda", bf16=True, compiled=True),
    "compiled-b/2": dict(kind="train", batch=64, net=B, device="cuda", bf16=True, compiled=True),
    "compiled-xl/2": dict(kind="train", batch=64, net=XL, device="cuda", bf16=True, compiled=True),
}
if torch.cuda.is_available():
    CASES |= GPU_CASES


def modulate(x, shift, scale):
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)

    def attention(self, x):
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))

    def mlp(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))

    def forward(self, x, c):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(c)).chunk(6, dim=-1)
        x = torch.addcmul(x, gate1[:, None], self.attention(modulate(self.norm1(x), shift1, scale1)))
        return torch.addcmul(x, gate2[:, None], self.mlp(modulate(self.norm2(x), shift2, scale2)))


class SiT(nn.Module):
    """Returns velocity and projected tokens of latents x at times t with classes y.

    The velocity is None without a head.
    """

    def __init__(self, width, depth, heads, head=True, checkpointed=False):
        super().__init__()
        self.checkpointed = checkpointed
        self.patch = nn.Conv2d(CHANNELS, width, PATCH, PATCH)
        self.time = nn.Sequential(nn.Linear(WIDTH_OF_TIME, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(CLASSES + 1, width)
        self.register_buffer("positions", torch.randn(1, (SIZE // PATCH) ** 2, width))
        self.register_buffer("frequencies", torch.exp(-math.log(10000) * torch.arange(128) / 128))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.projector = nn.Sequential(
            nn.Linear(width, PROJECTOR), nn.SiLU(), nn.Linear(PROJECTOR, PROJECTOR), nn.SiLU(), nn.Linear(PROJECTOR, FEATURES))
        self.head = None
        if head:
            self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
            self.modulation, self.head = nn.Linear(width, 2 * width), nn.Linear(width, PATCH**2 * CHANNELS)

    def forward(self, x, t, y):
        if self.training:
            y = torch.where(torch.rand(y.shape, device=y.device) < DROPOUT, CLASSES, y)
        angles = t[:, None] * self.frequencies
        c = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1)) + self.classes(y)
        x = self.patch(x).flatten(2).transpose(1, 2) + self.positions
        projected = None
        for index, block in enumerate(self.blocks, start=1):
            x = checkpoint(block, x, c, use_reentrant=False) if self.checkpointed else block(x, c)
            if index == TAP and self.training:
                projected = self.projector(x)
        if self.head is None:
            return None, projected
        shift, scale = self.modulation(F.silu(c)).chunk(2, dim=-1)
        x = self.head(modulate(self.norm(x), shift, scale))
        grid = SIZE // PATCH
        x = x.view(-1, grid, grid, PATCH, PATCH, CHANNELS).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(-1, CHANNELS, SIZE, SIZE), projected


def batch(size):
    x, noise, t = torch.randn(size, CHANNELS, SIZE, SIZE), torch.randn(size, CHANNELS, SIZE, SIZE), torch.rand(size)
    return x, noise, t, torch.randint(CLASSES, (size,)), torch.randn(size, (SIZE // PATCH) ** 2, FEATURES)


def train_step(kind, net, size, device="cpu", bf16=False, compiled=False):
    """Returns a function that does one step, drawing noise, times and dropped classes.

    With `compiled`, blocks are compiled one by one: they are equal, so they compile once.
    """
    net.to(device)
    if compiled:
        for block in net.blocks:
            block.compile()
    trained = list(net.parameters())
    averages = [p.detach() for p in copy.deepcopy(net).parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    latents, _, _, classes, features = (t.to(device) for t in batch(size))

    def losses():
        if kind == "warmup":
            _, projected = net(latents, torch.zeros(size, device=latents.device), classes)
            return -F.cosine_similarity(features, projected, dim=-1).mean()
        t, noise = torch.rand(size, device=latents.device), torch.randn_like(latents)
        at = t.view(-1, 1, 1, 1)
        velocity, projected = net((1 - at) * latents + at * noise, t, classes)
        alignment = -F.cosine_similarity(features, projected, dim=-1).mean()
        return F.mse_loss(velocity, noise - latents) + ALIGNMENT_WEIGHT * alignment

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = losses()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, trained, 1 - DECAY)
        return loss.item()

    return step


def sample_step(net, size):
    net.eval()
    x, _, t, y, _ = batch(size)

    def step():
        with torch.inference_mode():
            return net(x, t, y)

    return step


def measure(case, threads, repeats):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    how = dict(CASES[case])
    kind, size, net = how.pop("kind"), how.pop("batch"), SiT(**how.pop("net"))
    seconds = best(sample_step(net, size) if kind == "sample" else train_step(kind, net, size, **how), repeats)
    return dict(seconds=seconds, count=size, peak_mib=peak_mib(), matmul_gflops=matmul_gflops())


if __name__ == "__main__":
    main(__file__, __doc__, list(CASES), "samples/s", measure)
