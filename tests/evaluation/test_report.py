import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.evaluation import report
from maskgit_jax.evaluation.report import Evaluation, Metric


def evaluation(value: float, network: str = "a", **settings) -> Evaluation:
    figure = Metric("frechet_distance", value, "lower", network=network, count=500)
    return Evaluation("some run", {"step": 3, **settings}, [figure], {"lpips": "no weights"})


def test_the_protocol_changes_with_everything_but_the_value():
    figure = Metric("frechet_distance", 1.0, network="a", reference="b", count=5)
    assert figure._replace(value=2.0, real=1.0, error=0.1).protocol == figure.protocol
    for change in (
        {"network": "c"}, {"reference": "c"}, {"count": 6}, {"reference_count": 6},
        {"preprocessing": "c"}, {"source": "c"}, {"name": "c"},
    ):  # fmt: skip
        assert figure._replace(**change).protocol != figure.protocol


def test_evaluations_add_up_and_the_same_settings_replace(tmp_path):
    for value, settings in ((1.0, {}), (2.0, {"seed": 1}), (3.0, {})):
        table = report.write(tmp_path, evaluation(value, **settings))
        assert "not measured: lpips: no weights" in table
    found = report.read(str(tmp_path))
    assert sorted(each.figures[0].value for each in found) == [2.0, 3.0]
    text = (tmp_path / "evaluation.md").read_text()
    assert text.count("## some run") == 2


def test_figures_of_different_protocols_never_share_a_row(tmp_path):
    report.write(tmp_path / "one", evaluation(1.25))
    report.write(tmp_path / "two", evaluation(2.5))
    report.write(tmp_path / "three", evaluation(3.75, network="b"))
    table = report.compare([str(tmp_path / name) for name in ("one", "two", "three")])
    rows = [line for line in table.splitlines() if line.startswith("| frechet")]
    assert len(rows) == 2
    same = next(row for row in rows if "1.25" in row)
    assert "2.5" in same and "3.75" not in same


def test_a_missing_or_foreign_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="is missing; make it with"):
        report.read(str(tmp_path))
    (tmp_path / "evaluation.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="holds no evaluations"):
        report.read(str(tmp_path))
