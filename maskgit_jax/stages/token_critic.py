"""Token-Critic: judges the tokens that a finished MaskGIT makes, so that it can revise them."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, PyTree
from maskgit_jax.configuration import InputError, require, require_one_of
from maskgit_jax.decoding.parallel import check_decode_settings
from maskgit_jax.decoding.sampling import sample_categorical
from maskgit_jax.decoding.schedules import check_schedule, sample_mask
from maskgit_jax.priors.token_critic import TokenCritic
from maskgit_jax.stage import Generator, Stage, Variables
from maskgit_jax.stages.maskgit import layers_of
from maskgit_jax.stages.parallel_decoding import Parts, parallel_generator, sampling_settings
from maskgit_jax.stages.token_priors import check_attention, check_tokenizer, encode_tokens


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    model = config.model
    require_one_of(config, "model.norm", ("post", "pre"))
    require_one_of(config, "model.init_from", ("generator", "random"))
    check_schedule(config.masking.schedule, "config.masking.schedule")
    check_attention(config)
    rate = config.losses.label_dropout_rate
    require(0 <= rate < 1, f"config.losses.label_dropout_rate is {rate}; it must be in [0, 1)")
    require(
        not config.data.condition,
        f"config.data.condition is '{config.data.condition}', but a critic judges images made of a "
        "class only",
    )
    height, width = model.grid
    settings = sampling_settings(config)
    check_decode_settings(settings, height * width, model.codebook_size, True, critic=True)


def needs(config: ConfigDict) -> dict[str, str]:
    """Returns the run directories that must be loaded first: those of generator and tokenizer."""
    return {"generator": config.generator, "tokenizer": f"{config.generator}/frozen/tokenizer"}


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its only player is "critic".

    Raises:
        InputError: The run under `config.generator` is no MaskGIT, or another one.
    """
    tokenizer, generator = frozen["tokenizer"].exports, frozen["generator"].exports
    if not isinstance(generator, Generator) or not (generator.fill and generator.logits):
        raise InputError(
            f"config.generator {config.generator} holds no MaskGIT that makes images of a class; "
            "give a run of configs/maskgit.py"
        )
    check_tokenizer(config, tokenizer)
    num_classes = generator.num_classes
    (num_tokens,) = (height * width for height, width in tokenizer.grids)
    network = TokenCritic(
        codebook_size=tokenizer.codebook_size,
        num_classes=num_classes,
        num_tokens=num_tokens,
        null_class=True,
        **layers_of(config),
    )

    def init(key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> Variables:
        tokens = jnp.zeros((len(batch["label"]), num_tokens), jnp.int32)
        params = network.init(key, tokens, batch["label"], train=False)["params"]
        if config.model.init_from == "generator" and frozen:
            params = begun(params, frozen["generator"].params["prior"])
        return Variables({"critic": params}, {}, frozen)

    def odds_of(variables: Variables, tokens: Array, label: Array, key: Key | None = None) -> Array:
        return network.apply(
            {"params": variables.params["critic"]},
            tokens,
            label,
            train=key is not None,
            rngs=None if key is None else {"dropout": key},
        )

    def logits_of(
        variables: Variables, tokens: Array, mask: Array, label: Array, condition: Array | None
    ) -> Array:
        del condition
        return generator.logits(variables.frozen["generator"], tokens, mask, label)

    def forged(variables: Variables, batch: Batch, key: Key) -> tuple[Array, Array]:
        """Returns tokens, a part of which the generator made, and which part, [B, L] both."""
        mask_key, token_key = jax.random.split(key)
        tokens = encode_tokens(tokenizer, variables, batch)
        mask = sample_mask(mask_key, tokens.shape, config.masking.schedule)
        logits = logits_of(variables, tokens, mask, batch["label"], None)
        return jnp.where(mask, sample_categorical(token_key, logits), tokens), mask

    def losses(variables: Variables, batch: Batch, key: Key, step: Array):
        del step
        forge_key, label_key, dropout_key = jax.random.split(key, 3)
        tokens, made = forged(variables, batch, forge_key)
        rate, label = config.losses.label_dropout_rate, batch["label"]
        dropped = jax.random.bernoulli(label_key, rate, label.shape)
        label = jnp.where(dropped, num_classes, label)
        error, right = judgement(odds_of(variables, tokens, label, dropout_key), made)
        return {"critic": error.mean()}, ({}, {"critic_accuracy": right.mean()})

    def evaluate(variables: Variables, batch: Batch, key: Key):
        tokens, made = forged(variables, batch, key)
        error, right = judgement(odds_of(variables, tokens, batch["label"]), made)
        return {
            "critic_cross_entropy": error.mean(axis=-1),
            "critic_accuracy": right.mean(axis=-1),
        }

    settings = sampling_settings(config)
    exports = parallel_generator(
        Parts(tokenizer, logits_of, settings, num_classes, generator.null_label, critic=odds_of)
    )

    def preview(variables: Variables, batch: Batch, key: Key):
        label = jnp.arange(len(batch["label"])) % num_classes
        return {"samples": exports.sample(variables, {"label": label}, key, settings)}

    return Stage(init, losses, evaluate, summarize, preview, exports)


def begun(params: PyTree, generator: PyTree) -> PyTree:
    """Returns a critic's parameters, those of the generator where both have them.

    Raises:
        InputError: The two are of different sizes.
    """
    shared = {name: generator[name] for name in params if name in generator}
    own = {name: params[name] for name in shared}
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (own, shared)]
    require(
        jax.tree.structure(own) == jax.tree.structure(shared) and shapes[0] == shapes[1],
        "config.model describes a critic of another size than its generator; make them equal, or "
        "begin at random: --config.model.init_from=random",
    )
    return {**params, **shared}


def judgement(odds: Array, made: Array) -> tuple[Array, Array]:
    """Returns the critic's cross-entropy in nats and whether it is right, float32 [B, L] both.

    Args:
        odds: Log odds that each token is real, [B, L].
        made: Which tokens the generator drew; also those that it drew as they were.

    Source: Lezama et al. 2022, Token-Critic: the critic's target is the mask itself.
    """
    error = optax.sigmoid_binary_cross_entropy(odds, 1.0 - made)
    return error, ((odds < 0) == made).astype(jnp.float32)


def summarize(means: Mapping[str, Array]) -> dict[str, float]:
    """Returns the means as numbers: nats per token, and the share of tokens judged rightly."""
    return {name: float(value) for name, value in means.items()}
