"""The result of a search: what every view shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from findlr.analysis import rules
from findlr.analysis.answer import inside
from findlr.analysis.curve import Curve, Stop
from findlr.analysis.plan import Plan
from findlr.analysis.rules import Rule, Suggestion
from findlr.analysis.runs import Race
from findlr.analysis.smoothing import Array
from findlr.analysis.verdict import Verdict
from findlr.errors import FileFormatError, MissingExtraError, NoSuggestionError
from findlr.finding.saved import FORMAT, LARGEST, checked, marked, parsed, strict
from findlr.finding.writing import code_for, write_rates

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    import pandas
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Cost:
    """What a search spent.

    Args:
        steps: forward-backward equivalents; a lone forward is a third of one.
        forwards: forward passes of a whole batch.
        backwards: backward passes of a whole batch.
        seconds: wall time; two Findings that differ only here are equal.
    """

    steps: float
    forwards: int
    backwards: int
    seconds: float = field(compare=False)


@dataclass(frozen=True)
class Finding:
    """A learning rate, why it is good or why there is none, and all that was measured.

    Args:
        suggestion: the rate and how it was found; None where the verdict refuses.
        verdict: what the curve bears.
        why: the verdict's reason, and what to change where it refuses: a sentence.
        stop: why the sweep ended.
        curve: what the sweep measured.
        plan: the training that is planned.
        cost: what was spent.
        race: the runs that verified the suggestion; None without ``verify``, or if the budget left too little.
        facts: what the training told of itself: batch size, accumulation, optimizer, ratios of its groups, versions.

    Example:
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> finding = find(Quadratic())
        >>> finding.verdict.name
        'CLEAR'
    """

    suggestion: Suggestion | None
    verdict: Verdict
    why: str
    stop: Stop
    curve: Curve
    plan: Plan
    cost: Cost
    facts: Mapping[str, Any]
    race: Race | None = None

    __hash__ = None  # type: ignore[assignment]

    @property
    def lr(self) -> float:
        """The suggested rate: that of the largest group that trains.

        Raises:
            NoSuggestionError: there is none; says why, and what to change.
        """
        return self._suggested().lr

    @property
    def interval(self) -> tuple[float, float]:
        """Where the best rate lies, as far as tasks of other kinds can tell; docs/science.md says how often it does.

        Raises:
            NoSuggestionError: there is no suggestion.
        """
        suggested = self._suggested()
        return suggested.interval or rules.quick(self.curve, self.plan).interval or (suggested.lr, suggested.lr)

    def search_space(self) -> dict[str, Any]:
        """The interval as a space to search: ``trial.suggest_float("lr", **finding.search_space())`` in Optuna.

        For Ray: ``tune.loguniform(space["low"], space["high"])``.

        Raises:
            NoSuggestionError: there is no suggestion.
        """
        low, high = self.interval
        return {"low": low, "high": high, "log": True}

    @property
    def ratios(self) -> tuple[float, ...]:
        """The rate of each param group as a share of the largest that trains."""
        return tuple(self.facts.get("ratios", (1.0,)))

    @property
    def lrs(self) -> tuple[float, ...]:
        """The suggested rate of each param group.

        Raises:
            NoSuggestionError: there is none.
        """
        lr = self.lr
        return tuple(lr * ratio for ratio in self.ratios)

    def suggest(self, rule: Rule) -> Suggestion:
        """What another rule says of the same curve.

        Args:
            rule: one of ``findlr.rules``, or any ``rule(curve, plan) -> Suggestion``.

        Returns:
            The Suggestion.

        Raises:
            NoSuggestionError: the verdict refuses, the rule finds nothing, or its answer lies outside the sweep.
        """
        if self.verdict.refuses and self.verdict is not Verdict.NO_ANSWER:
            raise NoSuggestionError(self.why)
        return inside(rule(self.curve, self.plan), self.curve)

    def apply(self, optimizer: Any, scheduler: Any = None) -> None:
        """Write the suggested rates into ``optimizer``, and into a scheduler made for it.

        Each group's ``lr``, its ``initial_lr`` where a scheduler has put one, and the scheduler's ``base_lrs`` become
        what they would be had the optimizer been built for it: the suggested rates are the highest of the schedule.

        Args:
            optimizer: a PyTorch optimizer with as many groups as the one that was swept.
            scheduler: a PyTorch scheduler on that optimizer, or None.

        Raises:
            NoSuggestionError: there is no suggestion.
            OptimizerError: the groups differ in number, or the scheduler cannot be made to peak at the suggested rates;
                says what to write instead, and nothing has been changed then.
        """
        write_rates(optimizer, self.lrs, scheduler)

    def code(self) -> str:
        """The Python line to paste: the optimizer as it was swept, at the suggested rate.

        Raises:
            NoSuggestionError: there is no suggestion.
        """
        return code_for(self.facts.get("optimizer") or {}, self.lrs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        smoothed: bool = True,
        raw: bool = True,
        rules: Sequence[Rule] = (),
        race: bool = True,
    ) -> Axes:
        """Draw the loss against the rate, with the suggestion; see ``findlr.views.plot.draw``."""
        from findlr.views.plot import draw

        return draw(self, ax, smoothed=smoothed, raw=raw, rules=rules, race=race)

    def report(self, path: str | PathLike[str]) -> Path:
        """Write a page for the browser, whole in one file; see ``findlr.views.report.write_report``."""
        from findlr.views.report import write_report

        return write_report([self], path)

    def _repr_html_(self) -> str:
        """What a notebook shows; see ``findlr.views.notebook.html``."""
        from findlr.views.notebook import html

        return html(self)

    def columns(self) -> dict[str, Array]:
        """The curve by name: lr, loss, smoothed, and baseline and validation where they were measured."""
        columns = {"lr": self.curve.lr, "loss": self.curve.loss, "smoothed": self.curve.smoothed().loss}
        for name in ("baseline", "validation"):
            if (values := getattr(self.curve, name)) is not None:
                columns[name] = values
        return columns

    def to_pandas(self) -> pandas.DataFrame:
        """The curve as a table, with the columns of ``columns()``.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise MissingExtraError.of("pandas", "pandas") from None
        return pd.DataFrame(self.columns())

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write the curve as comma-separated values, with the columns of ``columns()``; every digit is kept."""
        columns = self.columns()
        table = np.column_stack(list(columns.values()))
        np.savetxt(path, table, fmt="%.17g", delimiter=",", header=",".join(columns), comments="", encoding="utf-8")

    def to_jsonl(self, path: str | PathLike[str]) -> None:
        """Write the curve as JSON Lines, a point on each; NaN and infinity are null, as JSON has neither."""
        import json
        from pathlib import Path

        columns = self.columns()
        with Path(path).open("w", encoding="utf-8") as file:
            for row in zip(*(values.tolist() for values in columns.values()), strict=True):
                point = strict(dict(zip(columns, row, strict=True)), lambda _: None)
                file.write(json.dumps(point, allow_nan=False) + "\n")

    def to_dict(self) -> dict[str, Any]:
        """The Finding as plain values; NaN and infinity become the strings "nan", "inf", "-inf", as JSON has none."""
        return {
            "format": FORMAT,
            "suggestion": None if self.suggestion is None else strict(vars(self.suggestion)),
            "verdict": self.verdict.name,
            "why": self.why,
            "stop": self.stop.name,
            "curve": strict(self.curve.to_dict()),
            "plan": self.plan.to_dict(),
            "cost": vars(self.cost).copy(),
            "facts": strict(self.facts, marked),
            "race": None if self.race is None else strict(self.race.to_dict()),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Finding:
        """The Finding that ``to_dict`` described.

        Raises:
            FileFormatError: it is of another format, or damaged.
        """
        fields = checked(data)
        try:
            return cls(
                suggestion=None if fields["suggestion"] is None else Suggestion.from_dict(fields["suggestion"]),
                verdict=Verdict[fields["verdict"]],
                why=fields["why"],
                stop=Stop[fields["stop"]],
                curve=Curve(**fields["curve"]),
                plan=Plan.from_dict(fields["plan"]),
                cost=Cost(**fields["cost"]),
                facts=fields["facts"],
                race=None if fields["race"] is None else Race.from_dict(fields["race"]),
            )
        except (KeyError, IndexError, ValueError) as error:
            raise FileFormatError(f"this Finding is damaged ({error}); save it again") from error

    def save(self, path: str | PathLike[str]) -> None:
        """Write the Finding as JSON.

        Args:
            path: the file; one that is there is replaced.
        """
        import json  # here, for `import findlr` to cost little more than NumPy
        from pathlib import Path

        text = json.dumps(self.to_dict(), allow_nan=False) + "\n"
        Path(path).write_bytes(text.encode())  # at once: a text file takes its time over a long curve

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Finding:
        """Read a Finding that ``save`` wrote.

        Raises:
            FileFormatError: the file is no Finding.
            OSError: the file cannot be read.
        """
        from pathlib import Path

        file = Path(path)
        if file.exists() and not file.is_file():  # a pipe could keep us waiting
            raise FileFormatError(f"{path} is no regular file; use one that finding.save() wrote")
        with file.open("rb") as opened:
            text = opened.read(LARGEST + 1)
        try:
            return cls.from_dict(parsed(text))
        except FileFormatError as error:
            raise FileFormatError(f"{path}: {error}") from error

    def _suggested(self) -> Suggestion:
        if self.suggestion is None:
            raise NoSuggestionError(self.why)
        return self.suggestion
