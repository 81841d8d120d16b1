"""The files of recorded suggestions: ``{"versions": ..., "tasks": {task: {finder: {seed: record}}}}``.

A record has the rate ``lr`` (None for a refusal, with its ``reason``), what it cost in ``steps`` and ``seconds``, and,
from findlr, the ``interval`` and the ``verdict``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import findlr
from study.tasks.pretrained import RUNS

FOLDER = Path(__file__).parent
SUGGESTIONS, BASELINES, PEERS = (FOLDER / f"{name}.json" for name in ("suggestions", "baselines", "peers"))
SEEDS = (0, 1, 2)
LONG = 5000  # steps; only such tasks are asked with a tenth of a training, too

Record = dict[str, Any]
Answers = dict[str, dict[str, dict[str, Record]]]  # task -> finder -> seed -> record

DECIDING = ("analysis", "search", "torch")  # the folders of findlr that decide what it suggests


def load(path: Path) -> Answers:
    """The recorded suggestions; none if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8"))["tasks"] if path.exists() else {}


def taken(record: Mapping[str, Any]) -> float | None:
    """The rate that somebody with this answer trains at: where findlr refuses, its fallback; None without one.

    Example:
        >>> taken({"lr": 0.1}), taken({"lr": None, "fallback": 0.02}), taken({"lr": None})
        (0.1, 0.02, None)
    """
    rate: float | None = record.get("fallback") if record["lr"] is None else record["lr"]
    return rate


def add(path: Path, task: str, answers: Mapping[str, Mapping[int, Record]], versions: Mapping[str, str]) -> None:
    """Put records of one task into the file; several processes may do so at a time.

    Args:
        path: the file; made if it is not there.
        task: the task's name.
        answers: finder -> seed -> record.
        versions: of the packages that gave them.
    """
    RUNS.mkdir(parents=True, exist_ok=True)
    with (RUNS / f"{path.stem}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"tasks": {}}
        document["versions"] = {**document.get("versions", {}), **versions}
        records = document["tasks"].setdefault(task, {})
        for finder, by_seed in answers.items():
            records.setdefault(finder, {}).update({str(seed): record for seed, record in by_seed.items()})
        text = json.dumps(document, indent=1, sort_keys=True)
        one_line_each = re.sub(r"\{[^{}]*\}", lambda found: " ".join(found[0].split()), text)
        fresh = path.with_suffix(".new")
        fresh.write_text(one_line_each + "\n", encoding="utf-8")
        fresh.replace(path)


@cache
def source() -> str:
    """A short hash of the code that decides what findlr suggests; records keep it, so that old ones can be told."""
    package = Path(findlr.__file__).parent
    digest = hashlib.sha256()
    for folder in DECIDING:
        for file in sorted((package / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
