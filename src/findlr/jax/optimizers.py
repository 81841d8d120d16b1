"""What a state tells of its optimizer: optax's by the classes of what it keeps."""

from __future__ import annotations

import inspect
import logging
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from findlr.analysis.plan import Plan
from findlr.errors import ConfigurationError, OptimizerError
from findlr.finding.code import OptimizerFacts
from findlr.jax.state import ARRAYS, is_real, keys_of, number_in

logger = logging.getLogger("findlr")

# The state that an optimizer of optax keeps, and the optimizer: the first that is there. One family keeps the same.
_BY_STATE = {
    "ScheduleFreeState": "schedule_free",
    "MuonState": "muon",
    "ProdigyState": "prodigy",
    "DAdaptAdamWState": "dadapt_adamw",
    "DoGState": "dog",
    "DoWGState": "dowg",
    "SophiaState": "sophia",
    "ScaleByLBFGSState": "lbfgs",
    "ScaleByLionState": "lion",
    "FactoredState": "adafactor",
    "ScaleByAdamState": "adam",
    "ScaleByAmsgradState": "adam",
    "ScaleByAdaDeltaState": "adadelta",
    "ScaleByRssState": "adagrad",
    **dict.fromkeys(("ScaleByRmsState", "ScaleByRmsWithCountState"), "rmsprop"),
    **dict.fromkeys(("ScaleByRStdDevState", "ScaleByRStdDevWithCountState"), "rmsprop"),
    "TraceState": "sgd",
}
_BY_SETTING = {"trust_coefficient": "lars", "min_norm": "fromage"}  # that inject_hyperparams keeps
_LAMB = ["ScaleByAdamState", "EmptyState", "EmptyState", "EmptyState"]  # adamw has one less: no trust ratio
_SCALES = {
    "ScaleByScheduleState": "a schedule",
    "ReduceLROnPlateauState": "reduce_on_plateau",
    "MechanicState": "mechanize",
    "ScaleByBacktrackingLinesearchState": "a line search",
    "ScaleByZoomLinesearchState": "a line search",
}
_IGNORES = {"ScaleByRpropState": "rprop", "COCOBState": "cocob"}  # their steps have sizes of their own
_FROZEN = ["MaskedState", "EmptyState"]  # what optax.set_to_zero() keeps
_SAYS_NOTHING = {  # of what is inside
    *("EmptyState", "InjectHyperparamsState", "InjectStatefulHyperparamsState", "MaskedState", "PartitionState"),
    *("AddNoiseState", "ApplyIfFiniteState", "EmaState", "LookaheadParams", "LookaheadState", "MultiStepsState"),
    *("ConditionallyMaskState", "ConditionallyTransformState", "DifferentiallyPrivateAggregateState", "MonitorState"),
    *("SnapshotState", "SplitRealAndImaginaryState", "WrappedScheduleState", "ZeroNansState"),
}


def optax_states(state: Any) -> list[Any]:
    """All that optax keeps in a state, the outermost first."""
    found: list[Any] = []
    todo = [state]
    for each in todo:  # which grows
        inside = [node for node in jax.tree.leaves(each, is_leaf=_is_optax) if _is_optax(node)]
        found += inside
        todo += [field for node in inside for field in node]
    return found


def _is_optax(node: Any) -> bool:
    return type(node).__module__.partition(".")[0] == "optax" and isinstance(node, tuple)


