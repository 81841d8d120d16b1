"""What two searches were asked, compared: a file's and this one's, or those of the processes that make one together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from findlr.analysis.text import printable
from findlr.errors import ConfigurationError, RankError
from findlr.search.checkpoint_file import through_json
from findlr.search.trainable import OneOfSeveral

_DECIDE = ("optimizer", "ratios", "parameters", "accumulation_steps", "autocast", "clip_grad_norm", "clip_grad_value")


def check_alike(several: OneOfSeveral, asked: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Refuse a search that the processes were asked differently: they would wait for each other in different places.

    Args:
        several: the processes; where it has ``asked()``, that tells more of what decides the search.
        asked: what decides the search, by name.
        facts: what the training tells of itself.

    Raises:
        ConfigurationError: this process was asked something else than the first.
        RankError: another one was.
    """
    more: Mapping[str, Any] = getattr(several, "asked", dict)()
    mine = through_json({**asked, **more, **{name: facts[name] for name in _DECIDE if name in facts}})
    found = difference(several.first(mine), mine)
    if found is not None:
        what, theirs, here = found
        error = ConfigurationError(f"{what} is {here}, and {theirs} on rank 0: make the same call on all ranks")
        raise settled(several, error)
    several.first(None)  # the others have found no difference either


def settled(several: OneOfSeveral | None, error: BaseException) -> BaseException:
    """What to raise, once no other process waits for this one: its own exception, if it has one."""
    common = error if several is None else several.settle(error)
    return (common.own or common) if isinstance(common, RankError) else common


def difference(kept: Any, now: Any, where: str = "") -> tuple[str, str, str] | None:
    """The first place where two values differ, and what stands there, in words."""
    if isinstance(kept, dict) and isinstance(now, dict):
        for key in {**kept, **now}:
            found = difference(kept.get(key), now.get(key), f"{where}.{key}".lstrip("."))
            if found is not None:
                return found
        return None
    if kept == now:
        return None
    return where, printable(str(kept), 60), printable(str(now), 60)
