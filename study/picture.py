"""The picture of the report: the share of answers with a regret up to t."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from study.scores import Scores

LOW, HIGH = 1e-3, 1.0  # of the regret axis

# Title: how it is drawn. The colours are Okabe and Ito's, told apart by the colour-blind; the dashes help in grey.
LINES = {
    "findlr verified, budget 1": ("#0072B2", "-", 2.6),
    "findlr, one sweep, its fallback where it refuses": ("#D55E00", "-", 2.6),
    "random search (Optuna), budget 1": ("#009E73", "--", 1.6),
    "the article, one epoch": ("#E69F00", "-", 1.6),
    "fastai minimum": ("#CC79A7", "-", 1.6),
    "fastai valley (its default)": ("#CC79A7", ":", 1.8),
    "torch-lr-finder": ("#56B4E9", "-", 1.6),
    "Ignite": ("#56B4E9", ":", 1.8),
    "Lightning": ("#999999", "-", 1.6),
    "the optimizer's default rate": ("#000000", ":", 1.4),
}


def draw(found: Mapping[str, Scores], path: Path) -> None:
    """Draw the finders of LINES that have answered.

    Args:
        found: title -> scores.
        path: the PNG file.
    """
    mpl.use("Agg")
    figure, ax = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    for title, (colour, dashes, width) in LINES.items():
        if title in found:
            regrets = np.sort(np.clip(found[title].regrets, LOW, None))
            shares = np.arange(1, len(regrets) + 1) / len(regrets)
            x, y = np.append(regrets, HIGH), np.append(shares, 1.0)
            ax.step(
                np.insert(x, 0, LOW), np.insert(y, 0, 0.0), where="post", color=colour, ls=dashes, lw=width, label=title
            )
    handles, titles = ax.get_legend_handles_labels()
    order = sorted(range(len(titles)), key=lambda i: -float(np.mean(found[titles[i]].regrets <= 0.03)))
    ax.legend(
        [handles[i] for i in order],
        [titles[i] for i in order],
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        fontsize=8.5,
        title="highest at .03 first",
        title_fontsize=8.5,
        alignment="left",
    )
    ax.set(
        xscale="log",
        xlim=(LOW, HIGH),
        ylim=(0, 1.01),
        xlabel="regret t: 0 is the best rate of the grid, 1 is no training",
        ylabel="share of tasks and seeds with regret ≤ t",
    )
    ax.set_xticks([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1], ["≤.001", ".003", ".01", ".03", ".1", ".3", "1"])
    ax.minorticks_off()
    ax.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure into a small PNG file, and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=130)
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(64).save(path, optimize=True)
