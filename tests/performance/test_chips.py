import jax
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.performance.chips import CHIPS, NUMBERS, chip_named, chip_of


def test_device_kinds_have_chips():
    kinds = {
        "TPU v4": "v4",
        "TPU v5 lite": "v5e",
        "TPU v5": "v5p",
        "TPU v6 lite": "v6e",
        "NVIDIA A100-SXM4-80GB": "a100",
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA H200": "h200",
    }
    for kind, name in kinds.items():
        chip = chip_of(kind)
        assert chip is not None and chip.name == name


def test_unknown_device_kind_has_no_chip():
    assert chip_of(jax.devices("cpu")[0].device_kind) is None
    assert chip_of("TPU v99") is None


def test_device_kinds_are_unique_and_all_peaks_are_known():
    kinds = [kind for chip in CHIPS for kind in chip.kinds]
    assert len(set(kinds)) == len(kinds)
    for chip in CHIPS:
        assert tuple(chip.peaks) == NUMBERS
        assert chip.peaks["bfloat16"] >= chip.peaks["float32"] > chip.peaks["float32_highest"]


def test_ring_uses_two_links_of_a_v5e_and_all_of_nvlink():
    # 1600 Gbit/s are 200 GB/s over four links; NVLink's 900 GB/s are in both directions.
    assert chip_named("v5e").ring_bandwidth == 1600e9 / 8 / 2
    assert chip_named("h100").ring_bandwidth == 900e9 / 2


def test_unknown_chip_is_refused():
    with pytest.raises(InputError, match="no chip 'v9'; the chips are: v4, v5e"):
        chip_named("v9")
