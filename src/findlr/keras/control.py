"""The last batch's loss under the starting weights: what makes a batch hard is in both losses, and cancels out."""

from __future__ import annotations

import logging
import math
from typing import Any

import keras

from findlr.analysis.text import told
from findlr.keras.memory import (
    Copies,
    copy_of,
    puts_of,
    random_states,
    remember_rng,
    remember_torch_rng,
    wraps_torch,
)
from findlr.keras.steps import Data, Steps, variables_of
from findlr.search.memory import Memory

logger = logging.getLogger("findlr")


class Baseline:
    """The control variate of a search, where there can be one; it is checked once, after the first step.

    Args:
        model: whose loss it is.
        steps: of the model.
        seeds: the states of the model's seed generators: a step's own are replayed.
    """

    def __init__(self, model: keras.Model, steps: Steps, seeds: list[Any]) -> None:
        self._model, self._steps, self._seeds = model, steps, seeds
        self._values: list[Any] | None = None
        self._batches: list[tuple[Data, dict[int, Any], Memory]] = []
        self._draws_torch = keras.backend.backend() == "torch"  # as a Dropout without a seed does there
        self._is_checked = False

    def prepare(self, snapshot: Copies) -> str | None:
        """Get ready for the values of ``snapshot``; return the reason why that can't work, or None."""
        if wraps_torch(self._model):
            return "the model has a module of torch's in it, whose tensors are not Keras's"
        variables = variables_of(self._model)
        self._values = [snapshot.values[id(variable)] for variable in variables]
        self._places = {id(variable): i for i, variable in enumerate(variables)}
        self._loss, self._is_checked = self._steps.loss_at(), False
        return None

    def begin(self) -> None:
        """Forget the last step's batches."""
        self._batches.clear()

    def drawn(self, data: Data) -> None:
        """Remember a batch of the step, and the seeds that its forward pass starts from."""
        if self._values is not None:
            seeds = {self._places[id(seed)]: copy_of(self._steps.of_variable(seed)) for seed in self._seeds}
            self._batches.append((data, seeds, self._draws()))

    def loss(self, latest: Any) -> tuple[Any, int]:
        """The last step's loss under those values, None if there is none, and how many forward passes were made."""
        if self._values is None:
            return None, 0
        if not self._is_checked:
            reason = self._objection(float(latest))
            if reason is not None:
                logger.info("no control variate: %s", reason)
                self.end()
                return None, len(self._batches)
            self._is_checked = True
        return self._mean(), len(self._batches)

    def end(self) -> None:
        """Have none any more."""
        self._values = None

    def _mean(self) -> Any:
        now, losses = self._draws(), []
        try:
            for data, seeds, draws in self._batches:
                draws.put_back()
                values = [seeds.get(i, value) for i, value in enumerate(self._values or ())]
                losses.append(self._loss(values, data))
        finally:
            now.put_back()
        return losses[0] if len(losses) == 1 else sum(losses) / len(losses)

    def _draws(self) -> Memory:
        memory = Memory()
        if self._draws_torch:
            remember_torch_rng(memory)
        return memory

    def _objection(self, seen: float) -> str | None:
        """The reason not to trust it, after a first step whose forward pass saw the loss ``seen``; or None."""
        memory = Memory()
        remember_rng(memory)
        before, puts = random_states(), puts_of(self._model)
        try:
            loss = float(self._mean())
        except Exception as error:  # noqa: BLE001 - of whatever kind: a step of the user's own may need no compute_loss
            return f"the model's compute_loss can't tell the loss of a batch ({told(error)})"
        finally:
            drawn, changed = random_states() != before, sum(put() for put in puts)
            memory.put_back()
        if drawn:
            return "the model draws from a global random state"
        if changed:
            return "a function or an object of the model's keeps something, and changes that"
        if not (math.isclose(loss, seen, rel_tol=1e-4) or (math.isnan(loss) and math.isnan(seen))):
            return "the same batch under the same weights gives another loss, so something else makes a step's"
        return None
