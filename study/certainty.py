"""How often the verdict is wrong: a suggestion without a signal, a refusal on the benchmark's tasks.

    python -m study.record --name variate   # the tasks' sweeps, once
    python -m study.certainty

Three kinds of training have nothing to learn: random labels under an output layer at zero, a zero gradient, a linear
model at its least-squares solution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from findlr import Curve, Finding, find_lr
from findlr.analysis.verdict import judge
from study.record import curves
from study.tasks import task

SEEDS = range(60)


def _optimizer(net: nn.Module, seed: int) -> torch.optim.Optimizer:
    return (torch.optim.SGD if seed % 2 else torch.optim.Adam)(net.parameters(), lr=1e-3)


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))


def random_labels(seed: int, control_variate: bool) -> Finding:
    """Labels drawn anew for each batch; the output layer starts at zero."""
    net = _network()
    nn.init.zeros_(net[2].weight)
    nn.init.zeros_(net[2].bias)
    batches = [(torch.randn(32, 20), torch.randint(5, (32,))) for _ in range(150)]
    optimizer = _optimizer(net, seed)
    return find_lr(net, optimizer, functional.cross_entropy, batches, control_variate=control_variate)


def zero_gradient(seed: int, control_variate: bool) -> Finding:
    """A loss that no parameter changes."""
    net = _network()
    batches = [(torch.randn(32, 20), torch.randint(5, (32,))) for _ in range(150)]

    def blind(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(outputs.detach(), targets) + 0 * outputs.sum()

    return find_lr(net, _optimizer(net, seed), blind, batches, control_variate=control_variate)


def converged(seed: int, control_variate: bool) -> Finding:
    """A linear model at the least-squares solution of its own data."""
    inputs, net = torch.randn(512, 20), nn.Linear(20, 5)
    targets = inputs @ torch.randn(20, 5) + 0.3 * torch.randn(512, 5)
    solution = torch.linalg.lstsq(torch.cat([inputs, torch.ones(512, 1)], dim=1), targets).solution
    with torch.no_grad():
        net.weight.copy_(solution[:20].T)
        net.bias.copy_(solution[20])
    loader = DataLoader(TensorDataset(inputs, targets), 32, shuffle=True)
    return find_lr(net, _optimizer(net, seed), nn.MSELoss(), loader, control_variate=control_variate)


KINDS: tuple[Callable[[int, bool], Finding], ...] = (random_labels, zero_gradient, converged)


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    for control_variate in (True, False):
        print(f"\ncontrol_variate={control_variate}")
        wrong = 0
        for kind in KINDS:
            verdicts: Counter[str] = Counter()
            for seed in SEEDS:
                torch.manual_seed(seed)
                finding = kind(seed, control_variate)
                verdicts[finding.verdict.name] += 1
                wrong += finding.suggestion is not None
            print(f"  {kind.__name__:14} {dict(verdicts)}")
        print(f"  false certainty: {wrong / len(SEEDS) / len(KINDS):.1%}")
        refused, count = Counter[tuple[str, str]](), Counter[str]()
        for name, _, curve in curves("variate"):
            seen = curve if control_variate else Curve(curve.lr, curve.loss, diverged=curve.diverged)
            half = task(name).split
            refused[half, name] += judge(seen).verdict.refuses
            count[half] += 1
        for half, swept in count.items():
            by_task = {name: times for (its, name), times in refused.items() if its == half and times}
            print(f"  refused with a signal, {half} half: {sum(by_task.values()) / swept:.1%} {by_task}")


if __name__ == "__main__":
    main()
