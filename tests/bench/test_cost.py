"""The measurements of cost run, and the document shows what was measured."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import cost, gpu, growth, nothing, passes, ratios, slopes, snapshot

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("bench", [cost, snapshot])
def test_the_document_shows_the_table_that_was_measured(bench):
    assert bench.table(json.loads(bench.OUTPUT.read_text())) in (DOCS / "performance.md").read_text()


def test_ours_and_the_bare_loop_take_as_many_steps_and_are_timed():
    ours = [name for name in cost.CONTESTANTS if "bare" in name or "findlr" in name]
    net = cost.NETS["small"]
    for name in ours:
        training = cost.trainings(net)()
        assert cost.steps_taken(training, cost.CONTESTANTS[name](training)) == cost.STEPS
    measured = cost.measure(net, ours, rounds=2)
    made = cost.summary(net, measured, threads=1)
    assert list(made["ratios"]) == ours[1:]
    for clocks in made["ratios"].values():
        for ratio in clocks.values():
            assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]


def test_a_ratio_is_paired_by_round():
    bare = np.array([1.0, 2.0, 4.0])
    assert ratios.ratio(1.5 * bare, bare) == {"median": 1.5, "low": 1.5, "high": 1.5}


@pytest.mark.parametrize("optimizer", passes.OPTIMIZERS)
def test_a_pass_and_the_same_runs_one_after_another_are_timed(optimizer):
    cells = passes.row("64-64-10", optimizer, runs=2, steps=12, rounds=2, device="cpu").split("|")
    assert cells[1:3] == [f" 64-64-10, {optimizer} ", " 2 "]
    assert all(float(cell.split()[0]) > 0 for cell in cells[3:6])


def test_the_document_shows_the_processes_and_the_slopes_that_were_measured():
    text = (DOCS / "performance.md").read_text()
    assert nothing.table(json.loads(cost.OUTPUT.read_text())["processes"]) in text
    assert slopes.table(json.loads(slopes.OUTPUT.read_text())) in text


def test_the_gpus_loops_are_timed_on_any_device():
    times = gpu.measure(gpu.CASES[0], torch.device("cpu"), rounds=2, steps=5)
    assert list(times) == list(gpu.CONTESTANTS)
    assert all((seconds > 0).all() for seconds in times.values())


def test_a_whole_process_prints_a_rate():
    taken, rate = nothing.process("findlr, `control_variate=False`")
    assert taken > 0
    assert 1e-8 < rate < 10


def test_slopes_are_measured_and_drawn(tmp_path):
    measured = slopes.measure(1, {"steps": (20, 30), "parameters": (16,), "tensors": (2,), "groups": (1, 3)})
    assert list(measured["groups"]) == ["size", "call", "step"]
    assert all(len(column) == 2 for column in measured["groups"].values())
    sizes = [1, 10, 1000, 10_000]
    known = {"size": sizes, "call": [5.0, *(3.0 * size for size in sizes[1:])], "step": [2.0, -2.0, -2.0, -2.0]}
    assert slopes.slope(sizes, known["call"]) == pytest.approx(1.0)
    assert slopes.table({"steps": known}).endswith("| 0.01 to 30.00 | 1.00 | 2 to in the noise | in the noise |")
    slopes.draw({"steps": known, "groups": known}, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 5000


@pytest.mark.parametrize("n", [1000])
def test_what_grows_is_all_called(n, tmp_path):
    for call in growth.calls(n, tmp_path).values():
        assert growth.peak(call) > 0
