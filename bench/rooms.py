"""What a search costs in each framework, beside that framework's own steps and its own finder.

    python -m bench.rooms [lightning huggingface accelerate ignite skorch fastai] [--nets small large] [--rounds 20 4]

As ``bench.cost``, whose nets and clocks these are: rounds of all contestants of a framework in one process. What they
are measured by is as many steps of the framework's, with no logger, callback, bar or checkpoint; they are there twice,
and how far the second row is from 1 is the noise.
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from bench.cost import LOW, NETS, STEPS, Net, Training, keep_freed_memory, timed, trainings
from bench.ratios import ratio, ratio_text

Run = Callable[[], Any]
Contestant = Callable[[Training], Run]
RANGE = {"min_lr": LOW, "num_steps": STEPS, "progress": False}
BARE, AGAIN = "its own steps", "its own steps again"


def lightning() -> dict[str, Contestant]:
    """A ``fit``, and Lightning's Tuner."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.tuner import Tuner

    from findlr.lightning import find_lr

    class Module(LightningModule):
        def __init__(self, training: Training) -> None:
            super().__init__()
            self.model, self.criterion, self.lr, self.parts = training.model, training.criterion, LOW, [training]

        def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
            loss = self.criterion(self.model(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.parts[0].optimizer

    def trainer(max_steps: int = 1000) -> Trainer:
        off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        return Trainer(accelerator="cpu", max_steps=max_steps, default_root_dir=tempfile.gettempdir(), **off)

    def bare(training: Training) -> Run:
        return partial(trainer(STEPS).fit, Module(training), training.loader)

    def ours(training: Training, **how: Any) -> Run:
        return partial(find_lr, trainer(), Module(training), training.loader, **how)

    def theirs(training: Training) -> Run:
        how = {"min_lr": LOW, "max_lr": training.max_lr, "num_training": STEPS}
        return partial(Tuner(trainer()).lr_find, Module(training), training.loader, **how)

    return contestants(bare, ours, {"Lightning's Tuner": theirs})


def huggingface() -> dict[str, Contestant]:
    """A Trainer's ``train``."""
    from transformers import Trainer, TrainingArguments

    from findlr.huggingface import find_lr

    class Wrapped(torch.nn.Module):
        def __init__(self, training: Training) -> None:
            super().__init__()
            self.model, self.criterion = training.model, training.criterion

        def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": self.criterion(self.model(inputs), labels)}

    def trainer(training: Training) -> Trainer:
        arguments = TrainingArguments(
            output_dir=tempfile.gettempdir(),
            max_steps=STEPS,
            per_device_train_batch_size=training.loader.batch_size or 1,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        rows = [{"inputs": inputs, "labels": labels} for inputs, labels in training.loader.dataset]
        # None: the trainer makes its schedule by itself
        return Trainer(Wrapped(training), arguments, train_dataset=rows, optimizers=(training.optimizer, None))

    return contestants(
        lambda training: trainer(training).train,
        lambda training, **how: partial(find_lr, trainer(training), **how),
    )


def accelerate() -> dict[str, Contestant]:
    """The loop of Accelerate's documentation."""
    from accelerate import Accelerator

    from findlr.accelerate import find_lr

    def bare(training: Training) -> Run:
        accelerator = Accelerator(cpu=True)
        model, optimizer, loader = accelerator.prepare(training.model, training.optimizer, training.loader)

        def run() -> None:
            losses = []
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = training.criterion(model(inputs), targets)
                accelerator.backward(loss)
                optimizer.step()
                losses.append(loss.item())

        return run

    def ours(training: Training, **how: Any) -> Run:
        accelerator = Accelerator(cpu=True)
        model, optimizer, loader = accelerator.prepare(training.model, training.optimizer, training.loader)
        return partial(find_lr, accelerator, model, optimizer, training.criterion, loader, **how)

    return contestants(bare, ours)


def ignite() -> dict[str, Contestant]:
    """A ``run`` of a supervised trainer, and Ignite's FastaiLRFinder."""
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import FastaiLRFinder

    from findlr.ignite import find_lr

    def trainer(training: Training) -> Any:
        return create_supervised_trainer(training.model, training.optimizer, training.criterion)

    def parts(training: Training) -> dict[str, Any]:
        return {"model": training.model, "optimizer": training.optimizer}

    def loss_fn(training: Training, model: Any, batch: Any) -> torch.Tensor:
        return training.criterion(model(batch[0]), batch[1])

    def bare(training: Training) -> Run:
        return partial(trainer(training).run, training.loader)

    def ours(training: Training, control_variate: bool, **how: Any) -> Run:
        given = {"loss_fn": partial(loss_fn, training)} if control_variate else {}
        return partial(find_lr, trainer(training), training.loader, to_save=parts(training), **given, **how)

    def theirs(training: Training) -> Run:
        engine = trainer(training)

        def run() -> None:
            finder = FastaiLRFinder()
            how = {"num_iter": STEPS, "start_lr": LOW, "end_lr": training.max_lr}
            with finder.attach(engine, parts(training), **how) as attached:
                attached.run(training.loader)

        return run

    return contestants(bare, ours, {"Ignite's FastaiLRFinder": theirs})


def skorch() -> dict[str, Contestant]:
    """A net's ``train_step`` on its own batches."""
    from skorch import NeuralNet
    from skorch.dataset import Dataset

    from findlr.skorch import find_lr

    def net(training: Training) -> Any:
        def made(_parameters: object, **_settings: float) -> torch.optim.Optimizer:
            return training.optimizer

        how = {"optimizer": made, "iterator_train__shuffle": True, "train_split": None, "verbose": 0}
        criterion = type(training.criterion)
        return NeuralNet(training.model, criterion, batch_size=training.loader.batch_size, **how).initialize()

    def bare(training: Training) -> Run:
        mine = net(training)

        def run() -> None:
            for batch in mine.get_iterator(Dataset(*training.loader.dataset.tensors), training=True):
                mine.train_step(batch)["loss"].item()

        return run

    def ours(training: Training, **how: Any) -> Run:
        return partial(find_lr, net(training), *training.loader.dataset.tensors, **how)

    return contestants(bare, ours)


def fastai() -> dict[str, Contestant]:
    """A Learner's ``fit``, and fastai's ``lr_find``."""
    import fastai.callback.schedule  # noqa: F401 - gives a Learner its lr_find
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    from findlr.fastai import find_lr

    def learner(training: Training) -> Any:
        def opt_func(_parameters: object, **_settings: float) -> OptimWrapper:
            return OptimWrapper(opt=training.optimizer)

        loaders = DataLoaders(training.loader, [])
        return Learner(
            loaders, training.model, loss_func=training.criterion, opt_func=opt_func, path=tempfile.gettempdir()
        )

    def bare(training: Training) -> Run:
        mine = learner(training)

        def run() -> None:
            with mine.no_logging(), mine.no_bar():
                mine.fit(1)

        return run

    def theirs(training: Training) -> Run:
        mine = learner(training)

        def run() -> None:
            with mine.no_bar():
                mine.lr_find(LOW, training.max_lr, STEPS, show_plot=False)

        return run

    return contestants(
        bare, lambda training, **how: partial(find_lr, learner(training), **how), {"fastai's lr_find": theirs}
    )


def contestants(
    bare: Contestant, ours: Callable[..., Run], theirs: Mapping[str, Contestant] = MappingProxyType({})
) -> dict[str, Contestant]:
    """The framework's own steps, twice, our search in both ways, and its own finder if it has one."""

    def without_variate(training: Training) -> Run:
        return ours(training, control_variate=False, max_lr=training.max_lr, **RANGE)

    def with_variate(training: Training) -> Run:
        return ours(training, control_variate=True, max_lr=training.max_lr, **RANGE)

    return {
        BARE: bare,
        AGAIN: bare,
        "findlr, `control_variate=False`": without_variate,
        "findlr, `control_variate=True`": with_variate,
        **theirs,
    }


FRAMEWORKS = {each.__name__: each for each in (lightning, huggingface, accelerate, ignite, skorch, fastai)}


def measure(entered: Mapping[str, Contestant], net: Net, rounds: int) -> dict[str, dict[str, float]]:
    """The CPU time of each contestant over that of the framework's own steps in the same round."""
    training, order = trainings(net), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in entered}
    for _ in range(rounds):
        for name in order.sample(list(entered), len(entered)):
            times[name].append(timed(entered[name](training()))[1])
    print(f"{net.said}: {1e3 * np.median(times[BARE]) / STEPS:.2f} ms of CPU for a step of its own", flush=True)
    return {name: ratio(np.array(each), np.array(times[BARE])) for name, each in times.items() if name != BARE}


def main() -> None:
    """Measure, and print a table for each framework."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frameworks", nargs="*", choices=[*FRAMEWORKS, "all"], default="all")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--rounds", nargs="+", type=int, default=[20, 4], help="of each net")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    keep_freed_memory()
    for framework in FRAMEWORKS if "all" in arguments.frameworks else arguments.frameworks:
        entered = FRAMEWORKS[framework]()
        logging.disable()  # they say what they do, at each call
        for contestant in entered.values():  # warm
            timed(contestant(trainings(NETS["small"])()))
        found = [
            measure(entered, NETS[name], count) for name, count in zip(arguments.nets, arguments.rounds, strict=False)
        ]
        print(
            f"| {framework}: times its own steps, CPU | "
            + " | ".join(NETS[name].said for name in arguments.nets)
            + " |"
        )
        print("|---" * (len(found) + 1) + "|")
        for name in found[0]:
            cells = [ratio_text(each[name]) for each in found]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
