"""The table of decoders: equal passes, and what it says."""

import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.parallel import DecodeSettings, num_network_evaluations
from maskgit_jax.evaluation.decoder_comparison import NAMES, Row, settings_with_nfe, table


def test_decoders_have_as_many_passes_as_fit():
    own = DecodeSettings(top_k=7)
    for name in NAMES:
        for passes in (4, 8, 32):
            settings = settings_with_nfe(name, passes, 1.5, own)
            assert settings.guidance == 1.5 and settings.top_k == 7
            plain = num_network_evaluations(settings._replace(guidance=0.0))
            assert passes - 1 <= plain <= passes, name
    assert settings_with_nfe("corrector", 8, 0.0, own).steps == 4
    assert (
        settings_with_nfe("token_critic", 8, 0.0, own).steps == 4
    )  # 7 passes: the last needs no critic
    assert settings_with_nfe("remask:loop", 8, 0.0, own).remask == "loop"
    for name in ("best", "confidence:loop:x", "remask:never"):
        with pytest.raises(InputError, match="there are: confidence, random"):
            settings_with_nfe(name, 8, 0.0, own)


def test_the_table_by_hand():
    rows = [
        Row("real images", 0, 0, 0.0, 0.9, 0.1234, 0.8, 0.7, 0.0),
        Row("halton", 8, 8, 1.5, 0.5, 12.345, 0.25, 0.125, 0.002),
    ]
    lines = table(rows).splitlines()
    assert lines[2] == "| real images |  |  |  | 0.900 | 0.12 | 0.800 | 0.700 |  |"
    assert lines[3] == "| halton | 8 | 8 | 1.5 | 0.500 | 12.35 | 0.250 | 0.125 | 2.0 |"
