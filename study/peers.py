"""What the other finders suggest on the benchmark's tasks, each by its real package, into ``peers.json``.

Runs in an environment of its own (``peers-requirements.txt``), never in findlr's, from the repository's root:

    PYTHONPATH=src python -m study.peers [name of a task ...]

A finder gets a fresh set-up of each seed. It is called as its documentation calls it, at its defaults, with the
optimizer at its default rate. Two finders start from the optimizer's rate and leave it to the user to lower it
first, so both are there a second time, called as their own guide does. A run resumes: only what is missing, or was
made from other data or weights, is run.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from fastai.callback.schedule import minimum, slide, steep, valley
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from ignite.engine import create_supervised_trainer
from ignite.handlers import FastaiLRFinder
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.tuner import Tuner
from matplotlib import pyplot as plt
from torch import Tensor
from torch.optim import Optimizer
from torch_lr_finder import LRFinder

from study.answers import PEERS, SEEDS, add, load
from study.regret import DEFAULT_LR
from study.rounds import chosen, go
from study.tasks import Setup, Task

PACKAGES = ("fastai", "torch-lr-finder", "lightning", "pytorch-ignite", "torch")

Answer = float | str | None  # a rate; None where the finder gives none; the text of what it raised
Suggest = Callable[[Setup, Optimizer, str], dict[str, Answer]]


def error_text(error: Exception) -> str:
    """The error's type and the first line of its message."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def suggest_fastai(setup: Setup, optimizer: Optimizer, folder: str) -> dict[str, Answer]:
    """``Learner.lr_find`` once with its four suggestion functions; one that raises does not hide the others."""
    answers: dict[str, Answer] = {}

    def kept(rule: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(lrs: Tensor, losses: Tensor, num_it: int) -> tuple[float, tuple[float, float]]:
            try:
                answer, point = rule(lrs, losses, num_it)
            except Exception as error:  # noqa: BLE001 - whatever it raises is its answer
                answers[f"fastai_{rule.__name__}"] = error_text(error)
                return math.nan, (math.nan, math.nan)
            answers[f"fastai_{rule.__name__}"] = answer
            return answer, point

        wrapped.__name__ = rule.__name__
        return wrapped

    loaders = DataLoaders(setup.loader, setup.validation_loader)

    def opt_func(_params: object, **_hypers: float) -> OptimWrapper:
        return OptimWrapper(opt=optimizer)

    learner = Learner(loaders, setup.model, loss_func=setup.criterion, opt_func=opt_func, path=folder)
    with learner.no_bar():
        learner.lr_find(show_plot=False, suggest_funcs=tuple(map(kept, (valley, slide, minimum, steep))))
    return answers


def suggest_torch_lr_finder(
    setup: Setup, optimizer: Optimizer, _folder: str, *, name: str = "torch_lr_finder", end_lr: float = 10.0
) -> dict[str, Answer]:
    """``LRFinder.range_test`` over 100 steps, and the suggestion that its plot returns."""
    finder = LRFinder(setup.model, optimizer, setup.criterion, device="cpu")
    finder.range_test(setup.loader, end_lr=end_lr, num_iter=100)
    _axes, suggestion = finder.plot(suggest_lr=True)
    return {name: suggestion}


def suggest_ignite(
    setup: Setup, optimizer: Optimizer, _folder: str, *, name: str = "ignite", **settings: Any
) -> dict[str, Answer]:
    """``FastaiLRFinder`` over the trainer's run, which is one epoch unless ``num_iter`` says otherwise."""
    trainer = create_supervised_trainer(setup.model, optimizer, setup.criterion)
    finder = FastaiLRFinder()
    with finder.attach(trainer, to_save={"model": setup.model, "optimizer": optimizer}, **settings) as attached:
        attached.run(setup.loader)
    return {name: finder.lr_suggestion()}


class Module(LightningModule):
    """A set-up as a LightningModule."""

    def __init__(self, setup: Setup, optimizer: Optimizer) -> None:
        """Keep the model, the loss and the optimizer."""
        super().__init__()
        self.model, self.criterion, self.optimizer = setup.model, setup.criterion, optimizer
        self.lr = optimizer.param_groups[0]["lr"]

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of a batch."""
        inputs, targets = batch
        return self.criterion(self.model(inputs), targets)

    def configure_optimizers(self) -> Optimizer:
        """The task's optimizer."""
        return self.optimizer


def suggest_lightning(setup: Setup, optimizer: Optimizer, folder: str) -> dict[str, Answer]:
    """``Tuner.lr_find`` and its ``suggestion()``, with the Trainer's default number of epochs."""
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    finder = Tuner(trainer).lr_find(Module(setup, optimizer), train_dataloaders=setup.loader)
    return {"lightning": finder.suggestion()}


@dataclass(frozen=True)
class Finder:
    """How one finder is called.

    Args:
        names: of its suggestions.
        suggest: gives them, by name.
        start_lr: the optimizer's rate at the call; None for its default.
    """

    names: tuple[str, ...]
    suggest: Suggest
    start_lr: float | None = None


FINDERS = (
    Finder(("fastai_valley", "fastai_slide", "fastai_minimum", "fastai_steep"), suggest_fastai),
    Finder(("torch_lr_finder",), suggest_torch_lr_finder),
    # Its README: an optimizer at 1e-7, up to 100.
    Finder(
        ("torch_lr_finder_readme",),
        partial(suggest_torch_lr_finder, name="torch_lr_finder_readme", end_lr=100.0),
        start_lr=1e-7,
    ),
    Finder(("ignite",), suggest_ignite),
    # Its guide starts at 1e-6 and has 469 batches an epoch; 100 steps where the epochs here are short.
    Finder(("ignite_guide",), partial(suggest_ignite, name="ignite_guide", num_iter=100), start_lr=1e-6),
    Finder(("lightning",), suggest_lightning),
)


def fingerprint(task: Task, setup: Setup) -> str:
    """A short hash of all that a finder sees of the task: training data, model, initial weights, batches, optimizer."""
    data = task.data()
    digest = hashlib.sha256(f"{task.optimizer} {task.batch_size} {setup.model}".encode())
    for tensor in (data.inputs, data.targets, *setup.model.state_dict().values()):
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def ask(finder: Finder, task: Task, seed: int) -> dict[str, dict[str, Any]]:
    """Ask a finder for its suggestions on a fresh set-up, and count the optimizer steps that it takes.

    Args:
        finder: whom to ask.
        task: what to train.
        seed: of the weights, the order of the data and dropout.

    Returns:
        For each of the finder's names, the rate or None, the steps, the seconds, and the reason where there is no rate.
    """
    setup = task.make(seed)
    made_from = fingerprint(task, setup)
    optimizer = setup.make_optimizer(setup.model.parameters(), finder.start_lr or DEFAULT_LR[task.optimizer])
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    optimizer.register_step_post_hook(count)
    torch.manual_seed(seed)
    start = time.perf_counter()
    answers: dict[str, Answer]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                answers = finder.suggest(setup, optimizer, folder)
            except Exception as error:  # noqa: BLE001 - whatever it raises is its answer
                answers = dict.fromkeys(finder.names, error_text(error))
    plt.close("all")
    shared = {"steps": steps, "seconds": round(time.perf_counter() - start, 3), "made_from": made_from}
    return {name: as_record(answers[name]) | shared for name in finder.names}


def as_record(answer: Answer) -> dict[str, Any]:
    """The rate and, where there is none, the reason."""
    if isinstance(answer, str):
        return {"lr": None, "reason": answer}
    if answer is None:
        return {"lr": None, "reason": "returned None"}
    if isinstance(answer, list):  # Ignite's, one for each param group
        answer = max(answer)
    if not (math.isfinite(answer) and answer > 0):
        return {"lr": None, "reason": f"suggested {answer}"}
    return {"lr": float(answer), "reason": None}


def up_to_date(records: dict[str, dict[str, Any]], finder: Finder, seed: int, made_from: str) -> bool:
    """Whether all of the finder's answers are there and made from the same data and weights."""
    found = [records.get(name, {}).get(str(seed)) for name in finder.names]
    return all(record is not None and record["made_from"] == made_from for record in found)


def missing(task: Task) -> Iterator[tuple[Finder, int]]:
    """The finders that are to be asked, with their seeds."""
    records = load(PEERS).get(task.name, {})
    for seed in SEEDS:
        made_from = fingerprint(task, task.make(seed))
        yield from ((finder, seed) for finder in FINDERS if not up_to_date(records, finder, seed, made_from))


def record(task: Task, finder: Finder, seed: int) -> None:
    """Ask, and record the suggestions."""
    answers = {name: {seed: answer} for name, answer in ask(finder, task, seed).items()}
    add(PEERS, task.name, answers, {package: version(package) for package in PACKAGES})


def main() -> None:
    """Run the tasks named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="tasks; all if none is given")
    names = parser.parse_args().names
    plt.switch_backend("Agg")
    for logger in ("lightning.pytorch", "ignite", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    go("peers", chosen(names), missing, record)


if __name__ == "__main__":
    main()
