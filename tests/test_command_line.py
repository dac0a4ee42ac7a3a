"""The list of commands, and what all commands share."""

import warnings

import pytest
from ml_collections import ConfigDict

from maskgit_jax import command_line
from maskgit_jax.__main__ import commands, main
from tests.test_architecture import rows


def test_every_command_is_listed_with_one_line(capsys):
    thin = {name for name, row in rows().items() if row == 10} - {"__main__"}
    assert set(commands()) == thin
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"python -m maskgit_jax.{name} " in out for name in thin)
    assert main(["train"]) == 2 and "maskgit_jax.train with a dot" in capsys.readouterr().err
    assert main(["paint"]) == 2 and "the commands are " in capsys.readouterr().err


def test_a_warning_is_one_line_without_its_source(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", command_line._show_warning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("unreadable image\n a.png", stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: unreadable image a.png\nwarning: old\n"


def test_the_words_of_libraries_become_plain_ones():
    config = ConfigDict({"model": {"filters": 8}}).lock()
    for change in (lambda: config.modle, lambda: setattr(config.model, "filter", 3)):
        with pytest.raises((AttributeError, KeyError)) as error:
            change()
        text = command_line._reason(str(error.value))
        wanted = "model" if "modle" in text else "filters"
        assert text.startswith("the configuration has no key '") and f"mean '{wanted}'?" in text
    assert command_line._reason("flag --n=x: invalid literal for int() with base 10: 'x'") == (
        "flag --n=x: not a whole number: 'x'"
    )
