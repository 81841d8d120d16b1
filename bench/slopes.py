"""How what a search costs beyond a bare loop grows with its steps, and with the training's parameters, tensors, groups.

    python -m bench.slopes [--rounds 5]

Each figure is the median, over rounds, of ``find_lr``'s time less that of a bare loop over the same steps in the same
round, without the control variate. From two lengths of sweep follow the cost of a call (its set-up, snapshot, restore,
verdict and rule) and of a step. A slope is fitted to the logarithms over the last two decades: 1 is linear. Python's
garbage collector rests meanwhile, as in timeit: one full collection walks all that torch has loaded, 0.2 s here.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import nn, optim

from findlr import find_lr
from findlr.search.sweep import sweep_lrs

DOCS = Path(__file__).parents[1] / "docs"
PICTURE, OUTPUT = DOCS / "img" / "growth.png", DOCS / "growth.json"
LOW, HIGH = 1e-12, 1e-9  # rates at which nothing moves
FEW, MANY = 10, 40  # steps of the two sweeps
SIZES = {
    "steps": (30, 100, 300, 1_000, 3_000, 10_000),
    "parameters": (10**3, 10**4, 10**5, 10**6, 10**7, 10**8),
    "tensors": (2, 10, 100, 1_000, 10_000),
    "groups": (1, 10, 100, 1_000),
}
COLOURS = {"call": "#2a8bd0", "step": "#e0600f"}  # as in docs/figures.py

Measured = dict[str, dict[str, list[float]]]  # the axis, then "size", "call" and "step": microseconds


class Sum(nn.Module):
    """The sum of all parameters, ``count`` of them in ``tensors`` tensors: as little beside them as can be."""

    def __init__(self, count: int, tensors: int = 1) -> None:
        super().__init__()
        self.parts = nn.ParameterList(torch.zeros(count // tensors) for _ in range(tensors))

    def forward(self, scale: torch.Tensor) -> torch.Tensor:
        """``scale`` times the sum, and 1."""
        return 1 + scale * torch.stack([part.sum() for part in self.parts]).sum()


def training(axis: str, size: int) -> tuple[nn.Module, optim.Optimizer]:
    """A model of this size along this axis, and plain SGD."""
    model = {
        "steps": partial(Sum, 100),
        "parameters": partial(Sum, size),
        "tensors": partial(Sum, 16 * size, size),
        "groups": partial(Sum, 16 * size, size),
    }[axis]()
    each: Iterable[object] = [{"params": [part]} for part in model.parts] if axis == "groups" else model.parameters()
    return model, optim.SGD(each, lr=LOW)


def loss_of(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """The loss of a batch, which is a number."""
    return model(batch)


def bare(model: nn.Module, optimizer: optim.Optimizer, steps: int) -> None:
    """The loop that a range test can't do without."""
    batch = torch.tensor(1e-3)
    for lr in sweep_lrs(LOW, HIGH, steps).tolist():
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        loss.item()


def ours(model: nn.Module, optimizer: optim.Optimizer, steps: int) -> None:
    """``find_lr``."""
    how = {"min_lr": LOW, "max_lr": HIGH, "num_steps": steps, "control_variate": False, "progress": False}
    finding = find_lr(model, optimizer, loss_fn=loss_of, loader=[torch.tensor(1e-3)] * steps, **how)
    assert len(finding.curve) == steps, finding.stop


def seconds(call: Callable[[], object]) -> float:
    """CPU time, on one thread: what others do on the machine is not in it."""
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        call()
        return time.process_time() - start
    finally:
        gc.enable()


def overhead(axis: str, size: int, lengths: tuple[int, ...], rounds: int) -> list[float]:
    """Microseconds beyond the bare loop, for each length of sweep."""
    model, optimizer = training(axis, size)
    calls = [(partial(ours, model, optimizer, n), partial(bare, model, optimizer, n)) for n in lengths]
    seconds(calls[0][1]), seconds(calls[0][0])  # the first of each allocates
    rows = [[1e6 * (seconds(mine) - seconds(theirs)) for mine, theirs in calls] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def measure(rounds: int, sizes: dict[str, tuple[int, ...]]) -> Measured:
    """All figures; along the steps, that of a call is all that its sweep costs, and of a step its share."""
    measured: Measured = {}
    for axis, along in sizes.items():
        columns = measured[axis] = {"size": [], "call": [], "step": []}
        for size in along:
            if axis == "steps":
                (call,) = overhead(axis, size, (size,), rounds)
                step = call / size
            else:
                few, many = overhead(axis, size, (FEW, MANY), rounds)
                step = (many - few) / (MANY - FEW)
                call = few - FEW * step
            for name, value in (("size", size), ("call", call), ("step", step)):
                columns[name].append(round(value, 1))
            print(f"{axis} {size:,}: {call:,.0f} microseconds a call, {step:,.1f} a step", flush=True)
    return measured


def slope(sizes: list[float], costs: list[float]) -> float:
    """Of log(cost) over log(size), by least squares over the last two decades; NaN where noise outweighs a cost."""
    last = [(size, cost) for size, cost in zip(sizes, costs, strict=True) if size >= sizes[-1] / 100]
    if min(cost for _, cost in last) <= 0:
        return math.nan
    return float(np.polyfit(*np.log(last).T, 1)[0])


def told(number: float, form: str) -> str:
    """A number, or that there is none: a step's own time hides a cost that came out below 0."""
    return "in the noise" if math.isnan(number) or (number <= 0 and form != ".2f") else format(number, form)


def table(measured: Measured) -> str:
    """The figures as Markdown: at the ends of each axis, with the slopes."""
    lines = ["| | from | to | ms a call | slope | microseconds a step | slope |", "|---|--:|--:|--:|--:|--:|--:|"]
    for axis, of in measured.items():
        first, last = of["size"][0], of["size"][-1]
        calls = f"{of['call'][0] / 1e3:.2f} to {of['call'][-1] / 1e3:,.2f}"
        steps = f"{told(of['step'][0], ',.0f')} to {told(of['step'][-1], ',.0f')}"
        call, step = (told(slope(of["size"], of[name]), ".2f") for name in ("call", "step"))
        lines.append(f"| {axis} | {first:,} | {last:,} | {calls} | {call} | {steps} | {step} |")
    return "\n".join(lines)


def draw(measured: Measured, path: Path) -> None:
    """The picture: a panel for each axis."""
    mpl.use("Agg")
    figure, panels = plt.subplots(1, len(measured), figsize=(11, 3.2), sharey=True, layout="constrained")
    for ax, (axis, of) in zip(panels, measured.items(), strict=True):
        for name, colour in COLOURS.items():
            label = f"a {name}, slope {told(slope(of['size'], of[name]), '.2f')}"
            above = np.where(np.greater(of[name], 0), of[name], np.nan)
            ax.plot(of["size"], above, ".-", color=colour, lw=2, ms=8, label=label)
        ax.set(xscale="log", yscale="log", xlabel=axis)
        ax.grid(alpha=0.25, lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, loc="upper left", fontsize=9)
    panels[0].set_ylabel("microseconds beyond a bare loop")
    panels[0].set_ylim(top=30 * max(value for of in measured.values() for value in of["call"]))
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Measure, write the JSON and the picture, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    measured = measure(rounds, SIZES)
    OUTPUT.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    draw(measured, PICTURE)
    print(table(measured))


if __name__ == "__main__":
    main()
