"""Record what the real fastai suggests on real and scripted loss curves, for the parity tests of findlr.

Runs in an environment of its own (`study/peers-requirements.txt`), never in findlr's:

    python tests/parity/record_fastai.py

It writes `fastai_curves.json` beside itself. Every curve goes through the real `Learner.lr_find`: its smoothing, its
stop, its cut of both ends and at the first NaN, and its four suggestion functions. A scripted curve is a `Learner`
whose loss function returns prescribed values, so that only the raw loss is ours.
"""

import json
import math
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fastai
import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import minimum, slide, steep, valley
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

OUTPUT = Path(__file__).with_name("fastai_curves.json")
RULES: tuple[Callable[..., Any], ...] = (valley, slide, minimum, steep)


class RawLosses(Callback):
    """Keeps the loss of each batch, after the recorder (order 50) and before the finder may stop (order 60)."""

    order = 55

    def __init__(self) -> None:
        """Start with no value."""
        self.values: list[float] = []

    def after_batch(self) -> None:
        """Append the loss of the batch that has just been trained on."""
        self.values.append(self.learn.loss.item())


def answering(rule: Callable[..., Any], answers: dict[str, float | str]) -> Callable[..., Any]:
    """Wrap one of fastai's rules so that its answer, or the name of what it raises, lands in `answers`.

    Args:
        rule: the suggestion function.
        answers: filled in under the rule's name.

    Returns:
        A suggestion function that never raises.
    """

    def wrapped(lrs: Tensor, losses: Tensor, num_it: int) -> tuple[float, tuple[float, float]]:
        try:
            suggestion, point = rule(lrs, losses, num_it)
        except Exception as error:  # noqa: BLE001 - the name of whatever it raises is the answer
            answers[rule.__name__] = type(error).__name__
            return math.nan, (math.nan, math.nan)
        answers[rule.__name__] = float(suggestion)
        return suggestion, point

    wrapped.__name__ = rule.__name__
    return wrapped


def find(learner: Learner, start_lr: float, end_lr: float, num_it: int) -> dict[str, Any]:
    """Run `lr_find` and gather what it recorded and answered.

    Args:
        learner: the learner to test.
        start_lr: first rate, positive.
        end_lr: last rate, above `start_lr`.
        num_it: number of steps planned.

    Returns:
        The rates, the raw and the smoothed losses (NaN as None) and the four answers.
    """
    answers: dict[str, float | str] = {}
    raw = RawLosses()
    learner.add_cb(raw)
    rules = tuple(answering(rule, answers) for rule in RULES)
    with learner.no_bar():
        learner.lr_find(start_lr=start_lr, end_lr=end_lr, num_it=num_it, show_plot=False, suggest_funcs=rules)
    return {
        "num_it": num_it,
        "lrs": plain(learner.recorder.lrs),
        "raw_losses": plain(raw.values),
        "smoothed_losses": plain(learner.recorder.losses),
        "answers": answers,
    }


def plain(values: Sequence[float | Tensor]) -> list[float | None]:
    """Turn numbers or scalar tensors into floats, with None for NaN, as JSON has none."""
    floats = [float(value) for value in values]
    return [None if math.isnan(value) else value for value in floats]


@dataclass(frozen=True)
class Digits:
    """One real range test on scikit-learn's digits."""

    name: str
    optimizer: partial[torch.optim.Optimizer]
    net: str = "mlp"
    seed: int = 0
    batch_size: int = 64
    start_lr: float = 1e-7
    end_lr: float = 10.0
    num_it: int = 100

    def record(self, path: Path) -> dict[str, Any]:
        """Build the learner with this seed and record its range test."""
        random.seed(self.seed)
        np.random.seed(self.seed)
        torch.manual_seed(self.seed)
        images, labels = load_digits(return_X_y=True)
        inputs = torch.tensor(images / 16.0, dtype=torch.float32)
        data = TensorDataset(inputs, torch.tensor(labels))
        loaders = DataLoaders(DataLoader(data, self.batch_size, shuffle=True), DataLoader(data, self.batch_size))
        opt_func = partial(OptimWrapper, opt=self.optimizer)
        learner = Learner(loaders, net(self.net), loss_func=nn.CrossEntropyLoss(), opt_func=opt_func, path=path)
        return find(learner, self.start_lr, self.end_lr, self.num_it)


def net(kind: str) -> nn.Module:
    """Return a small classifier of 8 x 8 images given as 64 numbers: "linear", "mlp", "cnn" or "batchnorm"."""
    if kind == "linear":
        return nn.Linear(64, 10)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    if kind == "batchnorm":
        return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
    conv = nn.Conv2d(1, 8, 3, padding=1)
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), conv, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))


SGD = partial(torch.optim.SGD)
MOMENTUM = partial(torch.optim.SGD, momentum=0.9)
ADAM = partial(torch.optim.Adam)
ADAMW = partial(torch.optim.AdamW)
RMSPROP = partial(torch.optim.RMSprop)

