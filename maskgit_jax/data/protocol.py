"""What a data source provides: records that can be read in any order.

A record is a dict: "image" uint8 [H, W, C] or "tokens" int32 [L], and "label", an int. Records of
image pairs have a "condition", uint8 [H, W, C'], too. A batch has the same keys, stacked.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np

from maskgit_jax.data.cropping import ChooseCrop, crop_record


class Records(Protocol):
    """A sequence of records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


class Source(Records, Protocol):
    """A sequence of records and what readers need to know of it. Sources subclass it.

    Attributes:
        shape: (H, W, C) of every image or (L,) of every row of tokens; None where images differ.
        labels: int32 [N], None where they are unknown or cost reading every record.
        class_names: One name for each label, empty where they are unknown.
    """

    shape: tuple[int, ...] | None = None
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()

    def read_batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the records at `indices` [B], stacked; the label is int32 [B]."""
        records = [self[int(index)] for index in indices]
        batch = {name: np.stack([record[name] for record in records]) for name in records[0]}
        return {**batch, "label": batch["label"].astype(np.int32)}

    def read_cropped(self, index: int, choose_crop: ChooseCrop, size: int) -> dict[str, Any]:
        """Returns `crop_record` of a record; sources of files decode only what that needs."""
        return crop_record(self[index], choose_crop, size)

    def state(self) -> bytes:
        """Returns bytes that change with the records, without decoding them; b"" if unknown."""
        return b""


class Sources(NamedTuple):
    """The two splits of a dataset.

    Attributes:
        train: Training records.
        evaluation: Held-out records.
        class_names: One name for each label, in order.
        left_out: What the place of the dataset holds too: texts with reasons and numbers.
    """

    train: Source
    evaluation: Source
    class_names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
