"""Make the pictures of docs/gallery.md, a real training for each verdict: python docs/gallery.py [folder].

Each is on scikit-learn's handwritten digits, with fixed seeds. The verdicts and their reasons are printed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from figures import STYLES, digits, simple_net
from matplotlib import pyplot as plt
from torch import nn

from findlr import Finding, Verdict, find_lr, rules


def search(net: nn.Module | None = None, loader: Any = None, weight_decay: float = 0.0, **how: Any) -> Finding:
    """A sweep of the article's network on the digits, from seed 0."""
    torch.manual_seed(0)
    net = simple_net() if net is None else net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, weight_decay=weight_decay)
    return find_lr(net, optimizer, nn.NLLLoss(), loader or digits(), **how)


def trained(epochs: int) -> nn.Module:
    """The network after some training at a good rate."""
    torch.manual_seed(0)
    net = simple_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    for _ in range(epochs):
        for images, labels in digits():
            optimizer.zero_grad()
            nn.functional.nll_loss(net(images), labels).backward()
            optimizer.step()
    return net


def clear() -> Finding:
    """The README's sweep."""
    return search(num_steps=400)


class OnASphere(nn.Module):
    """Outputs of length 1: however far the weights go, the loss stays bounded."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 100, bias=False), nn.ReLU(), nn.Linear(100, 10, bias=False)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Log probabilities."""
        return torch.log_softmax(nn.functional.normalize(self.layers(images), dim=1), 1)


def noisy() -> Finding:
    """The network is trained for an epoch: there is less to gain than batches differ by."""
    return search(trained(epochs=1))


def no_edge() -> Finding:
    """No rate makes this loss explode."""
    return search(OnASphere())


def flat() -> Finding:
    """The labels have nothing to do with the images."""
    loader = digits()
    images, labels = loader.dataset.tensors
    loader.dataset.tensors = images, labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    return search(loader=loader, num_steps=200)


def rising() -> Finding:
    """The network is trained already; weight decay can only pull its weights away."""
    return search(trained(epochs=20), digits(batch_size=64), weight_decay=0.1, min_lr=1e-3, max_lr=1.0)


def too_short() -> Finding:
    """Fifteen steps are no curve."""
    return search(num_steps=15)


def not_finite() -> Finding:
    """One pixel in each image is NaN."""
    loader = digits()
    loader.dataset.tensors[0][:, 0] = torch.nan
    return search(loader=loader)


def still_falling() -> Finding:
    """The highest rate is too low."""
    return search(max_lr=0.2, num_steps=200)


def many_epochs() -> Finding:
    """A plan of a hundred epochs."""
    return search(total_steps=100 * 113)


def pretrained() -> Finding:
    """The network knows the digits, and gets a new last layer."""
    net = trained(epochs=20)
    net[2].reset_parameters()
    return search(net, num_steps=200)


class InHundredths(nn.Linear):
    """A layer whose weights are kept in hundredths: a rate does ten thousand times as much."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        with torch.no_grad():
            self.weight /= 100
            self.bias /= 100

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As ever."""
        return 100 * super().forward(x)


def disagree() -> Finding:
    """The same network, in other units."""
    torch.manual_seed(0)
    layers = nn.Flatten(), InHundredths(64, 100), nn.ReLU(), InHundredths(100, 10), nn.LogSoftmax(1)
    return search(nn.Sequential(*layers), num_steps=200)


def raced() -> Finding:
    """The network is trained by half: its loss falls little in one sweep, and enough for short runs."""
    return search(trained(epochs=2), verify=True, budget=0.3, total_steps=1130, schedule="one_cycle")


def broad() -> Finding:
    """Where no rate is too high, many are equally good."""
    race = {"verify": True, "budget": 1.0, "total_steps": 4000, "schedule": "one_cycle"}
    return search(OnASphere(), rule=rules.article, **race)


def horizon_limited() -> Finding:
    """The article's rule is far too low, and the budget ends before a rate is too high."""
    race = {"verify": True, "budget": 0.3, "total_steps": 1130, "schedule": "one_cycle"}
    return search(trained(epochs=2), rule=rules.article, **race)


def no_answer() -> Finding:
    """The article's rule goes to a tenth of the bottom's rate, and the sweep does not begin there."""
    return search(min_lr=0.1, num_steps=200, rule=rules.article)


GALLERY: dict[Verdict, Callable[[], Finding]] = {
    Verdict[make.__name__.upper()]: make
    for make in (
        clear, noisy, no_edge, many_epochs, pretrained, disagree, raced, broad, horizon_limited,
        flat, rising, too_short, not_finite, still_falling, no_answer,
    )
}  # fmt: skip


def main(folder: Path) -> None:
    """Write a picture for each verdict into ``folder``, and print what the page quotes."""
    assert set(GALLERY) == set(Verdict)
    torch.set_num_threads(1)
    for verdict, make in GALLERY.items():
        finding = make()
        assert finding.verdict is verdict, (verdict, finding.verdict, finding.why)
        for ending, style in STYLES.items():
            with plt.rc_context(style):
                figure, ax = plt.subplots(figsize=(6.4, 4.4))
                finding.plot(ax)
                figure.savefig(folder / f"gallery-{verdict.name.lower()}{ending}.png")
                plt.close(figure)
        print(f"{verdict.name}\n{finding.why}\n{'' if finding.suggestion is None else f'{finding.lr:.2g}'}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "img")
