"""A Finding in a tracker: its curve, its picture and its answer, added to the user's own live writer or run."""

from __future__ import annotations

import json
import time
from typing import Any

from findlr.analysis.text import printable
from findlr.finding import Finding
from findlr.finding.telling import next_text, plan_text
from findlr.views.figures import picture

_BATCH = 1000  # metrics that MLflow takes at once


def tensorboard(finding: Finding, writer: Any, tag: str = "findlr") -> None:
    """Add a Finding to a TensorBoard log.

    The curve is a scalar per point, at its step; the picture an image; the answer a text, and scalars.

    Args:
        finding: with or without a suggestion.
        writer: an open ``torch.utils.tensorboard.SummaryWriter``, or one like it; it is not closed.
        tag: what the names begin with.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
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
        MissingExtraError: matplotlib is not installed.
    """
    from io import BytesIO

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
        MissingExtraError: matplotlib is not installed.
    """
    from mlflow.entities import Metric, RunTag
    from mlflow.tracking import MlflowClient

    client = MlflowClient() if client is None else client
    run_id = run if isinstance(run, str) else run.info.run_id
    now = int(time.time() * 1000)
    metrics = [
        Metric(f"{tag}/{name}", value, now, step)
        for name, values in finding.columns().items()
        for step, value in enumerate(values.tolist())
    ]
    metrics += [Metric(f"{tag}/{name}", number, now, 0) for name, number in _numbers(finding).items()]
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
    client.log_batch(run_id, tags=[RunTag(f"{tag}.{name}", value) for name, value in _texts(finding).items()])
    client.log_figure(run_id, picture(finding.plot), f"{tag}/curve.png")
    client.log_dict(run_id, finding.to_dict(), f"{tag}/finding.json")


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
