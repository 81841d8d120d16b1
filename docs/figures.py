"""Make every picture of the documentation: python docs/figures.py [folder].

Each is a real training on scikit-learn's handwritten digits, or a descent on a parabola, with fixed seeds. The numbers
that the texts quote are printed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from findlr import Curve, Finding, Plan, Stop, compare, find_lr, rules
from findlr.analysis.belief import believe
from findlr.analysis.dip import WITH_BASELINE, read_dip
from findlr.analysis.smoothing import bias_corrected, centred_gaussian, centred_median
from findlr.search.sweep import Spacing, sweep_lrs
from findlr.testing import Quadratic

BLUE, ORANGE, GREEN, GREY = "#2a8bd0", "#e0600f", "#009e73", "#8c8c8c"
BATCH_SIZE, NUM_STEPS, SEED = 16, 400, 0
PARAMETERS = 7510  # of the network below

STYLE = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 2,
}
PAPER, INK = "#0d1117", "#e6edf3"  # of a dark page
DARK = STYLE | {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), PAPER),
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
STYLES = {"": STYLE, "-dark": DARK}  # by what a picture's name ends in


def digits(batch_size: int = BATCH_SIZE) -> DataLoader[tuple[torch.Tensor, ...]]:
    """The 1,797 digits, shuffled by the global seed."""
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    return DataLoader(data, batch_size=batch_size, shuffle=True)


def simple_net() -> nn.Module:
    """The article's network, for 8 x 8 images: one hidden layer of 100, log-softmax."""
    return nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10), nn.LogSoftmax(dim=1))


@cache
def sweep(spacing: Spacing = "exponential") -> Finding:
    """The sweep that the pictures share; the README's example is the same."""
    torch.manual_seed(SEED)
    loader, net = digits(), simple_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    return find_lr(net, optimizer, nn.NLLLoss(), loader, num_steps=NUM_STEPS, spacing=spacing)


@cache
def by_the_article() -> Finding:
    """The same sweep, read as the article reads it."""
    return replace(sweep(), suggestion=sweep().suggest(rules.article))


def curve_picture() -> Figure:
    """The README's plot: the default rule, and its interval."""
    print(f"curve: {sweep().suggestion}; {sweep().why}")
    return figure_of(sweep().plot())


def article_picture() -> Figure:
    """The article's plot."""
    print(f"article: {by_the_article().suggestion}")
    return figure_of(by_the_article().plot())


def raw_picture() -> Figure:
    """The same sweep, raw."""
    return figure_of(by_the_article().plot(smoothed=False))


def compare_picture() -> Figure:
    """The same network with four weight decays."""
    return figure_of(compare([decayed(weight_decay) for weight_decay in (0.001, 0.01, 0.1, 0.5)]))


@cache
def decayed(weight_decay: float) -> Finding:
    """A sweep with momentum and this weight decay."""
    torch.manual_seed(SEED)
    loader, net = digits(), simple_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=weight_decay)
    return find_lr(net, optimizer, nn.NLLLoss(), loader, num_steps=300)


def parabola_picture() -> Figure:
    """Gradient descent on a parabola at three rates."""
    figure, axes = plt.subplots(1, 3, figsize=(8.5, 3), sharey=True)
    for ax, lr, words in zip(axes, (0.006, 0.06, 0.208), ("too low", "good", "too high"), strict=True):
        training = Quadratic(weight=-1.0, curvature=10.0, floor=0.0)
        path = []
        for _ in range(11):
            weight = training.weight
            path.append((weight, training.step(lr)))
        w = np.linspace(-1.65, 1.65, 200)
        ax.plot(w, 5 * w**2, color=GREY, lw=1.2)
        ax.plot(*zip(*path, strict=True), "-", color=ORANGE, lw=0.9, alpha=0.8)
        ax.plot(*zip(*path, strict=True), "o", color=BLUE, ms=5)
        ax.annotate("start", path[0], xytext=(-7, -4), textcoords="offset points", color=BLUE, ha="right")
        ax.set(title=f"{words}: lr = {lr:g}", xlabel="weight", ylim=(-0.5, 13.5), xlim=(-1.65, 1.65))
    axes[0].set_ylabel("loss")
    return figure


