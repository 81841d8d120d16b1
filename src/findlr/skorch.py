"""skorch: ``find_lr(net, X, y)``, between any two trainings of a net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import nn

from findlr.analysis.given import of_kind
from findlr.analysis.length import steps_in
from findlr.analysis.plan import Plan, Samples
from findlr.analysis.text import told
from findlr.errors import ConfigurationError, MissingExtraError
from findlr.finding import Finding
from findlr.search.find import find
from findlr.search.restoring import Unwritten, restored
from findlr.search.settings import Search
from findlr.torch.arguments import check_counts
from findlr.torch.deciding import decides
from findlr.torch.losses import told_loss
from findlr.torch.own_step import DelegatedStep
from findlr.torch.planned import read_schedule, stairs
from findlr.torch.setting import facts_of, made_rates, share_of
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.snapshot.notes import Attributes, Held
from findlr.torch.snapshot.stores import StoreKind
from findlr.torch.step import Draw
from findlr.torch.trainable import TorchTrainable
from findlr.torch.training import Training
from findlr.torch.whole import Whole, hold

try:
    from skorch import NeuralNet
    from skorch.callbacks import Callback, InputShapeSetter, LRScheduler
    from skorch.callbacks.training import ParamMapper
    from skorch.dataset import unpack_data
except ImportError:
    raise MissingExtraError.of("skorch", "skorch") from None

_DECIDE = (InputShapeSetter, ParamMapper)  # callbacks that decide what is trained: Freezer, Initializer and so on
_NO_LOSS = (
    "the loss that train_step returns must be one number",
    "the loss that train_step returns must be a number, got {}: return what train_step_single returned",
)


def find_lr(
    net: NeuralNet,
    X: Any,  # noqa: N803 - skorch's name
    y: Any = None,
    *,
    fit_params: Mapping[str, Any] | None = None,
    gradient_accumulation_steps: int = 1,
    schedule: Any = None,
    total_steps: int | str | None = None,
    warmup: float | None = None,
    sweep: str = "optimizer",
    validation_every: int | None = None,
    restore: Sequence[Any] = (),
    snapshot: StoreKind = "auto",
    **search: Unpack[Search],
) -> Finding:
    """Find a learning rate for a skorch net, and put the net back as it was.

    Steps are the net's own ``train_step`` on its own batches. A net that is not initialized is initialized for the
    search, and is not initialized after it. One that is goes on from its weights, as ``partial_fit`` does. Of its
    callbacks, only those act that decide what is trained, as in the first epoch: InputShapeSetter, Freezer, Unfreezer,
    Initializer, and your own that freeze parameters.

    Args:
        net: the net.
        X: what ``fit`` takes.
        y: what ``fit`` takes.
        fit_params: what ``fit`` takes besides, by name.
        gradient_accumulation_steps: calls of a ``train_step`` of yours to each optimizer step, at least 1.
        schedule: as in ``findlr.find_lr``; None is that of the net's LRScheduler, or a constant rate.
        total_steps: optimizer steps of the planned training, or a text such as "5 epochs"; None is the net's
            ``max_epochs``.
        warmup: as in ``findlr.find_lr``.
        sweep: the name of the optimizer to sweep, if the net has several.
        validation_every: steps between two losses on the net's validation split, at least 1; None measures none. A race
            is scored on that split in any case.
        restore: what else a step changes: anything with state_dict and load_state_dict.
        snapshot: where the copies live: "device", "cpu", "disk", or "auto".
        **search: the other settings of ``findlr.find_lr``: min_lr, max_lr, num_steps, verify, budget and so on.

    Returns:
        The Finding.

    Raises:
        ConfigurationError: an argument that cannot work; the net is as it was.

    Example:
        >>> import numpy as np, torch
        >>> from skorch import NeuralNetRegressor
        >>> X = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
        >>> net = NeuralNetRegressor(torch.nn.Linear, module__in_features=4, module__out_features=1, batch_size=20)
        >>> finding = find_lr(net, X, X.sum(axis=1, keepdims=True), progress=False)
        >>> _ = net.set_params(lr=finding.lr)
        >>> 0.001 < net.lr < 1
        True
    """
    if not isinstance(net, NeuralNet):
        raise ConfigurationError(f"net must be a skorch NeuralNet, got {type(net).__name__}{_where_in(net)}")
    check_counts(gradient_accumulation_steps=gradient_accumulation_steps)
    if fit_params is not None:
        of_kind(fit_params, dict, "fit_params", "give what fit takes besides X and y, by name")
    device = torch.device(net.device or "cpu")
    with Unwritten(restored(_Around(net, devices=[device]))):
        if not net.initialized_:
            net.initialize()
        net.check_data(X, y)
        deciding = [each for _, each in net.callbacks_ if isinstance(each, _DECIDE) or decides(each, Callback)]
        begun = [part for part in vars(net).values() if isinstance(part, nn.Module)] if deciding else []
        with Unwritten(restored(Whole(deciding, begun, devices=[device]))):
            _begin(net, deciding, X, y)
            given = dict(fit_params or {})
            train, held_out = net.get_split_datasets(X, y, **given)
            validated = held_out is not None and (search.get("verify") or validation_every is not None)
            parts = {name.removesuffix("_"): part for name, part in vars(net).items() if name.endswith("_")}
            optimizers = {name: part for name, part in parts.items() if isinstance(part, torch.optim.Optimizer)}
            modules = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
            training = Training(
                modules, optimizers, sweep=sweep, restore=restore, snapshot=snapshot, framework="skorch"
            )
            training.restore.append(Attributes(*[callback for _, callback in net.callbacks_]))
            training.check_parameters()
            hold(training, vars(net), *(vars(callback) for _, callback in net.callbacks_))
            facts = {"model": type(net.module_).__name__}
            trainable = TorchTrainable.of(
                training,
                _Step(net, training, given, int(gradient_accumulation_steps)),
                net.get_iterator(train, training=True),
                validation_loader=net.get_iterator(held_out, training=False) if validated else None,
                validation_every=1 if validation_every is None else validation_every,
                facts=facts,
            )
            if total_steps is None and net.max_epochs < 1:
                raise ConfigurationError(f"max_epochs is {net.max_epochs}, so fit takes no step: set it on the net")
            epochs = f"{net.max_epochs} epochs"
            steps = steps_in(epochs if total_steps is None else total_steps, trainable.steps_per_epoch)
            facts |= _written_in(net, training, sweep, steps)  # the trainable tells this, too
            shape = _shape(net, steps) if schedule is None else schedule
            return find(trainable, Plan(*read_schedule(shape, steps), warmup=warmup), **search)


def _where_in(estimator: Any) -> str:
    """Where the net is in an estimator of scikit-learn's; nothing of anything else."""
    if hasattr(estimator, "steps"):
        return ": of a Pipeline, give its net, pipe[-1], and the X that it gets, pipe[:-1].fit_transform(X, y)"
    return ": give the net in it, its estimator" if isinstance(getattr(estimator, "estimator", None), NeuralNet) else ""


