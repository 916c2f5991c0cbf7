"""Tiny vision transformers of transformers and timm with random weights, under the names that their files have.

Each file holds w/NAME (what the library saves), in/image (normalised) and out/tokens: patch tokens as an encoder for
alignment gives them. Where the library resamples positions by itself, in/large and out/large are of a larger image.
Made with torch 2.15.0, transformers 5.23.0, timm 1.0.31: `python make.py` in this folder.
"""
import os
import tempfile

import timm
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

DIM, DEPTH, HEADS, PATCH, SIDE, LARGE = 16, 2, 2, 4, 12, 20
HF = dict(hidden_size=DIM, num_hidden_layers=DEPTH, num_attention_heads=HEADS, image_size=SIDE, patch_size=PATCH,
          layer_norm_eps=1e-6)
WIDE = dict(intermediate_size=4 * DIM)


def scramble(net, seed):
    """Weights that matter: nothing zero, nothing one."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in net.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            one = p.ndim == 1 and name.endswith(("weight", "gamma", "lambda1"))
            p.copy_(1 + 0.2 * noise if one else 0.25 * noise)
    return net.eval(), g


def saved(net, current):
    """As in a file; with `current`, under the names of the classes, which transformers translates when it saves."""
    if current:
        return dict(net.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        net.save_pretrained(folder)
        return load_file(os.path.join(folder, "model.safetensors"))


def write(name, weights, **tensors):
    flat = {f"w/{k}": v.clone().contiguous() for k, v in weights.items()} | {k.replace("_", "/"): v.contiguous() for k, v in tensors.items()}
    save_file(flat, f"{name}.safetensors")
    print(name, len(weights), os.path.getsize(f"{name}.safetensors"))


def hugging_face(name, net, tokens, seed, current=False, half=False):
    net, g = scramble(net, seed)
    if half:
        net = net.half().float()
    image = torch.randn(2, 3, SIDE, SIDE, generator=g)
    with torch.no_grad():
        out = tokens(net, image)
    weights = saved(net, current)
    write(name, {k: v.half() for k, v in weights.items()} if half else weights, in_image=image, out_tokens=out)


def published_code(name, net, tokens, seed):
    """DINOv3 of transformers under the names of DINOv3's own code: one matrix with a bias mask, whose keys' part is
    not zero in the file and must not be used."""
    net, g = scramble(net, seed)
    image = torch.randn(2, 3, SIDE, SIDE, generator=g)
    with torch.no_grad():
        out = tokens(net, image)
    theirs = saved(net, False)
    ours = {}
    for key, value in theirs.items():
        if ".q_proj.weight" in key:
            parts = [theirs[key.replace("q_proj", p)] for p in ("q_proj", "k_proj", "v_proj")]
            ours[key.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
        elif ".q_proj.bias" in key:
            junk = torch.full_like(value, float("nan"))
            ours[key.replace("attention.q_proj", "attn.qkv")] = torch.cat([value, junk, theirs[key.replace("q_", "v_")]])
            mask = torch.cat([torch.ones(DIM), torch.zeros(DIM), torch.ones(DIM)])
            ours[key.replace("attention.q_proj.bias", "attn.qkv.bias_mask")] = mask
        elif "k_proj" not in key and "v_proj" not in key:
            ours[key] = value
    names = [("layer.", "blocks."), ("embeddings.register_tokens", "storage_tokens"), ("attention.o_proj", "attn.proj"),
             ("embeddings.patch_embeddings", "patch_embed.proj"), ("embeddings.", ""), ("up_proj", "fc1"),
             ("down_proj", "fc2"), ("layer_scale1.lambda1", "ls1.gamma"), ("layer_scale2.lambda1", "ls2.gamma")]
    for a, b in names:
        ours = {k.replace(a, b): v for k, v in ours.items()}
    ours["rope_embed.periods"] = torch.ones(DIM // HEADS // 4)
    write(name, ours, in_image=image, out_tokens=out)


def after_norm(prefix):
    return lambda net, image: net(pixel_values=image).last_hidden_state[:, prefix:]


def mae(net, image):
    """Before the last norm, nothing masked, nothing shuffled."""
    vit = getattr(net, "vit", net)
    order = torch.arange((SIDE // PATCH) ** 2).float().repeat(len(image), 1)
    seen = {}
    hook = vit.layernorm.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    vit(pixel_values=image, noise=order)
    hook.remove()
    return seen["x"][:, 1:]


def clip(net, image):
    """CLIPVisionModel's hidden state is the one before post_layernorm."""
    return net.vision_model(pixel_values=image).last_hidden_state[:, 1:]


