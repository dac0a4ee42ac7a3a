# Writes tests/golden/taming.npz; needs torch, einops and a checkout of
# github.com/CompVis/taming-transformers: python make_taming.py CHECKOUT
import importlib
import json
import sys
import types
from pathlib import Path

import numpy as np
import recipes
import torch
from torch import nn

SIZES = dict(ch=64, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=[4], resolution=8)
SIZES |= dict(in_channels=3, out_ch=3, double_z=False, z_channels=12)
NUM_CODES, CODEBOOK_DIM, USED = 32, 6, [1, 3, 4, 7, 10, 11, 12, 20, 25, 31]
GPT = dict(n_layer=2, n_head=2, n_embd=16)
IMAGES = (2, 8, 8, 3)


def instantiate(config, **_):
    """Their configurations name a class; here some hold the object itself."""
    if isinstance(config, nn.Module):
        return config
    module, name = config["target"].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**config.get("params", {}))


def stub(name, **members):
    sys.modules[name] = types.ModuleType(name)
    for member, value in members.items():
        setattr(sys.modules[name], member, value)


def fill(model):
    """Gives a model the weights of the recipes; returns the shapes of all of them."""
    state = model.state_dict()
    for name, value in state.items():
        if value.is_floating_point() and not name.endswith("attn.mask"):
            state[name] = torch.from_numpy(recipes.tensor(name, tuple(value.shape)))
    model.load_state_dict(state)
    model.eval()
    return json.dumps({name: tuple(value.shape) for name, value in state.items()})


def losses_with(discriminator, **options):
    module = nn.Module()
    module.discriminator = discriminator(ndf=8, n_layers=2, **options)
    return module


def nhwc(tensor):
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def run_tokenizer(model, x):
    found = {"shapes": fill(model)}
    latents = model.quant_conv(model.encoder(x)).detach()
    if hasattr(model.quantize, "proj"):  # the argmax without their noise
        tokens = model.quantize.proj(latents).argmax(dim=1)
    else:
        latents.requires_grad_()
        _, loss, (_, _, tokens) = model.quantize(latents)
        slopes = torch.autograd.grad(loss, (latents, model.quantize.embedding.weight))
        found |= {"loss": loss.item(), "latents_slope": nhwc(slopes[0])}
        found["codebook_slope"] = slopes[1].numpy()
    shape = (len(x), 4, 4)
    codes = model.quantize.get_codebook_entry(tokens.reshape(-1), (*shape, latents.shape[1]))
    found |= {"latents": nhwc(latents), "tokens": tokens.reshape(shape).numpy()}
    found["image"] = nhwc(model.decode(codes))
    large = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    found["logits"] = nhwc(model.loss.discriminator(large))
    return found


def run_generator(model, image, condition):
    found = {"shapes": fill(model)}
    logits, tokens = model(image, condition)
    _, prefix = model.encode_to_c(condition)
    sampled = model.sample(tokens[:, :0], prefix, tokens.shape[1])  # greedy
    found |= {"logits": logits.detach().numpy(), "tokens": tokens.numpy()}
    return found | {"sampled": sampled.numpy(), "prefix": prefix.numpy()}


def run_ema(embedding, latents):
    """Two updates by the same latents; every code counts once at the start."""
    fill(embedding)
    embedding.cluster_size.data.fill_(1.0)
    embedding.embed_avg.data.copy_(embedding.weight)
    found = []
    for _ in range(2):
        distance = (latents[:, None] - embedding.weight[None]) ** 2
        one_hot = nn.functional.one_hot(distance.sum(-1).argmin(1), len(embedding.weight)).float()
        embedding.cluster_size_ema_update(one_hot.sum(0))
        embedding.embed_avg_ema_update(one_hot.T @ latents)
        embedding.weight_update(len(embedding.weight))
        found.append(embedding.weight.detach().numpy().copy())
    return {"latents": latents.numpy(), "codebooks": np.stack(found)}


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    stub("pytorch_lightning", LightningModule=nn.Module)
    stub("main", instantiate_from_config=instantiate)
    stub("transformers", top_k_top_p_filtering=None)
    from taming.models.cond_transformer import Net2NetTransformer
    from taming.models.vqgan import GumbelVQ, VQModel
    from taming.modules.discriminator.model import NLayerDiscriminator
    from taming.modules.util import Labelator
    from taming.modules.vqvae.quantize import EmbeddingEMA, VectorQuantizer2

    torch.manual_seed(0)
    x = recipes.images("taming", IMAGES).astype(np.float32) / 127.5 - 1.0
    x = torch.from_numpy(x).permute(0, 3, 1, 2)

    def tokenizer():
        return VQModel(SIZES, losses_with(NLayerDiscriminator), NUM_CODES, CODEBOOK_DIM)

    results = {"vq": run_tokenizer(tokenizer(), x)}
    used = Path("used.npy")
    np.save(used, np.union1d(USED, results["vq"]["tokens"]))  # none of the tokens is unknown
    remapped = tokenizer()
    remapped.quantize = VectorQuantizer2(NUM_CODES, CODEBOOK_DIM, 0.25, remap=used)
    found = run_tokenizer(remapped, x)
    results["remap"] = {key: found[key] for key in ("shapes", "latents", "tokens")}
    results["remap"]["used"] = np.load(used)
    used.unlink()
    actnorm = losses_with(NLayerDiscriminator, use_actnorm=True)
    warmup = {"target": "types.SimpleNamespace"}
    gumbel = GumbelVQ({**SIZES, "attn_resolutions": []}, actnorm, NUM_CODES, 12, warmup)
    results["gumbel"] = run_tokenizer(gumbel, x)

    def generator(condition, block_size, vocab_size=NUM_CODES, **options):
        transformer = importlib.import_module("taming.modules.transformer.mingpt").GPT(
            vocab_size, block_size, **GPT
        )
        first_stage = VQModel(SIZES, nn.Module(), NUM_CODES, CODEBOOK_DIM)
        return Net2NetTransformer(transformer, first_stage, condition, **options)

    labels = torch.tensor([2, 0])
    results["class"] = run_generator(generator(Labelator(3), 16), x, labels)
    results["sos"] = run_generator(generator("__is_unconditional__", 20, 40, sos_token=5), x, x)
    second = VQModel({**SIZES, "in_channels": 1, "out_ch": 1}, nn.Module(), 24, CODEBOOK_DIM)
    second.quantize.sane_index_shape = True
    results["vq_condition"] = run_generator(generator(second, 32), x, x[:, :1])
    latents = torch.from_numpy(recipes.tensor("latents", (9, 4)))
    results["ema"] = run_ema(EmbeddingEMA(5, 4), latents)
    flat = {f"{case}_{key}": v for case, found in results.items() for key, v in found.items()}
    np.savez_compressed(Path(__file__).with_name("taming.npz"), **flat)
