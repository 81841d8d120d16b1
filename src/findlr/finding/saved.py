"""The shape of a saved Finding: what a file must hold, and floats that JSON lacks.

The same for other programs is ``docs/finding.schema.json``. Every later version reads every format that was released:
what is new is optional, and a change that is not gets a new number beside the old one.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from typing import Any, TypeVar

from findlr.analysis.text import printable
from findlr.errors import FileFormatError
from findlr.finding.facts import DEEPEST
from findlr.finding.files import file_named, write_whole

_Read = TypeVar("_Read")

FORMAT = 1
LARGEST = 96 * 2**20  # bytes of a file: a million points with all that can be measured at each

_TOO_LARGE = 2**63  # for a whole number
_NOT_FINITE = {"nan", "inf", "-inf"}
_NUMBERS = [float]
_MAYBE_NUMBERS = (_NUMBERS, None)
_SHAPE: dict[str, Any] = {  # what a name with a question mark stands for is there or not
    "format": int,
    "suggestion": ({"lr": float, "rule": str, "why": str, "interval": _MAYBE_NUMBERS}, None),
    "verdict": str,
    "why": str,
    "stop": str,
    "curve": {
        "lr": _NUMBERS,
        "loss": _NUMBERS,
        "baseline": _MAYBE_NUMBERS,
        "validation": _MAYBE_NUMBERS,
        "diverged": bool,
        "num_steps": int,
        "smoothing": float,
    },
    "plan": {
        "schedule": (str, _NUMBERS),
        "total_steps": (int, None),
        "optimizer": str,
        "momentum": (float, None),
        "parameters": (int, None),
        "warmup?": float,
        "epochs?": float,
        "pretrained?": float,
        "scheduler?": str,
    },
    "cost": {"steps": float, "forwards": int, "backwards": int, "seconds": float},
    "facts": Mapping,
    "race": (
        {
            "runs": [{"lr": float, "steps": int, "loss": float}],
            "start": float,
            "best_lr": float,
            "bracketed": bool,
            "path": str,
            "held_out?": bool,
        },
        None,
    ),
}
_FACTS: dict[str, Any] = {  # those that findlr itself reads
    "ratios?": _NUMBERS,
    "optimizer?": {
        "name": str,
        "module": str,
        "arguments": Mapping,
        "groups": [Mapping],
        "parameters?": str,
        "rate?": str,
    },
    "sets?": str,
    "optimizers?": int,
    "sets_share?": float,
}


def strict(value: Any, wrap: Callable[[str], Any] = str) -> Any:
    """``value`` with NaN and infinity, which JSON lacks, as the strings "nan", "inf" and "-inf", each in ``wrap``."""
    if isinstance(value, float) and not math.isfinite(value):
        return wrap(repr(value))
    if isinstance(value, Mapping):
        return {key: strict(item, wrap) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if set(map(type, value)) == {float}:
            finite = all(map(math.isfinite, value))
            return list(value) if finite else [item if math.isfinite(item) else wrap(repr(item)) for item in value]
        return [strict(item, wrap) for item in value]
    return value


def marked(text: str) -> dict[str, str]:
    """A float of the facts, where a text could be just that text."""
    return {"float": text}


def _unmarked(value: Any, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise FileFormatError(f"this Finding is damaged: its facts are more than {DEEPEST} deep; save it again")
    if isinstance(value, Mapping):
        if value.keys() == {"float"} and isinstance(value["float"], str) and value["float"] in _NOT_FINITE:
            return float(value["float"])
        return {key: _unmarked(item, depth + 1) for key, item in value.items()}
    return [_unmarked(item, depth + 1) for item in value] if isinstance(value, list) else value


def parsed(text: bytes) -> Any:
    """The value that a JSON text describes.

    Raises:
        FileFormatError: it is no JSON, too large, too deep, or names a key twice.
    """
    if len(text) > LARGEST:
        raise FileFormatError(f"this is no Finding: it has more than {LARGEST >> 20} MB; use one that save() wrote")
    try:
        return json.loads(text.decode(), object_pairs_hook=_without_doubles)
    except FileFormatError:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or "there is too little memory for it"
        raise FileFormatError(f"this is no JSON ({reason}); use a file that finding.save() wrote") from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise FileFormatError(f"this Finding is damaged: it has {_short(key)} twice; save it again")
        result[key] = value
    return result


def checked(data: Any) -> dict[str, Any]:
    """The data of a Finding with its numbers as floats again, after a look at every field.

    Raises:
        FileFormatError: it is no Finding, one of another format, or a field has the wrong kind of value.
    """
    if not isinstance(data, Mapping) or "format" not in data:
        raise FileFormatError("this is no Finding: it has no format number; use a file that finding.save() wrote")
    if data["format"] != FORMAT or isinstance(data["format"], bool):
        raise FileFormatError(
            f"this Finding has format {_short(data['format'])}, and this findlr reads {FORMAT}: update findlr, which "
            "reads every format that was released before"
        )
    result: dict[str, Any] = fitted(data, _SHAPE, "")
    facts = {key: _unmarked(value) for key, value in result["facts"].items()}
    result["facts"] = {**facts, **fitted(facts, _FACTS, "facts")}
    for where, holds in _holding(result):
        if not holds:
            raise FileFormatError(f"this Finding is damaged: its {where} cannot be; save it again")
    return result


def _holding(fields: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """What must hold between values of the right kinds, so that no view stumbles."""
    suggestion, race, facts, cost = fields["suggestion"], fields["race"], fields["facts"], fields["cost"]
    if suggestion is not None:
        interval = suggestion["interval"]
        yield "suggestion's rate", is_rate(suggestion["lr"])
        yield "interval", interval is None or (len(interval) == 2 and all(map(is_rate, interval)))
    rates = fields["curve"]["lr"]
    yield "curve's rates", not rates or (is_rate(min(rates)) and is_rate(max(rates)))
    yield "smoothing", 0 <= fields["curve"]["smoothing"] < 1
    yield "momentum", fields["plan"]["momentum"] is None or math.isfinite(fields["plan"]["momentum"])
    yield "cost", all(0 <= value < math.inf for value in cost.values())
    if race is not None:
        runs = race["runs"]
        yield "race", bool(runs) and all(is_rate(run["lr"]) and run["steps"] > 0 for run in runs)
        yield "race's best rate", is_rate(race["best_lr"])
    if "ratios" in facts:
        yield "ratios", bool(facts["ratios"]) and all(0 <= ratio < math.inf for ratio in facts["ratios"])


def is_rate(value: float) -> bool:
    """Whether a rate can be saved, and shown."""
    return 1e-100 < value < 1e100  # beyond, a logarithmic axis overflows


def damaged(error: Exception) -> FileFormatError:
    """The error for a Finding that cannot be built, with a reason that is short whatever the file holds."""
    reason = f"no {error}" if isinstance(error, KeyError) else str(error)
    return FileFormatError(f"this Finding is damaged ({printable(reason, 160)}); save it again")


def write(path: str | PathLike[str], data: Mapping[str, Any]) -> None:
    """Write data as JSON into a file, whole or not at all; one that is there is replaced."""
    text = json.dumps(data, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write_bytes(text.encode()))  # at once: a text file is slow for a long curve


def read(path: str | PathLike[str], build: Callable[[bytes], _Read]) -> _Read:
    """What ``build`` makes of a file's bytes; its errors name the file.

    Raises:
        ConfigurationError: ``path`` is no name of a file.
        FileFormatError: it is no regular file, or ``build`` says so.
        OSError: the file cannot be read.
    """
    file = file_named(path)
    if file.exists() and not file.is_file():  # a pipe could keep us waiting
        raise FileFormatError(f"{path} is no regular file; use one that finding.save() wrote")
    with file.open("rb") as opened:
        text = opened.read(LARGEST + 1)
    try:
        return build(text)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from error


def _short(value: Any) -> str:
    """A value in an error: short and without a control code, however large it is."""
    try:
        return printable(reprlib.repr(value), 80)
    except ValueError:  # a whole number of more digits than Python writes
        return f"a very large {type(value).__name__}"


def fitted(value: Any, shape: Any, where: str) -> Any:
    """A value after a look at it; what it has beside its shape is left out."""
    if isinstance(shape, tuple):
        chosen = next((each for each in shape if _is_a(value, each)), shape[0])
        return None if value is None and None in shape else fitted(value, chosen, where)
    if not _is_a(value, shape):
        raise FileFormatError(f"this Finding is damaged: {where or 'it'} is {_short(value)}; save it again")
    if isinstance(shape, dict):
        missing = {key for key in shape if not key.endswith("?")} - value.keys()
        if missing:
            raise FileFormatError(f"this Finding is damaged: {where or 'it'} lacks {min(missing)}; save it again")
        parts = {key.removesuffix("?"): part for key, part in shape.items()}
        return {key: fitted(value[key], parts[key], f"{where}.{key}".lstrip(".")) for key in parts if key in value}
    if isinstance(shape, list):
        if shape is _NUMBERS:  # which may be long
            kinds = set(map(type, value))
            if kinds == {float}:
                return value
            if kinds == {float, str} and {item for item in value if type(item) is str} <= _NOT_FINITE:
                return list(map(float, value))
        return [fitted(item, shape[0], where) for item in value]
    return float(value) if shape is float else value


def _is_a(value: Any, shape: Any) -> bool:
    if shape is None:
        return value is None
    if isinstance(shape, (dict, list)):
        return isinstance(value, Mapping if isinstance(shape, dict) else list)
    if isinstance(value, int) and not isinstance(value, bool):
        return shape in (int, float) and abs(value) < _TOO_LARGE
    if shape is float:
        return isinstance(value, float) or (isinstance(value, str) and value in _NOT_FINITE)
    return isinstance(value, shape)
