"""The score of a state: its loss on batches that are not trained on, or what the user's function says."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import jax

from findlr.analysis.runs import HELD_OUT_BATCHES
from findlr.analysis.text import told
from findlr.errors import FindlrError
from findlr.jax.data import batch_size
from findlr.jax.state import Form, Leaves, loss_in
from findlr.jax.traced import Traced
from findlr.search.batches import Batches

logger = logging.getLogger("findlr")


class HeldOut:
    """Scores of states.

    Args:
        form: of the states.
        traced: gives the loss of a batch.
        evaluate: the user's function; None scores batches that are set aside.
        place: makes of a batch what the step takes.
    """

    def __init__(
        self, form: Form, traced: Traced, evaluate: Callable[..., Any] | None, place: Callable[[Any], Any]
    ) -> None:
        self.forwards = 0
        self.aside: list[Any] = []
        self._form, self._traced, self._evaluate, self._place = form, traced, evaluate, place

    def hold_out(self, training: Batches, leaves: Leaves, count: int, needed: int, share: float) -> int:
        """Set batches aside; the forward passes that a score takes, 0 if the step's loss can't be had without a step.

        Args:
            training: the batches that are trained on.
            leaves: of a state to try it with.
            count: batches to set aside.
            needed: batches that a run takes.
            share: the share of the others that a run may train on.
        """
        if self._evaluate is not None:
            training.hold_out(0, needed, share)
            return HELD_OUT_BATCHES
        place = training.new_memory()
        training.remember(place)
        try:
            self.aside = [self._place(batch) for batch in training.hold_out(count, needed, share)]
            for batch in self.aside[:1]:
                self._traced.check_loss(leaves, batch)
        except FindlrError:
            raise
        except Exception as error:  # noqa: BLE001 - of whatever kind: there is another way to score
            logger.info("the runs are scored on their training losses: the step can't be traced (%s)", told(error))
            self.aside = []
            place.put_back()
        finally:
            place.close()
        return len(self.aside)

    def score(self, leaves: Leaves) -> float:
        """The score of a state, none of whose leaves is used up: lower is better."""
        if self._evaluate is not None:
            self.forwards += HELD_OUT_BATCHES
            return float(loss_in(self._form.live(leaves).call(self._evaluate)))
        losses = jax.device_get([self._traced.loss(leaves, batch) for batch in self.aside])
        self.forwards += len(losses)
        sizes = [batch_size(batch) or 1 for batch in self.aside]
        return math.fsum(float(loss) * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)
