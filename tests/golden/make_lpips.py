# Writes tests/golden/lpips.npz; needs torch, torchvision and lpips 0.1.4.
import json
from pathlib import Path

import lpips
import numpy as np
import recipes
import torch


def network(state: dict) -> torch.nn.Module:
    """The model with the given VGG-16 ("features.N.*") and layer weights ("lin0", ...)."""
    model = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False).eval()
    own = model.state_dict()
    for name in own:
        kind, *_, leaf = name.split(".")
        if kind == "net":  # net.slice2.7.weight is features.7.weight of torchvision
            own[name] = torch.from_numpy(state[f"features.{name.split('.')[2]}.{leaf}"])
        elif kind.startswith("lin") and kind != "lins":
            own[name] = torch.from_numpy(state[kind]).reshape(1, -1, 1, 1)
            own[f"lins.{kind[3:]}.model.1.weight"] = own[name]
    model.load_state_dict(own)
    return model


def shapes() -> dict:
    model = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    layout = {}
    for name, value in model.state_dict().items():
        kind, *_, leaf = name.split(".")
        if kind == "net":
            layout[f"features.{name.split('.')[2]}.{leaf}"] = tuple(value.shape)
        elif kind.startswith("lin") and kind != "lins":
            layout[kind] = (value.numel(),)
    return layout


def distances(model: torch.nn.Module, image: np.ndarray, other: np.ndarray) -> torch.Tensor:
    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2) / 127.5 - 1 for x in (image, other))
    with torch.no_grad():
        return model(a, b).reshape(-1)


if __name__ == "__main__":
    layout = shapes()
    model = network(recipes.state_dict(layout))
    image = recipes.images("lpips", (3, 32, 32, 3))
    other = recipes.images("other", (3, 32, 32, 3))
    distance = distances(model, image, other)
    odd = distances(model, image[:, :17, :27], other[:, :17, :27])
    np.savez_compressed(
        Path(__file__).with_name("lpips.npz"),
        shapes=json.dumps(layout),
        distance=distance,
        odd=odd,
    )
    print(distance, odd)
