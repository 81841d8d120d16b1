"""The curve of a Finding as columns, and what they are written to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from findlr.analysis.curve import Curve
from findlr.analysis.smoothing import Array
from findlr.errors import MissingExtraError
from findlr.finding.files import write_whole
from findlr.finding.saved import strict

if TYPE_CHECKING:
    import pandas

Columns = Mapping[str, Array]


def columns_of(curve: Curve) -> dict[str, Array]:
    """lr, loss, smoothed, and baseline and validation where they were measured."""
    columns = {"lr": curve.lr, "loss": curve.loss, "smoothed": curve.smoothed().loss}
    for name in ("baseline", "validation"):
        if (values := getattr(curve, name)) is not None:
            columns[name] = values
    return columns


def table(columns: Columns) -> pandas.DataFrame:
    """The columns as a table.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtraError.of("pandas", "pandas") from None
    return pd.DataFrame(columns)


def write_csv(columns: Columns, path: str | PathLike[str]) -> None:
    """Write comma-separated values; every digit is kept.

    Raises:
        OSError: they can't be written; names the file.
    """
    rows = np.column_stack(list(columns.values()))
    how: dict[str, Any] = {"fmt": "%.17g", "delimiter": ",", "header": ",".join(columns), "comments": ""}
    write_whole(path, lambda file: np.savetxt(file, rows, encoding="utf-8", **how))


def write_jsonl(columns: Columns, path: str | PathLike[str]) -> None:
    """Write JSON Lines, a point on each; NaN and infinity are null, as JSON has neither.

    Raises:
        OSError: they can't be written; names the file.
    """
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    points = [strict(dict(zip(columns, row, strict=True)), lambda _: None) for row in rows]
    text = "".join(json.dumps(point, allow_nan=False) + "\n" for point in points)
    write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))
