"""Keras 3, on torch or JAX: ``find_lr(model, x, y)`` in the words of ``fit``, and ``FindLR`` among its callbacks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from inspect import signature
from typing import Any, Unpack

from findlr.analysis.given import check_flags
from findlr.analysis.length import steps_in
from findlr.analysis.plan import Plan
from findlr.errors import ConfigurationError, MissingExtraError
from findlr.finding import Finding
from findlr.search.failure import carry
from findlr.search.find import find
from findlr.search.interrupts import HeldSignals, signals_wait
from findlr.search.restoring import Unwritten, restored
from findlr.search.settings import Search, Settings

try:
    import keras
    from keras.optimizers.schedules import LearningRateSchedule
except ImportError as error:
    if error.name != "keras":  # such as that of the backend
        raise
    raise MissingExtraError.of("keras", "keras") from None

from findlr.keras import described
from findlr.keras.data import batches_of
from findlr.keras.memory import Structure
from findlr.keras.trainable import KerasTrainable

__all__ = ["FindLR", "KerasTrainable", "find_lr"]

logger = logging.getLogger("findlr")


@signals_wait
def find_lr(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    batch_size: int | None = None,
    epochs: float | None = None,
    validation_data: Any = None,
    shuffle: bool = True,
    class_weight: Mapping[int, float] | None = None,
    sample_weight: Any = None,
    validation_batch_size: int | None = None,
    validation_every: int | None = None,
    schedule: Any = None,
    total_steps: int | str | None = None,
    warmup: float | None = None,
    consume: bool = False,
    **search: Unpack[Search],
) -> Finding:
    """Find a learning rate for a compiled Keras model, in the words of ``fit``, and put everything back.

    Steps are the model's own ``train_step``, compiled as fit compiles it. No callback takes part.

    Args:
        model: built and compiled.
        x: what ``fit`` takes: arrays, a PyDataset, a torch DataLoader; or a generator in ``findlr.rewindable``.
        y: the targets, if ``x`` is arrays.
        batch_size: examples in a batch of arrays, at least 1; None is 32, as in fit.
        epochs: of the training that is planned, above 0; with ``total_steps`` it is not needed.
        validation_data: what a race is scored on, as fit takes it; None sets some of ``x`` aside.
        shuffle: whether to shuffle arrays, or the batches of a PyDataset.
        class_weight: as in fit: each class's weight.
        sample_weight: as in fit: each example's weight.
        validation_batch_size: examples in a batch of ``validation_data``; None is ``batch_size``.
        validation_every: steps between two losses on ``validation_data`` along the sweep, at least 1; None measures
            none.
        schedule: as in ``findlr.find_lr``, or a LearningRateSchedule; None is the optimizer's own, or a constant rate.
        total_steps: optimizer steps of the planned training, or a text such as "5 epochs".
        warmup: as in ``findlr.find_lr``.
        consume: take a one-shot iterator, and use its batches up.
        **search: the other settings of ``findlr.find_lr``: min_lr, max_lr, num_steps, verify, budget and so on.

    Returns:
        The Finding.

    Raises:
        ConfigurationError: an argument that cannot work; the model is as it was.

    Example:
        >>> import numpy as np
        >>> import keras
        >>> x = np.random.default_rng(0).normal(size=(500, 4)).astype("float32")
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.SGD(0.01), loss="mse")
        >>> finding = find_lr(model, x, x.sum(axis=1, keepdims=True), progress=False)
        >>> model.optimizer.learning_rate = finding.lr
        >>> 0.001 < finding.lr < 1
        True
    """
    described.check_model(model)
    check_flags(shuffle=shuffle, consume=consume)
    Settings.of(search, list(signature(find_lr).parameters)[:-1])
    if epochs is not None:
        if total_steps is not None:
            raise ConfigurationError("epochs and total_steps both say how long the training is: give one of them")
        total_steps = f"{epochs} epochs"
    finding: Finding | None = None
    signals = HeldSignals()
    signals.hold()
    try:
        with Unwritten(restored(Structure(model))):
            batches = batches_of(x, y, sample_weight, batch_size=batch_size, shuffle=shuffle, consume=consume)
            validation = None
            if validation_data is not None and (search.get("verify") or validation_every is not None):
                held_out = validation_data if isinstance(validation_data, (tuple, list)) else (validation_data,)
                per_batch = batch_size if validation_batch_size is None else validation_batch_size
                validation = batches_of(*held_out, batch_size=per_batch, shuffle=False)
            own = described.schedule_of(model)
            trainable = KerasTrainable(
                model,
                batches,
                class_weight=class_weight,
                validation=validation,
                validation_every=1 if validation_every is None else validation_every,
                facts={} if own is not None else {"sets": "model.optimizer.learning_rate"},
            )
            shape = schedule or (own if isinstance(own, LearningRateSchedule) else "constant")
            steps = steps_in(total_steps, trainable.steps_per_epoch)
            plan = Plan(*described.shape_of(shape, steps, trainable.accumulation_steps), warmup=warmup)
            finding = find(trainable, plan, **search)
        return finding
    finally:
        signals.release(lambda late: carry(late, finding))


class FindLR(keras.callbacks.Callback):
    """Searches when a ``fit`` begins; then the fit goes on.

    It searches once: not again in a later ``fit``. No other callback takes part in the search.

    Args:
        x: what the fit is given.
        y: what the fit is given.
        apply: write the rate into the model's optimizer, which must have a number; where none is found, a warning
            says why.
        **how: as for ``find_lr``: batch_size, sample_weight, verify and so on. The length is the fit's unless given.

    Raises:
        ConfigurationError: there is no such setting, or one is outside its range.

    Example:
        >>> import numpy as np
        >>> search = FindLR(np.zeros((8, 4)), np.zeros((8, 1)), apply=True, num_steps=200)
        >>> search.finding is None  # until a fit has begun
        True
    """

    def __init__(self, x: Any, y: Any = None, *, apply: bool = False, **how: Any) -> None:
        super().__init__()
        check_flags(apply=apply)
        own = list(signature(find_lr).parameters)[:-1]
        Settings.of({name: value for name, value in how.items() if name not in own}, own)
        self.finding: Finding | None = None
        self._x, self._y, self._apply, self._how = x, y, apply, how

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Search, if that has not been done.

        Raises:
            ConfigurationError: the rate is to be written, and a schedule sets it.
        """
        if self.finding is not None:
            return
        if self._apply:
            described.check_settable(self.model)
        try:
            self.finding = find_lr(self.model, self._x, self._y, **{**self._length(), **self._how})
        except BaseException as error:
            self.finding = getattr(error, "finding", None)
            raise
        if self._apply and self.finding.suggestion is None:
            logger.warning("no rate was found, and the training goes on at its own: %s", self.finding.why)
        elif self._apply:
            self.model.optimizer.learning_rate = self.finding.lr

    def _length(self) -> dict[str, Any]:
        """How long the fit is: in its own steps where it knows them, which ``validation_split`` makes fewer."""
        epochs, batches = self.params.get("epochs"), self.params.get("steps")
        if "total_steps" in self._how or "epochs" in self._how:
            return {}
        if not (epochs and batches):
            return {"epochs": epochs}
        accumulated = described.innermost(self.model.optimizer).gradient_accumulation_steps or 1
        return {"total_steps": max(epochs * batches // accumulated, 1)}
