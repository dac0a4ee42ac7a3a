"""What the page shows of a codebook: the colour of each code, and the codes that are nearest."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from maskgit_jax.arrays import Array, to_uint8
from maskgit_jax.pipelines.autoencoder import run_padded
from maskgit_jax.stage import Tokenizer, Variables, join_levels, split_levels
from maskgit_jax.training import sharding

NUM_NEAREST = 8
_SIDE = 4  # of the token maps that are decoded, where any size can be
_BATCH = 64


def describe_codebook(
    tokenizer: Tokenizer, variables: Variables, mesh: Mesh, grey: np.ndarray
) -> dict[str, Any]:
    """Returns the answer to GET /api/runs/NAME/codebook: colours and nearest codes of each level.

    The colour of a code is the mean colour of an image in which all tokens of the level are this
    code; the tokens of other levels are those of a grey image.

    Args:
        tokenizer: The tokenizer.
        variables: Its variables.
        mesh: The devices.
        grey: The tokens of a grey image, int32 [L].
    """
    maps = tokenizer.decode_map

    def colours(variables: Variables, tokens: Array) -> Array:
        image = tokenizer.decode(variables, tokens) if maps is None else maps(variables, tokens)
        return to_uint8(image.mean(axis=(1, 2)))

    program = sharding.pjit(colours, mesh, out_shardings=sharding.replicated(mesh))
    levels = []
    for level, vectors in enumerate(tokenizer.codebooks(variables)):
        tokens = _constant_tokens(tokenizer, len(vectors), level, grey)
        size = min(_BATCH, len(tokens))
        padded = np.resize(tokens, (-(-len(tokens) // size) * size, *tokens.shape[1:]))
        batches = [
            run_padded(program, variables, padded[first : first + size], mesh)
            for first in range(0, len(padded), size)
        ]
        shown = np.concatenate(batches)[: len(tokens)]
        names = [f"#{''.join(f'{c:02x}' for c in np.broadcast_to(colour, 3))}" for colour in shown]
        levels.append({"colors": names, "nearest": nearest_codes(np.asarray(vectors)).tolist()})
    return {"levels": levels}


def _constant_tokens(tokenizer: Tokenizer, count: int, level: int, grey: np.ndarray) -> np.ndarray:
    """Returns tokens of `count` images, [K, h, w] or [K, L], whose tokens of a level are all k."""
    codes = jnp.arange(count, dtype=jnp.int32)[:, None, None]
    if tokenizer.decode_map is not None:
        return np.asarray(jnp.broadcast_to(codes, (count, _SIDE, _SIDE)))
    parts = list(split_levels(jnp.repeat(grey[None], count, axis=0), tokenizer.grids))
    parts[level] = jnp.broadcast_to(codes, parts[level].shape)
    return np.asarray(join_levels(tuple(parts)))


def nearest_codes(vectors: np.ndarray) -> np.ndarray:
    """Returns the indices of the nearest other codes of each one, nearest first, int [K, 8].

    Args:
        vectors: float32 [K, D].
    """
    squares, count = (vectors**2).sum(axis=1), min(NUM_NEAREST, len(vectors) - 1)
    nearest = []
    for first in range(0, len(vectors), 512):  # all K x K distances would not fit into memory
        rows = np.arange(first, min(first + 512, len(vectors)))
        distances = squares[None] - 2 * vectors[rows] @ vectors.T
        distances[np.arange(len(rows)), rows] = np.inf
        nearest.append(np.argsort(distances, axis=1, kind="stable")[:, :count])
    return np.concatenate(nearest)