def _begin(net: NeuralNet, deciding: Sequence[Any], inputs: Any, targets: Any) -> None:
    """Call the callbacks that decide what is trained, as ``fit`` does before its first batch."""
    for callback in deciding:
        callback.on_train_begin(net, X=inputs, y=targets)
    net.history.new_epoch()  # by whose number they go, and in which a step counts its batches
    net.history.record("epoch", len(net.history))
    for callback in deciding:
        callback.on_epoch_begin(net)


class _Around(Attributes):
    """A net, and what its settings hold, such as the random state of its split; modules among them are the search's."""

    def remember(self, memory: TorchMemory) -> None:
        super().remember(memory)
        settings = [each for owner in self._owners for each in owner.get_params(deep=False).values()]
        Held(*settings, but=[each for each in settings if isinstance(each, nn.Module)]).remember(memory)


def _written_in(net: NeuralNet, training: Training, sweep: str, steps: int) -> dict[str, Any]:
    """The facts of where the rate is written: the setting that the swept optimizer's groups follow, if one does."""
    name, scheduler = _scheduler_of(net)
    settings = [(net, f"{sweep}__lr", ""), (net, "lr", ""), (scheduler, "max_lr", f"callbacks__{name}__")]
    for owner, setting, path in settings:
        if owner is not None and setting in vars(owner):

            def made_at(rate: float, owner: Any = owner, setting: str = setting) -> list[float]:
                vars(owner)[setting] = rate
                net.initialize_optimizer()
                rates = made_rates(vars(net)[f"{sweep}_"])
                return rates if scheduler is None else [max(_rates(net, scheduler, steps, each)) for each in rates]

            with Unwritten(restored(Attributes(net, owner, devices=training.devices))):
                share = share_of(training.rates.ratios, made_at)
            if share is not None:
                return facts_of(f"net.set_params({path}{setting}=", share)
    return {}


