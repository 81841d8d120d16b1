"""A compiled Keras model as the search sees it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Never

import keras
import numpy as np

from findlr.analysis.numbers import plain, whole
from findlr.analysis.plan import Plan
from findlr.analysis.text import told
from findlr.errors import ConfigurationError, LoaderError, OptimizerError
from findlr.keras import described
from findlr.keras.control import Baseline
from findlr.keras.data import as_in_fit, remember_place, size_of
from findlr.keras.memory import Copies, remember_model, remember_rng, remember_scopes, remember_variables, seeds_of
from findlr.keras.steps import Data, loss_in, steps_of
from findlr.search.batches import Batches
from findlr.search.memory import Memory
from findlr.search.splitting import first_batches

logger = logging.getLogger("findlr")

_READ_EVERY_STEPS = 10  # where a step need not wait for its loss: on a device, and on JAX


class KerasTrainable:
    """A model, and its data. Its metrics, its loss and its optimizer are built here, as fit builds them.

    Args:
        model: built and compiled, with a rate that can be set.
        batches: what it is trained on.
        class_weight: each class's weight, as for fit.
        validation: what a race is scored on; without it, some of ``batches`` are set aside. Without a race, all of it
            makes the validation loss along the sweep.
        validation_every: steps between two validation losses, at least 1.
        facts: what the Finding should record besides.
    """

    def __init__(
        self,
        model: keras.Model,
        batches: Batches,
        *,
        class_weight: Mapping[int, float] | None = None,
        validation: Batches | None = None,
        validation_every: int = 1,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        if (whole(validation_every) or 0) < 1:
            raise ConfigurationError(f"validation_every must be a whole number of at least 1, got {validation_every!r}")
        self.model, self.batches = model, batches
        self.forwards = self.backwards = 0
        self._validation, self._told = validation, facts or {}
        self.validation_every = None if validation is None else plain(validation_every)
        self._class_weight = described.checked_weights(class_weight)
        self._optimizer = described.innermost(model.optimizer)
        self.accumulation_steps = int(self._optimizer.gradient_accumulation_steps or 1)
        self._scales = self._optimizer is not model.optimizer
        self._batch_size: int | None = None
        described.make_settable(model)
        self._build()
        self._seeds = seeds_of(model)
        self._steps = steps_of(model)
        self._baseline = Baseline(model, self._steps, self._seeds)
        self._calls: int | None = None  # of the optimizer, from its first; to be read
        self._skips: Any = 0
        self._aside: list[Data] = []
        self.device = described.device_of(model)
        self._reads_at_once = self.device == "cpu" and keras.backend.backend() == "torch"
        self.read_every = 1 if self._reads_at_once else _READ_EVERY_STEPS

    def __reduce__(self) -> Never:
        """Refuse to be sent to another process, before the first step."""
        raise ConfigurationError(
            "executor= can't be had, because a Keras model is sent as a file, without its random states and what is "
            "compiled of it: leave executor out"
        )

    def _build(self) -> None:
        """Build what fit builds before its first batch."""
        place = Memory()
        remember_place(self.batches, place)
        remember_rng(place)
        try:
            self.model._symbolic_build(data_batch=self._next())  # noqa: SLF001 - only fit and its kin call it
        finally:
            place.put_back()
            place.close()

    def step(self, lr: float) -> Any:
        """Take one optimizer step at ``lr``, on as many batches as it accumulates.

        Returns:
            The loss before it, left on its device.

        Raises:
            LossError: the model's ``train_step`` gives no loss.
            OptimizerError: it does not step the model's optimizer.
            LoaderError: there is no batch.
        """
        if self._calls is None:
            self._calls = self._read_calls()
            self._skips = 0
        self._baseline.begin()
        losses = []
        while True:
            data = self._next()
            self._baseline.drawn(data)
            logs = self._steps.take(data, lr)
            self.forwards, self.backwards = self.forwards + 1, self.backwards + 1
            losses.append(loss_in(logs))
            self._calls += 1
            if self._calls % self.accumulation_steps == 0:
                break
        if self.forwards == len(losses) and not self._scales:
            self._check_stepped()
        loss = losses[0] if len(losses) == 1 else sum(losses) / len(losses)
        self._latest = float(loss) if self._reads_at_once else loss
        return self._latest

    def _check_stepped(self) -> None:
        if self._read_calls() != self._calls:
            raise OptimizerError(
                "the model's train_step does not step model.optimizer once for each batch, so its rate can't be swept: "
                "compile with the optimizer that trains, and call its apply() once"
            )

    def _next(self) -> Data:
        batch = self.batches.next()
        if self._batch_size is None:
            self._batch_size = size_of(batch)
        return self._placed(batch, self._class_weight)

    def _placed(self, batch: Any, class_weight: Mapping[int, float] | None = None) -> Data:
        """A batch's inputs, targets and weights, as fit gives them to a step."""
        try:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        except ValueError as error:
            raise LoaderError(
                "a batch must be inputs, or a tuple of inputs, targets and perhaps sample weights, got "
                f"{type(batch).__name__} of {len(batch)}"
            ) from error
        if class_weight is not None:
            if y is None or sample_weight is not None:
                raise ConfigurationError("class_weight goes with targets, and without sample weights: give one of them")
            batch = (x, y, described.weights_of(y, class_weight))
        return as_in_fit(batch)

    def skipped(self) -> Any:
        """A value above 0 if a LossScaleOptimizer skipped the last step; None for any other optimizer."""
        if not self._scales:
            return None
        skips = self._calls - self._steps.of_variable(self._optimizer._iterations)  # noqa: SLF001 - steps that were taken
        last, self._skips = skips - self._skips, skips
        return last

    def read(self, losses: Sequence[Any]) -> list[float]:
        """The losses as numbers; waits for the device."""
        return [float(loss) for loss in losses]

    def acting_lr(self, lr: float) -> float:
        """The rate that the next step takes when asked for ``lr``: rounded to the variable's type, or capped.

        Raises:
            OptimizerError: the type holds no rate as small.
        """
        if isinstance(self._optimizer, keras.optimizers.Adafactor):
            steps = (self._read_calls() if self._calls is None else self._calls) // self.accumulation_steps
            lr = min(lr, 1 / math.sqrt(steps + 1))
        return described.rounded(lr, self.model)

    def _read_calls(self) -> int:
        return int(self._steps.of_variable(self._optimizer._iterations))  # noqa: SLF001 - not the steps

    def snapshot(self) -> Copies:
        """Copies of everything that a step can change."""
        self._steps.sync()
        memory = Copies()
        remember_scopes(memory)
        for batches in (self.batches, self._validation):
            if batches is not None:
                remember_place(batches, memory)
        remember_model(self.model, memory)
        return memory

    def restore(self, snapshot: Copies) -> None:
        """Put everything back."""
        self._baseline.end()
        snapshot.put_back()
        self._steps.forget()
        self._calls = None

    def prepare_baseline(self, snapshot: Copies) -> str | None:
        """Get ready for ``baseline`` under the values of ``snapshot``; return why there can be none, or None."""
        return self._baseline.prepare(snapshot)

    def baseline(self) -> Any:
        """The last batch's loss under the snapshot's values, with the same dropout; None if a self-check failed."""
        loss, forwards = self._baseline.loss(self._latest)
        self.forwards += forwards
        return float(loss) if loss is not None and self._reads_at_once else loss

    def hold_out(self, batches: int, steps: int, total_steps: int) -> int:
        """Set batches aside: the validation data's first ones or, without them, some of the training's examples.

        A run of ``steps`` steps then trains on a share of the other examples: the square root of steps / total_steps.
        """
        needed, share = steps * self.accumulation_steps, math.sqrt(steps / total_steps)
        if self._validation is None:
            aside = self.batches.hold_out(batches, needed, share)
        else:
            aside = first_batches(self._validation, batches, "validation_data")
            self.batches.hold_out(0, needed, share)
        self._aside = list(map(self._placed, aside))
        if self._validation is None and self._aside:
            try:
                self._mean_loss(self._aside[:1])
            except Exception as error:  # noqa: BLE001 - of whatever kind: there is another way to score
                logger.info("the runs are scored on their training losses: test_step tells no loss (%s)", told(error))
                self._aside = []
        return len(self._aside)

    def unseen(self) -> bool:
        """Whether no run has trained on what ``evaluate`` scores."""
        return self.batches.unseen()

    def evaluate(self) -> float:
        """The mean loss on the batches set aside, by the model's own ``test_step``."""
        return self._mean_loss(self._aside)

    def validate(self) -> float:
        """The mean loss on all of the validation data.

        Raises:
            LoaderError: there are none.
        """
        assert self._validation is not None
        with closing(self._validation.whole()) as batches:
            return self._mean_loss(map(self._placed, batches))

    def _mean_loss(self, batches: Iterable[Data]) -> float:
        before = Memory()
        self._steps.sync()
        remember_variables([*self._seeds, *self.model.metrics_variables], before)
        remember_rng(before)
        losses, sizes = [], []
        try:
            with closing(self._steps.evaluate(batches)) as evaluated:
                for data, logs in evaluated:
                    losses.append(float(loss_in(logs)))
                    sizes.append(size_of(data) or 1)
        finally:
            before.put_back()
            before.close()
        self.forwards += len(losses)
        if not losses:
            raise LoaderError("validation_data is empty: it gave no batch; give one that has data")
        return float(np.average(losses, weights=sizes))

    def keep_batches(self, steps: int) -> None:
        """Draw the batches of ``steps`` steps, to come again after each restore, unless they take too much memory."""
        if not self.batches.keep(steps * self.accumulation_steps):
            logger.info("the batches of %d steps are drawn anew for each run, because they can't be kept", steps)

    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the data.

        Raises:
            LoaderError: they have no length.
        """
        length = self.batches.length()
        if length is None:
            raise LoaderError("the length of a pass over x is not known: give a number of steps, or steps_per_epoch")
        return max(length // self.accumulation_steps, 1)

    def planned(self, plan: Plan) -> Plan:
        """``plan`` with what is known of the optimizer, the parameters and the epochs, where it leaves them open."""
        plan = described.planned(plan, self.model)
        if plan.epochs is not None or plan.total_steps is None:
            return plan
        try:
            return replace(plan, epochs=plan.total_steps / self.steps_per_epoch())
        except LoaderError:
            return plan

    def facts(self) -> dict[str, Any]:
        """What the Finding records of the model, the optimizer and the data."""
        return {
            **described.facts(self.model),
            "batch_size": self._batch_size,
            "accumulation_steps": self.accumulation_steps,
            **self._told,
        }
