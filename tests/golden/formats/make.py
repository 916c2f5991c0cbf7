"""Makes the files beside it: small checkpoints and arrays of every kind that `ml::formats` reads, each with a
safetensors twin of the same tensors (`NAME.twin.safetensors`; `SET/NAME` where there are several sets).

Made with torch 2.15 and numpy 2 in Python 3; needs safetensors as well. Run in this folder: python make.py
"""

import argparse
import collections
import io
import zipfile

import numpy as np
import torch
from safetensors.torch import save_file

torch.manual_seed(0)


def twin(name, tensors):
    # safetensors refuses tensors that share memory.
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, f"{name}.twin.safetensors")


def every_type():
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) - 7.5
    return collections.OrderedDict(
        f32=base, f64=base.double() / 3, f16=base.half(), bf16=base.bfloat16(), u8=torch.arange(5, dtype=torch.uint8),
        i16=torch.tensor([-300, 300], dtype=torch.int16), i32=torch.tensor([-70000, 70000], dtype=torch.int32),
        i64=torch.tensor([[-(2**40)], [2**40]]), scalar=torch.tensor(3.5), steps=torch.tensor(7),
        empty=torch.zeros(0, 3), transposed=base.permute(2, 0, 1), row=base[1], column=base[:, :, 1],
        stepped=base.flatten()[3::5], expanded=torch.tensor([1.0, 2.0]).expand(3, 2), alias=base,
        parameter=torch.nn.Parameter(torch.randn(3, 2)),
    )


def narrow():
    """Types that candle widens; the twin holds what they become."""
    return dict(flag=torch.tensor([True, False, True]), i8=torch.tensor([-128, 127], dtype=torch.int8))


def widened(tensors):
    to = {torch.bool: torch.uint8, torch.int8: torch.int16}
    return {k: v.to(to.get(v.dtype, v.dtype)) for k, v in tensors.items()}


model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
types = every_type()
twin("types", types | widened(narrow()))
# The `_metadata` of a real state dict is a BUILD on an OrderedDict.
mixed = collections.OrderedDict(types)
mixed._metadata = {"": {"version": 1}}
mixed.update(narrow())
for protocol in (2, 4, 5):
    torch.save(mixed, f"types_p{protocol}.pt", pickle_protocol=protocol)
    torch.save(mixed, f"types_legacy_p{protocol}.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=False)

# One dictionary under two names, plain data of all sorts beside it, storages shared across sets.
state = model.state_dict()
run = dict(
    model=state, ema=state, half={k: v.half() for k, v in state.items() if v.is_floating_point()},
    optimizer=dict(state={0: dict(step=torch.tensor(2.0), exp_avg=torch.randn(4, 3))}, param_groups=[dict(lr=1e-3)]),
    args=argparse.Namespace(model="SiT-B/2", resolution=256, betas=(0.9, 0.999), resume=None, qk_norm=False),
    size=torch.Size([1, 2]), device=torch.device("cpu"), best=np.float64(0.25), seen=np.int64(-3),
    huge=-(2**40), larger=2**70, epoch=5,
)
torch.save(run, "run.pt")
torch.save(run, "run_legacy.pt", _use_new_zipfile_serialization=False)
twin("run", {f"model/{k}": v for k, v in state.items()} | {f"half/{k}": v for k, v in run["half"].items()}
     | {f"optimizer.state.0/{k}": v for k, v in run["optimizer"]["state"][0].items()})

# A module pickled whole, with a buffer that its state dict leaves out.
model.register_buffer("scratch", torch.zeros(2), persistent=False)
torch.save(model, "module.pt")
twin("module", model.state_dict())

# uint16 and float8 have no class of storage of their own, so their tensors name their type (`_rebuild_tensor_v3`).
rare = dict(u16=torch.tensor([0, 65535], dtype=torch.uint16), f8=torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn))
torch.save(rare, "rare.pt")
twin("rare", dict(u16=rare["u16"].to(torch.int32), f8=rare["f8"]))


