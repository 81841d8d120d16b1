"""Models that were trained before: made once, deterministically, and kept in ``.runs/pretrained``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from study.tasks.task import OPTIMIZERS, Criterion, Data, Examples

RUNS = Path(os.environ.get("FINDLR_RUNS", Path(__file__).parent.parent / ".runs"))


def pretrained(
    name: str,
    build: Callable[[], nn.Module],
    data: Callable[[], Data],
    criterion: Criterion,
    *,
    steps: int,
    lr: float,
    optimizer: str = "Adam",
    decay: bool = True,
) -> dict[str, Tensor]:
    """The weights of a model after a training of its own; delete the file to train it again.

    Args:
        name: the file's name.
        build: gives the fresh model.
        data: gives the examples.
        criterion: the loss.
        steps: how long it is trained.
        lr: the rate.
        optimizer: a key of OPTIMIZERS.
        decay: whether the rate falls to zero along a straight line; if not, the training stops in its own noise.

    Returns:
        The model's state dict.
    """
    path = RUNS / "pretrained" / f"{name}.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4321)
        model = build()
        examples = Examples(data().inputs, data().targets)
        optim = OPTIMIZERS[optimizer](model.parameters(), lr=lr)
        for step in range(steps):
            rows = torch.randint(len(examples), (64,)).tolist()
            inputs, targets = examples.__getitems__(rows)
            optim.param_groups[0]["lr"] = lr * (1 - step / steps if decay else 1)
            optim.zero_grad()
            criterion(model(inputs), targets).backward()
            optim.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model.state_dict()


def with_weights(model: nn.Module, weights: dict[str, Tensor], *, new_head: bool = False) -> nn.Module:
    """The model with pretrained weights; with ``new_head``, those of its last layer stay fresh."""
    if new_head:
        head = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
        weights = {key: value for key, value in weights.items() if not key.startswith(f"{head}.")}
    model.load_state_dict(weights, strict=not new_head)
    return model
