"""fastai: ``find_lr(learn)``, in place of ``learn.lr_find()``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Unpack

import torch

from findlr.errors import ConfigurationError, MissingExtraError, OptimizerError
from findlr.finding import Finding
from findlr.search.find import find
from findlr.search.restoring import Unwritten, restored
from findlr.search.settings import Search
from findlr.torch.losses import told_loss
from findlr.torch.own_step import DelegatedStep
from findlr.torch.planned import planned
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.snapshot.notes import Attributes
from findlr.torch.snapshot.reach import reached_from
from findlr.torch.snapshot.stores import StoreKind
from findlr.torch.step import Draw, Loss
from findlr.torch.trainable import TorchTrainable
from findlr.torch.training import Training
from findlr.torch.whole import hold

try:
    from fastai.callback.core import (
        Callback,
        CancelBatchException,
        CancelEpochException,
        CancelFitException,
        CancelTrainException,
    )
    from fastai.callback.progress import CSVLogger, ProgressCallback, ShowGraphCallback
    from fastai.callback.training import GradientAccumulation
    from fastai.learner import Learner, Metric, Recorder
    from fastai.optimizer import Optimizer, OptimWrapper
except ImportError:
    raise MissingExtraError.of("fastai", "fastai") from None

_SHOWS = (ProgressCallback, ShowGraphCallback, CSVLogger)  # the others of fastai's look for an ``lr_finder``
_REPLACES = ("ModelToHalf", "NonNativeMixedPrecision", "DistributedTrainer", "ParallelTrainer")
_COUNTED = "iter", "train_iter", "pct_train"  # by a Learner, at each batch
_MOST_BATCHES = 1_000  # to one step of the optimizer
_KNOWN = ("cbs", "dl", "dls", "model", "opt", "x", "y", "xb", "yb", "pred", "loss", "loss_grad")  # or made by a step
_NO_LOSS = (
    "learn.loss_func must return one number",
    "learn.loss_func must return a loss, got {}: return one number, a tensor",
)


def find_lr(
    learn: Learner,
    *,
    lr: Any = None,
    schedule: Any = None,
    total_steps: int | str | None = None,
    warmup: float | None = None,
    validation_every: int | None = None,
    restore: Sequence[Any] = (),
    snapshot: StoreKind = "auto",
    **search: Unpack[Search],
) -> Finding:
    """Find a learning rate for a fastai Learner, and put the Learner back as it was.

    Steps are the Learner's own, its callbacks at work; what shows, logs and saves is not.

    Args:
        learn: the Learner.
        lr: the rates of its groups, whose ratios are kept: what ``fit`` takes, such as slice(1e-5, 1e-3); None is
            ``learn.lr``.
        schedule: as in ``findlr.find_lr``; None is that of ``fit_one_cycle``.
        total_steps: optimizer steps of the planned training, or a text such as "5 epochs".
        warmup: as in ``findlr.find_lr``; a quarter in ``fit_one_cycle``.
        validation_every: steps between two losses on ``learn.dls.valid``, at least 1; None measures none. A race is
            scored there in any case.
        restore: what else a step changes: anything with state_dict and load_state_dict.
        snapshot: where the copies live: "device", "cpu", "disk", or "auto".
        **search: the other settings of ``findlr.find_lr``: min_lr, max_lr, num_steps, verify, budget and so on.

    Returns:
        The Finding.

    Raises:
        ConfigurationError: an argument that cannot work; the Learner is as it was.

    Example:
        >>> import torch
        >>> from fastai.data.core import DataLoaders
        >>> from fastai.data.load import DataLoader
        >>> pairs = [(x, x.sum(0, keepdim=True)) for x in torch.randn(100, 4)]
        >>> dls = DataLoaders(DataLoader(pairs, bs=10, shuffle=True), DataLoader(pairs[:20], bs=10))
        >>> learn = Learner(dls, torch.nn.Linear(4, 1), loss_func=torch.nn.functional.mse_loss)
        >>> learn.lr = find_lr(learn, total_steps="5 epochs", progress=False).lr
        >>> 0.001 < learn.lr < 10
        True
    """
    if not isinstance(learn, Learner):
        raise ConfigurationError(f"learn must be a fastai Learner, got {type(learn).__name__}")
    if replaces := [name for each in learn.cbs if (name := type(each).__name__) in _REPLACES]:
        raise ConfigurationError(f"{replaces[0]} puts another model in the Learner's place: search without it")

    def begun() -> Finding:
        training = _training(learn, watch, restore, snapshot)
        held_out = learn.dls.valid if len(learn.dls.loaders) > 1 and len(learn.dls.valid) else None
        trainable = TorchTrainable.of(
            training,
            _Step(learn, watch, training),
            learn.dl,
            validation_loader=held_out if search.get("verify") or validation_every is not None else None,
            validation_every=1 if validation_every is None else validation_every,
            facts={"sets": "learn.lr[]" if len(set(training.rates.ratios)) > 1 else "learn.lr"},
        )
        shape, rises = ("one_cycle", 0.25 if warmup is None else warmup) if schedule is None else (schedule, warmup)
        plan = planned(shape, total_steps, rises, trainable.steps_per_epoch)
        if plan.total_steps is not None:  # as pct_train counts in the training that is planned
            learn.n_epoch = math.ceil(plan.total_steps / trainable.steps_per_epoch())
        return find(trainable, plan, **search)

    watch, shows = _Watch(begun), [each for each in learn.cbs if isinstance(each, _SHOWS)]
    with Unwritten(restored(_Around(learn))), learn.removed_cbs(shows), learn.no_logging():
        learn.fit(1, lr=lr, cbs=watch)
    if isinstance(watch.found, BaseException):
        raise watch.found
    if watch.found is None:
        raise ConfigurationError("a callback of the Learner ended fit before its first batch: search without it")
    return watch.found


def _training(learn: Learner, watch: _Watch, restore: Sequence[Any], snapshot: StoreKind) -> Training:
    """The training of a Learner whose ``fit`` is about to train."""
    wrapped = isinstance(learn.opt, OptimWrapper)
    optimizer = learn.opt.opt if wrapped else _Groups.of(learn)
    training = Training(learn.model, optimizer, restore=restore, snapshot=snapshot, framework="fastai")
    training.include(reached_from(learn.loss_func))
    training.check_parameters()
    held = hold(training, *_held(learn), but=learn.dl)
    training.wrappers += [each for each in held.holders if isinstance(each, Optimizer)]
    training.restore += [Attributes(learn, *learn.cbs), *filter(None, [vars(learn).get("scaler")])]
    watch.write = training.rewrite if wrapped else partial(optimizer.pass_on, training.rewrite)
    for callback in learn.cbs:
        callback.run = callback.run and not isinstance(callback, Recorder)
    learn.n_iter = len(learn.dl)
    return training


def _held(learn: Learner) -> Iterator[Any]:
    """What the Learner and its callbacks hold of their own, such as an average of the weights, or a teacher."""
    owners = (learn, *learn.cbs)
    but = (*map(vars(learn).get, _KNOWN), *owners)
    for owner in owners:
        yield [value for value in vars(owner).values() if not any(value is each for each in but)]


class _Watch(Callback):
    """Makes the search where ``fit`` is about to train, and is there at each of its steps."""

    order, name = 1_000, "lr_finder"  # after all others; by that name fastai's loggers know to stay quiet

    def __init__(self, search: Callable[[], Finding]) -> None:
        self.search = search
        self.write: Callable[[], None]
        self.found: Finding | BaseException | None = None
        self.only_loss = self.tried = self.skipped = False

    def before_train(self) -> None:
        try:
            self.found = self.search()
        except BaseException as error:  # noqa: BLE001 - find_lr raises it; fastai would write into it
            self.found = error
        raise CancelFitException

    def before_backward(self) -> None:
        if self.only_loss:
            raise CancelBatchException

    def before_step(self) -> None:
        self.write()  # over whatever a scheduler has written

    def after_cancel_step(self) -> None:
        self.skipped = True

    def after_step(self) -> None:  # of one that was skipped, too
        self.tried = True


class _Step(DelegatedStep):
    """A Learner's own step, on as many batches as its callbacks accumulate."""

    def __init__(self, learn: Learner, watch: _Watch, training: Training) -> None:
        examples = [each.n_acc for each in learn.cbs if isinstance(each, GradientAccumulation)]
        count = max(math.ceil(examples[0] / learn.dl.bs), 1) if examples else 1
        super().__init__(training, accumulation_steps=count)
        self._learn, self._watch = learn, watch
        self._begun_at: dict[str, Any] = {}  # what the Learner counts, at the last step's begin

    def take(self, draw: Draw) -> Loss | None:
        """Take one step; None if a scaler skipped it, unless the loss is not finite."""
        loss = self.called(draw)
        self.passes += 1
        return None if self._watch.skipped and math.isfinite(loss) else loss

    def called(self, draw: Draw) -> Any:
        """As many batches as a step takes, which the Learner's callbacks tell."""
        watch, losses = self._watch, list[Any]()
        self._begun_at = {name: vars(self._learn)[name] for name in _COUNTED if name in vars(self._learn)}
        watch.tried = watch.skipped = False
        while not watch.tried:
            if len(losses) == _MOST_BATCHES:
                raise OptimizerError(f"the optimizer took no step in {_MOST_BATCHES} batches: a callback cancels them")
            losses.append(told_loss(self._one(draw()), *_NO_LOSS))
        return sum(losses) / len(losses)

    def _one(self, batch: Any) -> Any:
        learn = self._learn
        try:
            with suppress(CancelTrainException, CancelEpochException, CancelFitException):  # which nothing here ends
                learn.one_batch(vars(learn).get("train_iter", 0) % learn.n_iter, batch)
        except Exception:
            if "loss_grad" in vars(learn):  # what the loss function gave, which fastai takes for a tensor of one number
                told_loss(learn.loss_grad, *_NO_LOSS)
            raise
        return learn.loss

    def loss(self, batch: Any) -> Any:
        """The Learner's loss of a batch."""
        learn, watch = self._learn, self._watch
        before = dict(vars(learn))
        learn.training, watch.only_loss = learn.model.training, True
        if learn.training:  # on a batch of the last step
            vars(learn).update(self._begun_at)
        try:
            return self._one(batch)
        finally:
            vars(learn).update(before)
            watch.only_loss = False

    def why_no_loss(self) -> str | None:
        """None, because the Learner has a loss of one batch."""
        return None


