"""What a compiled model tells of itself: its optimizer, its rate, its plan, its facts."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from findlr.analysis.families import family
from findlr.analysis.numbers import real
from findlr.analysis.plan import SAMPLES, Plan, Samples, Shape
from findlr.errors import ConfigurationError, OptimizerError
from findlr.finding.code import OptimizerFacts
from findlr.finding.facts import plain_fact
from findlr.search import rounding

_NOT_ARGUMENTS = ("name", "learning_rate")


def check_model(model: Any) -> None:
    """Refuse a model that can't be searched as it is.

    Raises:
        ConfigurationError: it is no Model, not built, not compiled, or spread over devices.
        OptimizerError: it has no optimizer with one rate.
    """
    if not isinstance(model, keras.Model):
        raise ConfigurationError(f"model must be a keras.Model, got {type(model).__name__}")
    if (backend := keras.backend.backend()) not in ("jax", "torch"):
        raise ConfigurationError(
            f"the backend {backend!r} was not tried: search with KERAS_BACKEND=torch or jax, where the rate is the same"
        )
    if not model.compiled:
        raise ConfigurationError("the model is not compiled: call model.compile(optimizer, loss) first")
    if not all(layer.built for layer in model._flatten_layers()):  # noqa: SLF001 - what fit looks at, too
        raise ConfigurationError(
            "the model is not built, so it has no weights yet: call it on one batch, or model.build(shape)"
        )
    if keras.distribution.distribution() is not None:
        raise ConfigurationError("a distribution is set, under which nothing was tried: search without it")
    optimizer = innermost(model.optimizer)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise OptimizerError("the model has no optimizer: compile it with the one that trains, model.compile('adam')")
    if hasattr(optimizer, "optimizers"):
        raise OptimizerError(
            f"a {type(optimizer).__name__} has several rates, and none to sweep: compile with one optimizer"
        )
    if not model.trainable_variables:
        raise OptimizerError("the model has nothing to train: set layer.trainable = True, and compile again")


def innermost(optimizer: Any) -> Any:
    """The optimizer inside a LossScaleOptimizer; another one itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def schedule_of(model: keras.Model) -> Any:
    """The LearningRateSchedule or function that sets the optimizer's rate; None if it is a number."""
    rate = innermost(model.optimizer)._learning_rate  # noqa: SLF001 - the property gives its present value
    return None if isinstance(rate, keras.Variable) else rate


def check_settable(model: keras.Model) -> None:
    """Refuse to write a rate where something else sets it.

    Raises:
        ConfigurationError: the optimizer was made with a schedule or a function.
    """
    check_model(model)
    if (own := schedule_of(model)) is not None:
        kind, optimizer = type(own).__name__, type(innermost(model.optimizer)).__name__
        raise ConfigurationError(
            f"FindLR(apply=True) can't write a rate where a {kind} sets it: find it before the fit, with "
            "finding = findlr.keras.find_lr(model, x, y), and compile with a schedule whose peak is finding.lr; or "
            f"compile with a number, as in keras.optimizers.{optimizer}(learning_rate=0.001)"
        )


def make_settable(model: keras.Model) -> None:
    """Put a number in the place of what sets the optimizer's rate; ``Structure`` puts that back."""
    if schedule_of(model) is not None:
        innermost(model.optimizer)._learning_rate = keras.Variable(  # noqa: SLF001 - the property refuses it
            1e-3, name="learning_rate", dtype=keras.config.floatx(), trainable=False
        )
        model.train_function = None  # it may have been traced with the schedule in it


def rounded(lr: float, model: keras.Model) -> float:
    """A rate in the type of the variable that the optimizer keeps it in.

    Raises:
        OptimizerError: the type holds no rate as small.
    """
    dtype = keras.backend.standardize_dtype(model.optimizer.learning_rate.dtype)
    if dtype == "bfloat16":
        return lr
    limits = np.finfo(dtype)
    with np.errstate(over="ignore"):
        kept = float(limits.dtype.type(lr))
    wider = "build the optimizer under keras.config.set_floatx('float32')"
    return rounding.rounded(lr, kept, dtype, (float(limits.tiny), float(limits.max)), wider)


