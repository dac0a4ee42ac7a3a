# Writes tests/golden/adversarial.npz; needs torch. The discriminator of MaskGIT, its gradient
# penalty and VQGAN's adaptive weight, each by torch's automatic differentiation.
import json
from pathlib import Path

import numpy as np
import recipes
import torch
from torch.nn import functional

FILTERS, MAX_WIDTH = 8, 16


def leaky(x):
    return functional.leaky_relu(x, 0.2)


def halve(x, blur):
    """Filters and halves; zeros as XLA pads "SAME": the odd one on the right and below."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0] if blur else [1.0, 1.0])
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    kernel = kernel.expand(x.shape[1], 1, *kernel.shape)
    pads = []
    for side in (x.shape[3], x.shape[2]):  # torch wants the last axis first
        total = 2 * (-(-side // 2) - 1) + len(taps) - side
        pads += [total // 2, total - total // 2]
    return functional.conv2d(functional.pad(x, pads), kernel, stride=2, groups=x.shape[1])


def shapes(image_size):
    width, side, block = FILTERS, image_size, 0
    layout = {"conv_in.weight": (width, 3, 3, 3), "conv_in.bias": (width,)}
    while side >= 8:
        wider = min(2 * width, MAX_WIDTH)
        name = f"block_{block}"
        layout[f"{name}.conv_0.weight"], layout[f"{name}.conv_0.bias"] = (
            (width, width, 3, 3),
            (width,),
        )
        layout[f"{name}.conv_1.weight"], layout[f"{name}.conv_1.bias"] = (
            (wider, width, 3, 3),
            (wider,),
        )
        layout[f"{name}.shortcut.weight"] = (wider, width, 1, 1)
        side, width, block = (side + 1) // 2, wider, block + 1
    layout |= {"conv_out.weight": (width, width, 3, 3), "conv_out.bias": (width,)}
    layout |= {"head_dense.weight": (width, side * side * width), "head_dense.bias": (width,)}
    return layout | {"head_logit.weight": (1, width), "head_logit.bias": (1,)}


def discriminator(state, image, blur):
    def conv(x, name):
        weight = state[f"{name}.weight"]
        return functional.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[2] // 2)

    x, block = leaky(conv(image.permute(0, 3, 1, 2), "conv_in")), 0
    while f"block_{block}.conv_0.weight" in state:
        name = f"block_{block}"
        h = halve(leaky(conv(x, f"{name}.conv_0")), blur)
        h = leaky(conv(h, f"{name}.conv_1"))
        x = (conv(halve(x, blur), f"{name}.shortcut") + h) / 2**0.5
        block += 1
    x = leaky(conv(x, "conv_out")).permute(0, 2, 3, 1).flatten(1)  # rows before channels
    x = leaky(x @ state["head_dense.weight"].T + state["head_dense.bias"])
    return x @ state["head_logit.weight"].T + state["head_logit.bias"]


def images(name, shape):
    return torch.from_numpy(recipes.images(name, shape).astype(np.float32) / 127.5 - 1)


def r1(state, image):
    """The penalty, and its gradient with respect to a kernel in the middle."""
    image = image.clone().requires_grad_()
    kernel = state["block_0.conv_0.weight"].requires_grad_()
    logits = discriminator(state, image, blur=True)
    (gradient,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
    penalty = gradient.square().flatten(1).sum(1).mean()
    (slope,) = torch.autograd.grad(penalty, kernel)
    return penalty.detach(), slope


def adaptive_weight(state, image, hidden):
    """Taming's calculate_adaptive_weight for a last layer that is a 3x3 convolution."""
    kernel = torch.from_numpy(recipes.tensor("last.weight", (3, 5, 3, 3))).requires_grad_()
    decoded = functional.conv2d(hidden.permute(0, 3, 1, 2), kernel, padding=1).permute(0, 2, 3, 1)
    faithful = (image - decoded).abs().mean()
    adversarial = -discriminator(state, decoded, blur=True).mean()
    pulls = [
        torch.autograd.grad(loss, kernel, retain_graph=True)[0].norm()
        for loss in (faithful, adversarial)
    ]
    return (pulls[0] / (pulls[1] + 1e-4)).clamp(0, 1e4).detach()


if __name__ == "__main__":
    stored = {}
    for image_size in (18, 32):  # 18, 9, 5: an odd side is halved too
        layout = shapes(image_size)
        stored[f"shapes_{image_size}"] = json.dumps(layout)
        state = {k: torch.from_numpy(v) for k, v in recipes.state_dict(layout).items()}
        image = images("real", (3, image_size, image_size, 3))
        for name, blur in (("blur", True), ("mean", False)):
            stored[f"{name}_{image_size}"] = discriminator(state, image, blur).numpy()
    image = images("real", (3, 32, 32, 3))
    stored["r1"], stored["r1_slope"] = (x.numpy() for x in r1(state, image))
    hidden = images("hidden", (3, 32, 32, 5))
    stored["adaptive_weight"] = adaptive_weight(state, image, hidden).numpy()
    np.savez_compressed(Path(__file__).with_name("adversarial.npz"), **stored)
    print({k: v for k, v in stored.items() if "shapes" not in k and v.size < 9})
