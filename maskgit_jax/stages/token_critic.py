"""Token-Critic: a transformer that tells real tokens from those that a frozen MaskGIT samples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, PyTree
from maskgit_jax.configuration import InputError, require, require_one_of
from maskgit_jax.decoding.masking import masked_batch, sample_mask
from maskgit_jax.decoding.parallel import check_decode_settings
from maskgit_jax.decoding.sampling import sample_categorical
from maskgit_jax.decoding.settings import DecodeSettings, MaskingSettings
from maskgit_jax.priors.maskgit import Grid
from maskgit_jax.priors.token_critic import TokenCritic
from maskgit_jax.stage import Generator, Metrics, Stage, Variables
from maskgit_jax.stages.parallel_decoding import (
    ParallelDecodingStage,
    check_masking,
    masking_settings,
    sampling_settings,
    transformer_fields,
)
from maskgit_jax.stages.token_priors import (
    bits_metrics,
    check_bidirectional,
    check_tokenizer,
    check_transformer,
    encode_tokens,
)


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    model = config.model
    require_one_of(config, "model.init_from", ("generator", "random"))
    check_masking(config)
    check_transformer(config)
    check_bidirectional(config)
    rate = config.losses.label_dropout_rate
    require(0 <= rate < 1, f"config.losses.label_dropout_rate is {rate}; it must be in [0, 1)")
    require(
        not config.data.condition,
        f"config.data.condition is '{config.data.condition}'; a critic needs a class-conditional "
        "generator, so set it to ''",
    )
    height, width = model.grid
    settings = sampling_settings(config)
    check_decode_settings(settings, height * width, model.codebook_size, True, has_critic=True)


def needs(config: ConfigDict) -> dict[str, str]:
    """Returns the run directories of the generator and of its tokenizer."""
    return {"generator": config.generator, "tokenizer": f"{config.generator}/frozen/tokenizer"}


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenCriticStage(ParallelDecodingStage):
    """The functions of the stage, see `Stage`; its network is "critic".

    Attributes:
        generator_logits: (variables, tokens, mask, label, grid=None) -> logits of the frozen
            generator.
        check_generator_size: Raises `InputError` for a size of images that it cannot generate.
    """

    network: TokenCritic
    generator_logits: Callable[..., Array]
    check_generator_size: Callable[[tuple[int, int] | None], None] = lambda size: None

    def logits(
        self,
        variables: Variables,
        tokens: Array,
        mask: Array,
        label: Array,
        condition: Array | None = None,
        *,
        grid: Grid | None = None,
    ) -> Array:
        """Returns the logits of the frozen generator, float32 [B, L, K]."""
        del condition
        return self.generator_logits(variables.frozen["generator"], tokens, mask, label, grid=grid)

    def log_odds(
        self,
        variables: Variables,
        tokens: Array,
        label: Array,
        dropout_key: Key | None = None,
        grid: Grid | None = None,
    ) -> Array:
        """Returns the log odds that each token is real, float32 [B, L]."""
        return self.network.apply(  # pyright: ignore[reportReturnType]
            {"params": variables.params["critic"]},
            tokens,
            label,
            train=dropout_key is not None,
            grid=grid,
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )

    @property
    def critic(self) -> Callable[..., Array]:
        """The critic for decoder "token_critic"."""
        return self.log_odds

    def check_settings(self, settings: DecodeSettings) -> None:
        """Raises `InputError` for settings that cannot work."""
        super().check_settings(settings)
        self.check_generator_size(settings.size)

    def sample_masked_tokens(
        self, variables: Variables, batch: Batch, key: Key, masking: MaskingSettings
    ) -> tuple[Array, Array]:
        """Returns tokens of which the generator sampled some, and which ones, [B, L] each."""
        mask_key, token_key = jax.random.split(key)
        tokens = encode_tokens(self.tokenizer, variables, batch)
        mask = sample_mask(mask_key, len(tokens), self.tokenizer.grids[0], masking)
        logits = self.logits(variables, tokens, mask, batch["label"])
        token_keys = jax.random.split(token_key, len(tokens))
        return jnp.where(mask, sample_categorical(token_keys, logits), tokens), mask

    def init(self, key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> Variables:
        """Returns the initial variables, from the generator if the configuration says so."""
        tokens = jnp.zeros((len(batch["label"]), self.network.num_tokens), jnp.int32)
        params = self.network.init(key, tokens, batch["label"], train=False)["params"]
        if self.config.model.init_from == "generator" and frozen:
            params = copy_shared_params(params, frozen["generator"].params["prior"])
        return Variables({"critic": params}, {}, frozen)

    def losses(
        self, variables: Variables, batch: Batch, key: Key, step: Array
    ) -> tuple[Mapping[str, Array], tuple[PyTree, Metrics]]:
        """Returns the cross-entropy of the critic in nats, an empty state and the metrics."""
        del step
        sample_key, label_key, dropout_key = jax.random.split(key, 3)
        masking = masking_settings(self.config)
        batch = masked_batch(batch, masking)
        tokens, generated = self.sample_masked_tokens(variables, batch, sample_key, masking)
        rate, label = self.config.losses.label_dropout_rate, batch["label"]
        dropped = jax.random.bernoulli(label_key, rate, label.shape)
        label = jnp.where(dropped, self.num_classes, label)
        log_odds = self.log_odds(variables, tokens, label, dropout_key)
        errors, correct = critic_errors(log_odds, generated)
        # The critic's codes are two: a token is real or generated.
        metrics = bits_metrics(errors, generated.astype(jnp.int32), 2)
        return {"critic": errors.mean()}, ({}, {"critic_accuracy": correct.mean(), **metrics})

    def evaluate(self, variables: Variables, batch: Batch, key: Key) -> Metrics:
        """Returns the cross-entropy in nats and the accuracy per token of each example, [B]."""
        masking = replace(masking_settings(self.config), complementary=False)
        tokens, generated = self.sample_masked_tokens(variables, batch, key, masking)
        log_odds = self.log_odds(variables, tokens, batch["label"])
        errors, correct = critic_errors(log_odds, generated)
        return {
            "critic_cross_entropy": errors.mean(axis=-1),
            "critic_accuracy": correct.mean(axis=-1),
        }

    def preview(self, variables: Variables, batch: Batch, key: Key) -> Metrics:
        """Returns samples of the classes in turn."""
        return {"samples": self.sample_classes(variables, batch, key)}


def copy_shared_params(params: PyTree, generator: PyTree) -> PyTree:
    """Returns the critic's parameters, replaced by the generator's where both have them.

    Raises:
        InputError: The two differ in size.
    """
    shared = {name: generator[name] for name in params if name in generator}
    replaced = {name: params[name] for name in shared}
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (replaced, shared)]
    require(
        jax.tree.structure(replaced) == jax.tree.structure(shared) and shapes[0] == shapes[1],
        "config.model describes a critic of another size than its generator; make them equal, or "
        "start from random parameters: --config.model.init_from=random",
    )
    return {**params, **shared}


def critic_errors(log_odds: Array, generated: Array) -> tuple[Array, Array]:
    """Returns the critic's cross-entropy in nats and whether it is correct, float32 [B, L] each.

    Args:
        log_odds: Log odds that each token is real, [B, L].
        generated: Tokens that the generator sampled, even where they equal the real ones.

    Source: Lezama et al. 2022, Token-Critic: the critic's target is the mask itself.
    """
    errors = optax.sigmoid_binary_cross_entropy(log_odds, 1.0 - generated)
    return errors, ((log_odds < 0) == generated).astype(jnp.float32)


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its only network is "critic".

    Raises:
        InputError: The run in `config.generator` is no class-conditional MaskGIT of this size.
    """
    generator = frozen["generator"].exports
    if not isinstance(generator, Generator) or not (generator.fill_step and generator.logits):
        raise InputError(
            f"config.generator {config.generator} is no run of a class-conditional MaskGIT; give a "
            "run of configs/maskgit.py"
        )
    tokenizer = check_tokenizer(config, frozen["tokenizer"].exports)
    height, width = tokenizer.grids[0]
    network = TokenCritic(
        codebook_size=tokenizer.codebook_size,
        num_classes=generator.num_classes,
        num_tokens=height * width,
        grids=((height, width),),
        null_class=True,
        **transformer_fields(config),
    )
    stage = TokenCriticStage(
        config=config,
        tokenizer=tokenizer,
        network=network,
        num_classes=generator.num_classes,
        null_label=generator.null_label,
        generator_logits=generator.logits,
        check_generator_size=lambda size: generator.check_settings(
            replace(generator.settings, size=size)
        ),
        guide=frozen.get("guide"),
    )
    functions = (stage.init, stage.losses, stage.evaluate, stage.preview)
    return Stage(*functions, stage.exports(), layouts=network.layouts)
