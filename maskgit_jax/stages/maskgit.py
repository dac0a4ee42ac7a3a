"""MaskGIT: a transformer that predicts masked tokens of a frozen tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, PyTree
from maskgit_jax.configuration import require, require_one_of
from maskgit_jax.decoding.masking import any_order_mask, masked_batch, sample_mask
from maskgit_jax.decoding.parallel import check_decode_settings
from maskgit_jax.losses.masked_tokens import (
    any_order_nll_bits,
    masked_mean,
    reduce_masked,
    token_cross_entropy,
)
from maskgit_jax.priors.maskgit import Grid, MaskGIT
from maskgit_jax.stage import Metrics, Stage, Tokenizer, Variables
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
    condition_tokenizer,
    encode_condition,
    encode_tokens,
    show_conditions,
    tokenizer_runs,
    validate_condition,
)

needs = tokenizer_runs


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a configuration that cannot work."""
    model = config.model
    require_one_of(config, "model.head", ("tied", "tied_linear", "linear"))
    require_one_of(config, "model.initialization", ("official", "scaled"))
    require_one_of(config, "losses.loss_on", ("masked", "all"))
    require_one_of(config, "losses.reduction", ("examples", "tokens"))
    require_one_of(config, "losses.softmax_over", ("codes", "rows"))
    require(
        config.losses.softmax_over == "codes" or model.head != "linear",
        "config.losses.softmax_over is 'rows', but a linear head has logits of codes only; set "
        "config.model.head to tied, or softmax_over to codes",
    )
    check_masking(config)
    check_transformer(config)
    check_bidirectional(config)
    for key in ("label_dropout_rate", "label_smoothing"):
        value = config.losses[key]
        require(0 <= value < 1, f"config.losses.{key} is {value}; it must be in [0, 1)")
    validate_condition(config)
    height, width = model.grid
    guided = config.losses.label_dropout_rate > 0
    # The critic is another stage, which checks its own settings.
    settings = sampling_settings(config)
    check_decode_settings(settings, height * width, model.codebook_size, guided, has_critic=False)


