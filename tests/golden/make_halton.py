# Writes tests/golden/halton.npz; needs torch, einops, tqdm and a checkout of
# github.com/valeoai/Halton-MaskGIT: python make_halton.py CHECKOUT
import json
import re
import sys
from pathlib import Path

import einops
import numpy as np
import recipes
import torch

TOKENS, LABELS, DROPPED = (2, 4, 4), [1, 2], [False, True]
NETWORKS = {
    "plain": dict(hidden_dim=128, depth=2, heads=2, register=1, proj=1),
    "patches": dict(hidden_dim=128, depth=2, heads=2, register=2, proj=2),
    "small": dict(hidden_dim=512, depth=1, heads=6, register=1, proj=1),  # heads of 85
}


def rearrange(x: torch.Tensor, pattern: str, **axes: int) -> torch.Tensor:
    """With patches the network names an axis that the pattern has not, which einops refuses."""
    known = re.findall(r"\w+", pattern)
    return einops.rearrange(x, pattern, **{axis: axes[axis] for axis in axes if axis in known})


def logits(network: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        arrays = (torch.from_numpy(tokens), torch.tensor(LABELS), torch.tensor(DROPPED))
        return network(*arrays).numpy()


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    from Network import transformer
    from Sampler.halton_sampler import HaltonSampler

    transformer.rearrange = rearrange
    tokens = np.random.default_rng(0).integers(0, 12, TOKENS)  # 11 is the mask
    found = {"tokens": tokens, "labels": LABELS, "dropped": DROPPED}
    for name, options in NETWORKS.items():
        sizes = dict(input_size=4, codebook_size=11, mlp_dim=24)
        network = transformer.Transformer(**sizes, nclass=3, **options).eval()
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        state = recipes.state_dict(shapes)
        state["head.weight"] = state["tok_emb.weight"]  # one tensor
        network.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
        found |= {f"{name}_shapes": json.dumps(shapes), f"{name}_logits": logits(network, tokens)}
    for size in (16, 32):
        found[f"order_{size}"] = HaltonSampler.build_halton_mask(size).numpy().astype(np.int16)
    np.savez_compressed(Path(__file__).with_name("halton.npz"), **found)