torch.save(types["transposed"], "bare.pt")
torch.save(dict(seven=torch._neg_view(torch.tensor([-7.0])), one=torch.ones(1)), "negated.pt")


class Attention(torch.nn.Module):
    """Named as in `torch.nn.MultiheadAttention`, whose script would be 30 KB of code."""

    def __init__(self):
        super().__init__()
        self.in_proj_weight = torch.nn.Parameter(torch.randn(12, 4))
        self.out_proj = torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.out_proj(x @ self.in_proj_weight.chunk(3)[0])


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = Attention()
        self.ln_1 = torch.nn.LayerNorm(4)

    def forward(self, x):
        return x + self.attn(self.ln_1(x))


class Transformer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.resblocks = torch.nn.Sequential(Block(), Block())

    def forward(self, x):
        return self.resblocks(x)


class Visual(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.class_embedding = torch.nn.Parameter(torch.randn(4))
        self.transformer = Transformer()

    def forward(self, x):
        return self.transformer(x + self.class_embedding)


class Clip(torch.nn.Module):
    """Of the shape of CLIP: nested modules, half precision, a parameter of no axes."""

    def __init__(self):
        super().__init__()
        self.visual = Visual()
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.5))
        self.register_buffer("context_length", torch.tensor(77))

    def forward(self, x):
        return self.visual(x) * self.logit_scale.exp()


clip = Clip().half().eval()
torch.jit.save(torch.jit.script(clip), "script.pt")
torch.jit.save(torch.jit.trace(clip, torch.randn(1, 4).half()), "traced.pt")
twin("script", clip.state_dict())


def rezip(source, target, change=lambda name, data: data, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


# As unpacked and packed again by hand.
rezip("types_p2.pt", "types_deflated.pt")

# As written on a big-endian machine: only the float32 storage of one tensor, to keep it readable.
one = torch.arange(6, dtype=torch.float32).reshape(2, 3)
torch.save({"one": one}, "big_endian.pt")
swap = {"byteorder": lambda d: b"big", "0": lambda d: np.frombuffer(d, "<f4").astype(">f4").tobytes()}
buffer = io.BytesIO(open("big_endian.pt", "rb").read())
rezip(buffer, "big_endian.pt", lambda n, d: swap.get(n.split("/")[-1], lambda d: d)(d), zipfile.ZIP_STORED)
twin("big_endian", {"one": one})

grid = np.arange(24).reshape(2, 3, 4) - 7
arrays = dict(
    f2=grid.astype("f2"), f4=grid.astype("f4"), f8=grid / 3, fortran=np.asfortranarray(grid.astype("f4")),
    big=grid.astype(">f4"), big16=grid.astype(">i2"), big_fortran=np.asfortranarray(grid.astype(">f8")),
    flag=grid > 2, i1=grid.astype("i1"), i2=grid.astype("i2"), i4=grid.astype("i4"), i8=grid.astype("i8"),
    u1=(grid + 7).astype("u1"), u2=(grid + 7).astype("u2"), u4=(grid + 7).astype("u4"), u8=(grid + 7).astype("u8"),
    scalar=np.float32(2.5), empty=np.zeros((0, 4), "f4"),
)
np.savez("arrays.npz", **arrays)
np.savez_compressed("arrays_compressed.npz", **arrays)
becomes = dict(flag="u1", i1="i2", u2="i4", u8="i8")
native = {k: np.asarray(v).astype(becomes.get(k, np.asarray(v).dtype.newbyteorder("="))) for k, v in arrays.items()}
as_torch = {k: torch.from_numpy(np.ascontiguousarray(v).reshape(v.shape).copy()) for k, v in native.items()}
twin("arrays", as_torch)
np.save("fortran.npy", arrays["big_fortran"])
for version in ((2, 0), (3, 0)):
    with open(f"version{version[0]}.npy", "wb") as f:
        np.lib.format.write_array(f, arrays["f4"], version=version)
np.save("objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
