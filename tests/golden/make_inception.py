# Writes tests/golden/inception.npz; needs torch and torch-fidelity 0.4.
import json
import tempfile
from pathlib import Path

import numpy as np
import recipes
import torch
from torch_fidelity import feature_extractor_inceptionv3 as reference
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

FEATURES = ["2048", "logits_unbiased"]


def network(state: dict) -> torch.nn.Module:
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(state, file.name)
        return reference.FeatureExtractorInceptionV3("x", FEATURES, file.name)


def shapes() -> dict:
    """The names and shapes of the parameters, without the weights that it would download."""
    load = reference.load_state_dict_from_url
    strict = torch.nn.Module.load_state_dict
    reference.load_state_dict_from_url = lambda *_, **__: {}
    torch.nn.Module.load_state_dict = lambda self, state: strict(self, state, strict=False)
    try:
        state = reference.FeatureExtractorInceptionV3("x", FEATURES).state_dict()
    finally:
        reference.load_state_dict_from_url = load
        torch.nn.Module.load_state_dict = strict
    return {k: tuple(v.shape) for k, v in state.items() if "num_batches" not in k}


if __name__ == "__main__":
    layout = shapes()
    model = network({k: torch.from_numpy(v) for k, v in recipes.state_dict(layout).items()})
    spatial = []
    model.Mixed_6d.branch1x1.register_forward_hook(lambda *args: spatial.append(args[-1]))
    image = torch.from_numpy(recipes.images("inception", (2, 40, 33, 3))).permute(0, 3, 1, 2)
    pool, logits = model(image)
    large = torch.from_numpy(recipes.images("large", (1, 350, 310, 3))).permute(0, 3, 1, 2)
    resized = interpolate_bilinear_2d_like_tensorflow1x(
        large.float(), size=(299, 299), align_corners=False
    )
    np.savez_compressed(
        Path(__file__).with_name("inception.npz"),
        shapes=json.dumps(layout),
        pool=pool,
        logits=logits,
        spatial=spatial[0][:, :7].permute(0, 2, 3, 1).reshape(2, -1),
        resized=resized.permute(0, 2, 3, 1)[0, ::23, ::29],
    )
    print(pool.std(), logits.std(), spatial[0].std(), spatial[0].max(), pool.max())
