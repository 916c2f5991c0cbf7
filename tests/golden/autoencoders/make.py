"""A tiny AutoencoderKL of diffusers with attention in its levels, as VA-VAE has it, with random weights.

w/NAME (what diffusers saves), in/image, out/mean and out/std of its posterior; in/latent and out/decoded.
Made with torch 2.15.0, diffusers as in tests/tools/torch-requirements.txt: `python make.py` in this folder.
"""
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

net = AutoencoderKL(
    down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    block_out_channels=(8, 16), layers_per_block=2, latent_channels=6, norm_num_groups=4, sample_size=16,
)
g = torch.Generator().manual_seed(5)
with torch.no_grad():
    for name, p in net.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        p.copy_(1 + 0.2 * noise if p.ndim == 1 and name.endswith("weight") else 0.2 * noise)
    net.eval()
    image, latent = torch.rand(2, 3, 16, 16, generator=g) * 2 - 1, torch.randn(2, 6, 8, 8, generator=g)
    posterior = net.encode(image).latent_dist
    out = {f"w/{k}": v for k, v in net.state_dict().items()}
    out |= {"in/image": image, "out/mean": posterior.mean, "out/std": posterior.std}
    out |= {"in/latent": latent, "out/decoded": net.decode(latent).sample}
save_file({k: v.contiguous() for k, v in out.items()}, "attention.safetensors")