def shape_of(schedule: Any, total_steps: int | None, calls_per_step: int) -> tuple[str | Shape, int | None]:
    """A LearningRateSchedule as a ``Plan`` takes it, and the steps of the whole training.

    Args:
        schedule: of Keras's; anything else is handed on.
        total_steps: optimizer steps of the training; None is the length that the schedule names.
        calls_per_step: batches to each optimizer step: a schedule counts those.

    Raises:
        ConfigurationError: the schedule does not say how long the training is, or gives no rate above 0.
    """
    if not isinstance(schedule, LearningRateSchedule):
        return schedule, total_steps
    if total_steps is None:
        decay = getattr(schedule, "decay_steps", None)
        if decay is None:
            raise ConfigurationError(f"a {type(schedule).__name__} does not say how long the training is: give epochs=")
        total_steps = max(int(decay + (getattr(schedule, "warmup_steps", None) or 0)) // calls_per_step, 1)
    places = np.linspace(0, total_steps * calls_per_step - 1, min(SAMPLES, total_steps))
    rates = np.array([float(schedule(float(round(place)))) for place in places])
    if not (np.isfinite(rates).all() and rates.max() > 0):
        raise ConfigurationError(f"this {type(schedule).__name__} never gives a rate above 0: it is no plan")
    return ("constant" if np.ptp(rates) == 0 else Samples((rates / rates.max()).tolist())), total_steps


def planned(plan: Plan, model: keras.Model) -> Plan:
    """``plan`` with what is known of the optimizer and the parameters, where it leaves them open."""
    optimizer = innermost(model.optimizer)
    momenta = [real(getattr(optimizer, name, None)) for name in ("momentum", "beta_1")]
    momentum = next((each for each in momenta if each is not None), None)
    return replace(
        plan,
        optimizer=plan.optimizer or _family(optimizer),
        momentum=momentum if plan.momentum is None else plan.momentum,
        parameters=plan.parameters or sum(int(np.prod(v.shape)) for v in model.trainable_variables),
    )


def _family(optimizer: Any) -> str:
    """The family that the optimizer's rates belong to. Keras's Muon takes Adam's, unless told otherwise."""
    kinds = type(optimizer).__mro__
    found = next((name for kind in kinds if (name := family(kind.__name__)) is not None), kinds[0].__name__)
    return "AdamW" if found == "Muon" and getattr(optimizer, "rms_rate", None) else found


def facts(model: keras.Model) -> dict[str, Any]:
    """The model, the optimizer and its settings, versions."""
    backend = keras.backend.backend()
    policy = model.dtype_policy
    return {
        "model": type(model).__name__,
        "parameters": model.count_params(),
        "device": device_of(model),
        "autocast": policy.compute_dtype if policy.compute_dtype != policy.variable_dtype else None,
        "optimizer": _optimizer(innermost(model.optimizer)),
        "ratios": [1.0],
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "keras": keras.__version__,
            backend: str(import_module(backend).__version__),
        },
    }


def device_of(model: keras.Model) -> str:
    """The kind of device that the model's first variable is on, such as "cpu"."""
    value = model.variables[0].value
    return str(value.device.type) if keras.backend.backend() == "torch" else str(next(iter(value.devices())).platform)


def checked_weights(class_weight: Mapping[int, float] | None) -> Mapping[int, float] | None:
    """The weights of the classes, as they are.

    Raises:
        ConfigurationError: they are no numbers by their classes.
    """
    if class_weight is None:
        return None
    if not isinstance(class_weight, Mapping) or any(real(each) is None for each in class_weight.values()):
        raise ConfigurationError(
            f"class_weight must be a dict with a number for each class, as {{0: 1.0, 1: 3.0}}, got {class_weight!r}"
        )
    return class_weight


def weights_of(y: Any, class_weight: Mapping[int, float]) -> Any:
    """The weight of each example by its class, as fit has it: a number, or the place of the highest of several.

    Raises:
        ConfigurationError: there are several targets.
    """
    if keras.tree.is_nested(y):
        raise ConfigurationError("class_weight goes with one output, and y has several: give sample_weight instead")
    labels = keras.ops.convert_to_numpy(y)
    if labels.ndim > 1:
        labels = labels.argmax(axis=-1) if labels.shape[-1] != 1 else labels[..., 0]
    weights = [class_weight.get(int(label), 1.0) for label in np.round(labels)]
    return np.array(weights, dtype=keras.config.floatx())


def _optimizer(optimizer: Any) -> OptimizerFacts:
    kind = type(optimizer)
    config = {key: plain_fact(value) for key, value in optimizer.get_config().items()}
    if _is_automatic(str(config.get("name")), kind):
        del config["name"]
    public = getattr(keras.optimizers, kind.__name__, None)
    is_keras = isinstance(public, type) and isinstance(optimizer, public)
    made_by: Any = public if is_keras else kind
    try:
        defaults = made_by().get_config()
    except Exception:  # noqa: BLE001 - one that has no defaults
        defaults = {}
    own = {name: v for name, v in config.items() if name not in _NOT_ARGUMENTS and v != plain_fact(defaults.get(name))}
    return {
        "name": kind.__name__,
        "module": "keras.optimizers" if is_keras else kind.__module__,
        "arguments": own,
        "groups": [config],
        "parameters": "",
        "rate": "learning_rate",
    }


def _is_automatic(name: str, kind: type) -> bool:
    """Whether Keras has made a name of the class's and a number, which is another one each time."""
    return re.sub(r"_\d+$", "", name).replace("_", "").lower() == kind.__name__.lower()
