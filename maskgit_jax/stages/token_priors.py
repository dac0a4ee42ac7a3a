"""What the stages that learn the tokens of a frozen tokenizer share."""

from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, normalize
from maskgit_jax.configuration import InputError
from maskgit_jax.stage import Tokenizer, Variables

Grids = tuple[tuple[int, int], ...]


def token_grids(config: ConfigDict) -> Grids:
    """Returns rows and columns of each token map that a prior's configuration describes."""
    grids = config.model.grids if "grids" in config.model else (config.model.grid,)
    return tuple((height, width) for height, width in grids)


def check_tokenizer(config: ConfigDict, tokenizer: Tokenizer) -> None:
    """Raises `InputError` unless the tokenizer makes the tokens that `config.model` is made for."""
    place, model, wanted = config.tokenizer, config.model, token_grids(config)
    if tokenizer.codebook_size != model.codebook_size:
        raise InputError(
            f"the tokenizer in {place} has {tokenizer.codebook_size} codes, but "
            f"config.model.codebook_size is {model.codebook_size}; make them equal"
        )
    if "grids" not in model and len(tokenizer.grids) != 1:
        raise InputError(
            f"the tokenizer in {place} makes {len(tokenizer.grids)} token maps of each image, and "
            f"stage '{config.stage}' learns one; choose a tokenizer of one level, such as a run of "
            "configs/vqgan.py or configs/vqvae.py, or train configs/pixelsnail.py on it"
        )
    if tokenizer.grids != wanted:
        key, found = (
            ("grids", tokenizer.grids) if "grids" in model else ("grid", tokenizer.grids[0])
        )
        raise InputError(
            f"the tokenizer in {place} makes a grid of {found} tokens, but config.model.{key} is "
            f"{model[key]}; make them equal"
        )


def tokens_of(tokenizer: Tokenizer, variables: Variables, batch: Batch) -> Array:
    """Returns the tokens of a batch, int32 [B, L], encoded now unless they are there already."""
    if "tokens" in batch:
        return batch["tokens"]
    return tokenizer.encode(variables.frozen["tokenizer"], normalize(batch["image"]))
