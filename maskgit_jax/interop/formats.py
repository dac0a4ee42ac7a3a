"""The formats of published weights: one entry for each project and part."""

from maskgit_jax.configuration import InputError, require
from maskgit_jax.interop import (
    diffusers_vqmodel,
    maskgit,
    maskgit_export,
    maskgit_torch,
    net2net,
    own,
    taming,
)
from maskgit_jax.interop.imported import Export, Format, Imported
from maskgit_jax.interop.weight_files import Weights

FORMATS: tuple[Format, ...] = (
    Format("maskgit", "tokenizer", maskgit.is_tokenizer, maskgit.read_tokenizer),
    Format("maskgit", "generator", maskgit.is_generator, maskgit.read_generator),
    Format("safetensors", "tokenizer", own.is_tokenizer, own.read_run),
    Format("safetensors", "generator", own.is_generator, own.read_run),
    Format("maskgit_torch", "tokenizer", maskgit_torch.is_tokenizer, maskgit_torch.read_tokenizer),
    Format("maskgit_torch", "generator", maskgit_torch.is_generator, maskgit_torch.read_generator),
    Format("taming", "tokenizer", taming.is_tokenizer, taming.read_tokenizer),
    Format("taming", "generator", net2net.is_generator, net2net.read_generator),
    Format(
        "diffusers",
        "tokenizer",
        diffusers_vqmodel.is_tokenizer,
        diffusers_vqmodel.read_tokenizer,
    ),
)
EXPORTS: tuple[Export, ...] = (
    Export("maskgit", maskgit_export.write_weights),
    Export("safetensors", own.write_run),
    Export("diffusers", diffusers_vqmodel.write_folder),
)
AUTO = "auto"


def format_names() -> list[str]:
    """Returns the names of all formats."""
    return list(dict.fromkeys(each.name for each in FORMATS))


def choose_format(weights: Weights, part: str, name: str = AUTO) -> Format:
    """Returns the format of weights.

    Args:
        weights: The arrays of a file.
        part: "tokenizer" or "generator".
        name: A name of the user; it counts if it has this part. Otherwise, and for "auto", the
            names and shapes of the arrays decide.

    Raises:
        InputError: They are of no known format, or of another part.
    """
    require(
        name in (AUTO, *format_names()),
        f"--format is '{name}'; the formats are: {', '.join((AUTO, *format_names()))}",
    )
    named = [each for each in FORMATS if (each.name, each.part) == (name, part)]
    found = named or [each for each in FORMATS if each.part == part and each.detect(weights)]
    if found:
        return found[0]
    other = [each.name for each in FORMATS if each.part != part and each.detect(weights)]
    if other:
        kind = "generator" if part == "tokenizer" else "tokenizer"
        raise InputError(
            f"{weights.path} is a {kind} of format '{other[0]}', not a {part}; give it with "
            f"--{kind}"
        )
    known = ", ".join(each.name for each in FORMATS if each.part == part)
    keys = ", ".join(f"{key} {value.shape}" for key, value in [*weights.arrays.items()][:3])
    raise InputError(
        f"{weights.path} is no {part} of a known format ({known}); it holds "
        f"{len(weights.arrays)} arrays: {keys}, ..."
    )


def read_format(
    weights: Weights, chosen: Format, image_size: int = 0, tokenizer: Imported | None = None
) -> Imported:
    """Returns the stage of weights of a format.

    Raises:
        InputError: The arrays are not all there, or have other shapes.
    """
    start = f"{weights.path}, read as {chosen.part} of format '{chosen.name}',"
    try:
        return chosen.read(weights, image_size, tokenizer)
    except InputError as error:
        raise InputError(f"{start} {error}") from error
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        message = f"{start} has arrays of shapes that cannot be ({type(error).__name__}: {reason})"
        raise InputError(message) from error
