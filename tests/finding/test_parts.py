"""The parts of a Finding: of their own kinds, in plain values, and the same after every way to copy them."""

import copy
import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from findlr import ConfigurationError, Curve, FileFormatError, Finding, Plan, Stop, Suggestion, find, find_lr
from findlr.analysis.race import Race, Run
from findlr.finding.cost import Cost
from findlr.testing import Quadratic


@pytest.fixture(scope="module")
def finding():
    return find(Quadratic(), num_steps=60, progress=False)


@pytest.mark.parametrize("given", [None, 5, "run.json", {}, [], {"schedule": []}, {"runs": [{}]}, {"lr": 0.1}, Finding])
@pytest.mark.parametrize("kind", [Finding, Plan, Race, Suggestion])
def test_what_describes_nothing_is_refused_wherever_it_is_read(kind, given):
    with pytest.raises(FileFormatError, match=r"(these values are no|this is no) "):
        kind.from_dict(given)


@pytest.mark.parametrize("given", [5, b"CLEAR", [1], object])
@pytest.mark.parametrize("part", ["suggestion", "verdict", "why", "stop", "curve", "plan", "cost", "facts", "race"])
def test_a_finding_that_no_view_could_show_is_refused_where_it_is_made(finding, part, given):
    with pytest.raises(ConfigurationError, match=f"a Finding's {part} must be a"):
        replace(finding, **{part: given})


RUNS = (Run(0.1, 5, 1.0),)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Race((), 1.0, 0.1, True), "at least one Run"),
        (lambda: Race([*RUNS], 1.0, 0.1, True), "must be a tuple"),
        (lambda: Race(RUNS, None, 0.1, True), "a Race's start must be a number"),
        (lambda: Race(RUNS, 1.0, "0.1", True), "a Race's best_lr must be a number"),
        (lambda: Race(RUNS, 1.0, 0.1, "no"), "bracketed must be True or False"),
        (lambda: Run(0.1, "5", 1.0), "a Run's steps must be a number"),
        (lambda: Cost(1.0, None, 1, 1.0), "a Cost's forwards must be a number"),
    ],
)
def test_what_was_measured_is_numbers(make, says):
    with pytest.raises(ConfigurationError, match=says):
        make()


class Mute:
    def __repr__(self):
        raise ValueError("no words")


ENDLESS = [1]
ENDLESS.append(ENDLESS)
DEEP = "deep"
for _ in range(100):
    DEEP = [DEEP, object]

FACTS = {
    "float32": (np.float32(0.5), 0.5),
    "int64": (np.int64(3), 3),
    "bool": (np.bool_(True), True),
    "array": (np.arange(3), [0, 1, 2]),
    "tensor": (torch.tensor(1.5), 1.5),
    "tuple": ((1, (2, None)), [1, [2, None]]),
    "names": ({1: {None: 2}}, {"1": {"None": 2}}),
    "member": (Stop.FINISHED, repr(Stop.FINISHED)),
    "path": ({"at": [Path("data")]}, {"at": [repr(Path("data"))]}),
    "mute": (Mute(), "<Mute>"),
    "large": (10**400, 10**400),
    "endless": (ENDLESS, ...),
    "deep": (DEEP, ...),
}


class Tells(Quadratic):
    told = None

    def facts(self):
        return {"mine": self.told}


@pytest.mark.parametrize(("given", "kept"), FACTS.values(), ids=FACTS)
def test_whatever_a_training_tells_of_itself_can_be_saved(given, kept, tmp_path):
    training = Tells()
    training.told = given
    found = find(training, num_steps=30, progress=False)
    assert kept is ... or found.facts["mine"] == kept
    found.save(tmp_path / "run.json")
    assert Finding.load(tmp_path / "run.json") == found


@pytest.mark.parametrize("given", [ENDLESS, DEEP, {"a": np.float64(1)}], ids=["endless", "deep", "dict"])
def test_whatever_stands_in_a_param_group_can_be_saved(given, tmp_path):
    net = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    optimizer.param_groups[0]["mine"] = given
    found = find_lr(net, optimizer, torch.nn.MSELoss(), [(torch.ones(1, 1),) * 2], num_steps=20, progress=False)
    found.save(tmp_path / "run.json")
    assert Finding.load(tmp_path / "run.json") == found


def test_numbers_of_numpys_are_pythons_in_every_part(finding, tmp_path):
    cost = Cost(np.float32(2.5), np.int64(3), np.int64(2), np.float64(0.5))
    race = Race((Run(np.float64(0.1), np.int64(5), np.float32(1.5)),), np.float64(1.0), np.float64(0.1), np.bool_(True))
    found = replace(finding, cost=cost, race=race)
    found.save(tmp_path / "run.json")
    assert Finding.load(tmp_path / "run.json") == found


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda given: pickle.loads(pickle.dumps(given))])
def test_a_copy_is_equal_and_its_arrays_can_not_be_written_to(copied):
    curve = Curve([0.1, 0.2], [1.0, math.nan], [1.0, 2.0], None, diverged=True, num_steps=5, smoothing=0.5)
    again = copied(replace(find(Quadratic(), num_steps=20, progress=False), curve=curve)).curve
    assert again == curve
    for array in (again.lr, again.loss, again.baseline):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5.0
