"""Images to tokens or latents and back, with a trained first stage."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from maskgit_jax.arrays import normalize, to_uint8
from maskgit_jax.configuration import InputError
from maskgit_jax.runs.directory import Run
from maskgit_jax.stage import LatentModel, Tokenizer, Variables
from maskgit_jax.training import sharding


def run_padded(
    program: Callable[[Variables, jax.Array], jax.Array],
    variables: Variables,
    values: np.ndarray,
    mesh: Mesh,
) -> np.ndarray:
    """Returns what a compiled program makes of values [B, ...], whatever B the devices share."""
    count = sharding.round_up_to_shards(len(values), mesh)
    padded = np.resize(values, (count, *values.shape[1:]))
    own = padded[sharding.process_rows(count)]
    placed = sharding.put_batch({"values": own}, mesh)["values"]
    return np.asarray(program(variables, placed))[: len(values)]


class AutoencoderPipeline:
    """Turns images into tokens or latents and back with a trained first stage; compiled.

    Raises:
        InputError: The run's stage encodes no images.
    """

    def __init__(self, run: Run, mesh: Mesh):
        exports = run.stage.exports
        if not isinstance(exports, Tokenizer | LatentModel):
            raise InputError(
                f"this run holds stage '{run.config.stage}', which encodes no images; give the "
                "--workdir of a first stage, such as a run of configs/vqgan.py"
            )
        self.variables, self.mesh = run.variables, mesh

        def encode(variables: Variables, image: jax.Array) -> jax.Array:
            return exports.encode(variables, normalize(image))

        def decode(variables: Variables, encoded: jax.Array) -> jax.Array:
            return to_uint8(exports.decode(variables, encoded))

        def restore(variables: Variables, image: jax.Array) -> jax.Array:
            return decode(variables, encode(variables, image))

        everywhere = sharding.replicated(mesh)
        self._encode, self._decode, self._restore = (
            sharding.pjit(program, mesh, out_shardings=everywhere)
            for program in (encode, decode, restore)
        )

    def encode(self, image: np.ndarray) -> np.ndarray:
        """Returns tokens int32 [B, L] or latents float32 [B, Z] of images uint8 [B, H, W, C]."""
        return self._run(self._encode, image)

    def decode(self, encoded: np.ndarray) -> np.ndarray:
        """Returns images uint8 [B, H, W, C] of what `encode` gives."""
        return self._run(self._decode, encoded)

    def restore(self, image: np.ndarray) -> np.ndarray:
        """Returns what encoding and decoding makes of images, both uint8 [B, H, W, C]."""
        return self._run(self._restore, image)

    def _run(self, program: Any, values: np.ndarray) -> np.ndarray:
        return run_padded(program, self.variables, values, self.mesh)
