"""The switches of training in PyTorch, written from the papers: a tiny SiT with the options of LightningDiT, and losses.

Each file holds w/NAME (weights), in/NAME, out/NAME and grad/NAME: the gradient of out/loss by a weight or an input.
Made with torch 2.15.0: `python make.py` in this folder.
"""
import math

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

CHANNELS, SIDE, PATCH, HIDDEN, HEADS, DEPTH, CLASSES, FEATURES, WIDTH = 4, 4, 2, 16, 2, 3, 3, 6, 12
GRID = SIDE // PATCH


def positions(width):
    """Sines and cosines of the column, then of the row (DiT)."""
    rates = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows = []
    for row in range(GRID):
        for column in range(GRID):
            rows.append(torch.cat([f(at * rates) for at in (column, row) for f in (torch.sin, torch.cos)]))
    return torch.stack(rows).float()


def angles(width):
    """Angles of the rotary embedding: of the row for the first half of the channels, then of the column (EVA-02)."""
    rates = 10000.0 ** (-torch.arange(0, width // 2, 2, dtype=torch.float64) / (width // 2))
    pairs = [torch.cat([row * rates, column * rates]) for row in range(GRID) for column in range(GRID)]
    return torch.stack(pairs).repeat_interleave(2, dim=1)


def rotate(x, angle):
    other = torch.empty_like(x)
    other[..., 0::2], other[..., 1::2] = -x[..., 1::2], x[..., 0::2]
    return x * angle.cos().float() + other * angle.sin().float()


class Rms(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * self.weight


def norm(width, rms):
    return Rms(width) if rms else nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


class Attention(nn.Module):
    def __init__(self, rms, rope):
        super().__init__()
        self.rope = rope
        self.qkv, self.proj = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.rms = rms
        if rms:
            self.q_norm, self.k_norm = Rms(HIDDEN // HEADS), Rms(HIDDEN // HEADS)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, HEADS, HIDDEN // HEADS).permute(2, 0, 3, 1, 4)
        if self.rms:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rope:
            q, k = (rotate(part, angles(HIDDEN // HEADS)) for part in (q, k))
        self.scores = q @ k.transpose(2, 3) / math.sqrt(HIDDEN // HEADS)
        return self.proj((self.scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, HIDDEN))


class Mlp(nn.Module):
    def __init__(self, gated):
        super().__init__()
        self.gated = gated
        inner = int(2 / 3 * 4 * HIDDEN) if gated else 4 * HIDDEN
        if gated:
            self.w12, self.w3 = nn.Linear(HIDDEN, 2 * inner), nn.Linear(inner, HIDDEN)
        else:
            self.fc1, self.fc2 = nn.Linear(HIDDEN, inner), nn.Linear(inner, HIDDEN)

    def forward(self, x):
        if self.gated:
            a, b = self.w12(x).chunk(2, -1)
            return self.w3(F.silu(a) * b)
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def modulate(x, shift, scale):
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    def __init__(self, lightning, rope):
        super().__init__()
        self.norm1, self.norm2 = norm(HIDDEN, lightning), norm(HIDDEN, lightning)
        self.attn, self.mlp = Attention(lightning, rope), Mlp(lightning)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(HIDDEN, 6 * HIDDEN))

    def forward(self, x, c):
        a, b, g, d, e, h = self.adaLN_modulation(c).chunk(6, 1)
        x = x + g[:, None] * self.attn(modulate(self.norm1(x), a, b))
        return x + h[:, None] * self.mlp(modulate(self.norm2(x), d, e))


class Final(nn.Module):
    def __init__(self, lightning, reg):
        super().__init__()
        self.norm_final = norm(HIDDEN, lightning)
        self.linear = nn.Linear(HIDDEN, PATCH * PATCH * CHANNELS)
        if reg:
            self.linear_cls = nn.Linear(HIDDEN, FEATURES)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(HIDDEN, 2 * HIDDEN))

    def forward(self, x, c):
        x = modulate(self.norm_final(x), *self.adaLN_modulation(c).chunk(2, 1))
        patches = GRID * GRID
        return self.linear(x[:, -patches:]), self.linear_cls(x[:, 0]) if x.shape[1] > patches else None


class Sit(nn.Module):
    """With `lightning`: RMSNorm, also of queries and keys, and SwiGLU. A projector behind block 2, or with `sra` or `sra2`
    their head instead. With `reg` a class token, and no rotary embedding."""

    def __init__(self, lightning=False, sra=False, sra2=False, reg=False):
        super().__init__()
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(CHANNELS, HIDDEN, PATCH, PATCH)})
        self.t_embedder = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(256, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN))})
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(CLASSES + 1, HIDDEN)})
        self.blocks = nn.ModuleList(Block(lightning, not reg) for _ in range(DEPTH))
        if sra:
            linear1, linear2 = nn.Linear(HIDDEN, 2 * HIDDEN), nn.Linear(2 * HIDDEN, HIDDEN)
            self.ap_head = nn.ModuleDict({"linear1": linear1, "linear2": linear2})
        elif sra2:
            widths = [HIDDEN, *[2 * HIDDEN] * 4, PATCH * PATCH * CHANNELS]
            layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:])]
            self.latent_head = nn.Sequential(*[m for layer in layers for m in (layer, nn.SiLU())][:-1])
        else:
            self.projectors = nn.ModuleList([nn.Sequential(
                nn.Linear(HIDDEN, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, FEATURES))])
        if reg:
            self.cls_projectors2, self.wg_norm = nn.Linear(FEATURES, HIDDEN), nn.LayerNorm(HIDDEN, eps=1e-6)
        self.final_layer = Final(lightning, reg)

    def forward(self, x, t, y, token=None):
        """Velocity (with a class token, a pair of them), and the tokens behind each block."""
        x = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + positions(HIDDEN)
        if token is not None:
            x = torch.cat([self.wg_norm(self.cls_projectors2(token))[:, None], x], 1)
        phase = t[:, None] * torch.exp(-math.log(10000) * torch.arange(128) / 128)
        c = self.t_embedder["mlp"](torch.cat([phase.cos(), phase.sin()], 1)) + self.y_embedder["embedding_table"](y)
        outputs = []
        for block in self.blocks:
            x = block(x, c)
            outputs.append(x)
        x, token = self.final_layer(x, c)
        x = x.view(-1, GRID, GRID, PATCH, PATCH, CHANNELS).permute(0, 5, 1, 3, 2, 4).reshape(-1, CHANNELS, SIDE, SIDE)
        return (x if token is None else (x, token)), outputs


