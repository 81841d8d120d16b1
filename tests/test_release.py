"""What a release says of itself in several places is the same in all."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import findlr

HOME = Path(__file__).parent.parent
sys.path.insert(0, str(HOME / "scripts"))
import floors  # noqa: E402 - scripts are no package
import release_check  # noqa: E402

PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
WORKFLOWS = sorted((HOME / ".github" / "workflows").glob("*.yml"))


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((HOME / "CITATION.cff").read_text())
    changes = re.search(r"^## \[([\d.]+)\]", (HOME / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert [citation["version"], changes[1]] == [findlr.__version__] * 2


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_extra_has_a_smoke_test_and_floors(extra):
    code = release_check.SMOKE.get(extra) or release_check.example(extra)
    compile(code, extra, "exec")
    if extra not in release_check.SMOKE:
        assert f"findlr.{extra}" in code
    assert all(">=" in each for each in EXTRAS[extra] if not each.startswith("findlr["))


def test_floors_are_pins_of_what_the_project_asks_for():
    assert f"torch=={EXTRAS['torch'][0].removeprefix('torch>=')}" in floors.floors("torch")
    assert floors.floors() == [each.replace(">=", "==") for each in PROJECT["dependencies"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_asks_for_targets_and_folders_that_there_are(workflow):
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    commands = " ".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    targets = set(re.findall(r"make ([\w-]+)", commands))
    assert targets <= set(re.findall(r"^([\w-]+):", (HOME / "Makefile").read_text(), re.MULTILINE))
    assert all((HOME / folder).is_dir() for folder in re.findall(r"tests/\w+", commands))


def test_the_pythons_that_are_tested_are_those_that_are_named():
    jobs = yaml.safe_load((HOME / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    matrix = jobs["tests"]["strategy"]["matrix"]
    tested = {*matrix["python"], *(each["python"] for each in matrix["include"])}
    named = {each.rpartition(" ")[2] for each in PROJECT["classifiers"] if ":: 3." in each}
    assert tested == named
