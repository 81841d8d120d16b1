"""What findlr holds to be usual, judged on two public grids of large trainings; nothing is trained, nothing fitted.

    python -m study.usual_grids FOLDER

FOLDER has one file or both, made from what their authors published:

- ``pretraining_adamw.csv``: parameters, tokens, batch_sequences, steps, peak_lr, loss. Step Law's 1,911 pretrainings
  (github.com/step-law/steplaw, data/dense_lr_bs_loss.csv): AdamW, a cosine, sequences of 2,048 tokens.
- ``lora_sft.csv``: model, peak_lr, lora_rank, test_nll. Thinking Machines' LoRA fine-tunings of 35 models
  (github.com/thinking-machines-lab/tinker-cookbook, recipes/chat_sl/results/sft_sweep.md): 780 steps of 128 examples of
  tulu3, a straight line down. Runs that diverged are not in it.

A cell is what is trained with several rates: one size, number of tokens and batch, or one model and rank. findlr is
given each cell's plan, not its losses, and answers as for a sweep that tells nothing. The loss between two rates of a
cell is log-linear, and beyond its first or last rate it is the loss there.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from findlr import Curve, Plan
from findlr.analysis.belief import believe_the_usual
from study.report import table

PRETRAINING, LORA = "pretraining_adamw.csv", "lora_sft.csv"
FEWEST = 3  # rates: cells with fewer are left out
SINGLES = sorted({float(f"{lr:.2g}") for lr in np.logspace(-5, -1.5, 351)})  # that the best single rate is chosen from
LORA_STEPS, LORA_EPOCHS = 780, 780 * 128 / 939_343  # tulu3 has so many examples
SIZES = {"DeepSeek-V3.1": 671, "Kimi-K2": 1000}  # 10^9 parameters, where the model's name does not say it


@dataclass(frozen=True)
class Cell:
    """One training at several rates.

    Args:
        name: the model's, or the size.
        groups: its line in each of the tables that take the grid apart; the last one is the batch or the rank.
        plan: what findlr is told.
        lrs: rising.
        losses: the final loss at each, in the mean where it was trained more than once.
    """

    name: str
    groups: tuple[str, ...]
    plan: Plan
    lrs: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def best_lr(self) -> float:
        """The rate with the lowest loss."""
        return self.lrs[int(np.argmin(self.losses))]

    @cached_property
    def best(self) -> float:
        """The lowest loss."""
        return min(self.losses)

    def lost(self, lr: float) -> float:
        """How much higher than the lowest the loss is, in nats."""
        return float(np.interp(np.log(lr), np.log(self.lrs), self.losses)) - self.best

    def has(self, lr: float) -> bool:
        """Whether the rate lies among the cell's."""
        return self.lrs[0] <= lr <= self.lrs[-1]


Way = Callable[[Cell], float]  # from what is planned to a rate
Losses = dict[float, list[float]]  # of each rate; the mean of several trainings counts


def pretraining(path: Path) -> list[Cell]:
    """Step Law's cells. Its parameters leave the embeddings out; with them findlr would answer a few percent less."""
    found: dict[tuple[int, ...], Losses] = {}
    for row in _rows(path):
        key = tuple(int(row[name]) for name in ("parameters", "tokens", "batch_sequences", "steps"))
        found.setdefault(key, {}).setdefault(float(row["peak_lr"]), []).append(float(row["loss"]))
    cells = []
    for (parameters, _tokens, batch, steps), losses in found.items():
        plan = Plan("cosine", steps, "AdamW", 0.9, parameters, epochs=1.0, pretrained=0.0)
        size = f"{parameters / 1e6:,.0f} M parameters"
        groups = (size, f"{_bound(batch, (96, 256, 736, 2048))} sequences a step")
        cells.append(_cell(size, groups, plan, losses))
    return [cell for cell in cells if len(cell.lrs) >= FEWEST]


