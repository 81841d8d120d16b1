"""The control variate: the step's own loss under the starting weights, with the step's random draws."""

from __future__ import annotations

import logging
import math
from typing import Any

import jax

from findlr.analysis.text import told
from findlr.jax.state import Leaves, Live, is_real
from findlr.jax.traced import Traced

logger = logging.getLogger("findlr")


class Baseline:
    """The losses of a search's batches under its starting weights; the first one is checked.

    Args:
        traced: gives the loss of a batch.
    """

    def __init__(self, traced: Traced) -> None:
        self.forwards = 0
        self._traced = traced
        self._start: Leaves | None = None
        self._losses: list[Any] = []  # of the last step's batches
        self._is_checked = False

    def prepare(self, start: Leaves) -> None:
        """Get ready to run under these weights, none of which is used up."""
        self._start, self._losses, self._is_checked = start, [], False

    def stop(self) -> None:
        """No more losses are wanted."""
        self._start, self._losses = None, []

    def begin(self) -> None:
        """A step begins."""
        self._losses = []
        self.forwards += self._start is not None

    def drawn(self, live: Live, batch: Any) -> None:
        """Take a batch of the step before the step does, which may use up the state that it starts from."""
        if self._start is None:
            return
        pairs = zip(self._start, live.leaves(), strict=True)
        mixed = [one if is_real(one) else other for one, other in pairs]  # weights of the start, draws of now
        try:
            self._losses.append(self._traced.loss(mixed, batch))
        except Exception as error:  # noqa: BLE001 - of whatever kind: there is no control variate then
            logger.info("no control variate: the step can't be traced (%s)", told(error))
            self.stop()

    def loss(self, latest: Any) -> Any:
        """The last step's loss under those weights; None if the first one was not the step's own.

        Args:
            latest: the loss that the step saw.
        """
        if not self._losses:
            return None
        loss = sum(self._losses) / len(self._losses)
        if not self._is_checked:
            seen, under_start = map(float, jax.device_get([latest, loss]))
            if not (math.isclose(seen, under_start, rel_tol=1e-4) or (math.isnan(seen) and math.isnan(under_start))):
                logger.info("no control variate: the same batch under the same weights gives another loss")
                self.stop()
                return None
            self._is_checked = True
        return loss