class _Step(DelegatedStep):
    """The net's own steps, and its loss of one batch in the mode that its module is in.

    It stays in its process: pickled in a net's own way, the net would have other parameters than the search.
    """

    def __init__(self, net: NeuralNet, training: Training, given: Mapping[str, Any], count: int) -> None:
        super().__init__(training, accumulation_steps=count, loss_method=(net, "get_loss"))
        self._net, self._given = net, given

    def called(self, draw: Draw) -> Any:
        """So many batches, of which the last one steps."""

        def one() -> Any:
            self._net.history.new_batch()  # as ``fit`` does, by which a train_step may tell when it has accumulated
            return told_loss(self._net.train_step(draw(), **self._given)["loss"], *_NO_LOSS)

        return self.mean_of(one)

    def loss(self, batch: Any) -> Any:
        """The net's loss of a batch."""
        net = self._net
        inputs, targets = unpack_data(batch)
        return net.get_loss(net.infer(inputs, **self._given), targets, X=inputs, training=net.module_.training)

    def remembered(self) -> Sequence[Any]:
        """The batches that the net's history counts."""
        return [_Counted(self._net)]


class _Counted:
    """The batches that a net's history counts."""

    def __init__(self, net: NeuralNet) -> None:
        self._net = net

    def state_dict(self) -> dict[str, int]:
        """How many the epoch has."""
        return {"batches": len(self._net.history[-1]["batches"])}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Forget those that have come since."""
        del self._net.history[-1]["batches"][state["batches"] :]


def _scheduler_of(net: NeuralNet) -> tuple[str, LRScheduler | None]:
    """The net's LRScheduler that does not follow a metric, and its name."""
    for name, callback in net.callbacks_:
        if isinstance(callback, LRScheduler) and callback.policy_ is not torch.optim.lr_scheduler.ReduceLROnPlateau:
            return name, callback
    return "", None


def _rates(net: NeuralNet, scheduler: LRScheduler, steps: int, first: float) -> Any:
    """The rates of a training of so many optimizer steps, where the optimizer is made with ``first``."""
    return scheduler.simulate(steps if scheduler.step_every == "batch" else net.max_epochs, initial_lr=first)


def _shape(net: NeuralNet, steps: int) -> Any:
    """The schedule of the net's LRScheduler; a constant rate if it has none, or one that follows a metric."""
    _, scheduler = _scheduler_of(net)
    if scheduler is None:
        return "constant"
    try:
        rates = _rates(net, scheduler, steps, 1.0)
    except Exception as error:
        raise ConfigurationError(
            f"the schedule of the net's LRScheduler can't be read over {steps} steps ({told(error)}): give "
            "schedule=, a name or a function of the progress"
        ) from error
    if scheduler.step_every != "batch":
        rates = stairs(rates, steps, steps / len(rates))
    return Samples(rates / rates.max(), getattr(scheduler.policy_, "__name__", ""))
