"""Where a picture is drawn: axes that are there, a new figure, or a file."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from findlr.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150  # of a picture that is written


def picture(draw: Callable[[Axes], object]) -> Figure:
    """A figure with what ``draw`` draws, such as ``finding.plot``; no window shows it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError.of("matplotlib", "plot") from None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    draw(figure.subplots())
    return figure


def check_picture(path: str | PathLike[str]) -> None:
    """Refuse what matplotlib cannot write, by the name of the file.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ConfigurationError: it writes no such picture.
    """
    known = picture(lambda _: None).canvas.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in known:
        raise ConfigurationError(f"{path} is no picture that can be drawn; name one of {', '.join(sorted(known))}")


def drawn(draw: Callable[[Axes], None], ax: Axes | str | PathLike[str] | None) -> Axes:
    """The axes with what ``draw`` draws: the ones given, new ones, or those of a picture that is written."""
    if isinstance(ax, (str, PathLike)):
        check_picture(ax)
        (figure := picture(draw)).savefig(ax, dpi=_DPI)
        return figure.axes[0]
    ax = _new_axes() if ax is None else ax
    draw(ax)
    return ax


def _new_axes() -> Axes:
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        raise MissingExtraError.of("matplotlib", "plot") from None
    return plt.subplots(figsize=(7, 4.5), layout="constrained")[1]
