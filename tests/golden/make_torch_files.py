# Writes tests/golden/tensors_{zip,legacy}.pth; needs torch.
from collections import OrderedDict
from pathlib import Path

import torch

FOLDER = Path(__file__).parent


def tensors() -> OrderedDict:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = OrderedDict(
        plain=base,
        transposed=base.T,
        part=base[1:3, 2:5],
        every_second=base[:, ::2],
        parameter=torch.nn.Parameter(torch.tensor([0.5, -1.5])),
        float64=torch.tensor([1 / 3], dtype=torch.float64),
        float16=torch.tensor([0.1, -2.0], dtype=torch.float16),
        bfloat16=torch.tensor([[1.0, -3.140625], [65536.0, 0.0]], dtype=torch.bfloat16),
        scalar=torch.tensor(1.5, dtype=torch.bfloat16),
        int64=torch.tensor(-(2**40)),
        int32=torch.tensor([-7, 7], dtype=torch.int32),
        int16=torch.tensor([-300], dtype=torch.int16),
        int8=torch.tensor([-3], dtype=torch.int8),
        uint8=torch.tensor([255], dtype=torch.uint8),
        bool=torch.tensor([True, False, True]),
        empty=torch.zeros(0, 3),
    )
    state._metadata = OrderedDict(version=1)  # as Module.state_dict gives it
    return state


if __name__ == "__main__":
    torch.save(tensors(), FOLDER / "tensors_zip.pth")
    torch.save(tensors(), FOLDER / "tensors_legacy.pth", _use_new_zipfile_serialization=False)