def timm_model(name, arch, seed, prefix, final_norm=True, **kw):
    kw = dict(img_size=SIDE, patch_size=PATCH, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, dynamic_img_size=True) | kw
    net, g = scramble(timm.create_model(arch, **kw), seed)
    small, large = (torch.randn(2, 3, s, s, generator=g) for s in (SIDE, LARGE))

    def tokens(image):
        with torch.no_grad():
            if final_norm:
                return net.forward_features(image)[:, prefix:]
            x = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(image))))
            return net.blocks(x)[:, prefix:]

    write(name, net.state_dict(), in_image=small, out_tokens=tokens(small), in_large=large, out_large=tokens(large))


def main():
    dinov2 = hf.Dinov2Config(mlp_ratio=4, **HF)
    swiglu = hf.Dinov2Config(mlp_ratio=4, use_swiglu_ffn=True, **HF)
    registers = hf.Dinov2WithRegistersConfig(mlp_ratio=4, num_register_tokens=4, **HF)
    tower = {k: v for k, v in HF.items() if k != "layer_norm_eps"} | WIDE
    text = dict(vocab_size=8, max_position_embeddings=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                num_attention_heads=1, bos_token_id=0, eos_token_id=1)
    whole_clip = hf.CLIPConfig(vision_config=tower, text_config=text, projection_dim=8)
    masked = hf.ViTMAEConfig(mask_ratio=0.0, decoder_hidden_size=8, decoder_num_hidden_layers=1,
                             decoder_num_attention_heads=1, decoder_intermediate_size=8, **HF, **WIDE)

    hugging_face("hf_dinov2", hf.Dinov2Model(dinov2), after_norm(1), 1)
    hugging_face("hf_dinov2_swiglu", hf.Dinov2Model(swiglu), after_norm(1), 2)
    hugging_face("hf_dinov2_swiglu_current", hf.Dinov2Model(swiglu), after_norm(1), 3, current=True)
    hugging_face("hf_dinov2_registers", hf.Dinov2WithRegistersModel(registers), after_norm(5), 4)
    hugging_face("hf_clip", hf.CLIPModel(whole_clip), clip, 5, half=True)
    hugging_face("hf_clip_vision", hf.CLIPVisionModel(hf.CLIPVisionConfig(**tower)),
                 lambda net, image: net(pixel_values=image).last_hidden_state[:, 1:], 6)
    hugging_face("hf_ijepa", hf.IJepaModel(hf.IJepaConfig(**HF, **WIDE)), after_norm(0), 7)
    hugging_face("hf_dino", hf.ViTModel(hf.ViTConfig(**HF, **WIDE)), after_norm(1), 8)
    hugging_face("hf_mae", hf.ViTMAEForPreTraining(masked), mae, 9)
    hugging_face("hf_mae_current", hf.ViTMAEModel(masked), mae, 10, current=True)

    dinov3 = hf.DINOv3ViTConfig(intermediate_size=4 * DIM, num_register_tokens=4, **HF | dict(layer_norm_eps=1e-5))
    siglip = dict(vision_config=tower, text_config=dict(text, projection_size=8, pad_token_id=0))
    hugging_face("hf_dinov3", hf.DINOv3ViTModel(dinov3), after_norm(5), 21)
    hugging_face("hf_dinov3_current", hf.DINOv3ViTModel(dinov3), after_norm(5), 22, current=True)
    published_code("dinov3", hf.DINOv3ViTModel(dinov3), after_norm(5), 23)
    hugging_face("hf_siglip", hf.SiglipModel(hf.SiglipConfig(**siglip)),
                 lambda net, image: net.vision_model(pixel_values=image).last_hidden_state, 24)
    hugging_face("hf_siglip_vision", hf.SiglipVisionModel(hf.SiglipVisionConfig(**tower)), after_norm(0), 25)

    timm_model("timm_dinov2", "vit_base_patch14_dinov2", 11, 1)
    timm_model("timm_dinov2_registers", "vit_base_patch14_reg4_dinov2", 12, 5)
    timm_model("timm_dinov2_swiglu", "vit_giant_patch14_dinov2", 13, 1, embed_dim=24)
    timm_model("timm_clip", "vit_large_patch14_clip_quickgelu_224", 14, 1, final_norm=False, num_classes=8)
    timm_model("timm_mae", "vit_large_patch16_224", 15, 1, final_norm=False, num_classes=0)
    timm_model("timm_dino", "vit_base_patch16_224", 16, 1, num_classes=0)
    timm_model("timm_dinov3", "vit_small_patch16_dinov3", 26, 5, num_classes=0)
    timm_model("timm_dinov3_qkvb", "vit_small_patch16_dinov3_qkvb", 27, 5, num_classes=0)
    timm_model("timm_siglip", "vit_so400m_patch16_siglip_256", 28, 0, mlp_ratio=4)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
