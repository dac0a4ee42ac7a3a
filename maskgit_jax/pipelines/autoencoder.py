"""Images to tokens or latents and back, with a trained first stage or the tokenizer of a prior."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from maskgit_jax.arrays import normalize, to_uint8
from maskgit_jax.configuration import InputError, require
from maskgit_jax.runs.directory import Run
from maskgit_jax.stage import LatentModel, Tokenizer, Variables
from maskgit_jax.training import sharding


def run_padded(
    program: Callable[[Variables, jax.Array], jax.Array],
    variables: Variables,
    values: np.ndarray,
    mesh: Mesh,
) -> np.ndarray:
    """Returns the outputs of a compiled program for values [B, ...], padded to the devices."""
    count = sharding.round_up_to_shards(len(values), mesh)
    padded = np.resize(values, (count, *values.shape[1:]))
    batch = sharding.put_batch({"values": padded[sharding.process_rows(count)]}, mesh)
    return np.asarray(program(variables, batch["values"]))[: len(values)]


class AutoencoderPipeline:
    """Encodes, decodes and reconstructs images with compiled programs.

    Args:
        run: A run of a first stage, or of a prior, whose tokenizer is used.
        mesh: The devices.

    Raises:
        InputError: The run has neither.
    """

    def __init__(self, run: Run, mesh: Mesh):
        exports, self.variables, self.mesh = run.stage.exports, run.variables, mesh
        if "tokenizer" in run.stages:
            exports = run.stages["tokenizer"].exports
            self.variables = run.variables.frozen["tokenizer"]
        if not isinstance(exports, Tokenizer | LatentModel):
            raise InputError(
                f"this run holds stage '{run.config.stage}', which encodes no images; give the "
                "--workdir of a first stage, such as a run of configs/vqgan.py"
            )
        encode_image, decode_image = exports.encode, exports.decode

        def encode(variables: Variables, image: jax.Array) -> jax.Array:
            return encode_image(variables, normalize(image))

        def decode(variables: Variables, encoded: jax.Array) -> jax.Array:
            return to_uint8(decode_image(variables, encoded))

        def reconstruct(variables: Variables, image: jax.Array) -> jax.Array:
            return decode(variables, encode(variables, image))

        if isinstance(exports, Tokenizer):
            self._codes = exports.codebook_size
            self._length = sum(height * width for height, width in exports.grids)
        else:
            size, channels = run.config.data.image_size, run.config.data.channels
            image = jax.ShapeDtypeStruct((1, size, size, channels), "uint8")
            self._codes, self._length = 0, jax.eval_shape(encode, self.variables, image).shape[1]
        replicated = sharding.replicated(mesh)
        self._encode, self._decode, self._reconstruct = (
            sharding.pjit(program, mesh, out_shardings=replicated)
            for program in (encode, decode, reconstruct)
        )

    def check(self, encoded: np.ndarray) -> np.ndarray:
        """Returns tokens [B, L] or latents [B, Z], as `decode` takes them.

        Raises:
            InputError: Their shape, type or values are not those of the run.
        """
        codes, length = self._codes, self._length
        right = encoded.shape[1:] == (length,) and len(encoded) > 0
        if not codes:
            require(
                right
                and bool(np.issubdtype(encoded.dtype, np.number))
                and bool(np.isfinite(encoded).all()),
                f"latents are finite numbers [N, {length}] here, not {encoded.dtype} "
                f"{list(encoded.shape)}",
            )
            return encoded.astype(np.float32)
        require(
            right and np.issubdtype(encoded.dtype, np.integer),
            f"tokens are integers [N, {length}] here, not {encoded.dtype} {list(encoded.shape)}",
        )
        wrong = encoded[(encoded < 0) | (encoded >= codes)]
        require(
            wrong.size == 0,
            f"token {wrong[:1].sum()} is out of range; this run has the codes 0 to {codes - 1}",
        )
        return encoded.astype(np.int32)

    def encode(self, image: np.ndarray) -> np.ndarray:
        """Returns tokens int32 [B, L] or latents float32 [B, Z] of images uint8 [B, H, W, C]."""
        return run_padded(self._encode, self.variables, image, self.mesh)

    def decode(self, encoded: np.ndarray) -> np.ndarray:
        """Returns images uint8 [B, H, W, C] of tokens or latents as `encode` returns them."""
        return run_padded(self._decode, self.variables, encoded, self.mesh)

    def reconstruct(self, image: np.ndarray) -> np.ndarray:
        """Returns the reconstructions of images, both uint8 [B, H, W, C]."""
        return run_padded(self._reconstruct, self.variables, image, self.mesh)
