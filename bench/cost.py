"""What a search costs beside a bare loop over the same steps: ours and, where they are installed, the other finders'.

    python -m bench.cost [--nets small large] [--rounds 40 4] [--threads 1]

Everything runs in one process, in rounds: each round times every contestant once, in a new order. A figure is the
median over the rounds of a contestant's time over that of the bare loop in the same round; its interval holds 95 % of
the medians of resampled rounds. The bare loop is there twice: how far its second row is from 1 is the noise. Wall time
is what a user waits; CPU time does not count waiting for a core that others use.

A bare loop draws a batch, writes the rate, runs zero_grad, forward, backward and step, and reads the loss. A finder has
its set-up and its restoring in; what its user has anyway (a Learner, a Trainer, an engine) is made before. All sweep
100 steps from 1e-8 to 1e-4, where nothing diverges; an untimed run of each checks that they do.

Freed memory stays with the process, as it does with a GPU's allocator, jemalloc and tcmalloc. glibc's usual one gives a
large net's gradients back to the system at each step and takes them again, or does not, as the heap happens to lie:
two rows of the same loop then differ by a quarter.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes
import gc
import io
import itertools
import json
import logging
import math
import os
import platform
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from bench.ratios import ratio, ratio_text

OUTPUT = Path(__file__).parents[1] / "docs" / "performance.json"
STEPS, BATCH = 100, 64
LOW, HIGH = 1e-8, 1e-4
PACKAGES = ("torch", "numpy", "torch-lr-finder", "pytorch-ignite", "lightning", "fastai")
BARE, AGAIN = "a bare loop", "the bare loop again"


@dataclass(frozen=True)
class Training:
    """What everyone is given, new each time."""

    model: nn.Module
    optimizer: optim.Optimizer
    criterion: nn.Module
    loader: DataLoader[Any]
    max_lr: float


@dataclass(frozen=True)
class Net:
    """One size of training."""

    said: str
    widths: tuple[int, ...]
    make_optimizer: Callable[[Iterable[nn.Parameter]], optim.Optimizer]

    def model(self) -> nn.Module:
        """A perceptron of these widths."""
        pairs = itertools.pairwise(self.widths)
        layers = itertools.chain.from_iterable((nn.Linear(a, b), nn.ReLU()) for a, b in pairs)
        return nn.Sequential(*list(layers)[:-1])


NETS = {
    "small": Net("784-100-10, SGD with momentum", (784, 100, 10), partial(optim.SGD, lr=LOW, momentum=0.9)),
    "large": Net("13.5 M parameters, AdamW", (784, 2400, 2400, 2400, 10), partial(optim.AdamW, lr=LOW)),
}

Answer = Callable[[], float]  # the rate that a finder suggests, once it is asked
Prepared = Callable[[], Answer]  # the part that is timed


def bare(training: Training) -> Prepared:
    """The loop that a range test can't do without."""

    def run() -> Answer:
        losses = []
        group = training.optimizer.param_groups[0]
        stream = itertools.chain.from_iterable(itertools.repeat(training.loader))
        for lr in np.geomspace(LOW, training.max_lr, STEPS).tolist():
            inputs, targets = next(stream)
            group["lr"] = lr
            training.optimizer.zero_grad()
            loss = training.criterion(training.model(inputs), targets)
            loss.backward()
            training.optimizer.step()
            losses.append(loss.item())
        return lambda: math.nan

    return run


def ours(training: Training, *, control_variate: bool) -> Prepared:
    """``find_lr``."""
    from findlr import find_lr

    def run() -> Answer:
        finding = find_lr(
            *(training.model, training.optimizer, training.criterion, training.loader),
            min_lr=LOW,
            max_lr=training.max_lr,
            num_steps=STEPS,
            control_variate=control_variate,
            progress=False,
        )
        return lambda: finding.lr

    return run


def torch_lr_finder(training: Training) -> Prepared:
    """torch-lr-finder's exponential range test, and its reset; its suggestion without its plot."""
    from torch_lr_finder import LRFinder

    def run() -> Answer:
        finder = LRFinder(training.model, training.optimizer, training.criterion, device="cpu")
        finder.range_test(training.loader, start_lr=LOW, end_lr=training.max_lr, num_iter=STEPS)
        finder.reset()
        return lambda: finder.history["lr"][np.gradient(finder.history["loss"]).argmin()]

    return run


def ignite(training: Training) -> Prepared:
    """Ignite's finder on a supervised trainer."""
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import FastaiLRFinder

    trainer = create_supervised_trainer(training.model, training.optimizer, training.criterion)
    to_save = {"model": training.model, "optimizer": training.optimizer}

    def run() -> Answer:
        finder = FastaiLRFinder()
        with finder.attach(trainer, to_save, num_iter=STEPS, start_lr=LOW, end_lr=training.max_lr) as attached:
            attached.run(training.loader)
        return finder.lr_suggestion

    return run


