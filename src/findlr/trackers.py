"""A Finding in a tracker: its curve, its picture and its answer, added to the user's own live writer or run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from types import TracebackType
from typing import Any, Self

from findlr.analysis.curve import Step
from findlr.analysis.given import kind_of
from findlr.analysis.text import printable
from findlr.errors import ConfigurationError, MissingExtraError
from findlr.finding import Finding
from findlr.finding.given import the_finding
from findlr.finding.telling import next_text, plan_text
from findlr.views.figures import picture

__all__ = ["mlflow", "stream", "tensorboard", "wandb"]
_BATCH = 1000  # metrics that MLflow takes at once
_SEND_EVERY = 1.0  # seconds between two requests to MLflow while a search runs
_Log = Callable[[int, dict[str, float]], None]


def __dir__() -> list[str]:
    return __all__  # what a notebook completes


def tensorboard(finding: Finding, writer: Any, tag: str = "findlr") -> None:
    """Add a Finding to a TensorBoard log.

    The curve is a scalar per point, at its step; the picture an image; the answer a text, and scalars.

    Args:
        finding: with or without a suggestion.
        writer: an open ``torch.utils.tensorboard.SummaryWriter``, or one like it; it is not closed.
        tag: what the names begin with.

    Raises:
        ConfigurationError: an argument is of another kind; nothing is added.
        MissingExtraError: matplotlib is not installed.
    """
    the_finding(finding)
    _check(writer, "writer", "an open SummaryWriter", "add_scalar", "add_figure", "add_text")
    for name, values in finding.columns().items():
        for step, value in enumerate(values.tolist()):
            writer.add_scalar(f"{tag}/{name}", value, step)
    for name, number in _numbers(finding).items():
        writer.add_scalar(f"{tag}/{name}", number, 0)
    writer.add_figure(f"{tag}/curve", picture(finding.plot))
    table = "\n".join(f"| {name} | {printable(value)} |" for name, value in _texts(finding).items())
    writer.add_text(f"{tag}/finding", f"| | |\n|---|---|\n{table}")


def wandb(finding: Finding, run: Any, tag: str = "findlr") -> None:
    """Add a Finding to a Weights & Biases run.

    The curve is a table with a chart over it, so that the run's own step stays where it is; the picture is an image;
    the answer stands in the run's summary, the facts in its config.

    Args:
        finding: with or without a suggestion.
        run: what ``wandb.init()`` returned; it is not finished. The Finding joins its next ``log``, or its end.
        tag: what the names begin with.

    Raises:
        ConfigurationError: an argument is of another kind; nothing is added.
        MissingExtraError: matplotlib is not installed.
    """
    the_finding(finding)
    _check(run, "run", "what wandb.init() returned", "log", "summary", "config")
    import wandb as library  # there, as its run is
    from PIL import Image  # matplotlib needs it, too

    image = BytesIO()
    picture(finding.plot).savefig(image, format="png", dpi=150)

    columns = {"log10_lr": finding.curve.log10_lr, **finding.columns()}
    rows: list[Any] = [list(row) for row in zip(*(values.tolist() for values in columns.values()), strict=True)]
    table = library.Table(columns=list(columns), data=rows)
    run.log(
        {
            f"{tag}/points": library.plot.line(
                table, "log10_lr", "smoothed", title="smoothed loss against log10 of the rate"
            ),
            f"{tag}/curve": library.Image(Image.open(image)),
        },
        commit=False,
    )
    run.summary.update({f"{tag}/{name}": value for name, value in {**_numbers(finding), **_texts(finding)}.items()})
    run.config.update({tag: _facts(finding)}, allow_val_change=True)


def mlflow(finding: Finding, run: Any, client: Any = None, tag: str = "findlr") -> None:
    """Add a Finding to an MLflow run.

    The curve is a metric per point, at its step; the picture and the whole Finding are artifacts; the answer is
    metrics and tags.

    Args:
        finding: with or without a suggestion.
        run: what ``mlflow.start_run()`` returned, or its id; it is not ended.
        client: an ``MlflowClient``; None is one for the tracking URI that is set.
        tag: what the names begin with.

    Raises:
        ConfigurationError: an argument is of another kind; nothing is added.
        MissingExtraError: matplotlib is not installed.
    """
    the_finding(finding)
    metrics = _MlflowMetrics(run, client)
    from mlflow.entities import RunTag

    for name, values in finding.columns().items():
        for step, value in enumerate(values.tolist()):
            metrics.add(step, {f"{tag}/{name}": value})
    metrics.add(0, {f"{tag}/{name}": number for name, number in _numbers(finding).items()})
    metrics.send()
    tags = [RunTag(f"{tag}.{name}", value) for name, value in _texts(finding).items()]
    metrics.client.log_batch(metrics.run_id, tags=tags)
    metrics.client.log_figure(metrics.run_id, picture(finding.plot), f"{tag}/curve.png")
    metrics.client.log_dict(metrics.run_id, finding.to_dict(), f"{tag}/finding.json")


class stream:  # noqa: N801 - it is called as a function is
    """A search as it runs, in a tracker: give it to ``on_step``.

    The sweep's steps are ``findlr/sweep/lr``, ``loss`` and ``smoothed``, a run's ``findlr/race/run1/lr`` and so on. At
    its end each run is a point of ``findlr/race/peak`` and ``findlr/race/ended_at``, at its number.

    - A TensorBoard writer gets them at their steps.
    - A Weights & Biases run logs a row for each, so its own step goes on; the charts' axis is ``findlr/step``.
    - MLflow is sent them once a second, and at the end of the search.

    Args:
        to: an open SummaryWriter, a wandb run, or an MLflow run or its id; it is left open.
        client: an ``MlflowClient``; None is one for the tracking URI that is set.
        tag: what the names begin with.

    Raises:
        ConfigurationError: ``to`` is none of them.
    """

    def __init__(self, to: Any, client: Any = None, tag: str = "findlr") -> None:
        self._tag, self._ended = tag, 0
        self._mlflow: _MlflowMetrics | None = None
        self._log: _Log
        if hasattr(to, "add_scalar"):
            self._log = partial(_log_to_tensorboard, to)
        elif hasattr(to, "define_metric"):
            self._log = partial(_log_to_wandb, to, tag)
            to.define_metric(f"{tag}/step")
            for part in ("sweep", "race"):
                to.define_metric(f"{tag}/{part}/*", step_metric=f"{tag}/step")
        elif isinstance(to, str) or hasattr(to, "info"):
            self._log = self._mlflow = _MlflowMetrics(to, client)
        else:
            raise ConfigurationError(
                "trackers.stream needs a TensorBoard SummaryWriter, a wandb run, or an MLflow run or its id, got "
                f"{type(to).__name__}"
            )

    def __call__(self, step: Step) -> None:
        """Log a step."""
        where = f"{self._tag}/sweep" if step.run is None else f"{self._tag}/race/run{step.run}"
        self._log(step.index, {f"{where}/{name}": getattr(step, name) for name in ("lr", "loss", "smoothed")})
        for number in range(self._ended, len(step.ended)):
            run, race = step.ended[number], f"{self._tag}/race"
            self._log(number + 1, {f"{race}/peak": run.lr, f"{race}/ended_at": run.loss})
        self._ended = len(step.ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Send what waits; the writer or run stays open. A search does so at its end."""
        if self._mlflow is not None:
            self._mlflow.send()