def rates_picture() -> Figure:
    """The same network from the same start, at the suggestion, a hundredth of it, and a hundred times it."""
    figure, ax = plt.subplots(figsize=(7, 3.6))
    suggestion = by_the_article().lr
    for factor, name, colour in (
        (0.01, "a hundredth of it", GREY),
        (1.0, "the suggestion", BLUE),
        (100.0, "a hundred times it", ORANGE),
    ):
        losses = np.array(train(suggestion * factor, steps=300))
        ax.plot(bias_corrected(losses, 0.9), color=colour, label=f"{name}, lr = {suggestion * factor:.2g}")
        print(f"rates: lr {suggestion * factor:.2g}: mean of the last 50 losses {losses[-50:].mean():.3g}")
    ax.set(yscale="log", xlabel="step", ylabel="loss (log scale)", ylim=(0.1, None))
    ax.legend(loc="lower left", bbox_to_anchor=(0.42, 0.47))
    return figure


@cache
def train(lr: float, steps: int) -> list[float]:
    """Losses of a training at one rate."""
    torch.manual_seed(SEED)
    loader, net = digits(), simple_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    losses: list[float] = []
    while len(losses) < steps:
        for images, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.nll_loss(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses[:steps]


def spacing_picture() -> Figure:
    """Where the steps go, and what they show, by spacing."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.2))
    for spacing, colour in (("linear", ORANGE), ("exponential", BLUE)):
        lrs = sweep_lrs(1e-8, 10.0, NUM_STEPS, spacing)
        left.plot(np.arange(NUM_STEPS), lrs, color=colour, label=spacing)
        curve = sweep(spacing).curve.usable()
        right.plot(curve.lr, curve.loss, ".", color=colour, ms=4, alpha=0.6, label=spacing)
        print(f"spacing: {spacing}: {(lrs < 0.1).sum()} of {NUM_STEPS} rates under 0.1, {(lrs >= 1).sum()} from 1 on")
    left.set(yscale="log", xlabel="step", ylabel="learning rate (log scale)", title="the rate of each step")
    left.legend(loc="lower right")
    right.set(xscale="log", xlabel="learning rate (log scale)", ylabel="loss", title="the loss of each step")
    right.set_ylim(0.5, 4)
    right.legend(loc="upper left", markerscale=2)
    return figure


def smoothing_picture() -> Figure:
    """Raw against smoothed; with and without the correction."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.2), sharey=True)
    curve = sweep().curve.usable()
    steps = np.arange(1, len(curve) + 1)
    corrected = curve.smoothed().loss
    plain = corrected * (1 - curve.smoothing**steps)
    left.plot(curve.lr, curve.loss, color=BLUE, lw=0.8, alpha=0.45, label="raw")
    left.plot(curve.lr, corrected, color=BLUE, label="smoothed")
    left.set(title="raw and smoothed", ylabel="loss", ylim=(0, 3.7))
    right.plot(curve.lr, plain, color=ORANGE, ls="--", label="average, not corrected")
    right.plot(curve.lr, corrected, color=BLUE, label="corrected")
    right.set(title="with and without the correction")
    for ax in (left, right):
        ax.set(xscale="log", xlabel="learning rate (log scale)")
        ax.legend(loc="lower left" if ax is left else "lower center")
    return figure


def stop_picture() -> Figure:
    """The stop rule on a loss that goes below zero."""
    return stop_plot(below_zero())


@cache
def below_zero() -> Finding:
    """A sweep of a network that predicts each pixel with an uncertainty."""
    torch.manual_seed(SEED)
    loader = digits(32)
    net = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 128))

    def surprise(outputs: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        mean, log_variance = outputs.chunk(2, dim=1)
        return nn.functional.gaussian_nll_loss(mean, images, log_variance.exp() + 1e-2)

    return find_lr(
        net,
        torch.optim.Adam(net.parameters()),
        loader=loader,
        loss_fn=lambda model, batch: surprise(model(batch[0]), batch[0]),
        num_steps=NUM_STEPS,
    )


def stop_plot(finding: Finding) -> Figure:
    """Where our rule stops, and where four times the best would have."""
    figure, ax = plt.subplots(figsize=(7, 3.6))
    curve = finding.curve
    smoothed = curve.smoothed().loss
    early = int(np.argmax(smoothed > 4 * np.minimum.accumulate(smoothed)))
    assert finding.stop is Stop.DIVERGED
    ax.plot(curve.lr, curve.loss, ".", color=BLUE, ms=4, alpha=0.35, label="raw loss")
    ax.plot(curve.lr, smoothed, color=BLUE, label="smoothed loss")
    ax.axhline(0, color=GREY, lw=0.8)
    ax.plot(curve.lr[early], smoothed[early], "s", color=ORANGE, ms=9, label="smoothed > 4 x best stops here")
    ax.plot(curve.lr[-1], smoothed[-1], "o", color=GREEN, ms=9, label="our rule stops here")
    print(f"stop: 4 x best at lr {curve.lr[early]:.3g}, ours at {curve.lr[-1]:.3g}")
    ax.set(xscale="log", xlabel="learning rate (log scale)", ylabel="loss", ylim=(-2, 3.5))
    ax.legend(loc="upper left")
    return figure


def choice_picture() -> Figure:
    """A decade before the minimum."""
    figure, ax = plt.subplots(figsize=(7, 3.8))
    finding = by_the_article()
    part = finding.curve.smoothed().clipped()
    bottom = int(np.argmin(part.loss))
    ax.plot(part.lr, part.loss, color=BLUE)
    ax.plot(part.lr[bottom], part.loss[bottom], "v", color=BLUE, ms=9)
    at = float(np.interp(np.log10(finding.lr), part.log10_lr, part.loss))
    ax.plot(finding.lr, at, "o", color=ORANGE, ms=9)
    level = part.loss[bottom] - 0.07
    for lr, top in ((finding.lr, at), (part.lr[bottom], part.loss[bottom])):
        ax.plot([lr, lr], [level - 0.03, top], color=GREY, lw=0.9, ls=":", zorder=0)
    arrow = {"arrowstyle": "->", "color": ORANGE, "lw": 1.6}
    ax.annotate("", (finding.lr, level), (float(part.lr[bottom]), level), arrowprops=arrow)
    ax.text(finding.lr * 10**0.5, level - 0.015, "one decade", color=ORANGE, ha="center", va="top")
    label = {"textcoords": "offset points", "ha": "right"}
    ax.annotate(f"suggestion, {finding.lr:.2g}", (finding.lr, at), xytext=(-10, -14), color=ORANGE, **label)
    low = float(part.lr[bottom]), float(part.loss[bottom])
    ax.annotate(f"minimum, {low[0]:.2g}", low, xytext=(14, -4), color=BLUE, textcoords="offset points")
    ax.set(xscale="log", xlabel="learning rate (log scale)", ylabel="smoothed loss")
    ax.set(xlim=(1e-4, 20), ylim=(level - 0.12, 2.6))
    return figure


def lag_picture() -> Figure:
    """The article's average beside one that looks both ways."""
    figure, ax = plt.subplots(figsize=(7, 3.6))
    curve = sweep().curve.usable()
    capped = Curve(curve.lr, np.minimum(curve.loss, 4.0))
    centred = centred_gaussian(centred_median(capped.loss, 5), sigma=6)
    ax.plot(curve.lr, curve.loss, ".", color=GREY, ms=3.5, alpha=0.5, label="raw")
    for losses, name, colour in (
        (curve.smoothed().loss, "the article's, looks back", BLUE),
        (centred, "centred, looks both ways", GREEN),
    ):
        bottom = int(np.argmin(losses))
        ax.plot(curve.lr, losses, color=colour, label=name)
        ax.plot(curve.lr[bottom], losses[bottom], "v", color=colour, ms=9)
        print(f"lag: {name}: lowest at {curve.lr[bottom]:.3g}")
    ax.set(xscale="log", xlabel="learning rate (log scale)", ylabel="loss", ylim=(0.7, 3.2), xlim=(1e-4, 12))
    ax.legend(loc="lower left")
    return figure


def variate_picture() -> Figure:
    """The losses of a sweep, and what is left once each batch's own difficulty is taken out."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.2))
    curve = sweep().curve.usable()
    assert curve.baseline is not None
    change = curve.loss - curve.baseline
    left.plot(curve.lr, curve.loss, ".", color=BLUE, ms=4, alpha=0.5, label="loss of the step")
    left.plot(curve.lr, curve.baseline, ".", color=ORANGE, ms=4, alpha=0.5, label="same batch, starting weights")
    left.set(title="two losses of each batch", ylabel="loss", ylim=(0.8, 3.2))
    left.legend(loc="lower left", markerscale=2)
    right.plot(curve.lr, change, ".", color=GREEN, ms=4, alpha=0.6)
    right.set(title="their difference", ylabel="change of the loss", ylim=(-1.5, 0.9))
    for ax in (left, right):
        ax.set(xscale="log", xlabel="learning rate (log scale)")
    early = curve.lr < 1e-4
    print(
        f"variate: below 1e-4 the losses scatter by {curve.loss[early].std():.2g}, the differences by "
        f"{change[early].std():.2g}"
    )
    return figure


def dip_picture() -> Figure:
    """The dip, its middle, and the rates for three plans."""
    figure, ax = plt.subplots(figsize=(7, 3.8))
    curve = sweep().curve.usable()
    assert curve.baseline is not None
    change = centred_median(curve.loss - curve.baseline, 3)
    capped = np.minimum(change, 0.3 * -change.min())
    smooth = centred_gaussian(capped, 0.5 * (len(curve) - 1) / (curve.log10_lr[-1] - curve.log10_lr[0]))
    share = WITH_BASELINE.share * smooth.min()
    ax.plot(curve.lr, capped, ".", color=GREY, ms=3.5, alpha=0.5, label="change of the loss")
    ax.plot(curve.lr, smooth, color=BLUE, label="smoothed without lag")
    ax.fill_between(curve.lr, smooth, share, where=smooth < share, color=BLUE, alpha=0.2, lw=0, label="the dip")
    named = (
        ("constant, 1,000 steps", Plan("constant", 1000, "SGD", 0.0, PARAMETERS), "o"),
        ("one cycle, 1,000 steps", Plan("one_cycle", 1000, "SGD", 0.0, PARAMETERS), "D"),
        ("constant, 30,000 steps", Plan("constant", 30_000, "SGD", 0.0, PARAMETERS), "s"),
    )
    dip = read_dip(curve)
    middle = 10**dip.place
    ax.axvline(middle, color=BLUE, lw=1, ls=":")
    print(f"dip: middle at {middle:.3g}, noise {dip.noise:.2g}")
    for name, plan, shape in named:
        belief = believe(curve, plan)
        at = float(np.interp(np.log10(belief.lr), curve.log10_lr, smooth))
        ax.plot(belief.lr, at, shape, color=ORANGE, ms=8, label=f"{name}: {belief.lr:.2g}")
        assert belief.dip is not None
        assert belief.usual is not None
        low, high = belief.interval
        print(f"{name}: dip {belief.dip:.3g}, usual {belief.usual:.3g}, {belief.lr:.3g}, {low:.2g} to {high:.2g}")
    ax.set(xscale="log", xlabel="learning rate (log scale)", ylabel="change of the loss", xlim=(1e-4, 12))
    ax.legend(loc="lower left")
    return figure


def race_picture() -> Figure:
    """The loss after one-cycle trainings of several lengths, over the peak rate."""
    figure, ax = plt.subplots(figsize=(7, 3.6))
    lrs = 0.02 * 2.0 ** np.arange(9)
    for steps, colour in ((30, GREY), (100, BLUE), (1000, ORANGE)):
        starts = [one_cycle_loss(lr, steps) for lr in lrs]
        losses = np.array([end for _, end in starts])
        start = starts[0][0]
        far = (losses - losses.min()) / (start - losses.min())
        ax.plot(lrs, far, ".-", color=colour, label=f"{steps} steps")
        ax.plot(lrs[far.argmin()], far.min(), "o", color=colour, ms=9)
        print(f"race: {steps} steps: best at {lrs[far.argmin()]:.3g}, loss {losses.min():.3g}")
    ax.set(xscale="log", xlabel="peak rate (log scale)", ylabel="held-out loss, 0 is the best, 1 the start")
    ax.set_ylim(-0.04, 1.04)
    ax.legend(loc="lower right")
    return figure


@cache
def one_cycle_loss(lr: float, steps: int) -> tuple[float, float]:
    """The held-out loss before and after a training of so many steps, with this peak rate."""
    torch.manual_seed(SEED)
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(inputs))
    held_out, rest = order[:400], order[400:]
    net = simple_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)

    def score() -> float:
        with torch.no_grad():
            return nn.functional.nll_loss(net(inputs[held_out]), targets[held_out]).item()

    start = score()
    for share in Plan("one_cycle").shares(steps):
        batch = rest[torch.randint(len(rest), (BATCH_SIZE,))]
        optimizer.param_groups[0]["lr"] = float(lr * share)
        optimizer.zero_grad()
        nn.functional.nll_loss(net(inputs[batch]), targets[batch]).backward()
        optimizer.step()
    return start, score()


def figure_of(ax: Axes) -> Figure:
    """The figure that ``ax`` is on."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    "curve": curve_picture,
    "article": article_picture,
    "raw": raw_picture,
    "compare": compare_picture,
    "parabola": parabola_picture,
    "rates": rates_picture,
    "spacing": spacing_picture,
    "smoothing": smoothing_picture,
    "stop": stop_picture,
    "choice": choice_picture,
    "lag": lag_picture,
    "variate": variate_picture,
    "dip": dip_picture,
    "race": race_picture,
}


def main(folder: Path) -> None:
    """Write each picture into ``folder``, once for a light page and once for a dark one."""
    torch.set_num_threads(1)  # so that every machine adds in the same order
    folder.mkdir(parents=True, exist_ok=True)
    for ending, style in STYLES.items():
        with plt.rc_context(style):
            for name, make in PICTURES.items():
                figure = make()
                path = folder / f"{name}{ending}.png"
                figure.savefig(path, dpi=100)
                plt.close(figure)
                print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "img")
