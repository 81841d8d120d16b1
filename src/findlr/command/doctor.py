"""``findlr doctor``: what is installed, and the proof that a search leaves nothing behind in a training."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

from findlr import __version__
from findlr.analysis.text import first_of
from findlr.command.run import FINE, INTERRUPTED, TARGET_FAILED, WRONG
from findlr.command.streams import say
from findlr.command.trial import AFTER, BEFORE
from findlr.testing.bits import differing

DIFFERS = 1


class _TrialEndedError(Exception):
    """A trial has ended with an exit code that is not 0, and has said why."""


def examine(target: str, options: Mapping[str, Any], whole_traceback: bool = False) -> int:
    """Print what is installed, and try a target's training with a search in it and without.

    Args:
        target: see ``findlr.command.target.load``; empty for none.
        options: see ``findlr.command.target.search``.
        whole_traceback: print where the target's own code failed.

    Returns:
        The exit code: 0, or 1 if something differs, or that of a trial that ended with an error.
    """
    for line in _installed():
        print(line)
    if not target:
        return FINE
    plain = {"target": target, "options": options, "searched": False, "traceback": whole_traceback}
    try:
        print(f"\n{target}: {BEFORE} steps, a search, {AFTER} steps", flush=True)
        searched = _trial({**plain, "searched": True})
        print(f"  the search: {searched['ended']}\n  and once more without it", flush=True)
        never = _trial(plain)
        other = list(differing(searched["end"], never["end"]))
        by_itself = list(differing(never["end"], _trial(plain)["end"])) if other else []
    except _TrialEndedError as ended:
        return int(ended.args[0])
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    for line in _judged(searched["left"], other, by_itself, never):
        print(f"  {line}")
    return FINE if not (searched["left"] or other) and never["finite"] else DIFFERS


def _trial(asked: Mapping[str, Any]) -> Any:
    """What ``findlr.command.trial`` gives, in a process of its own: nothing that is there already can leak into it."""
    command = [sys.executable, "-P", "-m", "findlr.command.trial", json.dumps(asked, default=str)]
    environment = {"PYTHONHASHSEED": "0", **os.environ}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)  # noqa: S603 - ours
    code = done.returncode
    if code == FINE and done.stdout:
        return json.loads(done.stdout)
    if code not in (WRONG, TARGET_FAILED, INTERRUPTED):  # it had no time to say why, as where memory has run out
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        say(f"{asked['target']} failed: its process was ended {how}")
        code = TARGET_FAILED
    raise _TrialEndedError(code)


def _judged(
    left: Sequence[str], other: Sequence[str], by_itself: Sequence[str], never: Mapping[str, Any]
) -> Iterator[str]:
    """What the trials show.

    Args:
        left: what the search left behind, right after it.
        other: what differs in the end between a training with the search and one without.
        by_itself: what differs between two trainings without.
        never: the training without.
    """
    if left:
        yield f"LEFT BEHIND right after the search: {first_of(left)}"
    else:
        yield "right after the search everything was as before it"
    if not never["finite"]:
        yield "NO PROOF: the training's losses are not finite, and NaN hides what differs: lower the optimizer's rate"
        return
    if not other:
        compared = f"{never['losses']} losses, {len(never['end'])} values in all"
        yield f"the training went on as without it: {compared}, the same bit for bit"
        return
    if by_itself:
        yield f"NO PROOF: two trainings without a search differ already: {first_of(by_itself)}"
        yield "seed what the training draws; on a GPU, call torch.use_deterministic_algorithms(True), too"
        return
    yield f"DIFFERENT after the search: {first_of(other)}"
    yield "two trainings without one are the same; what a step changes and findlr can't see goes into restore="


def _installed() -> Iterator[str]:
    """Versions, devices, and the extras."""
    yield f"findlr {__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield f"devices: {', '.join(_devices()) or 'torch is not installed'}"
    yield from _extras()


def _devices() -> list[str]:
    try:
        import torch
    except ImportError:
        return []
    threads = torch.get_num_threads()
    found = [f"cpu ({threads} thread{'s' * (threads != 1)})"]
    found += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def _extras() -> Iterator[str]:
    """Each extra of the package, and the versions that are there of what it needs."""
    try:
        required = metadata.requires("findlr") or []
    except metadata.PackageNotFoundError:
        yield "extras: not known, because findlr runs from its source and is not installed"
        return
    extras = defaultdict(list)
    for requirement in required:
        package, _, marker = requirement.partition(";")
        name = re.match(r"[\w.-]+", package)
        extra = re.search(r"extra == .([\w-]+)", marker)
        if name and extra and name[0] != "findlr":  # an extra that brings others names findlr itself
            least = re.search(r">=([\w.]+)", package)
            extras[extra[1]].append(_version(name[0], least[1] if least else "0"))
    for kind, versions in extras.items():
        hint = "" if all(fits for _, fits in versions) else f"; run: pip install 'findlr[{kind}]'"
        yield f"  {kind:<12} {', '.join(text for text, _ in versions)}{hint}"


def _version(package: str, least: str) -> tuple[str, bool]:
    """A package's version in words, and whether it is there and not too old."""
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return f"{package} is not installed", False
    if _release(version) < _release(least):
        return f"{package} {version} is older than {least}", False
    return f"{package} {version}", True


def _release(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])]
