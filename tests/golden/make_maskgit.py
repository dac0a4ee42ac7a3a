# Writes tests/golden/maskgit.npz; needs jax, flax, ml_collections and a checkout of
# github.com/google-research/maskgit: python make_maskgit.py CHECKOUT
import json
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import recipes
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

IMAGE_SIZE, CODES, CLASSES, GRID = 16, 11, 3, 4
STEPS, CHOICE_TEMPERATURE = 8, 4.5
CONFIG = ConfigDict(
    dict(
        image_size=8,  # of the discriminator
        discriminator=dict(channel_multiplier=1, blur_resample=True),
        vqvae=dict(
            quantizer="vq",
            codebook_size=CODES,
            entropy_loss_ratio=0.1,
            entropy_temperature=0.01,
            entropy_loss_type="softmax",
            commitment_cost=0.25,
            filters=32,
            num_res_blocks=1,
            channel_multipliers=[1, 2, 2],
            embedding_dim=8,
            conv_downsample=False,
            activation_fn="swish",
            norm_type="GN",
        ),
    )
)


def variables(init, *inputs):
    """Returns shapes as JSON, and the variables that the recipe makes of them."""
    shapes = jax.eval_shape(init, jax.random.key(0), *inputs)["params"]
    shapes = {name: leaf.shape for name, leaf in flatten_dict(shapes, sep="/").items()}
    params = unflatten_dict(recipes.flax_arrays(shapes), sep="/")
    return json.dumps(shapes), {"params": params}


def tokenizer():
    from maskgit.nets.vqgan_tokenizer import VQVAE

    model = VQVAE(CONFIG, train=False)
    image = recipes.images("maskgit", (2, IMAGE_SIZE, IMAGE_SIZE, 3)) / np.float32(255)

    def both(module, image):
        return module.decode_from_indices(module.encode_to_indices({"image": image}))

    shapes, weights = variables(lambda key, x: model.init(key, x, method=both), image)
    _, result = model.apply(weights, {"image": image}, method="encode")
    tokens = result["encoding_indices"]
    found = {
        "tokenizer_shapes": shapes,
        "features": result["raw"],
        "tokens": tokens,
        "reconstruction": model.apply(weights, tokens, method="decode_from_indices"),
    }
    codebook = weights["params"]["quantizer"]["codebook"]
    for kind in ("softmax", "argmax"):
        found |= quantizer_gradients(kind, 0.05 * result["raw"], 0.05 * codebook)
    return found


def quantizer_gradients(kind, latents, codebook):
    from maskgit.nets.vqgan_tokenizer import VectorQuantizer

    config = CONFIG.copy_and_resolve_references()
    config.vqvae.entropy_loss_type = kind

    def loss(codebook, latents):
        quantizer = VectorQuantizer(config, train=True)
        _, result = quantizer.apply({"params": {"codebook": codebook}}, latents)
        return result["quantizer_loss"]

    value, (of_codebook, of_latents) = jax.value_and_grad(loss, (0, 1))(codebook, latents)
    return {
        f"{kind}_loss": value,
        f"{kind}_codebook_gradient": of_codebook,
        f"{kind}_latents_gradient": of_latents,
    }


def discriminator(checkout):
    source = Path(checkout, "maskgit/nets/discriminator.py").read_text()
    source = source.replace("  def squared_euclidean_distance", "")  # its unfinished last line
    module = types.ModuleType("discriminator")
    sys.modules["discriminator"] = module
    exec(compile(source, "discriminator.py", "exec"), module.__dict__)
    model = module.Discriminator(CONFIG, train=False)
    size = CONFIG.image_size
    image = recipes.images("discriminator", (2, size, size, 3)) / np.float32(255)
    shapes, weights = variables(model.init, image)
    return {"discriminator_shapes": shapes, "logits": model.apply(weights, image)}


def transformer():
    from maskgit.libml.losses import weighted_sequence_cross_entropy_loss
    from maskgit.libml.parallel_decode import decode
    from maskgit.nets.maskgit_transformer import Transformer

    length = GRID * GRID
    model = Transformer(
        vocab_size=CODES + CLASSES + 1,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=length + 1,
    )
    random = np.random.default_rng(0)
    tokens = random.integers(0, CODES, (2, length))
    labels, mask = np.array([[0], [2]]), random.random((2, length)) < 0.6
    inputs = np.concatenate([CODES + labels, np.where(mask, -1, tokens)], axis=1)
    shapes, weights = variables(
        lambda key, x: model.init(key, x, deterministic=True), inputs.astype(np.int32)
    )

    def apply(sequence):
        return model.apply(weights, sequence, deterministic=True)

    logits = apply(inputs.astype(np.int32))
    loss = weighted_sequence_cross_entropy_loss(
        labels=tokens, logits=logits[:, 1:], weights=mask * 1.0, label_smoothing=0.1
    )
    blank = np.concatenate([CODES + labels, np.full_like(tokens, -1)], axis=1).astype(np.int32)
    key = jax.random.PRNGKey(7)
    decoded = decode(
        blank,
        key,
        lambda sequence: apply(sequence)[..., :CODES],
        num_iter=STEPS,
        choice_temperature=CHOICE_TEMPERATURE,
    )
    token_noise, choice_noise = random_numbers(key, blank.shape)
    return {
        "transformer_shapes": shapes,
        "input_tokens": tokens.astype(np.int32),
        "mask": mask,
        "labels": labels[:, 0].astype(np.int32),
        "transformer_logits": logits,
        "smoothed_loss": loss,
        "decoded": decoded[:, :, 1:].astype(np.int8),
        "token_noise": token_noise[:, :, 1:],
        "choice_noise": choice_noise[:, :, 1:],
    }


def random_numbers(key, shape):
    """Returns the Gumbel variables that `decode` draws in each step."""
    found = []
    for _ in range(STEPS):
        key, tokens_key = jax.random.split(key, 2)
        key, choice_key = jax.random.split(key)
        tokens = jax.random.gumbel(tokens_key, (*shape, CODES))
        found.append((tokens, jax.random.gumbel(choice_key, shape)))
    return tuple(np.stack(arrays) for arrays in zip(*found, strict=True))


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    jnp.DeviceArray = jax.Array  # the name when the code was published
    found = {**tokenizer(), **discriminator(sys.argv[1]), **transformer()}
    np.savez_compressed(Path(__file__).with_name("maskgit.npz"), **found)
