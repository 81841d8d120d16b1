"""What a rate loses on a model that was trained before, and the tables that ``docs/finetuning.md`` shows of it.

A file has an entry for each way to train and each seed: the held-out loss at the ``start``, the ``losses`` of whole
trainings by their rate, and each finder's ``answers``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from study.answers import taken

PAGE = Path(__file__).parent.parent / "docs" / "finetuning.md"

Entry = dict[str, Any]


def read(path: Path) -> dict[str, Entry]:
    """What was run; nothing if there is no such file."""
    kept: dict[str, Entry] = json.loads(path.read_text()) if path.exists() else {}
    return kept


def keep(path: Path, kept: Mapping[str, Entry]) -> None:
    """Write what was run."""
    path.write_text(json.dumps(kept, indent=1) + "\n")


def key(lr: float) -> str:
    """A rate as a name in the file."""
    return f"{lr:.6g}"


def told(finding: Any) -> dict[str, Any]:
    """What of a Finding is kept."""
    lr = None if finding.suggestion is None else finding.lr
    kept: dict[str, Any] = {"lr": lr, "steps": finding.cost.steps, "verdict": finding.verdict.name}
    if finding.suggestion is not None:
        kept["interval"] = list(finding.interval)
    elif finding.fallback is not None:
        kept["fallback"] = finding.fallback.lr
    if finding.belief is not None:
        kept |= {"dip": finding.belief.dip, "usual": finding.belief.usual, "weight": finding.belief.weight}
    if finding.race is not None:
        kept["runs"] = [(run.lr, run.steps, run.loss) for run in finding.race.runs]
    return kept


def regret(entry: Entry, lr: float | None) -> float:
    """What a rate loses against the best training, as a share of what that one gains; no rate trains nothing."""
    if lr is None:
        return 1.0
    best, start = min(entry["losses"].values()), entry["start"]
    lost = (entry["losses"][key(lr)] - best) / (start - best)
    return min(max(lost, 0.0), 1.0) if math.isfinite(lost) else 1.0


def grid_table(grid: Sequence[float], entries: Sequence[Entry]) -> str:
    """What each rate of the grid ends at, in the mean over the seeds."""
    rows = ["| rate | held-out loss | regret |", "|--:|--:|--:|"]
    for lr in grid:
        loss = np.mean([entry["losses"][key(lr)] for entry in entries])
        rows.append(f"| {lr:.2g} | {loss:.2f} | {np.mean([regret(entry, lr) for entry in entries]):.2f} |")
    return "\n".join(rows)


def finders_table(names: Collection[str], defaults: Mapping[str, float], entries: Sequence[Entry]) -> str:
    """What each finder answers, and what that loses; then what the default rates lose."""
    answers = {name: [entry["answers"][name] for entry in entries] for name in names}
    answers |= {name: [{"lr": lr, "steps": 0}] * len(entries) for name, lr in defaults.items()}
    rows = ["| | rates, by seed | regret, by seed | mean | steps |", "|---|---|---|--:|--:|"]
    for name, given in answers.items():
        lost = [regret(entry, taken(each)) for entry, each in zip(entries, given, strict=True)]
        rates = [answered(each) for each in given]
        steps = np.mean([each["steps"] for each in given])
        said = rates[:1] if name in defaults else rates
        row = ", ".join(said), ", ".join(f"{each:.2f}" for each in lost), f"{np.mean(lost):.2f}", f"{steps:.0f}"
        rows.append(f"| {name} | {' | '.join(row)} |")
    return "\n".join(rows)


def answered(answer: Mapping[str, Any]) -> str:
    """An answer as the table has it: the rate, or none and the fallback."""
    rate = taken(answer)
    if rate is None:
        return "none"
    return f"{rate:.1e}" if answer["lr"] is not None else f"none ({rate:.1e})"


def put(page: str, name: str, module: str, table: str) -> str:
    """The page with a table between its marks."""
    mark = f"<!-- {name}: made by python -m study.{module} --table -->"
    return re.sub(rf"(?s){re.escape(mark)}\n.*?<!-- end -->", f"{mark}\n{table}\n<!-- end -->", page)
