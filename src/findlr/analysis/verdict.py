"""Whether a curve gives an answer, judged before any rule is asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from findlr.analysis.acting import batch_is_at_fault
from findlr.analysis.curve import Curve, Ending, Stop
from findlr.analysis.levels import DEEP, FEWEST, Levels, levels_of
from findlr.analysis.text import rate_text

_TELLING = 5  # batches on the way down from which a sign test can tell
_EDGES = (Stop.DIVERGED, Stop.NOT_FINITE, Stop.FAILED)  # what a rate that is too high does
_CUT = {  # why no higher rate was tried, and what to do about it
    Stop.CAPPED: ("the optimizer caps its own rate there", "no higher one can act, so that is the most it takes"),
    Stop.OVERFLOW: ("the optimizer skipped 20 steps in a row there", "look at the loss scale and the gradients"),
    Stop.DATA_ENDED: ("the data ended there", "give more of them, or fewer num_steps"),
    Stop.LEFT: ("the loop was left there", "let it run until the test is done"),
    Stop.INTERRUPTED: ("an exception or an interrupt ended it there", "run it again"),
}


class Verdict(Enum):
    """Whether a curve gives a rate, and with which reservation; each member's value says it in a sentence."""

    CLEAR = "The loss falls, reaches a bottom inside the swept range, and rises again."
    NOISY = "The loss falls and rises again, but by little against the differences between batches."
    NO_EDGE = "The loss falls and stays low up to the highest rate."
    MANY_EPOCHS = "The curve is clear, but the plan sees its data more often than a sweep can tell about."
    PRETRAINED = "The curve is clear, but the weights are trained already, and a sweep can't see what they lose later."
    DISAGREE = "The curve's dip is far from what is usual for such a training."
    RACED = "The curve alone tells too little, but short runs of the plan tell the rates apart."
    BROAD = "The short runs end about equally well at all rates tried."
    HORIZON_LIMITED = "The best of the short runs is at an end of the rates tried."
    FLAT = "The loss does not fall at any rate."
    RISING = "The loss rises from the first rate on."
    TOO_SHORT = "The sweep has too few usable points."
    NOT_FINITE = "The loss is NaN or infinite, and no rate is the reason."
    STILL_FALLING = "The loss still falls at the highest rate."
    NO_ANSWER = "The rule finds no rate inside the swept range."

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        return self.value

    @property
    def refuses(self) -> bool:
        """True if no rate may be suggested."""
        return self in (
            Verdict.FLAT, Verdict.RISING, Verdict.TOO_SHORT,
            Verdict.NOT_FINITE, Verdict.STILL_FALLING, Verdict.NO_ANSWER,
        )  # fmt: skip


@dataclass(frozen=True)
class Judgement:
    """A verdict on one curve, with what was seen and what to change."""

    verdict: Verdict
    why: str


def judge(curve: Curve, ending: Ending | None = None) -> Judgement:
    """Tell whether a curve gives a suggestion.

    With a baseline a fall counts if, on the way down, so many batches are below their loss at the start as chance gives
    in 2 of 100 cases: a sign test, (k - n / 2) / sqrt(n / 4) > 2.1. Where the batches are too few for that, if three
    quarters of them are below and the fall is more than twice what batches differ by. Without a baseline, if the bottom
    lies 4 standard errors under the start, by the losses' own scatter. Where all batches begin alike, the fall must
    also be more than 3 times their scatter at the bottom, or more than half of all ups and downs on the way. A fall
    comes by itself, and does not count, if 0.3 of it is there, by 3 standard errors, 3 decades below the rate that has
    0.9 of it, and 0.4 of that half-way there.

    Args:
        curve: the raw losses of a sweep.
        ending: how the sweep ended; None where only the curve is known.

    Returns:
        A Judgement; its ``why`` says what was seen and, where the verdict refuses, what to change.

    Example:
        >>> judge(Curve(lr=[1e-3, 1e-2], loss=[1.0, 1.0])).verdict
        <Verdict.TOO_SHORT: 'The sweep has too few usable points.'>

    Source: original.
    """
    if ending is None:
        ending = Ending(Stop.DIVERGED if curve.diverged else Stop.FINISHED)
    points = curve.paired()
    if not len(curve.usable()):
        return _judge_nothing(curve, ending)
    if batch_is_at_fault(curve):
        return _judge_up_to_batch(curve, points, ending)
    if len(points) < FEWEST:
        return Judgement(Verdict.TOO_SHORT, _why_too_short(curve, len(points), ending))
    return _judge_levels(curve, points, levels_of(points), ending)


