"""What a search in a Trainer costs beside the Trainer's own steps, and beside Lightning's finder.

    python -m bench.lightning [--nets small large] [--rounds 20 4]

As ``bench.cost``, whose nets and clocks these are: rounds of all contestants in one process. What all are measured by
is a ``fit`` of as many steps, with no logger, callback, bar or checkpoint; it is there twice.
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.tuner import Tuner

from bench.cost import LOW, NETS, STEPS, Net, Training, keep_freed_memory, ratio, timed, trainings
from findlr.lightning import find_lr

FIT = "a fit"


class Module(LightningModule):
    """A training as Lightning has it."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        self.model, self.criterion, self.lr, self.parts = training.model, training.criterion, LOW, [training]

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        """The loss of a batch, which is logged."""
        loss = self.criterion(self.model(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The training's."""
        return self.parts[0].optimizer


def trainer(max_steps: int = 1000) -> Trainer:
    """A Trainer that does nothing but train."""
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(accelerator="cpu", max_steps=max_steps, default_root_dir=tempfile.gettempdir(), **off)


def fit(training: Training) -> Callable[[], Any]:
    """The steps alone."""
    return partial(trainer(STEPS).fit, Module(training), training.loader)


def ours(training: Training, *, control_variate: bool) -> Callable[[], Any]:
    """``findlr.lightning.find_lr``."""
    how = {"min_lr": LOW, "max_lr": training.max_lr, "num_steps": STEPS, "progress": False}
    return partial(find_lr, trainer(), Module(training), training.loader, control_variate=control_variate, **how)


def theirs(training: Training) -> Callable[[], Any]:
    """Lightning's finder."""
    how = {"min_lr": LOW, "max_lr": training.max_lr, "num_training": STEPS}
    return partial(Tuner(trainer()).lr_find, Module(training), training.loader, **how)


CONTESTANTS = {
    FIT: fit,
    "a fit again": fit,
    "findlr, `control_variate=False`": partial(ours, control_variate=False),
    "findlr, `control_variate=True`": partial(ours, control_variate=True),
    "Lightning's Tuner": theirs,
}


def measure(net: Net, rounds: int) -> dict[str, dict[str, float]]:
    """The time of each contestant over that of a fit in the same round."""
    training, order = trainings(net), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(rounds):
        for name in order.sample(list(CONTESTANTS), len(CONTESTANTS)):
            times[name].append(timed(CONTESTANTS[name](training()))[1])
    print(f"{net.said}: a fit takes {1e3 * np.median(times[FIT]) / STEPS:.2f} ms of CPU a step")
    return {name: ratio(np.array(each), np.array(times[FIT])) for name, each in times.items() if name != FIT}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--rounds", nargs="+", type=int, default=[20, 4], help="of each net")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()
    keep_freed_memory()
    for contestant in CONTESTANTS.values():  # warm
        timed(contestant(trainings(NETS["small"])()))
    found = [measure(NETS[name], rounds) for name, rounds in zip(arguments.nets, arguments.rounds, strict=True)]
    print("| times a fit of as many steps, CPU | " + " | ".join(NETS[name].said for name in arguments.nets) + " |")
    print("|---" * (len(found) + 1) + "|")
    for name in found[0]:
        cells = [f"{each[name]['median']:.2f} ({each[name]['low']:.2f} to {each[name]['high']:.2f})" for each in found]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