class Known:
    """What is known of a training's optimizer and of what it trains.

    Args:
        state: the user's.
        optimizer: its name, such as "adamw", as optax or PyTorch call it; "" looks into the state.

    Raises:
        ConfigurationError: the name is no text, or what optax has by it is no function.
        OptimizerError: the optimizer scales the rate by something of its own.
    """

    def __init__(self, state: Any, optimizer: str) -> None:
        if not isinstance(optimizer, str):
            raise ConfigurationError(f'optimizer must be a name, such as "adamw", got {optimizer!r}')
        optimizer = _in_optax(optimizer)
        if not callable(made := getattr(sys.modules.get("optax"), optimizer, None)) and made is not None:
            raise ConfigurationError(
                f'optimizer must be the name of an optimizer, such as "adamw"; optax.{optimizer} is a '
                f"{type(made).__name__}"
            )
        self._states = optax_states(state)
        for each in self._states:
            if (ignores := _IGNORES.get(type(each).__name__)) is not None:
                raise OptimizerError(
                    f"{ignores} cannot be swept: its steps have a size of their own, whatever the rate is; choose any "
                    "other optimizer"
                )
            if (scales := _SCALES.get(type(each).__name__)) is not None:
                raise OptimizerError(
                    f"{scales} inside the optimizer scales the rate, so another one acts than is asked for: build the "
                    "optimizer without, for the search; a schedule goes to find_lr, as schedule="
                )
            if fixed := _groups_of_fixed_rate(each):
                logger.warning(
                    "the rate of %s in optax.multi_transform is fixed where it was built, so it is not swept: build "
                    "that group with optax.inject_hyperparams, too, and the ratio of the rates is kept",
                    " and ".join(map(repr, fixed)),
                )
        self._groups = [_settings(dict(each.hyperparams)) for each in self._states if _keeps("hyperparams", each)]
        self._settings = self._groups[0] if self._groups else {}
        self._given = optimizer
        self.name = optimizer or self._told()
        momenta = ("momentum", "b1", "beta" if self.name == "muon" else "")
        self.momentum = next((v for n, v in self._settings.items() if n in momenta), None)
        self.parameters = _numbers_trained(state, self._states)
        self.counts_steps = any(_keeps("gradient_step", each) for each in self._states)

    def _told(self) -> str:
        names = {type(each).__name__ for each in self._states}
        found = next((name for state, name in _BY_STATE.items() if state in names), "")
        found = next((name for setting, name in _BY_SETTING.items() if setting in self._settings), found)
        if found == "adam" and any(map(_is_of_lamb, self._states)):
            return "lamb"
        if found == "adam" and "weight_decay" in self._settings:
            return "adamw"
        if found == "schedule_free":
            return f"{found}_{'adamw' if any(name.startswith('ScaleBy') for name in names) else 'sgd'}"
        return found or ("sgd" if names and names <= _SAYS_NOTHING else "")

    def planned(self, plan: Plan) -> Plan:
        """``plan`` with what is known, where it leaves that open."""
        return replace(
            plan,
            optimizer=plan.optimizer or self.name,
            momentum=self.momentum if plan.momentum is None else plan.momentum,
            parameters=plan.parameters or self.parameters,
        )

    def described(self) -> OptimizerFacts:
        """The optimizer in plain values, as ``findlr.finding.code`` reads it."""
        arguments = self._arguments()
        return {
            "name": self.name,
            "module": "optax",
            "parameters": "",
            "rate": "learning_rate",
            "arguments": arguments or {},
            "groups": self._groups or [{}],
        }

    def makes(self) -> bool:
        """Whether the line that makes the optimizer is known: optax has what the user names, with these settings."""
        return bool(self._given) and self._arguments() is not None

    def _arguments(self) -> dict[str, float] | None:
        """The settings that are not the defaults; None if optax has no such optimizer."""
        made = getattr(sys.modules.get("optax"), self.name, None)
        if made is None:
            return None
        parameters = inspect.signature(made).parameters
        if not set(self._settings) <= set(parameters):
            return None
        return {name: value for name, value in self._settings.items() if parameters[name].default != value}


def _in_optax(name: str) -> str:
    """A name of an optimizer as optax has it, such as that of PyTorch's in small letters; or the name itself."""
    optax = sys.modules.get("optax")
    return next((each for each in (name, name.lower()) if hasattr(optax, each)), name)


