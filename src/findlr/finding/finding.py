"""The result of a search: what every view shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from findlr.analysis.answer import if_swept, usual_rate
from findlr.analysis.belief import Belief, believe
from findlr.analysis.curve import Curve, Stop
from findlr.analysis.plan import Plan
from findlr.analysis.race import Race
from findlr.analysis.rules import Rule, Suggestion, rule_named
from findlr.analysis.smoothing import Array
from findlr.analysis.verdict import Verdict
from findlr.errors import MissingExtraError, NoSuggestionError, OptimizerError
from findlr.finding.code import code_for
from findlr.finding.columns import columns_of, table, write_csv, write_jsonl
from findlr.finding.cost import Cost
from findlr.finding.plain import fields_of, keep_parts, plain_of
from findlr.finding.saved import parsed, read, write
from findlr.finding.telling import finding_text, repr_text
from findlr.finding.writing import optimizers_in, write_rates

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    import pandas
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class Finding:
    """A learning rate, why it is good or why there is none, and all that was measured.

    ``print(finding)`` says it in six lines; ``float(finding)`` and ``f"{finding:.2g}"`` are the rate.

    Args:
        suggestion: the rate and how it was found; None where the verdict refuses.
        verdict: whether the curve gives a suggestion, and with which reservation.
        why: the verdict's reason, and what to change where it refuses: a sentence.
        stop: why the sweep ended.
        curve: what the sweep measured.
        plan: the training that is planned.
        cost: what was spent.
        race: the runs that verified the suggestion; None without ``verify``, or if the budget left too little.
        facts: what the training said about itself: batch size, accumulation, optimizer, ratios of its groups, versions;
            ``findlr.finding.code`` says which of them make the code to paste. Kept as plain values.

    Example:
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> finding = find(Quadratic())
        >>> finding.verdict.name
        'CLEAR'
        >>> f"{finding:.1g}"
        '0.08'
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

    def __post_init__(self) -> None:
        keep_parts(self)

    def __str__(self) -> str:
        return finding_text(self)

    def __repr__(self) -> str:
        return repr_text(self)

    def __float__(self) -> float:
        return self.lr

    def __format__(self, spec: str) -> str:
        return format(self.lr, spec) if spec else str(self)

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
        if suggested.interval is not None:
            return suggested.interval
        belief = self.belief
        if belief is None or belief.dip is None:  # a rate of the user's own rule on a curve without a dip
            return suggested.lr, suggested.lr
        return belief.interval

    @property
    def belief(self) -> Belief | None:
        """What the curve's dip says and what is usual, and the answer between them; None if neither is known."""
        try:
            return believe(self.curve, self.plan)
        except NoSuggestionError:
            return None

    @property
    def expected_regret(self) -> float | None:
        """The mean regret of answers as sure as this one, from 0 (the best rate) to 1; None if nothing is believed."""
        belief = self.belief
        return None if belief is None else belief.expected_regret

    @property
    def fallback(self) -> Suggestion | None:
        """Where to begin without a suggestion: the usual rate, or more if the loss still falls; None if unknown."""
        if self.suggestion is not None:
            return None
        return usual_rate(self.curve, self.plan, still_falling=self.verdict is Verdict.STILL_FALLING)

    def search_space(self) -> dict[str, Any]:
        """The interval as a space to search: ``trial.suggest_float("lr", **finding.search_space())`` in Optuna.

        Without a suggestion it is the fallback's. For Ray: ``tune.loguniform(space["low"], space["high"])``.

        Raises:
            NoSuggestionError: there is no suggestion, and nothing is usual.
        """
        fallback = self.fallback
        low, high = (fallback and fallback.interval) or self.interval
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

    def suggest(self, rule: Rule | str) -> Suggestion:
        """What another rule says of the same curve.

        Args:
            rule: one of ``findlr.rules`` or its name, such as "valley", or any ``rule(curve, plan) -> Suggestion``.

        Raises:
            NoSuggestionError: the verdict refuses, the rule finds nothing, or its answer lies outside the sweep.
            ConfigurationError: no rule has that name.
        """
        asked = rule_named(rule)
        if self.verdict.refuses and self.verdict is not Verdict.NO_ANSWER:
            raise NoSuggestionError(self.why)
        return if_swept(asked(self.curve, self.plan), self.curve)

    def apply(self, optimizer: Any, scheduler: Any = None) -> None:
        """Write the suggested rates into ``optimizer``, and into a scheduler made for it.

        Each group's ``lr``, its ``initial_lr`` where a scheduler has put one, and the scheduler's ``base_lrs`` become
        what they would be had the optimizer been built for it: the suggested rates are the highest of the schedule,
        within the plan's ``total_steps`` if it has them.

        Args:
            optimizer: a PyTorch optimizer with as many groups as the one that was swept; or several, as a list or dict,
                as they were swept.
            scheduler: a PyTorch scheduler on that optimizer, or None.

        Raises:
            NoSuggestionError: there is no suggestion.
            OptimizerError: there are no groups, they differ in number, or the scheduler cannot be made to peak at the
                suggested rates; says what to write instead, and nothing has been changed then.
        """
        lrs, optimizers = self.lrs, optimizers_in(optimizer)
        if optimizers is None:
            kind = type(optimizer).__name__
            raise OptimizerError(
                f"{kind} has no param_groups to write the rate into; write this instead: {self.code()}"
            )
        write_rates(optimizers, lrs, scheduler, self.plan.total_steps)

    def code(self) -> str:
        """The Python to paste: the optimizer as it was swept at the suggested rate, and the scheduler of the plan.

        Raises:
            NoSuggestionError: there is no suggestion.
        """
        return code_for(self.facts, self.lrs, self.plan)

    def show(self) -> None:
        """Print the Finding with all that is known of it, and its curve; six lines where rich is not installed."""
        try:
            from findlr.views.console import show
        except MissingExtraError:
            print(self)  # noqa: T201 - what was asked for
        else:
            show(self)

    def plot(
        self,
        ax: Axes | str | PathLike[str] | None = None,
        *,
        smoothed: bool = True,
        raw: bool = True,
        rules: Sequence[Rule | str] | Rule | str = (),
        race: bool = True,
    ) -> Axes:
        """Draw the loss against the rate, with the suggestion; see ``findlr.views.plot.draw``.

        ``plot("curve.png")`` draws and saves, ``plot(ax)`` draws into axes of your own.
        """
        from findlr.views.plot import draw

        return draw(self, ax, smoothed=smoothed, raw=raw, rules=rules, race=race)

    def report(self, path: str | PathLike[str]) -> Path:
        """Write a page for the browser, one file, as ``save`` does; see ``findlr.views.report.write_report``."""
        from findlr.views.report import write_report

        return write_report([self], path)

    def _repr_html_(self) -> str:
        from findlr.views.notebook import html

        return html(self)

    def columns(self) -> dict[str, Array]:
        """The curve by name: lr, loss, smoothed, and baseline and validation where they were measured."""
        return columns_of(self.curve)

    def to_pandas(self) -> pandas.DataFrame:
        """The curve as a table, with the columns of ``columns()``.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return table(self.columns())

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write the curve as comma-separated values: ``columns()``, with every digit; as ``save`` does."""
        write_csv(self.columns(), path)

    def to_jsonl(self, path: str | PathLike[str]) -> None:
        """Write the curve as JSON Lines, a point on each; NaN and infinity are null; as ``save`` does."""
        write_jsonl(self.columns(), path)

    def to_dict(self) -> dict[str, Any]:
        """The Finding as plain values; NaN and infinity become the strings "nan", "inf", "-inf", as JSON has none."""
        return plain_of(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Finding:
        """The Finding that ``to_dict`` described.

        Raises:
            FileFormatError: it is of another format, or damaged.
        """
        return cls(**fields_of(data))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the Finding as JSON; a file that is there is replaced, or stays whole where that fails.

        Raises:
            OSError: it can't be written; names the file.
        """
        write(path, self.to_dict())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Finding:
        """Read a Finding that ``save`` wrote.

        Raises:
            FileFormatError: the file is no Finding.
            OSError: the file cannot be read.
        """
        return read(path, lambda text: cls.from_dict(parsed(text)))

    def _suggested(self) -> Suggestion:
        if self.suggestion is None:
            raise NoSuggestionError(self.why)
        return self.suggestion
