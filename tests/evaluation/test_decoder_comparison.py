import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.decoding.parallel import num_network_evaluations
from maskgit_jax.decoding.settings import DecodeSettings
from maskgit_jax.evaluation.decoder_comparison import (
    DECODER_NAMES,
    DecoderResult,
    format_table,
    settings_with_nfe,
)


def test_decoders_use_at_most_the_given_nfe():
    settings = DecodeSettings(top_k=7)
    for name in DECODER_NAMES:
        for nfe in (4, 8, 32):
            fitted = settings_with_nfe(name, nfe, 0.0, settings)
            assert fitted.top_k == 7
            assert nfe - 1 <= num_network_evaluations(fitted) <= nfe, name
    assert settings_with_nfe("halton", 8, 1.5, settings).guidance == 1.5
    assert settings_with_nfe("corrector", 8, 0.0, settings).steps == 4
    # 7 evaluations, because the last step needs no critic.
    assert settings_with_nfe("token_critic", 8, 0.0, settings).steps == 4
    assert settings_with_nfe("remask:loop", 8, 0.0, settings).remask_schedule == "loop"
    for name in ("best", "confidence:loop:x", "remask:never"):
        with pytest.raises(InputError, match="choose from confidence, random"):
            settings_with_nfe(name, 8, 0.0, settings)


def test_table_of_decoders():
    rows = [
        DecoderResult("real images", 0.9, 0.1234, 0.8, 0.7),
        DecoderResult("halton", 0.5, 12.345, 0.25, 0.125, 8, 8, 1.5, 0.002),
    ]
    lines = format_table(rows).splitlines()
    assert lines[2] == "| real images |  |  |  | 0.900 | 0.12 | 0.800 | 0.700 |  |"
    assert lines[3] == "| halton | 8 | 8 | 1.5 | 0.500 | 12.35 | 0.250 | 0.125 | 2.0 |"