def lora(path: Path) -> list[Cell]:
    """The LoRA cells."""
    found: dict[tuple[str, int], Losses] = {}
    for row in _rows(path):
        key = row["model"], int(row["lora_rank"])
        found.setdefault(key, {}).setdefault(float(row["peak_lr"]), []).append(float(row["test_nll"]))
    cells = []
    for (model, rank), losses in found.items():
        whole = parameters_of(model)
        trained = round(rank * _per_rank(whole))
        plan = Plan("linear", LORA_STEPS, "AdamW", 0.9, trained, epochs=1.0, pretrained=trained / (whole + trained))
        groups = (f"{_bound(whole / 1e9, (9, 35, 1000))} billion parameters", f"rank {rank}")
        cells.append(_cell(model, groups, plan, losses))
    return [cell for cell in cells if len(cell.lrs) >= FEWEST]


def parameters_of(model: str) -> float:
    """A model's parameters, by its name.

    Example:
        >>> parameters_of("Qwen/Qwen3.5-35B-A3B-Base")
        35000000000.0
    """
    for name, size in SIZES.items():
        if name in model:
            return size * 1e9
    size_in_name = re.search(r"(\d+(?:\.\d+)?)[bB]\b", model)
    if size_in_name is None:
        raise ValueError(f"the name {model!r} does not say how large the model is: add it to SIZES")
    return float(size_in_name[1]) * 1e9


def _per_rank(whole: float) -> float:
    """What adapters on all linear layers train for each rank: within a fifth of three Llamas' 0.7, 2.6 and 13 million.

    Models of many experts have up to twice as much. That would lower what is usual by a sixth.
    """
    return 2.6e6 * (whole / 8.0e9) ** 0.73


def _bound(value: float, bounds: Sequence[int]) -> str:
    """The first bound that a value is not above, and the one before.

    Example:
        >>> _bound(100, (96, 256)), _bound(96, (96, 256))
        ('more, up to 256', 'up to 96')
    """
    at = next(place for place, bound in enumerate(bounds) if value <= bound)
    return f"{'more, ' if at else ''}up to {bounds[at]:,}"


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


def _cell(name: str, groups: tuple[str, ...], plan: Plan, losses: Losses) -> Cell:
    lrs = tuple(sorted(losses))
    return Cell(name, groups, plan, lrs, tuple(float(np.mean(losses[lr])) for lr in lrs))


def usual(cell: Cell, **changed: float | None) -> float:
    """What findlr answers where a sweep tells nothing.

    Args:
        cell: whose plan it is told.
        **changed: fields of the plan that are others.
    """
    nothing = Curve([1e-8], [10.0])  # the rates of the Adam family do not depend on the loss
    belief = believe_the_usual(nothing, replace(cell.plan, **changed))
    assert belief is not None  # AdamW's is known
    return belief.lr


def best_single(cells: Sequence[Cell]) -> float:
    """The one rate that loses the least over all cells, in the mean share of the loss."""
    means = [np.mean([cell.lost(lr) / cell.best for cell in cells]) for lr in SINGLES]
    return SINGLES[int(np.argmin(means))]


def fixed(lr: float) -> Way:
    """The same rate for all."""
    return lambda _cell: lr


def losses(title: str, way: Way, cells: Sequence[Cell]) -> tuple[str, ...]:
    """A row: what a way loses over the cells, and how far it is from the best rates."""
    lrs = [way(cell) for cell in cells]
    nats = np.array([cell.lost(lr) for cell, lr in zip(cells, lrs, strict=True)])
    percent = 100 * nats / np.array([cell.best for cell in cells])
    off = np.log10(lrs) - np.log10([cell.best_lr for cell in cells])
    middle, far = 10 ** float(np.median(off)), 10 ** float(np.sqrt(np.mean((off - np.median(off)) ** 2)))
    outside = sum(not cell.has(lr) for cell, lr in zip(cells, lrs, strict=True))
    return (
        title,
        f"{min(lrs):.2g}" + (f" to {max(lrs):.2g}" if max(lrs) > 1.01 * min(lrs) else ""),
        *(f"{value:.2f} %" for value in (percent.mean(), np.median(percent), np.quantile(percent, 0.9), percent.max())),
        f"{nats.mean():.4f}",
        f"{middle:.2f}, x/÷ {far:.1f}",
        f"{outside} of {len(cells)}",
    )


