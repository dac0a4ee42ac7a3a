# Writes tests/golden/efficientnet.npz; needs torch and efficientnet_lite_pytorch.
import json
from pathlib import Path

import numpy as np
import recipes
import torch
from efficientnet_lite_pytorch import EfficientNet


def outputs(model: EfficientNet, image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Pooled features and logits of uint8 [B, H, W, 3]."""
    x = torch.from_numpy(image).permute(0, 3, 1, 2).float()
    x = torch.nn.functional.interpolate(x, (224, 224), mode="bicubic", antialias=True)
    x = (x.clamp(0, 255) - 127) / 128
    with torch.no_grad():
        return model.extract_features(x).mean((2, 3)), model(x)


if __name__ == "__main__":
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    layout = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    state = recipes.state_dict(layout)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    pool, logits = outputs(model, recipes.images("efficientnet", (2, 40, 33, 3)))
    large, _ = outputs(model, recipes.images("large", (1, 350, 310, 3)))
    np.savez_compressed(
        Path(__file__).with_name("efficientnet.npz"),
        shapes=json.dumps(layout),
        pool=pool,
        logits=logits,
        large_pool=large,
    )
    print(pool.std(), pool.mean(), logits.std(), (pool[0] - pool[1]).std())