def _groups_of_fixed_rate(state: Any) -> list[Any]:
    """The groups of a ``multi_transform`` whose rate can't be written, where another group's can."""
    inner = getattr(state, "inner_states", {})
    groups = {label: optax_states(each) for label, each in inner.items()} if isinstance(inner, Mapping) else {}
    injected = {label for label, states in groups.items() if any(_keeps("hyperparams", each) for each in states)}
    trained = [label for label, states in groups.items() if [type(s).__name__ for s in states] != _FROZEN]
    return [label for label in trained if label not in injected] if injected else []


def _keeps(field: str, state: Any) -> bool:
    return field in getattr(state, "_fields", ())


def _is_of_lamb(state: Any) -> bool:
    """Whether it keeps a rate beside what lamb does; the decay may be masked."""
    inner = getattr(state, "inner_state", ())
    names = [type(each).__name__ for each in inner] if type(inner) is tuple else []
    return names[:1] + [name.replace("MaskedState", "EmptyState") for name in names[1:]] == _LAMB


def _settings(values: dict[str, Any]) -> dict[str, float]:
    """The numbers that ``inject_hyperparams`` keeps beside the rate."""
    numbers = {name: number_in(_raw(value)) for name, value in values.items()}
    return {name: _short(value) for name, value in numbers.items() if value is not None and name != "learning_rate"}


def _numbers_trained(state: Any, states: Sequence[Any]) -> int | None:
    """How many numbers are trained: those of the real arrays for which the optimizer keeps something, if it does.

    Args:
        state: the user's.
        states: what optax keeps in it.
    """
    trained = getattr(state, "params", None)
    if trained is None:
        trained = state["params"] if isinstance(state, dict) and "params" in state else state
    param: Any = getattr(sys.modules.get("flax.nnx"), "Param", ())
    nodes = _with_paths(trained, lambda node: isinstance(node, param) or _is_optax(node) or _is_optimizer(node))
    for path, node in nodes:  # which grows
        if type(node).__name__ == "LookaheadParams":
            nodes += [((*path, *keys), leaf) for keys, leaf in _with_paths(node.fast)]
    params = list({id(node): (path, node) for path, node in nodes if isinstance(node, param)}.values())  # shared: once
    arrays = [(path, array) for path, node in params or nodes if is_real(array := _raw(node))]
    swept = [each for each in states if _keeps("hyperparams", each)]
    kept = {
        path
        for each in ([within for outer in swept for within in optax_states(outer.inner_state)] or states)
        if not _keeps("hyperparams", each)
        for field in each
        for path, leaf in _with_paths(field, _is_optax)
        if path and not _is_optax(leaf)
    }
    known = [array for path, array in arrays if any(path[i:] in kept for i in range(len(path)))]
    copies = max((np.size(_raw(each.hyperparams.get("learning_rate", 0))) for each in swept), default=1)
    return sum(array.size for array in known or [array for _, array in arrays]) // copies or None


def _with_paths(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[tuple[tuple[Any, ...], Any]]:
    return [(keys_of(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]]


def _is_optimizer(node: Any) -> bool:
    return type(node).__name__ == "Optimizer" and hasattr(node, "opt_state")


def _raw(value: Any) -> Any:
    """The array in a variable of nnx."""
    return value.get_raw_value() if hasattr(value, "get_raw_value") else value


def _short(value: float) -> float:
    """A number as it was written, before it was rounded to float32."""
    return float(np.format_float_positional(np.float32(value), trim="0")) if np.float32(value) == value else value


def model_names(state: Any) -> str:
    """The classes of what is trained, as far as the state tells."""
    parts: Sequence[Any] = state if type(state) in (tuple, list) else (state,)
    kinds = [type(part) for part in parts if not (_is_optax(part) or _is_optimizer(part))]
    return ", ".join(
        kind.__name__ for kind in kinds if kind not in (dict, tuple, list) and not issubclass(kind, ARRAYS)
    )


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    used = {name: sys.modules[name] for name in ("jax", "optax", "flax", "equinox") if name in sys.modules}
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        **{name: str(module.__version__) for name, module in used.items()},
    }
