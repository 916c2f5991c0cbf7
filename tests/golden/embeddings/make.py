"""What published evaluation tools make of 8-bit images: tiny DINOv2 and CLIP with random weights, and clean-fid's resizer.

Each file of a network holds w/NAME (its state dict), in/image_u8 [2,3,H,W] and out/embedding; `clean_fid` holds images
in/NAME_u8 [3,H,W] and the rows of out/NAME [3,4,299] that ROWS lists.
Made with torch 2.15.0, torchvision 0.29.2, transformers 5.24.0, Pillow 13.0.0, clean-fid 0.1.35, facebookresearch/dinov2
b8931f7, sayakpaul/cmmd-pytorch; their folders: `python make.py DINOV2 CMMD`. No image is higher than wide: Pillow 13
resizes such ones in another order than Pillow did before.
"""
import sys

import numpy as np
import torch
import torchvision.transforms as T
from cleanfid.resize import build_resizer
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

sys.path[:0] = sys.argv[1:]
import embedding as cmmd
from dinov2.models.vision_transformer import DinoVisionTransformer
from io_util import CMMDDataset

ROWS = [0, 1, 150, 298]
rng = np.random.default_rng(3)


def picture(height, width):
    """Noise over slopes: edges for filters to overshoot at."""
    y, x = np.mgrid[:height, :width]
    slopes = np.stack([x * 255 / width, y * 255 / height, 255 - x * 255 / width], -1)
    return np.clip(slopes + rng.normal(0, 60, slopes.shape), 0, 255).astype(np.uint8)


def scramble(net):
    with torch.no_grad():
        for name, p in net.named_parameters():
            noise = torch.randn(p.shape)
            one = p.ndim == 1 and name.endswith(("weight", "gamma"))
            p.copy_(1 + 0.2 * noise if one else 0.25 * noise)
    return net.eval()


def write(name, net, images, out):
    flat = {f"w/{k}": v.clone().contiguous() for k, v in net.state_dict().items()}
    flat |= {"in/image_u8": torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), "out/embedding": out.contiguous()}
    save_file(flat, f"{name}.safetensors")


def dinov2(name, **more):
    """As dgm_eval/models/dinov2.py without `clean_resize`, its default."""
    net = scramble(DinoVisionTransformer(img_size=252, patch_size=14, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2,
                                         init_values=1.0, block_chunks=0, **more))
    prepare = T.Compose([T.Resize((224, 224), T.InterpolationMode.BICUBIC), T.ToTensor(),
                         T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    images = [picture(40, 260) for _ in range(2)]
    with torch.no_grad():
        out = net(torch.stack([prepare(Image.fromarray(i)) for i in images]))
    write(name, net, images, out)


def clip(side=28):
    config = CLIPVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=side,
                              patch_size=14, projection_dim=8)
    model = object.__new__(cmmd.ClipEmbeddingModel)
    model._model = scramble(CLIPVisionModelWithProjection(config))
    model.image_processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    model.input_image_size = side
    images = [picture(40, 53) for _ in range(2)]
    crop = object.__new__(CMMDDataset)._center_crop_and_resize
    batch = np.stack([np.asarray(crop(Image.fromarray(i), side)).astype(np.float32) for i in images]) / 255.0
    write("clip", model._model, images, model.embed(batch))


def clean_fid():
    resize, flat = build_resizer("clean"), {}
    for name, size in [("small", (40, 52)), ("large", (64, 310)), ("wide", (299, 30))]:
        image = picture(*size)
        flat[f"in/{name}_u8"] = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        flat[f"out/{name}"] = torch.from_numpy(resize(image)).permute(2, 0, 1)[:, ROWS].contiguous()
    save_file(flat, "clean_fid.safetensors")


torch.manual_seed(1)
dinov2("dinov2")
dinov2("dinov2_registers", num_register_tokens=4, interpolate_antialias=True, interpolate_offset=0.0)
clip()
clean_fid()