def _judge_nothing(curve: Curve, ending: Ending) -> Judgement:
    if not len(curve):
        cut = _CUT.get(ending.stop)
        ended = "The sweep has no point" + ("" if cut is None else f", because {cut[0].removesuffix(' there')}")
        return Judgement(Verdict.TOO_SHORT, f"{ended}: {'measure one' if cut is None else cut[1]}.")
    what = "NaN or infinite" if not np.isfinite(curve.loss[0]) else f"{curve.loss[0]:.2g}, as good as infinite"
    return Judgement(
        Verdict.NOT_FINITE,
        f"The first loss, of {_batch(0, ending)}, is {what}, before any step: look for it in the data, the "
        "model's output or the criterion.",
    )


def _judge_up_to_batch(curve: Curve, points: Curve, ending: Ending) -> Judgement:
    """The sweep was cut where a batch happened to lie: what came before must tell a rate by itself."""
    at = len(curve) - 1
    where = f"the loss of {_batch(at, ending)}, at lr {rate_text(curve.lr[at])}, is NaN or infinite"
    if curve.baseline is None:  # the differences between batches may have hidden what the rate did
        fault = (
            f"{where}, and no loss before it stood out from how batches differ: look for it in that batch, or in the "
            "gradient of the one before; if both are sound, the rate was too high, so take larger batches, or start "
            "lower,"
        )
    elif np.isfinite(curve.baseline[-1]):
        fault = (
            f"{where} before any rate has acted: look for it in that batch, or in the gradient of the one before; "
            "if both are sound, start lower"
        )
    else:
        fault = f"{where} under the starting weights, too: that is the data's fault, not the rate's, so mend that batch"
    if len(points) >= FEWEST:
        levels = levels_of(points)
        judged = _judge_levels(curve, points, levels, Ending(Stop.DATA_ENDED))
        if levels.turned and judged.verdict in (Verdict.CLEAR, Verdict.NOISY):
            return Judgement(judged.verdict, f"{judged.why} The sweep ended early: {fault}.")
    return Judgement(
        Verdict.NOT_FINITE, f"{fault[0].upper()}{fault[1:]} and sweep again; the losses before it tell no rate."
    )


def _judge_levels(curve: Curve, points: Curve, levels: Levels, ending: Ending) -> Judgement:
    if levels.bottom_is_below_start:
        if levels.itself_by is not None:
            return Judgement(Verdict.FLAT, _why_by_itself(points, levels, levels.itself_by))
        return _judge_fall(points, levels, ending)
    order = "" if points.baseline is not None else "the batches come in an order, such as the easiest first"
    if levels.rises_early:
        return Judgement(
            Verdict.RISING,
            f"The loss rises from {levels.start:.4g} at the first rate, {rate_text(points.lr[0])}, and never falls "
            f"below it: lower min_lr by a few powers of ten; if that changes nothing, {order and f'{order}, '}the "
            "model is trained already, a queue that it keeps still fills, a part of the loss is faded in, or the "
            "optimizer works against the loss (its sign, maximize=True).",
        )
    todo = f"{_CUT[ending.stop][1]}; " if ending.stop in _CUT else ""
    if points.baseline is None and levels.fall > DEEP * levels.scatter > 0:
        where = rate_text(points.lr[levels.bottom_index])
        return Judgement(
            Verdict.FLAT,
            f"The loss falls by {levels.fall:.2g} near lr {where}{_end(ending)}, on too few points to be told from how "
            f"batches differ, {levels.scatter:.2g}: {todo}take larger batches or more steps; if {order}, shuffle them.",
        )
    if not levels.scatter and np.ptp(points.loss) == 0:
        todo += "all losses are the same; "
    elif points.baseline is not None and levels.way < _TELLING:  # else it is no matter of counting them
        lie = "batches lie" if levels.way > 1 else "batch lies"
        todo += f"only {levels.way} {lie} on the way to the lowest point, too few to tell: take more steps; "
    return Judgement(
        Verdict.FLAT,
        f"The loss stays within its noise, {levels.start:.4g} +/- {levels.scatter:.2g} per batch, at every rate up to "
        f"{rate_text(points.lr[-1])}{_end(ending)}: {todo}check that the loss depends on the "
        f"parameters and the targets fit the inputs; {order and f'if {order}, shuffle them; '}if the model is trained "
        "already, or batches differ a lot, take larger batches or more steps to show a fall.",
    )


