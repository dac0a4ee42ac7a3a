# Writes tests/golden/maskgit_torch.npz; needs torch, einops and checkouts of
# github.com/hmorimitsu/maskgit-torch and github.com/bytedance/1d-tokenizer:
# python make_maskgit_torch.py MASKGIT_TORCH 1D_TOKENIZER
import functools
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import recipes
import torch

IMAGE_SIZE, CODES, CLASSES, GRID, WIDTH = 16, 11, 3, 4, 96


def load(network):
    """Gives a network the weights of the recipe; returns their shapes as JSON."""
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    state = recipes.state_dict(shapes)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    network.eval()
    return json.dumps(shapes)


def image():
    pixels = recipes.images("maskgit", (1, IMAGE_SIZE, IMAGE_SIZE, 3)) / np.float32(255)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def channels_last(x):
    return x.permute(0, 2, 3, 1).numpy()


def maskgit_torch():
    from maskgit.nets.bidirectional_transformer import BidirectionalTransformer
    from maskgit.nets.vqgan_tokenizer import VQVAE

    config = SimpleNamespace(
        input_dim=3, filters=32, num_res_blocks=1, channel_multipliers=[1, 2, 2], embedding_dim=8,
        conv_downsample=False, norm_type="GN", activation_fn="swish", quantizer="vq",
        codebook_size=CODES,
    )  # fmt: skip
    tokenizer = VQVAE(SimpleNamespace(vqvae=config))
    found = {"tokenizer_shapes": load(tokenizer)}
    tokens = tokenizer.encode_to_indices(image()).view(1, GRID, GRID)
    found |= {
        "features": channels_last(tokenizer.encoder(image())),
        "tokens": tokens.numpy(),
        "reconstruction": channels_last(tokenizer.decode_from_indices(tokens)),
    }
    transformer = BidirectionalTransformer(
        num_image_tokens=GRID * GRID + 1, num_codebook_vectors=CODES + CLASSES + 1, dim=WIDTH,
        hidden_dim=24, num_heads=WIDTH // 48, n_layers=2, attention_dropout=0.0, hidden_dropout=0.0,
    )  # fmt: skip
    found["transformer_shapes"] = load(transformer)
    random = np.random.default_rng(0)
    known, mask = random.integers(0, CODES, (1, GRID * GRID)), random.random((1, GRID * GRID)) < 0.6
    inputs = np.concatenate([[[CODES + 2]], np.where(mask, CODES + CLASSES, known)], axis=1)
    logits = transformer(torch.from_numpy(inputs))[:, 1:, :CODES].numpy()
    return {**found, "input_tokens": known, "mask": mask, "labels": [2], "logits": logits}


def one_d_tokenizer(checkout):
    place = Path(checkout, "modeling/modules/maskgit_vqgan.py")
    spec = importlib.util.spec_from_file_location("maskgit_vqgan", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = SimpleNamespace(
        num_channels=3, hidden_channels=32, num_res_blocks=1, channel_mult=[1, 2, 2],
        num_resolutions=3, z_channels=8, resolution=IMAGE_SIZE, dropout=0.0,
    )  # fmt: skip
    network = torch.nn.Module()
    network.encoder, network.decoder = module.Encoder(config), module.Decoder(config)
    network.quantize = module.VectorQuantizer(CODES, 8, 0.25)
    shapes = load(network)
    features = network.encoder(image())
    codes, tokens, _ = network.quantize(features)
    return {
        "other_shapes": shapes,
        "other_features": channels_last(features),
        "other_tokens": tokens.view(1, GRID, GRID).numpy(),
        "other_reconstruction": channels_last(network.decoder(codes)),
    }


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    sys.modules["ml_collections"] = SimpleNamespace(ConfigDict=dict)
    # The port has the exact GELU and another epsilon than the network of the published weights.
    torch.nn.GELU = functools.partial(torch.nn.GELU, approximate="tanh")
    torch.nn.GroupNorm = functools.partial(torch.nn.GroupNorm, eps=1e-6)
    with torch.no_grad():
        found = {**maskgit_torch(), **one_d_tokenizer(sys.argv[2])}
    np.savez_compressed(Path(__file__).with_name("maskgit_torch.npz"), **found)
