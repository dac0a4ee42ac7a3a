"""Token-based image generation in JAX/Flax: from VAE to MaskGIT.

    import maskgit_jax

    model = maskgit_jax.load("runs/maskgit-digits")
    images = model.sample(labels=[0, 3, 7], steps=8, seed=0)  # uint8 [3, H, W, C]

`load`, `load_foreign` and `fit` return a `maskgit_jax.model.Model`. They are imported at their
first use, so that `import maskgit_jax` does not import JAX.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskgit_jax.configuration import InputError as InputError
    from maskgit_jax.model import Model as Model
    from maskgit_jax.model import fit as fit
    from maskgit_jax.model import load as load
    from maskgit_jax.model import load_foreign as load_foreign

__version__ = "0.1.0"
__all__ = ["InputError", "Model", "fit", "load", "load_foreign"]


def __getattr__(name: str) -> Any:
    if name in ("Model", "fit", "load", "load_foreign"):
        from maskgit_jax import model

        return getattr(model, name)
    if name == "InputError":
        from maskgit_jax.configuration import InputError

        return InputError
    raise AttributeError(f"module 'maskgit_jax' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