def lightning(training: Training) -> Prepared:
    """Lightning's tuner."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.tuner import Tuner

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.criterion, self.lr = training.model, training.criterion, LOW

        def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
            return self.criterion(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> optim.Optimizer:
            return training.optimizer

    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=tempfile.gettempdir(),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    settings = {"min_lr": LOW, "max_lr": training.max_lr, "num_training": STEPS}
    return lambda: Tuner(trainer).lr_find(Module(), train_dataloaders=training.loader, **settings).suggestion


def fastai(training: Training) -> Prepared:
    """``Learner.lr_find`` with its default rule."""
    import fastai.callback.progress
    import fastai.callback.schedule  # noqa: F401 - gives a Learner its lr_find
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    def opt_func(_params: object, **_hypers: float) -> OptimWrapper:
        return OptimWrapper(opt=training.optimizer)

    loaders = DataLoaders(training.loader, training.loader)
    learner = Learner(
        loaders, training.model, loss_func=training.criterion, opt_func=opt_func, path=tempfile.gettempdir()
    )

    def run() -> Answer:
        with learner.no_bar():
            found = learner.lr_find(LOW, training.max_lr, STEPS, show_plot=False)
        return lambda: found.valley

    return run


CONTESTANTS: dict[str, Callable[[Training], Prepared]] = {
    BARE: bare,
    AGAIN: bare,
    "findlr, `control_variate=False`": partial(ours, control_variate=False),
    "findlr, `control_variate=True`": partial(ours, control_variate=True),
    "torch-lr-finder": torch_lr_finder,
    "Ignite": ignite,
    "Lightning": lightning,
    "fastai": fastai,
}


def timed(prepared: Prepared) -> tuple[float, float]:
    """Wall and CPU seconds."""
    gc.collect()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        wall, cpu = time.perf_counter(), time.process_time()
        prepared()
        return time.perf_counter() - wall, time.process_time() - cpu


def steps_taken(training: Training, prepared: Prepared) -> int:
    """How many optimizer steps a contestant takes."""
    taken = 0

    def count(*_: object) -> None:
        nonlocal taken
        taken += 1

    training.optimizer.register_step_post_hook(count)
    timed(prepared)
    return taken


def trainings(net: Net, max_lr: float = HIGH) -> Callable[[], Training]:
    """Makes the same training, again and again: which of its first inputs is the largest can be learned."""
    torch.manual_seed(0)
    inputs = torch.randn(STEPS * BATCH, net.widths[0])
    data = TensorDataset(inputs, inputs[:, : net.widths[-1]].argmax(1))
    start = net.model()

    def training() -> Training:
        model = copy.deepcopy(start)
        loader = DataLoader(data, BATCH, shuffle=True)
        return Training(model, net.make_optimizer(model.parameters()), nn.CrossEntropyLoss(), loader, max_lr)

    return training


def present() -> list[str]:
    """The contestants that are installed, after a look at the steps that each takes; it warms them up, too."""
    there = []
    for name, prepare in CONTESTANTS.items():
        training = trainings(NETS["small"])()
        try:
            prepared = prepare(training)
        except ImportError as error:
            print(f"left out: {name} ({error})", flush=True)
            continue
        taken = steps_taken(training, prepared)
        print(f"{name}: {taken} steps", flush=True)
        assert taken == STEPS, "another race"
        there.append(name)
    return there


def measure(net: Net, names: list[str], rounds: int) -> dict[str, np.ndarray[Any, Any]]:
    """Wall and CPU seconds of each contestant in each round, shape (rounds, 2)."""
    training, order = trainings(net), random.Random(0)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in order.sample(names, len(names)):
            times[name].append(timed(CONTESTANTS[name](training())))
        print(f"round {number + 1} of {rounds}", flush=True)
    return {name: np.array(pairs) for name, pairs in times.items()}


def summary(net: Net, measured: dict[str, np.ndarray[Any, Any]], threads: int) -> dict[str, Any]:
    """The figures of one net."""
    loop = measured[BARE]
    step = 1e3 * float(np.median(loop[:, 0])) / STEPS
    rows = {
        name: {"wall": ratio(times[:, 0], loop[:, 0]), "cpu": ratio(times[:, 1], loop[:, 1])}
        for name, times in measured.items()
        if name != BARE
    }
    return {
        "net": net.said,
        "rounds": len(loop),
        "threads": threads,
        "bare_ms_per_step": round(step, 3),
        "load": os.getloadavg()[0],
        "ratios": rows,
    }


def keep_freed_memory() -> bool:
    """Let no freed memory go back to the system; return whether that could be had: glibc only."""
    trim_threshold, mmap_max = -1, -4  # malloc.h's M_TRIM_THRESHOLD, M_MMAP_MAX
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "versions": versions}


def table(document: dict[str, Any]) -> str:
    """The figures as Markdown."""
    nets = list(document["nets"].values())
    names = list(dict.fromkeys(name for net in nets for name in net["ratios"]))
    lines = [
        "| times the bare loop | " + " | ".join(f"{net['net']}: wall | CPU" for net in nets) + " |",
        "|---|" + "---|---|" * len(nets),
    ]
    for name in names:
        cells = []
        for net in nets:
            for clock in ("wall", "cpu"):
                of = net["ratios"].get(name, {}).get(clock)
                cells.append(ratio_text(of) if of else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--rounds", nargs="+", type=int, default=[40, 4], help="of each net")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.disable()  # the others say where they put what
    document = json.loads(arguments.output.read_text()) if arguments.output.exists() else {"nets": {}}
    document["machine"] = machine() | {"freed memory kept": keep_freed_memory()}
    names = present()
    for name, rounds in zip(arguments.nets, arguments.rounds, strict=False):
        document["nets"][name] = summary(NETS[name], measure(NETS[name], names, rounds), arguments.threads)
        arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document["machine"]))
    print(table(document))


if __name__ == "__main__":
    main()