REAL = (
    Digits("digits, mlp, sgd", SGD),
    Digits("digits, mlp, momentum", MOMENTUM, seed=1),
    Digits("digits, mlp, adam, 200 steps", ADAM, seed=2, num_it=200),
    Digits("digits, cnn, adamw", ADAMW, net="cnn", seed=3),
    Digits("digits, cnn, momentum, 50 steps", MOMENTUM, net="cnn", seed=4, num_it=50),
    Digits("digits, batchnorm, sgd, batches of 8", SGD, net="batchnorm", seed=5, batch_size=8),
    Digits("digits, batchnorm, adam, 1e-5 to 1", ADAM, net="batchnorm", seed=6, start_lr=1e-5, end_lr=1.0),
    Digits("digits, linear, rmsprop, 1e-6 to 100", RMSPROP, net="linear", seed=7, start_lr=1e-6, end_lr=100.0),
)


class Scripted(nn.Module):
    """A loss that returns the next prescribed value whatever the model does, with a gradient of zero."""

    def __init__(self, values: Sequence[float]) -> None:
        """Keep the values, one per step."""
        super().__init__()
        self.values = torch.tensor(values, dtype=torch.float32)
        self.step = 0

    def forward(self, prediction: Tensor, _target: Tensor) -> Tensor:
        """Return the value of this step."""
        value = self.values[self.step]
        self.step += 1
        return prediction.sum() * 0.0 + value


def record_scripted(values: Sequence[float], path: Path) -> dict[str, Any]:
    """Record what fastai makes of prescribed raw losses over 1e-7 to 10, one per step."""
    ones = TensorDataset(torch.ones(1000, 1), torch.zeros(1000))
    loaders = DataLoaders(DataLoader(ones, 1), DataLoader(ones, 1))
    opt_func = partial(OptimWrapper, opt=SGD)
    learner = Learner(loaders, nn.Linear(1, 1), loss_func=Scripted(values), opt_func=opt_func, path=path)
    return find(learner, 1e-7, 10.0, len(values))


def scripted() -> dict[str, np.ndarray]:
    """Return the prescribed raw losses by name; positions are fractions of the sweep."""
    generator = np.random.default_rng(20)
    at = np.linspace(0.0, 1.0, 100)
    falling = 2.3 - 1.8 / (1.0 + np.exp(-30.0 * (at - 0.55)))
    bowl = falling + np.exp(25.0 * (at - 0.93))
    fine = np.linspace(0.0, 1.0, 200)
    long_bowl = 2.3 - 1.8 / (1.0 + np.exp(-30.0 * (fine - 0.5))) + np.exp(25.0 * (fine - 0.9))
    late_nan = bowl.copy()
    late_nan[85:] = np.nan
    early_nan = bowl.copy()
    early_nan[5:] = np.nan
    early_divergence = np.where(at < 0.25, 2.3 - 2.0 * at, np.exp(40.0 * (at - 0.25)))
    at_once = np.where(at < 0.03, 1.0, 1e6)
    return {
        "scripted, smooth valley": bowl,
        "scripted, smooth valley, 200 steps": long_bowl,
        "scripted, noisy valley": bowl + generator.normal(0.0, 0.05, at.size),
        "scripted, very noisy valley": bowl + generator.normal(0.0, 0.4, at.size),
        "scripted, sawtooth on a falling trend": 2.3 - 1.5 * at + 0.6 * (np.arange(at.size) % 10) / 10.0,
        "scripted, coarse sawtooth on a falling trend": 2.3 - 1.5 * at + 1.5 * (np.arange(at.size) % 30) / 30.0,
        "scripted, rising": 1.0 + at,
        "scripted, flat": np.ones(100),
        "scripted, two valleys": 2.3 - np.exp(-200.0 * (at - 0.3) ** 2) - 2.0 * np.exp(-200.0 * (at - 0.7) ** 2),
        "scripted, falling throughout": falling,
        "scripted, early divergence": early_divergence,
        "scripted, divergence at once": at_once,
        "scripted, NaN late": late_nan,
        "scripted, NaN early": early_nan,
        "scripted, negative from the middle": bowl - 1.2,
    }


def record() -> dict[str, Any]:
    """Record every curve and return the document, versions first."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        curves = {test.name: test.record(path) for test in REAL}
        curves |= {name: record_scripted(values.tolist(), path) for name, values in scripted().items()}
    return {
        "fastai": fastai.__version__,
        "torch": torch.__version__,
        "command": "python tests/parity/record_fastai.py",
        "how": "real Learner.lr_find; answers on [num_it // 10:-5], cut at the first NaN; an exception as its name; "
        "a NaN as null; raw losses are prescribed (float32) where the name says scripted",
        "curves": curves,
    }


def write(document: dict[str, Any], output: Path = OUTPUT) -> None:
    """Write the document with one line per field of a curve."""
    text = json.dumps(document, indent=1, allow_nan=False)
    lines: list[str] = []
    for line in text.splitlines():
        inside = lines and lines[-1].endswith((",", "[")) and lines[-1].count("[") > lines[-1].count("]")
        lines[-1:] = [lines[-1] + line.strip()] if inside else [*lines[-1:], line]
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(record())
