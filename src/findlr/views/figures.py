"""Where a picture is drawn: axes that are there, a new figure, or a file."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from io import BytesIO, StringIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from findlr.errors import ConfigurationError, MissingExtraError
from findlr.finding.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = (7.0, 5.0)  # inches
_SMALL = (5.8, 4.4)  # whose letters can still be read on a phone
_DPI = 150  # of a picture that is written
_INK, _PAPER = "#0a0b0c", "#fdfcfb"  # which nothing else has
_PAGE = "var(--jp-layout-color0, var(--vscode-editor-background, Canvas))"  # a notebook's own colour


def picture(draw: Callable[[Axes], object], size: tuple[float, float] = _SIZE) -> Figure:
    """A figure with what ``draw`` draws, such as ``finding.plot``; no window shows it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(figure.subplots())
    return figure


def svg(draw: Callable[[Axes], object], label: str) -> str:
    """What ``draw`` draws as SVG for a page of any colour: its ink is the page's, and its paper is not drawn.

    Args:
        draw: such as ``finding.plot``.
        label: what it is, for who can't see it; no quotes in it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    need_matplotlib()
    import matplotlib as mpl

    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    papers = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    look = {**dict.fromkeys(inked, _INK), **dict.fromkeys(papers, _PAPER)}
    how: dict[Any, Any] = {**look, "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "findlr"}
    with mpl.rc_context(how), warnings.catch_warnings(), StringIO() as file:
        warnings.filterwarnings("ignore", "Glyph")  # which one is missing here is for the browser's fonts
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        picture(draw, _SMALL).savefig(file, format="svg", transparent=True, metadata=nothing)
        text = file.getvalue()
    for colour, meant in ((_INK, "currentColor"), (_PAPER, _PAGE)):
        text = text.replace(colour, meant)
    text = re.sub(r"<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)  # it is for the whole page
    text = re.sub(r' (d|x|y|transform)="[^"]*"', lambda found: re.sub(r"(\.\d)\d+", r"\1", found[0]), text)  # a tenth
    opened = f'<svg role="img" aria-label="{label}" style="max-width:100%;height:auto"'
    return re.sub(r"\s+", " ", text.replace("<svg", opened, 1)).replace("> <", "><")


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
    """The axes with what ``draw`` draws: the ones given, new ones, or those of a picture that is written.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ConfigurationError: it writes no such picture, or ``ax`` is neither axes nor a path.
    """
    if isinstance(ax, (str, PathLike)):
        check_picture(ax)
        figure, content = picture(draw), BytesIO()
        figure.savefig(content, format=Path(ax).suffix[1:].lower(), dpi=_DPI)
        write_whole(ax, lambda file: file.write_bytes(content.getvalue()))
        return figure.axes[0]
    if ax is None:
        need_matplotlib()
        from matplotlib import pyplot as plt

        ax = plt.subplots(figsize=_SIZE, layout="constrained")[1]
    if not hasattr(ax, "set_xscale"):
        raise ConfigurationError(f"ax must be matplotlib's axes, or the path of a picture, got {type(ax).__name__}")
    draw(ax)
    return ax


def need_matplotlib(extra: str = "plot") -> None:
    """Refuse where matplotlib can't be loaded.

    Args:
        extra: of findlr, that brings it.

    Raises:
        MissingExtraError: it is not installed.
        ConfigurationError: the environment names a backend that it does not have.
    """
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError:
        raise MissingExtraError.of("matplotlib", extra) from None
    except ValueError as error:
        raise ConfigurationError(f"matplotlib can't be loaded: unset or mend MPLBACKEND ({error})") from None


def inches(ax: Axes) -> tuple[float, float]:
    """How wide and how high the axes are."""
    figure, place = ax.get_figure(root=True), ax.get_position()
    size = (6.4, 4.8) if figure is None else figure.get_size_inches()
    return float(size[0] * place.width), float(size[1] * place.height)


def lines(text: str, ax: Axes, fontsize: str) -> str:
    """``text`` in lines that are no wider than the axes, beside which there may be others."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font, most = FontProperties(size=fontsize), 72 * inches(ax)[0]  # points
    first, *rest = text.split()
    result = [first]
    for word in rest:
        longer = f"{result[-1]} {word}"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # it is told when the text is drawn
            width, _, _ = text_to_path.get_text_width_height_descent(longer, font, ismath=False)
        if width <= most:
            result[-1] = longer
        else:
            result.append(word)
    return "\n".join(result)
