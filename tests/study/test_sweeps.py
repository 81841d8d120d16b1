"""The sweeps at several lengths and ranges: asked once, and how far answers lie apart."""

import pytest

from study import sweeps
from study.tasks import TASKS, task


def test_sweeps_are_asked_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweeps, "MEASURED", tmp_path / "sweeps.json")
    monkeypatch.setattr("sys.argv", ["sweeps", "--tasks", "mlp-teacher"])
    sweeps.main()
    first = sweeps.MEASURED.read_text()
    sweeps.main()
    assert sweeps.MEASURED.read_text() == first
    printed = capsys.readouterr().out
    assert printed.count("both halves, 1 tasks") == 2
    assert "report half" not in printed
    by_name = sweeps.measured()["mlp-teacher"]
    assert set(by_name) == set(sweeps.SETTINGS) - set(sweeps.LONG)  # another task stands for its family
    assert sweeps.ratio([*by_name.values()], fallback=False) < 1.5


def test_the_settings_say_what_they_ask():
    assert sweeps.SETTINGS["3,000 steps"] == {"num_steps": 3000}
    assert sweeps.SETTINGS["1e-6 to 1"] == {"min_lr": 1e-6, "max_lr": 1.0}
    assert {task(name).family for name in sweeps.FIRSTS} == {known.family for known in TASKS}
    assert len(sweeps.FIRSTS) == len({known.family for known in TASKS})


def answered(lr, verdict="CLEAR"):
    return {"lr": lr, "verdict": verdict}


def refused(lr=None):
    return {"lr": None, "verdict": "FLAT"} | ({} if lr is None else {"fallback": lr})


@pytest.mark.parametrize(
    ("records", "alone", "with_fallback"),
    [
        ([answered(0.1), answered(0.3), answered(0.2)], 3.0, 3.0),
        ([answered(0.1), refused(0.4), answered(0.2)], 2.0, 4.0),
        ([answered(0.1), refused(0.4), refused(0.2)], None, 4.0),
        ([answered(0.1), answered(0.2), refused()], 2.0, None),
    ],
)
def test_how_far_answers_lie_apart(records, alone, with_fallback):
    assert sweeps.ratio(records, fallback=False) == pytest.approx(alone)
    assert sweeps.ratio(records, fallback=True) == pytest.approx(with_fallback)


def test_changes_of_the_verdict_are_counted():
    ranges = list(sweeps.RANGES)
    known = {
        "a": dict(zip(ranges, [answered(0.1, "NOISY"), answered(0.2), answered(0.1)], strict=True)),
        "b": dict(zip(ranges, [answered(0.1), refused(0.6), answered(0.1)], strict=True)),
        "c": dict(zip(ranges, [refused(0.1), refused(0.1), refused(0.1)], strict=True)),
    }
    rows = {row[:2]: row[2:] for row in sweeps.agreement(known)}
    assert rows["three ranges", "answered"] == ("2", "1.50", "1.90", "2", "50%", "100%", "1 of 3")
    assert rows["three ranges", "of these, CLEAR at 100 steps"][:2] == ("1", "1.00")
    assert rows["three ranges", "with the fallback"] == ("3", "2.00", "5.20", "6", "33%", "67%", "")
    assert rows["50 to 300 steps", "answered"][0] == "0"


def test_what_is_kept_is_small_and_whole():
    kept = sweeps.measured()
    assert sweeps.MEASURED.stat().st_size < 150_000
    assert set(kept) == {known.name for known in TASKS}
    assert not any(sweeps.missing(kept, known) for known in TASKS)
