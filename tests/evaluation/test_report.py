import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.evaluation import report
from maskgit_jax.evaluation.report import Evaluation, Metric


def evaluation(value: float, network: str = "a", **settings) -> Evaluation:
    metric = Metric("frechet_distance", value, "lower", network=network, count=500)
    return Evaluation("some run", {"step": 3, **settings}, [metric], {"lpips": "no weights"})


def test_protocol_depends_on_everything_but_the_value():
    metric = Metric("frechet_distance", 1.0, network="a", reference="b", count=5)
    assert metric._replace(value=2.0, real_value=1.0, error=0.1).protocol == metric.protocol
    for change in (
        {"network": "c"}, {"reference": "c"}, {"count": 6}, {"reference_count": 6},
        {"preprocessing": "c"}, {"source": "c"}, {"name": "c"},
    ):  # fmt: skip
        assert metric._replace(**change).protocol != metric.protocol


def test_evaluations_accumulate_and_the_same_settings_replace(tmp_path):
    for value, settings in ((1.0, {}), (2.0, {"seed": 1}), (3.0, {})):
        table = report.write(tmp_path, evaluation(value, **settings))
        assert "skipped: lpips: no weights" in table
    evaluations = report.read(tmp_path)
    assert [each.metrics[0].value for each in evaluations] == [2.0, 3.0]
    text = (tmp_path / "evaluation.md").read_text()
    assert text.count("## some run") == 2


def test_metrics_of_different_protocols_never_share_a_row(tmp_path):
    report.write(tmp_path / "one", evaluation(1.25))
    report.write(tmp_path / "two", evaluation(2.5))
    report.write(tmp_path / "three", evaluation(3.75, network="b"))
    table = report.compare([tmp_path / name for name in ("one", "two", "three")])
    rows = [line for line in table.splitlines() if line.startswith("| frechet")]
    assert len(rows) == 2
    same = next(row for row in rows if "1.25" in row)
    assert "2.5" in same and "3.75" not in same


def test_missing_and_old_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="is missing; run python -m"):
        report.read(tmp_path)
    path = tmp_path / "evaluation.json"
    for text in ("{", '{"a": 1}', '{"a": {"title": "x", "settings": {}, "figures": []}}'):
        path.write_text(text)
        with pytest.raises(InputError, match="delete it and evaluate again"):
            report.read(path)
        with pytest.raises(InputError, match="delete it and evaluate again"):
            report.write(tmp_path, evaluation(1.0))
