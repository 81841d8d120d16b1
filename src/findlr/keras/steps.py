"""One step of a compiled model, by its own ``train_function``, on each backend; the loss of a batch under other values.

``train_on_batch`` does the same, but it gives the step a batch of another form than fit does, and waits for the loss;
on JAX it writes all variables back after each step, which costs as much as a step of a small model.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Protocol

import keras
import numpy as np

from findlr.errors import LossError
from findlr.keras.memory import copy_of

Data = Any
"""A batch as fit gives it to a step: inputs, or a tuple of inputs, targets and perhaps sample weights."""


class Steps(Protocol):
    """The steps of a model on one backend."""

    def take(self, data: Data, lr: float) -> Mapping[str, Any]:
        """Take one step at a rate, and return its logs, with metrics that begin anew."""

    def of_variable(self, variable: Any) -> Any:
        """The present value of a variable of the model or its optimizer, on its device."""

    def evaluate(self, batches: Iterable[Data]) -> Generator[tuple[Data, Mapping[str, Any]]]:
        """Batches and the logs of the model's ``test_step``, each with metrics that begin anew."""

    def sync(self) -> None:
        """Write what steps have changed into the variables."""

    def forget(self) -> None:
        """Begin anew with the values that the variables have now."""

    def loss_at(self) -> Callable[[list[Any], Data], Any]:
        """A function that gives the loss of a batch under values of all the model's variables."""


class _OnTorch:
    """Steps in place.

    Args:
        model: compiled and built, with an optimizer that is built.
    """

    def __init__(self, model: keras.Model) -> None:
        import torch

        self._no_grad = torch.no_grad
        self._model = model
        model.make_train_function()
        self._metrics: list[tuple[Any, Any]] | None = None

    def take(self, data: Data, lr: float) -> Mapping[str, Any]:
        if self._metrics is None:
            self._model.train()  # as fit does
            self._model.reset_metrics()
            self._metrics = [(v.value, copy_of(v.value)) for v in self._model.metrics_variables]
        self._model.optimizer.learning_rate = lr
        with self._no_grad():
            for value, start in self._metrics:
                value.copy_(start)
        logs: Mapping[str, Any] = self._model.train_function([data])
        return logs

    def of_variable(self, variable: Any) -> Any:
        return variable.value

    def evaluate(self, batches: Iterable[Data]) -> Generator[tuple[Data, Mapping[str, Any]]]:
        self._model.make_test_function()
        self._model.eval()
        try:
            for data in batches:
                self._model.reset_metrics()
                yield data, self._model.test_function([data])
        finally:
            self._model.train()

    def sync(self) -> None:
        pass

    def forget(self) -> None:
        self._metrics = None

    def loss_at(self) -> Callable[[list[Any], Data], Any]:
        return self._no_grad()(_loss_at(self._model))


class _OnJax:
    """Steps that hand a state on, as fit's do: the variables are written when they are asked for.

    Args:
        model: compiled and built, with an optimizer that is built.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        model.make_train_function()
        self._state: Any = None
        self._metrics: list[Any] = []
        self._places: dict[int, tuple[int, int]] = {}

    def take(self, data: Data, lr: float) -> Mapping[str, Any]:
        model = self._model
        if self._state is None:
            model.reset_metrics()
            self._metrics = [np.array(v.value) for v in model.metrics_variables]
            variables = self._variables()
            self._places = {id(v): (kind, i) for kind, each in enumerate(variables) for i, v in enumerate(each)}
            # Copies, because two variables may share one buffer: those with averages do, after a fit.
            self._state = tuple([copy_of(v.value) for v in each] for each in variables)
        trained, others, optimizer, _ = self._state
        _, place = self._places[id(model.optimizer.learning_rate)]
        optimizer[place] = np.asarray(lr, optimizer[place].dtype)
        logs: Mapping[str, Any]
        metrics = [start.copy() for start in self._metrics]  # a step is given its state for good
        logs, self._state = model.train_function((trained, others, optimizer, metrics), iter([data]))
        return logs

    def of_variable(self, variable: Any) -> Any:
        if self._state is None:
            return variable.value
        kind, place = self._places[id(variable)]
        return self._state[kind][place]

    def evaluate(self, batches: Iterable[Data]) -> Generator[tuple[Data, Mapping[str, Any]]]:
        model = self._model
        model.make_test_function()
        model.reset_metrics()
        metrics = [np.array(v.value) for v in model.metrics_variables]
        state = [[copy_of(v.value) for v in each] for each in self._variables()[:2]]
        for data in batches:
            # A step is given its state for good.
            logs, (*state, _) = model.test_function((*state, [each.copy() for each in metrics]), iter([data]))
            yield data, logs

    def sync(self) -> None:
        if self._state is not None:
            for variables, values in zip(self._variables(), self._state, strict=True):
                for variable, value in zip(variables, values, strict=True):
                    variable.assign(value)
        self._state = None

    def forget(self) -> None:
        self._state = None

    def loss_at(self) -> Callable[[list[Any], Data], Any]:
        import jax

        loss = _loss_at(self._model)
        return loss if self._model.run_eagerly or not self._model.jit_compile else jax.jit(loss)

    def _variables(self) -> tuple[list[Any], ...]:
        """In the order in which the train function takes them."""
        model = self._model
        return (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )


def steps_of(model: keras.Model) -> Steps:
    """The steps of a model on the backend that is in use."""
    return _OnTorch(model) if keras.backend.backend() == "torch" else _OnJax(model)


def loss_in(logs: Any) -> Any:
    """The loss that a step tells.

    Raises:
        LossError: it tells none.
    """
    loss = logs.get("loss") if isinstance(logs, Mapping) else None
    if loss is None:
        given = ", ".join(map(repr, logs)) if isinstance(logs, Mapping) else type(logs).__name__
        raise LossError(f"train_step must return a dict with the 'loss' of its batch in it, got {given or 'none'}")
    return loss


def variables_of(model: keras.Model) -> list[Any]:
    """All variables on which the loss of a batch may depend."""
    return [*model.variables, *model.metrics_variables]


def _loss_at(model: keras.Model) -> Callable[[list[Any], Data], Any]:
    def loss(values: list[Any], data: Data) -> Any:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with keras.StatelessScope(list(zip(variables_of(model), values, strict=True)), collect_losses=True):
            outputs = model(x, training=True)
            return model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight)

    return loss
