"""A short training in a process of its own, with a search in it or without: what ``findlr doctor`` compares."""

from __future__ import annotations

import inspect
import json
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from findlr.command.run import FINE, INTERRUPTED, ended
from findlr.command.streams import say, stdout_is_stderr
from findlr.command.target import arguments_of, as_script, is_trainable, load, search
from findlr.errors import ConfigurationError, DataEndedError, RestoreError
from findlr.testing.bits import bits, differing, draws

BEFORE, AFTER = 3, 5
"""Steps before the search, and after it."""

_PLAIN = (bool, int, float, str, list, dict, set, deque)
_USUAL_LR = 1e-3  # where the training names none


class Training:
    """What a target's function returned, and how it is trained.

    Args:
        function: returns a training, as ``findlr run`` takes it.
        options: arguments of ``find_lr``, which override those that it returns.
        target: what to call the function in an error.

    Raises:
        ConfigurationError: it returns something else, or a training that uses its data up.
    """

    def __init__(self, function: Callable[[], Any], options: Mapping[str, Any], target: str) -> None:
        self._made, self._target = function(), target
        self._module = sys.modules.get(getattr(function, "__module__", ""))
        self._options = {**options, "progress": False}
        self._arguments = None if is_trainable(self._made) else arguments_of(self._made, self._options, target)
        if self._arguments is None:
            return
        if self._arguments.get("consume"):
            raise ConfigurationError("consume=True uses batches up, so a training goes on with others: leave it out")
        self._arguments.pop("checkpoint", None)  # the search is to be made, not read
        self._made = self._arguments

    def train(self, steps: int) -> list[float]:
        """Train for so many steps at the optimizer's own rate, as in a new pass over the data; return the losses."""
        trainable = self._trainable()
        losses = []
        for _ in range(steps):
            try:
                losses.append(trainable.step(self._lr(trainable)))
            except DataEndedError:
                break
        return [float("nan") if loss is None else trainable.read([loss])[0] for loss in losses]

    def search(self) -> str:
        """Search, as ``findlr run`` does, and say how it ended."""
        options = {name: value for name, value in self._options.items() if name != "checkpoint"}
        found = search(self._made, options, self._target)
        return f"{found.stop.name}, {len(found.curve)} steps"

    def state(self) -> dict[str, str]:
        """Digests of all that the training's steps change, by name."""
        state = {} if self._arguments is None else self._torch_state(self._arguments)
        state |= {"random state": draws(), "global": _globals(self._module)}
        return bits({name: value for name, value in state.items() if value})

    def _torch_state(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        from findlr.torch.snapshot.reach import reached_from

        training = self._trainable().training
        functions = {name: arguments.get(name) for name in ("criterion", "loss_fn", "train_step")}
        return {
            "model": _alone([_module(module) for module in training.modules if module.state_dict()]),
            "optimizer": _alone([optimizer.state_dict() for optimizer in training.optimizers]),
            "restore": [each.state_dict() for each in training.restore],
            "tensor": training.tensors,
            **{name: reached_from(function).numbers for name, function in functions.items()},
        }

    def _trainable(self) -> Any:
        if self._arguments is None:
            return self._made
        from findlr.torch import TorchTrainable

        known = inspect.signature(TorchTrainable).parameters
        return TorchTrainable(**{name: value for name, value in self._arguments.items() if name in known})

    def _lr(self, trainable: Any) -> float:
        optimizers = getattr(getattr(trainable, "training", None), "swept", ())
        return max([float(group["lr"]) for each in optimizers for group in each.param_groups], default=0) or _USUAL_LR


def trial(target: str, options: Mapping[str, Any], *, searched: bool) -> dict[str, Any]:
    """Train for a few steps, search if that is asked for, and train on.

    Returns:
        The state and the losses in the end, as digests by name; and with a search how it ended, and what it left.
    """
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - users draw from it
    if find_spec("torch") is not None:
        import torch

        torch.manual_seed(0)
    training = Training(load(target), options, target)
    losses = training.train(BEFORE)
    told: dict[str, Any] = {}
    if searched:
        before = training.state()
        try:
            told = {"ended": training.search(), "left": []}
        except RestoreError as error:
            told = {"ended": "RestoreError", "left": [str(error)]}
        told["left"] += differing(before, training.state())
    losses += training.train(AFTER)
    return {
        **told,
        "losses": len(losses),
        "finite": all(map(math.isfinite, losses)),
        "end": {**training.state(), **bits(losses, "loss")},
    }


def main() -> int:
    """Make the trial that the command line names as JSON, and print what it gave as JSON."""
    asked = json.loads(sys.argv[1])
    target = asked["target"]
    with stdout_is_stderr(), as_script(target):
        try:
            told = trial(target, asked["options"], searched=asked["searched"])
        except BaseException as error:  # noqa: BLE001 - each end has its code, and a line
            code, said = ended(error, target, asked["traceback"])
            if code != INTERRUPTED:  # which whoever asked for the trial is, too
                say(said)
            return code
    print(json.dumps(told))
    return FINE


def _alone(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else items


def _globals(module: ModuleType | None) -> dict[str, Any]:
    """What a module, and the classes that it defines, hold as plain values: a step may count there, unseen."""
    if module is None:  # of a partial, or an object that can be called
        return {}
    own = {name: kind for name, kind in vars(module).items() if getattr(kind, "__module__", "") == module.__name__}
    classes = {f"{name}.": vars(kind) for name, kind in own.items() if isinstance(kind, type)}
    return {
        f"{prefix}{name}": value
        for prefix, values in {"": vars(module), **classes}.items()
        for name, value in values.items()
        if isinstance(value, _PLAIN) and not name.startswith("__")
    }


def _module(module: Any) -> dict[str, Any]:
    """A module's parameters and buffers, their gradients, what is trained, and its modes."""
    parameters = dict(module.named_parameters())
    return {
        **parameters,
        **dict(module.named_buffers()),
        "gradient": {name: each.grad for name, each in parameters.items()},
        "requires_grad": {name: each.requires_grad for name, each in parameters.items()},
        "mode": {name or "itself": each.training for name, each in module.named_modules()},
    }


if __name__ == "__main__":
    sys.exit(main())
