# Writes tests/golden/llamagen.npz; needs torch and a checkout of
# github.com/FoundationVision/LlamaGen: python make_llamagen.py CHECKOUT
import json
import sys
from pathlib import Path

import numpy as np
import recipes
import torch

SIZES = dict(ch=64, ch_mult=(1, 2), num_res_blocks=1, z_channels=12)
IMAGES, ENTROPY = (2, 8, 8, 3), 0.1


def nhwc(tensor):
    return tensor.detach().permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    sys.path.insert(0, f"{sys.argv[1]}/tokenizer/tokenizer_image")
    from vq_model import Decoder, Encoder, ModelArgs, VQModel

    args = dict(codebook_size=32, codebook_embed_dim=4, z_channels=12, entropy_loss_ratio=ENTROPY)
    model = VQModel(ModelArgs(encoder_ch_mult=[1, 1], decoder_ch_mult=[1, 1], **args))
    model.encoder, model.decoder = Encoder(**SIZES), Decoder(**SIZES)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    weights = {name: torch.from_numpy(x) for name, x in recipes.state_dict(shapes).items()}
    model.load_state_dict(weights)
    model.quantize.codebook_used.requires_grad_(False)
    x = recipes.images("llamagen", IMAGES).astype(np.float32) / 127.5 - 1.0
    x = torch.from_numpy(x).permute(0, 3, 1, 2)

    latents = model.quant_conv(model.encoder(x)).detach().requires_grad_()
    codes, losses, (_, _, tokens) = model.quantize(latents)
    by = (latents, model.quantize.embedding.weight)
    found = {"shapes": json.dumps(shapes), "latents": nhwc(latents), "codes": nhwc(codes)}
    found["tokens"] = tokens.reshape(2, 4, 4).numpy()
    # Through the codes too: their gradient is that of the normalized latents.
    found["weights"] = recipes.tensor("weights", (2, 4, 4, 4))
    through = (codes.permute(0, 2, 3, 1) * torch.from_numpy(found["weights"])).sum()
    for name, loss in {"plain": losses[0] + losses[1], "entropy": losses[2]}.items():
        slopes = torch.autograd.grad(through + loss, by, retain_graph=True)
        found |= {f"{name}_loss": loss.item(), f"{name}_latents_slope": nhwc(slopes[0])}
        found[f"{name}_codebook_slope"] = slopes[1].numpy()
    model.eval()
    found["image"] = nhwc(model.decode_code(tokens, (2, 4, 4, 4)))
    np.savez_compressed(Path(__file__).with_name("llamagen.npz"), **found)