def _judge_fall(points: Curve, levels: Levels, ending: Ending) -> Judgement:
    last = points.lr[-1]
    before, bottom = _told_apart(levels.before, levels.bottom)
    cut = _CUT.get(ending.stop)
    if ending.stop is Stop.NOT_FINITE and not levels.turned:  # a batch could do that, too
        cut = (
            f"the loss of {_batch(len(points), ending)} is NaN or infinite, and no loss before it had risen",
            "look at that batch, and at the gradient of the one before; if both are sound, take more steps",
        )
    n = len(points)
    at_end = levels.bottom_index >= n - max(5, n // 20)
    at_end = at_end and (ending.stop not in _EDGES or cut is not None)
    if at_end and not levels.done_before_end:
        more = "raise max_lr until the loss turns up" if cut is None else "; ".join(cut)
        return Judgement(
            Verdict.STILL_FALLING,
            f"The loss is lowest, {bottom}, at the end of the sweep, lr {rate_text(last)}: {more}.",
        )
    where = rate_text(points.lr[levels.bottom_index])
    seen = (
        f"The loss falls from {before} to {bottom} near lr {where}, {levels.evidence}, "
        f"and then {'stays' if at_end else 'rises'}"
    )
    if at_end:
        more = "raise max_lr, or verify=True" if cut is None else f"{'; '.join(cut)}, or verify=True"
        return Judgement(
            Verdict.NO_EDGE, f"{seen} low up to {rate_text(last)}: no rate is seen to be too high; {more}."
        )
    if ending.stop is Stop.FAILED:
        seen = f"{seen}, until the training fails at the next rate after {rate_text(last)} ({ending.error})"
    if points.is_shallow(levels.fall):
        return Judgement(
            Verdict.NOISY,
            f"{seen}; but batches differ by {points.spread():.2g}, so the best rate may be several times higher: "
            "use verify=True, or more steps, to find out.",
        )
    return Judgement(Verdict.CLEAR, f"{seen}.")


def _why_by_itself(points: Curve, levels: Levels, by: int) -> str:
    seen = (
        f"The loss falls by itself: much of its fall from {levels.start:.4g} is there by lr "
        f"{rate_text(points.lr[by])}, the rest lasts to a thousand times that, and no rate acts over so wide a range: "
    )
    elsewhere = "the optimizer takes its rate from elsewhere than its param groups' lr, or sets it itself"
    if points.baseline is not None:
        return f"{seen}as the same batches show no such fall under the starting weights, {elsewhere}: mend that."
    return (
        f"{seen}if the batches come in an order, such as the hardest first, shuffle them; if the training fades "
        f"something out (noise, a weight in the loss), hold it still; else {elsewhere}."
    )


def _why_too_short(curve: Curve, n: int, ending: Ending) -> str:
    seen = f"The sweep has {n} usable point{'s' * (n != 1)}, and a judgement needs {FEWEST}"
    if ending.stop is Stop.FAILED:
        return f"{seen}; the training fails after lr {rate_text(curve.lr[-1])} ({ending.error}): lower min_lr."
    if ending.stop in _EDGES:
        what = "diverged" if np.isfinite(curve.loss[-1]) else "was NaN or infinite"
        others = (
            "; if it rises by itself, as with a queue that still fills, fill that first; if single batches are that "
            "much harder, take larger ones"
        )
        more = "" if curve.baseline is not None else others
        return f"{seen}; the loss {what} at lr {rate_text(curve.lr[-1])}: lower min_lr, or raise num_steps{more}."
    if ending.stop in _CUT:
        return f"{seen}; it ended at lr {rate_text(curve.lr[-1])}: {'; '.join(_CUT[ending.stop])}."
    return f"{seen}: raise num_steps."


def _end(ending: Ending) -> str:
    if ending.stop is Stop.FAILED:
        return f", and then the training fails ({ending.error})"
    if ending.stop in _EDGES:
        return ", and then diverges" if ending.stop is Stop.DIVERGED else ", and then is NaN or infinite"
    return f" ({_CUT[ending.stop][0]})" if ending.stop in _CUT else ""


def _batch(index: int, ending: Ending) -> str:
    """The batch of a point by its index among all that the sweep drew."""
    first = (index + ending.skipped) * ending.batches_per_step
    if ending.batches_per_step == 1:
        return f"batch {first} of the sweep (the first is 0)"
    return f"one of the batches {first} to {first + ending.batches_per_step - 1} of the sweep (the first is 0)"


def _told_apart(a: float, b: float) -> tuple[str, str]:
    """Both numbers with 4 digits, or as many as tell them apart."""
    for digits in range(4, 17):
        texts = f"{a:.{digits}g}", f"{b:.{digits}g}"
        if texts[0] != texts[1]:
            break
    return texts
