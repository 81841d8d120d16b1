"""A race that is written down as it goes, so that a search that was killed goes on with the runs that it has."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from findlr.analysis.curve import Step, Stop
from findlr.analysis.race import Run
from findlr.analysis.smoothing import Array
from findlr.errors import ConfigurationError
from findlr.search.alike import difference
from findlr.search.checkpoint_file import ANEW, OwnFile, from_the_root, read, through_json
from findlr.search.recording import Recording, recording_of
from findlr.search.run import End
from findlr.search.stopping import StopRule
from findlr.search.sweep import run_sweep
from findlr.search.trainable import OneOfSeveral, Trainable

_ALIKE = 1e-4  # of the largest loss: what a device's order of summing may change
_TELLING = 5  # losses that tell one training from another
_VARIED = 1e-3  # of the largest loss: losses that differ by less tell nothing


def _no_passes() -> tuple[int, int]:
    return 0, 0


class Checkpoint:
    """Keeps the sweep and the runs of a race in a file, written whole after each; without a path it keeps nothing.

    Args:
        path: the file; if it is there, the search goes on with what it has.
        asked: the search's settings and plan, by name, in plain values: those of the file must be the same.
        passes: the forward and backward passes that the training has made so far.
        several: the processes that train together, of which the first has the file; None is one.

    Raises:
        FileFormatError: the file is damaged, or no checkpoint.
        ConfigurationError: it is another search's, or can't be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        asked: Mapping[str, Any] | None = None,
        passes: Callable[[], tuple[int, int]] = _no_passes,
        several: OneOfSeveral | None = None,
    ) -> None:
        self.given = (0, 0)
        """The passes that what was taken from the file had cost, or other processes have made."""
        self._passes, self._mark = passes, (0, 0)
        self._path = None if path is None else from_the_root(path)
        now = {} if path is None else through_json(asked or {})
        self._data: dict[str, Any] = {"asked": now, "race": {}}
        self._runs: list[dict[str, Any]] = []  # of the file, and not taken yet
        writes = os.environ.get("RANK", "0") == "0" if several is None else several.rank == 0
        self._own = OwnFile(self._path) if self._path is not None and writes else None
        kept = None if self._path is None else read(self._path, self._own, several)
        self.resumed = kept is not None
        if kept is not None:
            self._data = kept
            self._runs = list(self._data["race"].get("runs", ()))
            self._compare("asked", now)

    def __len__(self) -> int:
        """Runs of the file that have not been taken yet, those of a pass among them."""
        return len(self._runs) + len((self._data["race"].get("pass") or {"runs": ()})["runs"])

    @property
    def sweep(self) -> Mapping[str, Any]:
        """What the file's sweep measured."""
        sweep: Mapping[str, Any] = self._data["sweep"]
        return sweep

    def check(self, trainable: Trainable[Any, Any], lrs: Array, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Take the sweep's first steps again, and compare them and the facts with the file's.

        The sweep goes on until five losses, not all alike, have come out as in the file; the training is left there.

        Raises:
            ConfigurationError: the file is of another training.
        """
        recording = recording_of(trainable, len(lrs), StopRule())
        again = _Comparison(recording, list(map(float, self.sweep["loss"])))
        recording.watch(again)
        run_sweep(trainable, lrs, recording)
        if again.different is not None:
            at, kept, seen = again.different
            raise self._refused(f"loss at step {at} of the sweep", f"{kept:.6g}", f"{seen:.6g}")
        self._compare("facts", through_json(facts()))
        self.given = self._taken(self._data["sweep"])

    def start(self, facts: Callable[[], Mapping[str, Any]], sweep: Recording) -> None:
        """Write down a sweep that has ended, and what the training tells of itself."""
        if self._path is not None and not self.resumed:
            forwards, backwards = self._passes()
            measured = {**sweep.to_dict(), "forwards": forwards, "backwards": backwards}
            self._data |= {"facts": through_json(facts()), "sweep": measured}
            self._write()

    def begin(self, start: float) -> float:
        """The race begins with this held-out loss, NaN if there is none; return it, or the file's.

        Raises:
            ConfigurationError: the file's is another one.
        """
        self._mark = self._passes()
        race = self._data["race"]
        if "start" not in race:
            race |= {"start": start, "pass": None, "runs": []}
            return start
        kept = float(race["start"])
        if not _alike(kept, start, abs(kept)):
            raise self._refused("held-out loss before training", f"{kept:.6g}", f"{start:.6g}")
        return kept

    def pass_of(self, steps: int) -> tuple[list[Run], float] | None:
        """The file's runs in one pass and the steps that were spent if there are none; None if it has no pass."""
        kept = self._data["race"]["pass"]
        if kept is None:
            return None
        if kept["steps"] != steps:
            raise self._refused("runs in one pass", f"{kept['steps']} steps", f"{steps} steps")
        self.given = self._taken(kept)
        return [Run(float(run["lr"]), run["steps"], float(run["loss"])) for run in kept["runs"]], float(kept["spent"])

    def add_pass(self, steps: int, runs: Sequence[Run], spent: float) -> None:
        """Write down the runs of a pass, or that there are none."""
        pass_ = {"steps": steps, "runs": [vars(run).copy() for run in runs], "spent": spent}
        self._data["race"]["pass"] = {**pass_, **self._cost()}
        self._write()

    def run_of(self, lr: float, steps: int) -> End | None:
        """The file's next run; None if it has no more.

        Raises:
            ConfigurationError: it has another one.
        """
        if not self._runs:
            return None
        kept = self._runs.pop(0)
        if (kept["lr"], kept["steps"]) != (lr, steps):
            raise self._refused("run", f"{kept['steps']} steps at {kept['lr']:.6g}", f"{steps} steps at {lr:.6g}")
        self.given = self._taken(kept)
        return End(*(float(kept[name]) for name in ("first", "surely", "loss")))

    def add_run(self, lr: float, steps: int, end: End, elsewhere: tuple[int, int] = (0, 0)) -> None:
        """Write down a run; ``elsewhere`` are the forward and backward passes that another process made for it."""
        self.given = self.given[0] + elsewhere[0], self.given[1] + elsewhere[1]
        self._data["race"]["runs"].append({"lr": lr, "steps": steps, **vars(end), **self._cost(elsewhere)})
        self._write()

    def _cost(self, elsewhere: tuple[int, int] = (0, 0)) -> dict[str, int]:
        """The passes since the last look."""
        before, self._mark = self._mark, self._passes()
        forwards, backwards = (now - then for now, then in zip(self._mark, before, strict=True))
        return {"forwards": forwards + elsewhere[0], "backwards": backwards + elsewhere[1]}

    def _taken(self, cost: Mapping[str, Any]) -> tuple[int, int]:
        return self.given[0] + cost["forwards"], self.given[1] + cost["backwards"]

    def _compare(self, name: str, now: Any) -> None:
        different = difference(self._data[name], now)
        if different is not None:
            raise self._refused(*different)

    def _refused(self, what: str, kept: str, here: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self._path} is the checkpoint of another search: its {what} is {kept}, here it is {here}; {ANEW}"
        )

    def _write(self) -> None:
        if self._own is not None:  # one process of several writes
            self._own.write(self._data)

    def close(self) -> None:
        """Let other searches have the file, and let go of the training."""
        self._passes = _no_passes
        if self._own is not None:
            self._own.close()


class _Comparison:
    """Watches a sweep that is taken again, and ends it once its losses tell it from another training's."""

    def __init__(self, recording: Recording, losses: Sequence[float]) -> None:
        self.different: tuple[int, float, float] | None = None
        self._recording, self._kept = recording, losses

    def __call__(self, step: Step) -> None:
        known = self._kept[: step.index + 1]
        largest = max((abs(loss) for loss in known if math.isfinite(loss)), default=0.0)
        if not _alike(known[-1], step.loss, largest):
            self.different = step.index, known[-1], step.loss
        varied = max(known) - min(known) > _VARIED * largest
        if self.different is not None or (len(known) >= _TELLING and varied) or len(known) == len(self._kept):
            self._recording.stop = self._recording.stop or Stop.LEFT


def _alike(a: float, b: float, scale: float) -> bool:
    if not (math.isfinite(a) and math.isfinite(b)):
        return a == b or (math.isnan(a) and math.isnan(b))
    return abs(a - b) <= _ALIKE * scale
