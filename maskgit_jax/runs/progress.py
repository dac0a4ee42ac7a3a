"""Progress bars for terminals and notebooks."""

import sys
from typing import Any

from tqdm import tqdm

from maskgit_jax import distributed


def progress_bar(total: int, description: str, unit: str, initial: int = 0) -> Any:
    """Returns a tqdm bar; it is hidden without a terminal and in all processes but the first."""
    if "ipykernel" in sys.modules:  # a notebook is no terminal, but shows bars
        from tqdm.notebook import tqdm as notebook_tqdm

        return notebook_tqdm(total=total, initial=initial, desc=description, unit=unit)
    disable = None if distributed.is_main() else True
    return tqdm(total=total, initial=initial, desc=description, unit=unit, disable=disable)