def scramble(net, seed):
    """Weights that matter: nothing zero, nothing one."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in net.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            p.copy_(1 + 0.3 * noise if "norm" in name else 0.25 * noise)
    return net


def batch(seed):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g)
    return {"x": draw(3, CHANNELS, SIDE, SIDE), "noise": draw(3, CHANNELS, SIDE, SIDE), "t": torch.tensor([0.1, 0.6, 0.9]),
            "y": torch.tensor([1, 3, 0]), "features": draw(3, GRID * GRID, FEATURES)}


def at(x, noise, t):
    t = t.view(-1, 1, 1, 1)
    return (1 - t) * x + t * noise


def save(name, weights, inputs, out, loss):
    """`weights` by name; the gradient of `loss` by each."""
    grads = torch.autograd.grad(loss, list(weights.values()))
    groups = {"w": weights, "in": inputs, "out": {**out, "loss": loss}, "grad": dict(zip(weights, grads))}
    tensors = {f"{group}/{k}": v.detach().contiguous() for group, all in groups.items() for k, v in all.items()}
    save_file(tensors, f"{name}.safetensors")


def lightningdit():
    """arXiv 2501.01423: RMSNorm, SwiGLU, and 1 - cos of the velocity over channels, beside its squared error."""
    net, b = scramble(Sit(True), 1), batch(2)
    v, outputs = net(at(b["x"], b["noise"], b["t"]), b["t"], b["y"])
    target = b["noise"] - b["x"]
    mse, cosine = (v - target).pow(2).mean(), (1 - F.cosine_similarity(v, target, dim=1)).mean()
    align = -F.cosine_similarity(net.projectors[0](outputs[1]), b["features"], dim=-1).mean()
    save("lightningdit", dict(net.named_parameters()), b, {"v": v, "mse": mse, "cosine": cosine, "align": align},
         mse + cosine + 0.5 * align)


def relation():
    """arXiv 2503.18414: squared differences of cosines, between images (vectors of all tokens) and between tokens."""
    g = torch.Generator().manual_seed(3)
    for over in ("images", "tokens"):
        f, p = (torch.randn(5, 4, 6, generator=g) + 0.3 for _ in range(2))
        p.requires_grad_()
        rows = (lambda x: F.normalize(x.flatten(1), dim=-1)) if over == "images" else (lambda x: F.normalize(x, dim=-1))
        pairs = lambda x: rows(x) @ rows(x).transpose(-1, -2)
        save(f"relation_{over}", {"p": p}, {"f": f}, {}, (pairs(p) - pairs(f)).pow(2).mean())


def self_alignment():
    """arXiv 2505.02831: block 1, through a head, against block 3 of another network at less noise; smooth l1."""
    net, teacher, b = scramble(Sit(sra=True), 4), scramble(Sit(sra=True), 5), batch(6)
    b["t_teacher"] = torch.tensor([0.0, 0.55, 0.72])
    v, outputs = net(at(b["x"], b["noise"], b["t"]), b["t"], b["y"])
    _, targets = teacher(at(b["x"], b["noise"], b["t_teacher"]), b["t_teacher"], b["y"])
    student = net.ap_head["linear2"](F.silu(net.ap_head["linear1"](outputs[0])))
    distance = F.smooth_l1_loss(student, targets[2].detach(), beta=0.05)
    save("self_alignment", dict(net.named_parameters()), {**b, **{f"teacher/{k}": p for k, p in teacher.named_parameters()}},
         {"student": student, "distance": distance}, (v - b["noise"] + b["x"]).pow(2).mean() + 0.2 * distance)


def latent_alignment():
    """arXiv 2601.17830: block 2, through a head of five layers, against the clean latents, patch by patch; smooth l1."""
    net, b = scramble(Sit(sra2=True), 13), batch(14)
    v, outputs = net(at(b["x"], b["noise"], b["t"]), b["t"], b["y"])
    predicted = net.latent_head(outputs[1])
    patches = b["x"].reshape(-1, CHANNELS, GRID, PATCH, GRID, PATCH).permute(0, 2, 4, 3, 5, 1).reshape(predicted.shape)
    distance = F.smooth_l1_loss(predicted, patches, beta=0.05)
    save("latent_alignment", dict(net.named_parameters()), b, {"predicted": predicted, "distance": distance},
         (v - b["noise"] + b["x"]).pow(2).mean() + distance)


def attention():
    """arXiv 2505.16792: cross-entropy of the attention of blocks 1 and 3 to given scores of three heads, the first two of
    which have partners."""
    net, b = scramble(Sit(), 7), batch(8)
    g = torch.Generator().manual_seed(9)
    for k in range(2):
        b[f"scores{k}"] = 2 * torch.randn(3, 3, GRID * GRID, GRID * GRID, generator=g)
    v, outputs = net(at(b["x"], b["noise"], b["t"]), b["t"], b["y"])
    ours = [net.blocks[i].attn.scores for i in (0, 2)]
    terms = [-(b[f"scores{k}"][:, :HEADS].softmax(-1) * s.softmax(-1).log()).sum(-1).mean() for k, s in enumerate(ours)]
    align = -F.cosine_similarity(net.projectors[0](outputs[1]), b["features"], dim=-1).mean()
    transfer = sum(terms) / 2
    save("attention", dict(net.named_parameters()), b, {"scores0": ours[0], "scores1": ours[1], "transfer": transfer},
         (v - b["noise"] + b["x"]).pow(2).mean() + 0.5 * align + 0.5 * transfer)


def encoder_attention():
    """Attention scores between the patches in both blocks of the DINOv2 of ../dinov2.safetensors."""
    t = load_file("../dinov2.safetensors")
    w = {k[2:]: x for k, x in t.items() if k.startswith("w/")}
    x = F.conv2d(t["in/image"], w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=14).flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(len(x), 1, -1), x], 1) + w["pos_embed"]
    scores = {}
    for i in range(2):
        of = lambda name, p=f"blocks.{i}.": (w[p + name + ".weight"], w[p + name + ".bias"])
        b, n, d = x.shape
        normal = F.layer_norm(x, (d,), *of("norm1"), eps=1e-6)
        q, k, v = F.linear(normal, *of("attn.qkv")).view(b, n, 3, 3, d // 3).permute(2, 0, 3, 1, 4)
        s = q @ k.transpose(2, 3) / math.sqrt(d // 3)
        scores[f"scores{i}"] = s[:, :, 1:, 1:].contiguous()
        y = F.linear((s.softmax(-1) @ v).transpose(1, 2).reshape(b, n, d), *of("attn.proj"))
        x = x + w[f"blocks.{i}.ls1.gamma"] * y
        y = F.linear(F.gelu(F.linear(F.layer_norm(x, (d,), *of("norm2"), eps=1e-6), *of("mlp.fc1"))), *of("mlp.fc2"))
        x = x + w[f"blocks.{i}.ls2.gamma"] * y
    save_file(scores, "encoder_attention.safetensors")


def class_token():
    """arXiv 2507.01467: the class token of the encoder, noised like the latent, first of the tokens; all are aligned."""
    net, b = scramble(Sit(reg=True), 10), batch(11)
    g = torch.Generator().manual_seed(12)
    b["class"], b["class_noise"] = torch.randn(3, FEATURES, generator=g), torch.randn(3, FEATURES, generator=g)
    t = b["t"][:, None]
    point = (1 - t) * b["class"] + t * b["class_noise"]
    (v, cv), outputs = net(at(b["x"], b["noise"], b["t"]), b["t"], b["y"], point)
    features = torch.cat([b["class"][:, None], b["features"]], 1)
    align = -F.cosine_similarity(net.projectors[0](outputs[1]), features, dim=-1).mean()
    mse, class_mse = (v - b["noise"] + b["x"]).pow(2).mean(), (cv - b["class_noise"] + b["class"]).pow(2).mean()
    save("class_token", dict(net.named_parameters()), b,
         {"v": v, "class_v": cv, "align": align, "class_mse": class_mse}, mse + 0.03 * class_mse + 0.5 * align)


if __name__ == "__main__":
    lightningdit()
    relation()
    self_alignment()
    latent_alignment()
    attention()
    encoder_attention()
    class_token()
