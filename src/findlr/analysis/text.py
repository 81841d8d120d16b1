"""How a rate, a time and a stranger's text are written: the same in every view. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")  # colours, cursor moves, titles
_VERIFY = re.compile(r", or verify=True|verify=True, or |: use verify=True(?!, or )[^.]*")
_LONGEST_TIME = 1e9  # seconds


def rate_text(lr: float) -> str:
    """A learning rate with two digits: its interval is far wider than a third digit would be.

    Returns:
        The same as ``f"{lr:.2g}"``, but for rates of 100 and more, which have no exponent below a million.

    Example:
        >>> rate_text(0.29871), rate_text(0.00047), rate_text(4.7e-5), rate_text(120.0)
        ('0.3', '0.00047', '4.7e-05', '120')
    """
    return f"{float(f'{lr:.2g}'):g}"


def interval_text(interval: tuple[float, float]) -> str:
    """The two ends of an interval of rates.

    Example:
        >>> interval_text((0.1571, 0.8033))
        '0.16 to 0.8'
    """
    return f"{rate_text(interval[0])} to {rate_text(interval[1])}"


def duration(seconds: float) -> str:
    """A time as one says it.

    Example:
        >>> duration(0.314), duration(200.0), duration(7500.0)
        ('0.31 s', '3 min 20 s', '2 h 5 min')
    """
    if not 99.5 <= seconds < _LONGEST_TIME:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def parted(why: str) -> tuple[str, str]:
    """The two halves of a reason: what was seen, and what to change; the second is empty where there is none.

    Example:
        >>> parted("The training fails (ValueError: it exploded): lower min_lr.")
        ('The training fails (ValueError: it exploded).', 'lower min_lr.')
        >>> parted("The loss falls, and then rises.")
        ('The loss falls, and then rises.', '')
    """
    depth = 0
    for i, letter in enumerate(why):
        depth = max(depth + (letter == "(") - (letter == ")"), 0)
        if not depth and why.startswith(": ", i):
            return f"{why[:i]}.", why[i + 2 :].strip()
    return why, ""


def without_verify(why: str) -> str:
    """A reason without the advice to verify, for a training of which no race can be run.

    Example:
        >>> without_verify("No rate is seen to be too high; raise max_lr, or verify=True.")
        'No rate is seen to be too high; raise max_lr.'
        >>> without_verify("But what a rate costs shows late: use verify=True, which costs at most 1,200 steps.")
        'But what a rate costs shows late.'
    """
    return _VERIFY.sub("", why)


def printable(text: str, most: int | None = None) -> str:
    """A text of a stranger's, such as a file's or an exception's, as one line that no terminal obeys.

    Args:
        text: any text.
        most: its most letters; a longer one ends in three dots. None: as long as it is.

    Returns:
        The text without colours and cursor moves; any other letter that cannot be printed is a question mark.

    Example:
        >>> escape = chr(27)
        >>> printable(f"the {escape}[31mdisk{escape}[0m is on fire{chr(0)}")
        'the disk is on fire?'
    """
    line = " ".join(_ESCAPES.sub("", text).split())
    clean = "".join(letter if letter.isprintable() else "?" for letter in line)
    return clean if most is None or len(clean) <= most else f"{clean[: most - 3]}..."


def told(error: BaseException, most: int = 200) -> str:
    """An exception in a line: its class, and the beginning of its message.

    Example:
        >>> told(ValueError("the loss exploded"))
        'ValueError: the loss exploded'
    """
    try:
        message = printable(str(error), most)
    except Exception:  # noqa: BLE001 - its own code writes it, and may fail, too
        message = "(its message cannot be read)"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def first_of(names: Sequence[str], most: int = 5) -> str:
    """The first of many names, and how many more there are.

    Example:
        >>> first_of(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