def _check(given: Any, name: str, kind: str, *parts: str) -> None:
    """Refuse what has not the parts that are used of it."""
    if isinstance(given, type) or not all(hasattr(given, part) for part in parts):
        raise ConfigurationError(f"{name} must be {kind}, got {kind_of(given)}: the Finding comes first, then that")


def _log_to_tensorboard(writer: Any, at: int, values: dict[str, float]) -> None:
    for name, value in values.items():
        writer.add_scalar(name, value, at)


def _log_to_wandb(run: Any, tag: str, at: int, values: dict[str, float]) -> None:
    run.log({f"{tag}/step": at, **values})


class _MlflowMetrics:
    """Metrics of an MLflow run, sent together once a second."""

    def __init__(self, run: Any, client: Any = None) -> None:
        if not isinstance(run, str):
            _check(run, "run", "what mlflow.start_run() returned, or its id", "info")
        if client is not None:
            _check(client, "client", "an MlflowClient", "log_batch")
        try:
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise MissingExtraError(
                "mlflow is not installed, whose run a text names; run: pip install mlflow"
            ) from None

        self.run_id = run if isinstance(run, str) else run.info.run_id
        self.client = MlflowClient() if client is None else client
        self._waiting: list[Any] = []
        self._sent = time.monotonic()

    def __call__(self, at: int, values: dict[str, float]) -> None:
        self.add(at, values)
        if time.monotonic() - self._sent >= _SEND_EVERY:
            self.send()

    def add(self, at: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now, at) for name, value in values.items()]

    def send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), _BATCH):
            self.client.log_batch(self.run_id, metrics=waiting[start : start + _BATCH])
        self._sent = time.monotonic()


def _numbers(finding: Finding) -> dict[str, float]:
    """The answer in numbers."""
    numbers = {"cost_steps": finding.cost.steps, "cost_seconds": finding.cost.seconds}
    if finding.suggestion is not None:
        numbers["suggestion"] = finding.lr
        numbers["interval_low"], numbers["interval_high"] = finding.interval
    return numbers


def _texts(finding: Finding) -> dict[str, str]:
    """The answer in words."""
    texts = {"verdict": finding.verdict.name, "why": finding.why, "stop": finding.stop.sentence}
    texts |= {"plan": plan_text(finding.plan), "next": next_text(finding)}
    if finding.suggestion is not None:
        texts["rule"] = finding.suggestion.rule
    return texts | {"facts": json.dumps(_facts(finding))}


def _facts(finding: Finding) -> dict[str, Any]:
    """The facts and the plan, in values that JSON has."""
    whole = finding.to_dict()
    return {**whole["facts"], "plan": whole["plan"]}
