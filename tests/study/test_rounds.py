"""The rounds that the study's scripts make: a second one makes only what is missing."""

from functools import partial

import numpy as np
import pytest

from study import answers, cheaper, probes, races, record, rounds, suggest, truth
from study.tasks import task


def test_a_round_goes_on_where_it_ended(tmp_path, capsys):
    kept = rounds.Lines(tmp_path / "new" / "rows.jsonl")
    tasks = rounds.chosen(["mlp-teacher", "mlp-digits"])

    def missing(known):
        there = {(row["task"], row["seed"]) for row in kept}
        return [(seed,) for seed in (0, 1) if (known.name, seed) not in there]

    def make(known, seed, ends_at=None):
        if (known.name, seed) == ends_at:
            raise KeyboardInterrupt
        kept.add({"task": known.name, "seed": seed, "loss": float("inf")})

    with pytest.raises(KeyboardInterrupt):
        rounds.go("rows", tasks, missing, lambda *job: make(*job, ends_at=(tasks[1].name, 1)))
    assert [(row["task"], row["seed"]) for row in kept] == [(tasks[0].name, 0), (tasks[0].name, 1), (tasks[1].name, 0)]
    rounds.go("rows", tasks, missing, make)
    rounds.go("rows", tasks, missing, make)
    assert [row["seed"] for row in kept] == [0, 1, 0, 1]
    told = [line.split(",")[0].rsplit(" in ")[0] for line in capsys.readouterr().out.splitlines()]
    assert told == [f"rows {tasks[0].name}: 2", f"rows {tasks[1].name}: 1", "rows: done", "rows: done"]
    assert kept.path.read_text().startswith('{"task": "mlp-')


def test_each_script_keeps_its_rows_in_a_file_of_its_own():
    assert len({script.LINES.path for script in (cheaper, probes, races)}) == 3


def test_sweeps_are_recorded_once(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RUNS", tmp_path)
    monkeypatch.setattr(record, "chosen", lambda: rounds.chosen(["mlp-teacher"]))
    monkeypatch.setattr("sys.argv", ["record", "--name", "variate", "--set", "num_steps=20"])
    with pytest.raises(FileNotFoundError, match=r"record them, python -m study\.record --name variate"):
        next(record.curves("variate"))
    record.main()
    first = (tmp_path / "variate.jsonl").read_text()
    record.main()
    assert (tmp_path / "variate.jsonl").read_text() == first
    assert [(name, seed) for name, seed, _ in record.curves("variate")] == [("mlp-teacher", seed) for seed in (0, 1, 2)]


def test_suggestions_are_recorded_once(tmp_path, monkeypatch):
    path = tmp_path / "suggestions.json"
    monkeypatch.setattr(suggest, "SUGGESTIONS", path)
    monkeypatch.setattr("sys.argv", ["suggest", "--only", "quick", "--tasks", "mlp-teacher", "--seeds", "0"])
    suggest.main()
    first = path.read_text()
    suggest.main()
    assert path.read_text() == first
    now, recorded = (answers.load(where)["mlp-teacher"]["quick"]["0"] for where in (path, answers.SUGGESTIONS))
    assert set(now) == set(recorded)
    assert now["lr"] == pytest.approx(recorded["lr"], rel=1e-3)  # to the last bit on the machine that recorded it


def test_a_grid_goes_on_where_it_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(truth, "RAW", tmp_path)
    monkeypatch.setattr(truth, "train", lambda known, lr, seed: abs(np.log10(lr) + 1.5) + seed / 100)
    monkeypatch.setattr(truth, "untrained_loss", lambda known, seed: 3.0)
    whole = truth.Runs(task("mlp-teacher"))
    rounds.go("scan", [whole], partial(truth.jobs, truth.scan), truth.Runs.run)
    again = truth.Runs(task("mlp-teacher"))
    assert again.losses == whole.losses
    assert again.untrained == whole.untrained == {0: 3.0}
    assert not list(truth.jobs(truth.scan, again))
    regrets = again.regrets((0,))
    assert all(regrets[edge] >= truth.BAD for edge in (min(regrets), max(regrets)))
