"""The real packages, offline: what was written is read back, and the user's run goes on as it was."""

import io
import json
import math
import os
import warnings

import numpy as np
import pytest
from PIL import Image

from findlr import ConfigurationError, Curve, Finding, Plan, Stop, find, trackers
from findlr.analysis.answer import answer
from findlr.finding import Cost
from findlr.testing import Quadratic

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

FINDING = find(Quadratic(noise=0.1), num_steps=400)  # more values than an MLflow server takes at once
REFUSED = find(Quadratic(), max_lr=1e-4)
BROKEN = Finding(
    *answer(Curve([1e-3, 1e-2], [2.0, math.nan], [2.0, 2.0]), Plan()),
    Stop.NOT_FINITE,
    Curve([1e-3, 1e-2], [2.0, math.nan], [2.0, 2.0]),
    Plan(),
    Cost(2, 2, 2, 0.1),
    {"odd": math.inf},
)
findings = pytest.mark.parametrize("finding", [FINDING, REFUSED, BROKEN], ids=["found", "refused", "not finite"])


def same(seen, expected):
    np.testing.assert_allclose(seen, expected, rtol=1e-6)  # a tracker may keep float32


@pytest.fixture(scope="module")
def mlflow_client(tmp_path_factory):
    from mlflow import MlflowClient

    class AsStrictAsAServer(MlflowClient):
        def log_batch(self, run_id, metrics=(), **rest):
            assert len(metrics) <= 1000
            super().log_batch(run_id, metrics, **rest)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it is made of
        return AsStrictAsAServer(tracking_uri=f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")


@findings
def test_tensorboard(finding, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        trackers.tensorboard(finding, writer)
        writer.add_scalar("mine", 1.0, 7)  # it is still open
    log = EventAccumulator(str(tmp_path))
    log.Reload()
    for name, values in finding.columns().items():
        events = log.Scalars(f"findlr/{name}")
        assert [event.step for event in events] == list(range(len(values)))
        same([event.value for event in events], values)
    (image,) = log.Images("findlr/curve")
    assert Image.open(io.BytesIO(image.encoded_image_string)).size > (300, 200)
    (text,) = log.Tensors("findlr/finding/text_summary")
    assert finding.why in text.tensor_proto.string_val[0].decode()
    assert [event.step for event in log.Scalars("mine")] == [7]
    if finding.suggestion is not None:
        same(
            [log.Scalars(f"findlr/{name}")[0].value for name in ("suggestion", "interval_low")],
            [finding.lr, finding.interval[0]],
        )
    else:
        assert "findlr/suggestion" not in log.Tags()["scalars"]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@findings
def test_wandb(finding, tmp_path):
    import wandb

    run = wandb.init(mode="offline", dir=tmp_path, project="test", settings=wandb.Settings(silent=True, console="off"))
    run.log({"mine": 1.0})
    before = run.step
    trackers.wandb(finding, run)
    assert run.step == before
    run.log({"mine": 2.0})
    assert run.step == before + 1
    assert run.summary["findlr/verdict"] == finding.verdict.name
    assert run.summary["findlr/why"] == finding.why
    assert run.summary.get("findlr/suggestion") == (None if finding.suggestion is None else finding.lr)
    assert run.config["findlr"]["plan"]["schedule"] == "constant"
    run.finish()
    (table,) = tmp_path.rglob("*.table.json")
    written = json.loads(table.read_text())
    assert written["columns"] == ["log10_lr", *finding.columns()]
    rows = np.array(written["data"], dtype=float)
    same(rows[:, 1], finding.curve.lr)
    same(rows[:, 2], finding.curve.loss)
    (picture,) = tmp_path.rglob("*.png")
    assert Image.open(picture).size > (300, 200)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@findings
def test_mlflow(finding, tmp_path, mlflow_client):
    client = mlflow_client
    run = client.create_run(client.create_experiment(tmp_path.name, artifact_location=f"file://{tmp_path}/artifacts"))
    trackers.mlflow(finding, run, client)
    for name, values in finding.columns().items():
        history = sorted(client.get_metric_history(run.info.run_id, f"findlr/{name}"), key=lambda metric: metric.step)
        assert [metric.step for metric in history] == list(range(len(values)))
        same([metric.value for metric in history], values)
    seen = client.get_run(run.info.run_id)
    assert seen.info.status == "RUNNING"
    assert seen.data.tags["findlr.verdict"] == finding.verdict.name
    assert seen.data.tags["findlr.why"] == finding.why
    assert "1,000 steps (assumed: no total_steps was given)" in seen.data.tags["findlr.plan"]
    assert seen.data.tags["findlr.next"]
    assert seen.data.metrics.get("findlr/suggestion") == (None if finding.suggestion is None else finding.lr)
    kept = tmp_path / "artifacts" / run.info.run_id / "artifacts" / "findlr"
    assert Finding.load(kept / "finding.json") == finding
    assert Image.open(kept / "curve.png").size > (300, 200)


def race_seen():
    """A search with a race, and what its own on_step sees of it."""
    steps = []
    training = lambda: Quadratic(noise=0.1)  # noqa: E731
    finding = find(training(), Plan(total_steps=400), verify=True, on_step=steps.append)
    runs = {number: [step for step in steps if step.run == number] for number in (1, 2, 3)}
    return finding, [step for step in steps if step.run is None], runs, training


def test_a_search_is_streamed_to_tensorboard_while_it_runs(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    finding, sweep, runs, training = race_seen()
    with SummaryWriter(tmp_path) as writer:
        again = find(training(), Plan(total_steps=400), verify=True, on_step=trackers.stream(writer))
        writer.add_scalar("mine", 1.0, 7)  # it is still open
    assert again == finding
    log = EventAccumulator(str(tmp_path))
    log.Reload()
    same([event.value for event in log.Scalars("findlr/sweep/loss")], [step.loss for step in sweep])
    for number, steps in runs.items():
        events = log.Scalars(f"findlr/race/run{number}/smoothed")
        assert [event.step for event in events] == [step.index for step in steps]
        same([event.value for event in events], [step.smoothed for step in steps])
    ended = log.Scalars("findlr/race/ended_at")
    assert [event.step for event in ended] == [1, 2, 3]
    same([event.value for event in ended], [run.loss for run in finding.race.runs])
    same([event.value for event in log.Scalars("findlr/race/peak")], [run.lr for run in finding.race.runs])


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_search_is_streamed_to_wandb_while_it_runs(tmp_path):
    import wandb

    finding, sweep, runs, training = race_seen()
    run = wandb.init(mode="offline", dir=tmp_path, project="test", settings=wandb.Settings(silent=True, console="off"))
    find(training(), Plan(total_steps=400), verify=True, on_step=trackers.stream(run))
    assert run.step == len(sweep) + sum(map(len, runs.values())) + len(runs)
    assert run.summary["findlr/sweep/loss"] == sweep[-1].loss
    assert run.summary["findlr/race/ended_at"] == finding.race.runs[-1].loss
    run.finish()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_search_is_streamed_to_mlflow_while_it_runs(tmp_path, mlflow_client):
    finding, sweep, runs, training = race_seen()
    run = mlflow_client.create_run(mlflow_client.create_experiment(tmp_path.name))
    find(training(), Plan(total_steps=400), verify=True, on_step=trackers.stream(run, mlflow_client))

    def history(name):
        metrics = mlflow_client.get_metric_history(run.info.run_id, f"findlr/{name}")
        return [metric.value for metric in sorted(metrics, key=lambda metric: metric.step)]

    same(history("sweep/loss"), [step.loss for step in sweep])
    same(history("race/run3/lr"), [step.lr for step in runs[3]])
    same(history("race/ended_at"), [run.loss for run in finding.race.runs])
    assert mlflow_client.get_run(run.info.run_id).info.status == "RUNNING"


def test_a_stream_needs_a_tracker():
    with pytest.raises(ConfigurationError, match="needs a TensorBoard SummaryWriter"):
        trackers.stream(object())


@findings
def test_csv_keeps_every_bit(finding, tmp_path):
    finding.to_csv(tmp_path / "curve.csv")
    header, *rows = (tmp_path / "curve.csv").read_text().splitlines()
    assert header.split(",") == list(finding.columns())
    np.testing.assert_array_equal([list(map(float, row.split(","))) for row in rows], finding.to_pandas().to_numpy())


@findings
def test_json_lines_are_strict_json(finding, tmp_path):
    finding.to_jsonl(tmp_path / "curve.jsonl")
    refuse = pytest.fail
    points = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [point["lr"] for point in points] == finding.curve.lr.tolist()
    expected = [loss if math.isfinite(loss) else None for loss in finding.curve.loss.tolist()]
    assert [point["loss"] for point in points] == expected


def test_an_empty_curve_has_only_a_header(tmp_path):
    empty = Finding(*answer(Curve([], []), Plan()), Stop.INTERRUPTED, Curve([], []), Plan(), Cost(0, 0, 0, 0.0), {})
    empty.to_csv(tmp_path / "curve.csv")
    assert (tmp_path / "curve.csv").read_text() == "lr,loss,smoothed\n"
    empty.to_jsonl(tmp_path / "curve.jsonl")
    assert (tmp_path / "curve.jsonl").read_text() == ""