def build_network(config: ConfigDict, condition: Tokenizer | None = None) -> MaskGIT:
    """Returns the transformer of a configuration, with condition tokens of the given tokenizer."""
    model, condition_grids = config.model, condition.grids if condition else ()
    return MaskGIT(
        codebook_size=model.codebook_size,
        num_classes=max(1, config.data.num_classes),
        num_tokens=model.grid[0] * model.grid[1],
        null_class=config.losses.label_dropout_rate > 0,
        condition_codebook_size=condition.codebook_size if condition else 0,
        num_condition_tokens=sum(h * w for h, w in condition_grids),
        grids=(tuple(model.grid), *condition_grids),
        head=model.head,
        initialization=model.initialization,
        **transformer_fields(config),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskGITStage(ParallelDecodingStage):
    """The functions of the stage, see `Stage`; its network is "prior"."""

    network: MaskGIT

    def logits(
        self,
        variables: Variables,
        tokens: Array,
        mask: Array,
        label: Array,
        condition: Array | None = None,
        dropout_key: Key | None = None,
        grid: Grid | None = None,
        all_rows: bool = False,
    ) -> Array:
        """Returns the logits, float32 [B, L, K]; dropout acts if there is a key for it.

        For `all_rows` see `MaskGIT`.
        """
        return self.network.apply(  # pyright: ignore[reportReturnType]
            {"params": variables.params["prior"]},
            tokens,
            mask,
            label,
            dropout_key is not None,
            condition,
            grid,
            all_rows,
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )

    def init(self, key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> Variables:
        """Returns the initial variables."""
        label, network = batch["label"], self.network
        tokens = jnp.zeros((len(label), network.num_tokens), jnp.int32)
        mask = jnp.zeros_like(tokens, bool)
        condition = jnp.zeros((len(label), network.num_condition_tokens), jnp.int32)
        params = network.init(key, tokens, mask, label, False, condition)["params"]
        return Variables({"prior": params}, {}, frozen)

    def losses(
        self, variables: Variables, batch: Batch, key: Key, step: Array
    ) -> tuple[Mapping[str, Array], tuple[PyTree, Metrics]]:
        """Returns the cross-entropy of masked tokens in nats, an empty state and the metrics."""
        del step
        mask_key, label_key, dropout_key = jax.random.split(key, 3)
        masking, weights = masking_settings(self.config), self.config.losses
        batch = masked_batch(batch, masking)
        label, tokens = batch["label"], encode_tokens(self.tokenizer, variables, batch)
        mask = sample_mask(mask_key, len(tokens), self.tokenizer.grids[0], masking)
        if self.null_label is not None:
            dropped = jax.random.bernoulli(label_key, weights.label_dropout_rate, label.shape)
            label = jnp.where(dropped, self.null_label, label)
        condition = encode_condition(self.condition_tokenizer, variables, batch)
        all_rows = weights.softmax_over == "rows"
        logits = self.logits(variables, tokens, mask, label, condition, dropout_key, None, all_rows)
        errors = token_cross_entropy(logits, tokens, weights.label_smoothing)
        selected = mask if weights.loss_on == "masked" else jnp.ones_like(mask)
        if all_rows:
            logits = logits[..., : self.network.codebook_size]
        differs = all_rows or weights.label_smoothing
        plain = token_cross_entropy(logits, tokens) if differs else errors
        metrics = {
            "token_accuracy": reduce_masked(_is_correct(logits, tokens), mask, "examples"),
            **bits_metrics(plain, tokens, self.config.model.codebook_size, mask),
        }
        return {"prior": reduce_masked(errors, selected, weights.reduction)}, ({}, metrics)

    def evaluate(self, variables: Variables, batch: Batch, key: Key) -> Metrics:
        """Returns the metrics of each example, [B].

        `token_cross_entropy`, nats per masked token, and `token_accuracy` are those of masks as in
        training, without complements; `bits_per_token_bound` is an upper bound on -log2 p of whole
        token maps and does not depend on them.
        """
        mask_key, count_key, order_key = jax.random.split(key, 3)
        label, masking = batch["label"], replace(masking_settings(self.config), complementary=False)
        tokens = encode_tokens(self.tokenizer, variables, batch)
        condition = encode_condition(self.condition_tokenizer, variables, batch)

        mask = sample_mask(mask_key, len(tokens), self.tokenizer.grids[0], masking)
        logits = self.logits(variables, tokens, mask, label, condition)

        ratio = jax.random.uniform(count_key, (len(tokens),))
        order_mask = any_order_mask(ratio, jax.random.uniform(order_key, tokens.shape))
        order_logits = self.logits(variables, tokens, order_mask, label, condition)
        order_errors = token_cross_entropy(order_logits, tokens)
        return {
            "token_cross_entropy": masked_mean(token_cross_entropy(logits, tokens), mask),
            "token_accuracy": masked_mean(_is_correct(logits, tokens), mask),
            "bits_per_token_bound": any_order_nll_bits(order_errors, order_mask),
        }

    def preview(self, variables: Variables, batch: Batch, key: Key) -> Metrics:
        """Returns samples of the classes in turn, or beside the batch's conditions."""
        if self.condition_tokenizer is None:
            return {"samples": self.sample_classes(variables, batch, key)}
        inputs = {name: batch[name] for name in ("label", "condition")}
        settings = sampling_settings(self.config)
        twice = [jax.random.split(each, len(batch["label"])) for each in jax.random.split(key)]
        samples = [self.sample(variables, inputs, keys, settings) for keys in twice]
        return {"condition_original_and_samples": show_conditions(batch, samples)}


def _is_correct(logits: Array, tokens: Array) -> Array:
    """Returns 1.0 where the most likely code is the token, float32 [B, L]."""
    return (logits.argmax(axis=-1) == tokens).astype(jnp.float32)


def build(config: ConfigDict, frozen: Mapping[str, Stage]) -> Stage:
    """Returns the stage; its only network is "prior".

    Raises:
        InputError: The tokenizer's codebook or grid does not fit the transformer.
    """
    condition = condition_tokenizer(config, frozen)
    network = build_network(config, condition)
    stage = MaskGITStage(
        config=config,
        tokenizer=check_tokenizer(config, frozen["tokenizer"].exports),
        network=network,
        num_classes=network.num_classes,
        null_label=network.num_classes if network.null_class else None,
        condition_tokenizer=condition,
        guide=frozen.get("guide"),
    )
    functions = (stage.init, stage.losses, stage.evaluate, stage.preview)
    return Stage(*functions, stage.exports(), layouts=network.layouts)
