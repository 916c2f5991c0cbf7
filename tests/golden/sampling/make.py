"""What other samplers make of a toy velocity: torchdiffeq's dopri5 and diffusers' shifted Euler.

in/z: noise, in/y: classes, out/NAME: samples. The state is f64 and the toy f32, as in erw; of solver/NAME the toy is f64,
too: rounding in f32 changes the steps that a solver chooses, and these change samples by up to its tolerance at smooth
times and by a hundredth where guidance sets in. Each sample is integrated by itself, because torchdiffeq's steps depend
on the batch. Guidance leads away from class 1000 (`null`) or from a weaker
toy with the sample's own class (`network`), in an interval of times.
Made with torch 2.15.0, torchdiffeq 0.2.5, diffusers 0.42.1: `python make.py` in this folder.
"""
import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from torchdiffeq import odeint


TYPE = torch.float32


def toy(x, t, y):
    """v = (0.3 + 0.5 t) x + 0.2 tanh(x) cos(3 t) + 0.4 sin(y + 1)."""
    x, t, y = x.to(TYPE), torch.tensor(t, dtype=torch.float64).to(TYPE), y.to(TYPE).reshape(-1, 1, 1, 1)
    return ((x * (t * 0.5 + 0.3)) + (x.tanh() * 0.2) * (t * 3.0).cos() + (y + 1).sin() * 0.4).double()


def weaker(x, t, y):
    return toy(x, t, y) * 0.7 - 0.1 * x.to(TYPE)


def velocity(y, guide, scale, low, high):
    def at(x, t):
        own = toy(x, t, y)
        if guide is None or not low <= max(t, 0.0) <= high:
            return own
        other = weaker(x, t, y) if guide == "network" else toy(x, t, torch.full_like(y, 1000))
        return other + scale * (own - other)
    return at


def dopri5(v, z, atol, rtol):
    times = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return odeint(lambda t, x: v(x, t.item()), z.double(), times, method="dopri5", atol=atol, rtol=rtol)[-1]


def euler(v, z, steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps))
    x = z.double()
    for now, after in zip(scheduler.sigmas[:-1].tolist(), scheduler.sigmas[1:].tolist()):
        x = x + (after - now) * v(x, now)
    return x


def main():
    global TYPE
    g = torch.Generator().manual_seed(5)
    z, y = torch.randn(3, 2, 3, 3, generator=g), torch.tensor([3, 7, 40])
    out, solved = {}, {}
    for guide, scale, low, high in [(None, 1.0, 0.0, 1.0), ("null", 1.8, 0.0, 1.0), ("null", 2.2, 0.25, 0.8),
                                    ("network", 2.0, 0.0, 1.0), ("network", 1.5, 0.3, 0.9)]:
        v = [velocity(y[i:i + 1], guide, scale, low, high) for i in range(len(z))]
        name = f"{guide or 'none'}_{scale}_{low}_{high}"
        for atol, rtol in [(1e-6, 1e-3), (1e-5, 1e-5)]:
            out[f"dopri5_{name}_{atol}_{rtol}"] = torch.cat([dopri5(v[i], z[i:i + 1], atol, rtol) for i in range(3)])
        for shift in (3.0, 0.5):
            out[f"euler_{name}_{shift}_8"] = torch.cat([euler(v[i], z[i:i + 1], 8, shift) for i in range(3)])
    TYPE = torch.float64
    for guide, low, high in [(None, 0.0, 1.0), ("null", 0.25, 0.8)]:
        for atol, rtol in [(1e-6, 1e-3), (1e-5, 1e-5), (1e-9, 1e-7)]:
            v = [velocity(y[i:i + 1], guide, 2.2, low, high) for i in range(len(z))]
            name = f"{guide or 'none'}_{low}_{high}_{atol}_{rtol}"
            solved[name] = torch.cat([dopri5(v[i], z[i:i + 1], atol, rtol) for i in range(3)])
    tensors = {"in/z": z, "in/y": y} | {f"out/{k}": v.contiguous() for k, v in out.items()}
    tensors |= {f"solver/{k}": v.contiguous() for k, v in solved.items()}
    save_file(tensors, "sampling.safetensors")


if __name__ == "__main__":
    main()
