"""SiT, the scalable interpolant transformer (arXiv 2401.08740), in plain torch.

The velocity of a class-conditional flow between data (t = 0) and noise (t = 1). The options are
those of erw: rotary positions, normalised queries and keys, a gated MLP. Parameters have the names
of the published REPA checkpoints. The projectors of the training are left out.
"""

import math

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import nn

SINUSOID = 256


def sincos_2d(width, grid):
    """Positions [grid * grid, width]: the column in the first half of the channels, then the row,
    each as sines then cosines."""
    quarter = width // 4
    frequencies = 10_000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = torch.meshgrid(*[torch.arange(grid, dtype=torch.float64)] * 2, indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (column, row)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()


def rotary_2d(width, grid):
    """Cosines and sines [grid * grid, width] of the axial rotary embedding: the row turns the first
    half of the channels, the column the second; neighbouring channels share an angle."""
    half = width // 2
    frequencies = 1.0 / 10_000.0 ** (torch.arange(0, half, 2).float() / half)
    row, column = torch.meshgrid(*[torch.arange(grid).float()] * 2, indexing="ij")
    angles = [(axis.reshape(-1, 1) * frequencies).repeat_interleave(2, dim=1) for axis in (row, column)]
    angles = torch.cat(angles, dim=1).double()
    return angles.cos().float(), angles.sin().float()


def rotate(x, cos, sin):
    """Turns each pair of neighbouring channels by its angle."""
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    return x * cos + turned * sin


def modulate(x, shift, scale):
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class PatchEmbed(nn.Module):
    def __init__(self, channels, patch, hidden):
        super().__init__()
        self.proj = nn.Conv2d(channels, hidden, kernel_size=patch, stride=patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class TimestepEmbedder(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(SINUSOID, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, t):
        half = SINUSOID // 2
        index = torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t.float().unsqueeze(1) * torch.exp(-math.log(10_000.0) * index / half)
        wave = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.mlp(wave.to(self.mlp[0].weight.dtype))


class LabelEmbedder(nn.Module):
    def __init__(self, rows, hidden):
        super().__init__()
        self.embedding_table = nn.Embedding(rows, hidden)

    def forward(self, labels):
        return self.embedding_table(labels)


class RotaryTables(nn.Module):
    def __init__(self, head_width, grid):
        super().__init__()
        cos, sin = rotary_2d(head_width, grid)
        self.register_buffer("freqs_cos", cos)
        self.register_buffer("freqs_sin", sin)


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight


def adaptive_norm(norm, hidden):
    """A norm that the condition modulates."""
    return RmsNorm(hidden) if norm == "rms" else nn.LayerNorm(hidden, eps=1e-6, elementwise_affine=False)


class Attention(nn.Module):
    def __init__(self, hidden, heads, qk_norm, norm):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        width = hidden // heads
        make_norm = {"layer": lambda: nn.LayerNorm(width, eps=1e-5), "rms": lambda: RmsNorm(width)}[norm]
        self.q_norm = make_norm() if qk_norm else nn.Identity()
        self.k_norm = make_norm() if qk_norm else nn.Identity()
        self.proj = nn.Linear(hidden, hidden)

    def forward(self, x, rope):
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rotate(q, rope.freqs_cos, rope.freqs_sin), rotate(k, rope.freqs_cos, rope.freqs_sin)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.fc1 = nn.Linear(hidden, inner)
        self.fc2 = nn.Linear(inner, hidden)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SwiGlu(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.w12 = nn.Linear(hidden, 2 * inner)
        self.w3 = nn.Linear(inner, hidden)

    def forward(self, x):
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Block(nn.Module):
    """A transformer block whose norms and residuals are modulated by the condition (adaLN-Zero)."""

    def __init__(self, hidden, heads, mlp, qk_norm, norm):
        super().__init__()
        self.norm1 = adaptive_norm(norm, hidden)
        self.attn = Attention(hidden, heads, qk_norm, norm)
        self.norm2 = adaptive_norm(norm, hidden)
        self.mlp = mlp
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 6 * hidden))

    def forward(self, x, condition, rope):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, dim=1)
        x = x + gate1.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift1, scale1), rope)
        return x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    def __init__(self, hidden, outputs, norm):
        super().__init__()
        self.norm_final = adaptive_norm(norm, hidden)
        self.linear = nn.Linear(hidden, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))

    def forward(self, x, condition):
        shift, scale = self.adaLN_modulation(condition).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class SiT(ModelMixin, ConfigMixin):
    """The network. With `class_dropout` above 0 class `num_classes` is the null class."""

    @register_to_config
    def __init__(
        self,
        input_size: int,
        in_channels: int,
        patch_size: int,
        hidden: int,
        depth: int,
        heads: int,
        num_classes: int,
        mlp_ratio: float = 4.0,
        mlp: str = "gelu",
        class_dropout: float = 0.1,
        rope: bool = False,
        qk_norm: bool = False,
        norm: str = "layer",
    ):
        super().__init__()
        grid, inner = input_size // patch_size, int(hidden * mlp_ratio)
        make_mlp = {"gelu": lambda: Mlp(hidden, inner), "swiglu": lambda: SwiGlu(hidden, int(2 / 3 * inner))}[mlp]
        self.x_embedder = PatchEmbed(in_channels, patch_size, hidden)
        self.t_embedder = TimestepEmbedder(hidden)
        self.y_embedder = LabelEmbedder(num_classes + (class_dropout > 0), hidden)
        self.register_buffer("pos_embed", sincos_2d(hidden, grid).unsqueeze(0))
        self.feat_rope = RotaryTables(hidden // heads, grid) if rope else None
        self.blocks = nn.ModuleList(Block(hidden, heads, make_mlp(), qk_norm, norm) for _ in range(depth))
        self.final_layer = FinalLayer(hidden, patch_size * patch_size * in_channels, norm)

    def forward(self, hidden_states, timestep, class_labels, return_dict=True):
        """The velocity at points [B, C, H, W], times [B] from 0 (data) to 1 (noise) and classes
        [B]."""
        x = self.x_embedder(hidden_states) + self.pos_embed
        condition = self.t_embedder(timestep) + self.y_embedder(class_labels)
        for block in self.blocks:
            x = block(x, condition, self.feat_rope)
        x = self.final_layer(x, condition)
        grid, patch = self.config.input_size // self.config.patch_size, self.config.patch_size
        x = x.reshape(-1, grid, grid, patch, patch, self.config.in_channels)
        velocity = x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)
