"""A linear probe trained by MAE's recipe in PyTorch: BatchNorm without affine parameters, a linear layer, LARS, a warmup
and a half cosine of the learning rate.

in/train, in/labels, in/test, in/truth: features and classes; in/weight: first weights; in/order: row e is the order of
epoch e. out/logits: of in/test, with the running statistics. The rate and the first weights are above MAE's, so that few
steps learn. LARS is written down from its equations (You et al. 2017,
without weight decay, the bias without trust ratio); all is f64.
Made with torch 2.15.0: `python make.py` in this folder.
"""
import math

import torch
from safetensors.torch import save_file

EPOCHS, WARMUP, BATCH, CLASSES, DIM, BASE = 12, 3, 16, 4, 6, 40.0
MOMENTUM, TRUST = 0.9, 0.001


def main():
    g = torch.Generator().manual_seed(8)
    labels, truth = (torch.randint(CLASSES, (n,), generator=g) for n in (200, 30))
    centres = torch.randn(CLASSES, DIM, generator=g) * 2
    train, test = (centres[y] + torch.randn(len(y), DIM, generator=g) + 3 for y in (labels, truth))
    weight = torch.randn(CLASSES, DIM, generator=g)
    order = torch.stack([torch.randperm(len(train), generator=g) for _ in range(EPOCHS)])

    norm = torch.nn.BatchNorm1d(DIM, affine=False, eps=1e-6).double()
    layer = torch.nn.Linear(DIM, CLASSES).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.zero_()
    momenta = [torch.zeros_like(p) for p in layer.parameters()]
    steps = len(train) // BATCH
    for epoch in range(EPOCHS):
        for step in range(steps):
            ids = order[epoch, step * BATCH:(step + 1) * BATCH]
            loss = torch.nn.functional.cross_entropy(layer(norm(train[ids].double())), labels[ids])
            grads = torch.autograd.grad(loss, list(layer.parameters()))
            at = epoch + step / steps
            lr = BASE * BATCH / 256
            lr *= at / WARMUP if at < WARMUP else 0.5 * (1 + math.cos(math.pi * (at - WARMUP) / (EPOCHS - WARMUP)))
            with torch.no_grad():
                for p, grad, momentum in zip(layer.parameters(), grads, momenta):
                    ratio = TRUST * p.norm() / grad.norm() if p.ndim > 1 else 1.0
                    momentum.mul_(MOMENTUM).add_(grad * ratio)
                    p -= lr * momentum
    norm.eval()
    with torch.no_grad():
        logits = layer(norm(test.double()))
    print(loss.item(), (logits.argmax(1) == truth).double().mean().item())
    save_file({"in/train": train, "in/labels": labels, "in/test": test, "in/truth": truth, "in/weight": weight,
               "in/order": order, "out/logits": logits}, "mae.safetensors")


if __name__ == "__main__":
    main()
