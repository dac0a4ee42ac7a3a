"""From a run directory to ready functions: what commands, other stages and users' programs call.

editor = maskgit_jax.pipelines.load("runs/maskgit-digits")
made = editor.inpaint(image, mask, label=3, num=4)
"""

from maskgit_jax.pipelines.editor import Edited, Editor, load
from maskgit_jax.pipelines.images import ImageAutoencoder, ImageGenerator, label_number
from maskgit_jax.pipelines.runs import (
    Run,
    abstract_variables,
    copy_frozen,
    load_frozen,
    load_run,
    read_config,
    write_config,
)

__all__ = [
    "Edited",
    "Editor",
    "ImageAutoencoder",
    "ImageGenerator",
    "Run",
    "abstract_variables",
    "copy_frozen",
    "label_number",
    "load",
    "load_frozen",
    "load_run",
    "read_config",
    "write_config",
]
