"""A page for the browser, whole in one file: the curves to zoom into, the rules, the race, all facts of the runs."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from os import PathLike
from pathlib import Path
from string import Template

from findlr.analysis.text import printable
from findlr.finding import Finding
from findlr.finding.files import file_named, write_whole
from findlr.finding.saved import strict
from findlr.views.drawing import findings_of, labels_of
from findlr.views.report.data import run_data

_BETAS = (0.0, 0.5, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.993, 0.995, 0.998, 0.999)
_SCRIPTS = ("numbers.js", "marks.js", "chart.js", "tables.js", "page.js")


def write_report(
    findings: Sequence[Finding],
    path: str | PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    source: str | None = None,
) -> Path:
    """Write a page that shows one or several runs; it opens from disk, and asks the network for nothing.

    Args:
        findings: at least one.
        path: the file, such as "run.html"; one that is there is replaced.
        labels: one per Finding; None names them by what their facts differ in.
        source: where they come from, which stands at the top beside the date; None is the name of the script that runs.

    Raises:
        ConfigurationError: there is no Finding, or not one label for each; nothing is written.
        OSError: the page can't be written; names the file, and one that was there stays whole.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> with TemporaryDirectory() as folder:
        ...     page = write_report([find(Quadratic())], Path(folder) / "run.html").read_text()
        >>> page.startswith("<!doctype html>")
        True
    """
    text = page(findings, labels, source)
    write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))
    return file_named(path)


def page(findings: Sequence[Finding], labels: Sequence[str] | None = None, source: str | None = None) -> str:
    """The page that ``write_report`` writes."""
    findings = findings_of(findings)
    names = labels_of(findings, labels) if labels is not None or len(findings) != 1 else ("",)
    betas = sorted({*_BETAS, findings[0].curve.smoothing})
    runs = [run_data(finding, name, betas) for finding, name in zip(findings, names, strict=True)]
    made = escape(_made(_script() if source is None else str(source)))
    return Template(_asset("page.html")).substitute(_inlined(), data=_harmless(runs), made=made)


def _made(source: str) -> str:
    """When the page is written, and from what."""
    now = datetime.now().astimezone()
    return f"{now:%Y-%m-%d %H:%M}" + (f", {printable(source)}" if source else "")


def _script() -> str:
    """The name of the script that runs; "" in a notebook or a shell."""
    path = Path(getattr(sys.modules.get("__main__"), "__file__", None) or "")
    return path.parent.name if path.name == "__main__.py" else path.name


def _harmless(value: object) -> str:
    """JSON in which nothing can end the element that it stands in, nor begin another."""
    text = json.dumps(strict(value, lambda _: None), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _inlined() -> dict[str, str]:
    """The page's own parts: styles, scripts, the licence, and the hashes that alone let them act."""
    licence = f"/*\n{_asset('uplot/NOTICE')}\n{_asset('uplot/LICENSE')}\n*/\n"
    parts = {
        "library_style": _asset("uplot/uPlot.min.css"),
        "style": _asset("page.css"),
        "library": licence + _asset("uplot/uPlot.iife.min.js"),
        "script": "".join(f"{_asset(name)}\n" for name in _SCRIPTS),
    }
    hashes = {f"{name}_hash": f"'sha256-{_digest(text)}'" for name, text in parts.items()}
    return parts | hashes


def _digest(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()


def _asset(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