COLUMNS = ("rate", "rates", "mean", "median", "90th pct", "worst", "mean, nats", "times the best", "outside")


def print_tables(title: str, cells: Sequence[Cell], ways: Mapping[str, Way]) -> None:
    """What each way loses, then findlr's usual rate by group."""
    rates = sum(len(cell.lrs) for cell in cells)
    print(f"{title}: {len(cells)} cells, {rates:,} rates, best losses {min(c.best for c in cells):.2f} to ", end="")
    print(f"{max(c.best for c in cells):.2f}, best rates {min(c.best_lr for c in cells):.2g} to ", end="")
    print(f"{max(c.best_lr for c in cells):.2g}; {edge(cells)} of them at an end of their cell\n")
    print(table([COLUMNS, *(losses(name, way, cells) for name, way in ways.items())]), end="\n\n")
    for place in range(len(cells[0].groups)):
        parts: dict[str, list[Cell]] = {}
        for cell in cells:
            parts.setdefault(cell.groups[place], []).append(cell)
        rows = [losses(name, usual, parts[name]) for name in sorted(parts, key=_first_number)]
        print(table([("findlr's usual rate at", *COLUMNS[1:]), *rows]), end="\n\n")


def _first_number(text: str) -> int:
    return int(re.sub(r"\D*([\d,]+).*", r"\1", text).replace(",", ""))


def edge(cells: Sequence[Cell]) -> int:
    """How many best rates are the first or the last of their cell."""
    return sum(cell.best_lr in (cell.lrs[0], cell.lrs[-1]) for cell in cells)


def by_rank(cells: Sequence[Cell]) -> str:
    """Whether a model's best rate moves with the rank."""
    models: dict[str, list[Cell]] = {}
    for cell in cells:
        models.setdefault(cell.name, []).append(cell)
    ranked = [sorted(each, key=lambda cell: _first_number(cell.groups[-1])) for each in models.values()]
    moved = np.array([np.sign(each[-1].best_lr - each[0].best_lr) for each in ranked if len(each) > 1])
    rises, stays, falls = (int((moved == way).sum()) for way in (1, 0, -1))
    return (
        f"from a model's lowest rank to its highest the best rate rises in {rises}, stays in {stays}, falls in {falls}"
    )


def ways_of(cells: Sequence[Cell], rates: Sequence[float], epochs: Mapping[str, float | None]) -> dict[str, Way]:
    """What is compared: findlr's usual rate, the same by other epochs, fixed rates, the best single one."""
    told = {f"usual, {name}": partial(usual, epochs=value) for name, value in epochs.items()}
    return {
        "findlr's usual rate": usual,
        **told,
        **{f"always {lr:g}": fixed(lr) for lr in rates},
        "the best single rate": fixed(best_single(cells)),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="What findlr holds to be usual, on public grids of large trainings.")
    parser.add_argument("folder", type=Path, help=f"has {PRETRAINING}, {LORA} or both")
    folder = parser.parse_args().folder
    unknown = {"epochs not known": None}
    if (folder / PRETRAINING).exists():
        cells = pretraining(folder / PRETRAINING)
        print_tables("pretraining", cells, ways_of(cells, (1e-4, 3e-4, 1e-3), unknown))
    if (folder / LORA).exists():
        cells = lora(folder / LORA)
        told = unknown | {"a tenth of an epoch": LORA_EPOCHS}
        print_tables("LoRA", cells, ways_of(cells, (1e-4, 2e-4, 3e-4, 1e-3), told))
        print(by_rank(cells))


if __name__ == "__main__":
    main()
