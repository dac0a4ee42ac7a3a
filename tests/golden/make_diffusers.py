# Writes tests/golden/diffusers.npz; needs torch and diffusers.
import json
from pathlib import Path

import numpy as np
import recipes
import torch
from diffusers import VQModel

if __name__ == "__main__":
    blocks = ("EncoderBlock2D", "DecoderBlock2D")
    down, up = f"Down{blocks[0]}", f"Up{blocks[1]}"
    model = VQModel(
        down_block_types=(down, f"Attn{down}"),
        up_block_types=(f"Attn{up}", up),
        block_out_channels=(64, 128),
        latent_channels=12,
        num_vq_embeddings=32,
        vq_embed_dim=6,
    )
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = recipes.state_dict(shapes)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    image = recipes.images("diffusers", (2, 8, 8, 3)).astype(np.float32) / 127.5 - 1.0
    with torch.no_grad():
        latents = model.encode(torch.from_numpy(image).permute(0, 3, 1, 2)).latents
        tokens = model.quantize(latents)[2][2].reshape(2, 4, 4)
        decoded = model.decode(latents).sample
    np.savez_compressed(
        Path(__file__).with_name("diffusers.npz"),
        config=json.dumps(dict(model.config)),
        shapes=json.dumps(shapes),
        latents=latents.permute(0, 2, 3, 1).numpy(),
        tokens=tokens.numpy(),
        image=decoded.permute(0, 2, 3, 1).numpy(),
    )
