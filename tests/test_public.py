"""The public names, and signatures that are written out in more than one place."""

import importlib
import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

import findlr
from findlr import RangeTest, TorchTrainable, find_lr
from findlr.search.settings import Search, Settings, SweepSettings
from findlr.torch.arguments import How

NAMES = [
    "ConfigurationError", "Curve", "DataEndedError", "FileFormatError", "Finding", "FindlrError", "LoaderError",
    "LossError", "MissingExtraError", "NoSuggestionError", "OptimizerError", "Plan", "RangeTest", "RankError",
    "RestoreError", "Stop", "Suggestion", "TorchTrainable", "Verdict", "compare", "find", "find_lr", "rewindable",
    "rules",
]  # fmt: skip
ROOMS = {
    "findlr.errors": [name for name in NAMES if name.endswith("Error")],
    "findlr.rules": ["RULES", "Rule", "Suggestion", "article", "minimum", "quick", "slide", "steep", "valley"],
    "findlr.testing": ["Quadratic", "TrainableConformance", "TrainingConformance"],
    "findlr.torch": ["RangeTest", "TorchTrainable", "cyclic", "find_lr", "one_cycle", "rewindable"],
    "findlr.trackers": ["mlflow", "stream", "tensorboard", "wandb"],
}


def test_the_public_names_are_these():
    assert findlr.__all__ == NAMES
    assert set(NAMES) <= set(dir(findlr))
    assert all(getattr(findlr, name) is not None for name in NAMES)
    assert findlr.rules.valley.__name__ == "valley"


@pytest.mark.parametrize("room", ROOMS)
def test_the_public_rooms_have_these(room):
    module = importlib.import_module(room)
    assert [name for name in ROOMS[room] if not hasattr(module, name)] == []
    assert [name for name in dir(module) if name[0] != "_" and name != "annotations"] == ROOMS[room]


def test_every_exception_is_exported_and_in_the_tree():
    raised = {name for name, value in vars(findlr.errors).items() if isinstance(value, type)}
    assert raised == {name for name in NAMES if name.endswith("Error")}
    assert all(name in findlr.errors.__doc__ for name in raised)


def test_the_package_is_typed():
    assert Path(findlr.__file__).with_name("py.typed").exists()


def test_a_private_name_of_somebody_elses_has_a_reason_beside_it():
    sources = Path(findlr.__file__).parent.rglob("*.py")
    lines = [(file.name, line.strip()) for file in sources for line in file.read_text("utf-8").splitlines()]
    excused = [(name, line) for name, line in lines if "noqa: SLF001" in line]
    assert len(excused) > 10
    assert [each for each in excused if "noqa: SLF001 - " not in each[1]] == []


@pytest.mark.parametrize("name", ["NoSuchName", "finder"])
def test_what_is_not_public_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
        getattr(findlr, name)


def defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def hints(function):
    return {name: hint for name, hint in get_type_hints(function).items() if name != "return"}


def test_settings_are_the_same_wherever_they_are_written_out():
    expected = {field.name: field.default for field in fields(Settings)}
    assert {name: defaults(find_lr).get(name, "missing") for name in expected} == expected
    swept = {field.name: field.default for field in fields(SweepSettings)}
    assert {name: defaults(RangeTest.__init__).get(name, "missing") for name in swept} == swept
    assert get_type_hints(Search) == get_type_hints(Settings)
    assert {name: hints(find_lr)[name] for name in expected} == get_type_hints(Settings)
    assert [
        name for name in swept if name != "num_steps" and hints(RangeTest.__init__)[name] != hints(find_lr)[name]
    ] == []


def test_how_a_step_is_taken_is_the_same_wherever_it_is_written_out():
    given = {"model", "optimizer", "criterion", "loader", "loss_fn", "train_step", "restore"}
    assert hints(TorchTrainable.__init__).keys() - given - {"stepper", "others"} == get_type_hints(How).keys()
    for name in given:
        assert hints(find_lr)[name] == hints(TorchTrainable.__init__)[name]
    for name, hint in get_type_hints(How).items():
        assert hints(TorchTrainable.__init__)[name] == hint
    assert all(name in find_lr.__doc__ for name in get_type_hints(How))


def test_the_signature_is_the_designs():
    assert list(inspect.signature(find_lr).parameters) == [
        "model", "optimizer", "criterion", "loader", "loss_fn", "train_step",
        "min_lr", "max_lr", "num_steps", "spacing", "divergence_threshold", "smoothing",
        "schedule", "total_steps", "warmup", "verify", "budget", "executor",
        "rule", "control_variate", "one_pass", "restore", "progress", "on_step", "checkpoint", "how",
    ]  # fmt: skip


def test_no_framework_is_imported_with_the_search():
    code = "import sys, findlr; findlr.find; print([m for m in ('torch', 'matplotlib', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