class _Groups(torch.optim.Optimizer):
    """The groups of an optimizer of fastai's own as torch has them, and that optimizer."""

    def __init__(self, inner: Any) -> None:
        hypers = [{"momentum" if name == "mom" else name: v for name, v in each.items()} for each in inner.hypers]
        both = zip(inner.param_lists, hypers, strict=True)
        super().__init__([{"params": list(params), **each} for params, each in both], {})
        self.inner = inner

    @classmethod
    def of(cls, learn: Learner) -> _Groups:
        """Those of a Learner, in a class that is called as the function that makes its optimizer, such as Adam."""
        name = getattr(getattr(learn.opt_func, "func", learn.opt_func), "__name__", "Optimizer")
        kind: type[_Groups] = type(name, (cls,), {"__module__": "fastai.optimizer"})
        return kind(learn.opt)

    def pass_on(self, write: Callable[[], None]) -> None:
        write()
        self.inner.set_hyper("lr", [group["lr"] for group in self.param_groups])


class _Around(Attributes):
    """A Learner and its callbacks, and what ``fit`` changes before it trains."""

    def __init__(self, learn: Learner) -> None:
        measures = [each for callback in learn.cbs for each in vars(callback).values() if isinstance(each, Metric)]
        super().__init__(learn, learn.cbs, *learn.cbs, *measures)
        self._learn = learn

    def remember(self, memory: TorchMemory) -> None:
        super().remember(memory)
        if (opt := self._learn.opt) is not None:
            known = [name for name in ("lr", "wd") if name in opt.hypers[0]]
            memory.add(partial(opt.set_hypers, **{name: [hypers[name] for hypers in opt.hypers] for name in known}))
        for module in self._learn.model.modules():
            memory.add(partial(setattr, module, "training", module.training))
