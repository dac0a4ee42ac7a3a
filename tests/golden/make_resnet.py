# Writes tests/golden/resnet.npz; needs torch and no torchvision: the network is written out here
# with the names and the layout of torchvision's resnet50. In double precision: in single
# precision rectifiers near zero flip, which moves the gradients by up to 0.5 %.
import json
from pathlib import Path

import numpy as np
import recipes
import torch
from torch import nn
from torch.nn import functional

MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).reshape(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).reshape(1, 3, 1, 1)


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if inputs != 4 * width or stride != 1:
            project = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm2d(4 * width))

    def forward(self, x):
        h = torch.relu(self.bn1(self.conv1(x)))
        h = torch.relu(self.bn2(self.conv2(h)))
        h = self.bn3(self.conv3(h))
        return torch.relu(h + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for stage, depth in enumerate((3, 4, 6, 3)):
            blocks = []
            for place in range(depth):
                blocks.append(Block(inputs, 64 * 2**stage, 2 if stage and not place else 1))
                inputs = 4 * 64 * 2**stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(2048, 1000)

    def forward(self, x):
        x = functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        pool = x.mean((2, 3))
        return x, pool, self.fc(pool)


def preprocess(image: torch.Tensor) -> torch.Tensor:
    """Returns the input of the network for images [B, H, W, 3] in [-1, 1]."""
    x = (image.permute(0, 3, 1, 2) + 1) / 2
    x = functional.interpolate(x, (224, 224), mode="bilinear", antialias=True)
    return (x - MEAN) / STD


def images(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(recipes.images(name, shape) / 127.5 - 1)


if __name__ == "__main__":
    model = ResNet50().eval().double()
    layout = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert sum(np.prod(s) for k, s in layout.items() if "running" not in k) - 53 == 25_557_032
    state = recipes.state_dict(layout)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    for parameter in model.parameters():
        parameter.requires_grad_(False)

    image = images("resnet", (2, 40, 33, 3)).requires_grad_()
    other = images("other", (2, 40, 33, 3))
    ours, theirs = model(preprocess(image)), model(preprocess(other))
    stored = {
        "features": ours[0].permute(0, 2, 3, 1)[..., ::16],
        "pool": ours[1],
        "logits": ours[2],
    }
    for layer, place in (("features", 0), ("logits", 2)):
        distance = (ours[place] - theirs[place]).square().flatten(1).mean(1)
        stored[f"{layer}_distance"] = distance
        (slope,) = torch.autograd.grad(distance.sum(), image, retain_graph=True)
        stored[f"{layer}_slope"] = slope
    stored["large"] = model(preprocess(images("large", (1, 350, 310, 3))))[2]
    stored = {name: value.detach().float().numpy() for name, value in stored.items()}
    np.savez_compressed(Path(__file__).with_name("resnet.npz"), shapes=json.dumps(layout), **stored)
    for name, value in stored.items():
        print(name, value.shape, value.mean(), value.std())
