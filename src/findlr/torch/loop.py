"""The range test around a training loop of the user's own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from findlr.analysis.curve import Step, Stop
from findlr.analysis.plan import Shape
from findlr.analysis.rules import Rule
from findlr.errors import ConfigurationError, DataEndedError, LossError, OptimizerError
from findlr.finding import Cost, Finding
from findlr.search.find import Progress, carry, check_rule, conclude, display
from findlr.search.sweep import Recording, Spacing, StopRule, sweep_lrs
from findlr.search.trainable import restored
from findlr.torch.data.batches import Batches
from findlr.torch.data.nesting import batch_size
from findlr.torch.losses import READ_EVERY, kept_loss, read_losses
from findlr.torch.precision import attempts_counted, found_inf, no_new_graphs
from findlr.torch.rates import Rates, described, plan_for, versions
from findlr.torch.snapshot.memory import Memory, memory_of, released_on_error, remember_rng
from findlr.torch.snapshot.stores import Snapshot, check

Models = nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module]
Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | Mapping[str, torch.optim.Optimizer]


class RangeTest:
    """A range test around your own loop, which stays as it is.

    The rate is written just before each optimizer step, so a scheduler in the loop can't override it. Whatever the loop
    does between two items is one point: the mean of the losses recorded, at the rate of the steps taken. Leaving the
    block, by whatever exit, puts everything back.

    Args:
        model: a module; or several, as a list or dict, for a GAN say.
        optimizer: an optimizer; or several, as a list or dict.
        sweep: the index or key of the optimizer that is swept, if there are several.
        restore: what else the loop changes: anything with state_dict and load_state_dict (a scheduler, an EMA). A
            GradScaler must be in it, so that steps which it skips are told from those taken.
        snapshot: where the copies live: "device", "cpu", "disk", or "auto", which goes by the free memory.
        min_lr: the first rate, above 0.
        max_lr: the last rate, above ``min_lr``.
        num_steps: points, at least 2.
        spacing: "exponential" or "linear".
        divergence_threshold: the sweep stops once the smoothed loss is this many times its best, above 1.
        smoothing: beta of the stop rule's average and of ``curve.smoothed()``, in [0, 1).
        schedule: of the training that is planned; see ``find_lr``.
        total_steps: optimizer steps of the training that is planned; None if not known.
        rule: how the rate is chosen; None is ``find_lr``'s.
        progress: as in ``find_lr``.
        on_step: called with each ``Step`` once its loss is read.

    Raises:
        ConfigurationError: an argument that cannot work.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> batches = [torch.ones(4, 2)] * 5
        >>> with RangeTest(net, optimizer, num_steps=50) as test:
        ...     for batch in test(batches):
        ...         loss = (net(batch) - 1).square().mean()
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         _ = optimizer.step()
        ...         test.record(loss)
        >>> len(test.finding.curve) > 20
        True
    """

    def __init__(
        self,
        model: Models,
        optimizer: Optimizers,
        *,
        sweep: int | str | None = None,
        restore: Sequence[Any] = (),
        snapshot: Snapshot = "auto",
        min_lr: float = 1e-8,
        max_lr: float = 10.0,
        num_steps: int = 100,
        spacing: Spacing = "exponential",
        divergence_threshold: float = 4.0,
        smoothing: float = 0.98,
        schedule: str | Shape = "constant",
        total_steps: int | None = None,
        rule: Rule | None = None,
        progress: Progress | bool | None = None,
        on_step: Callable[[Step], object] | None = None,
    ) -> None:
        self._models = _listed("model", model, nn.Module)
        self._optimizers = _listed("optimizer", optimizer, torch.optim.Optimizer)
        self._swept = _chosen(optimizer, sweep)
        self._restore = list(restore)
        check(snapshot)
        self._kind = snapshot
        self._rates = Rates(self._swept)
        self._lrs = sweep_lrs(min_lr, max_lr, num_steps, spacing)
        self._devices = sorted({p.device for m in self._models for p in m.parameters()}, key=str)
        read_every = 1 if all(device.type == "cpu" for device in self._devices) else READ_EVERY
        self._recording = Recording(read_losses, num_steps, StopRule(divergence_threshold, smoothing), read_every)
        self._recording.watch(on_step)
        check_rule(rule)
        self._smoothing, self._rule, self._progress = smoothing, rule, progress
        self._plan = plan_for(self._swept, schedule, total_steps)
        self._open = False
        self._finding: Finding | None = None
        self._memory: Memory | None = None
        self._loaders: dict[int, Any] = {}
        self._losses: list[torch.Tensor | float] = []
        self._steps = self._attempts = 0
        self._skipped: torch.Tensor | None = None
        self._points = 0
        self._batch_size: int | None = None

    @property
    def finding(self) -> Finding:
        """What the test found; there once its block was left.

        Raises:
            ConfigurationError: the block was not left yet, or never entered.
        """
        if self._finding is None:
            raise ConfigurationError("the range test is not over: ask for .finding after its with block")
        return self._finding

    @property
    def done(self) -> bool:
        """True once the sweep has ended: iteration over the test stops."""
        return self._recording.stop is not None

    def __enter__(self) -> Self:
        if self._open or self._finding is not None:
            raise ConfigurationError("a RangeTest is entered once: make a new one for another test")
        with ExitStack() as stack:
            show = stack.enter_context(display(self._progress))
            self._recording.watch(show)
            stack.enter_context(restored(self))
            stack.enter_context(no_new_graphs())
            for scaler in self._restore:
                if isinstance(scaler, GradScaler):
                    stack.enter_context(attempts_counted(scaler, self._swept, self._attempted))
            stack.callback(self._swept.register_step_pre_hook(self._before_step).remove)
            stack.callback(self._swept.register_step_post_hook(self._after_step).remove)
            self._exits = stack.pop_all()
        self._open, self._start = True, time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        failure = error
        try:
            if error is None and not self.done:
                self._close_point()
                self._recording.end(Stop.FINISHED if self._points == len(self._lrs) else Stop.LEFT)
        except BaseException as late:
            failure = late
            raise
        finally:  # straight to putting back: a second Ctrl-C may come at any call
            self._open = False
            try:
                self._exits.__exit__(kind, error, traceback)
            except BaseException as late:
                self._exits.__exit__(kind, error, traceback)  # what it had not come to
                failure = late
                raise
            finally:
                if failure is not None:
                    self._recording.interrupt()
                try:
                    self._finding = self._conclude()
                except Exception as late:  # the rule's
                    self._finding = late.finding  # type: ignore[attr-defined]
                    if failure is None:
                        raise
                if failure is not None:
                    carry(failure, self._finding, "test.finding")

    def __call__(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The batches of ``loader``, over and over, until the sweep ends; its place is put back, too.

        Raises:
            LoaderError: the loader is empty, or can be read only once.
        """
        batches = Batches(loader)
        self._need_open("iterate over it")
        assert self._memory is not None
        if id(loader) not in self._loaders:  # a second loop over it must not put it back to where the first one ended
            self._loaders[id(loader)] = loader
            batches.remember(self._memory)
        try:
            for _ in self.steps():
                try:
                    batch = batches.next()
                except DataEndedError:
                    if not self._points:
                        raise
                    self._recording.end(Stop.DATA_ENDED)
                    return
                if self._batch_size is None:
                    self._batch_size = batch_size(batch)
                yield batch
        finally:
            batches.close()

    def steps(self) -> Iterator[int]:
        """The indices of the points until the sweep ends, for a loop without a loader."""
        self._need_open("iterate over it")
        while True:
            self._close_point()
            if self.done:
                return
            if self._points == len(self._lrs):
                self._recording.end(Stop.FINISHED)
                return
            yield self._points

    def record(self, loss: torch.Tensor | float) -> None:
        """Record the loss of a forward pass; several until the next item (accumulation) are averaged.

        Raises:
            LossError: it is not one number.
            ConfigurationError: called outside the block.
        """
        self._need_open("record a loss")
        if isinstance(loss, torch.Tensor):
            if loss.numel() != 1:
                raise LossError(
                    f"record() needs one number, got shape {tuple(loss.shape)}: reduce it, with .mean() say"
                )
            loss = kept_loss(loss)
        elif not isinstance(loss, (int, float)) or isinstance(loss, bool):
            raise LossError(f"record() needs the loss, got {type(loss).__name__}")
        self._losses.append(loss)

    def snapshot(self) -> Memory:
        """Copies of all that the loop can change."""
        memory = memory_of(self._kind, self._devices, self._models, self._optimizers, self._restore)
        with released_on_error(memory):
            remember_rng(self._devices, memory)
        self._memory = memory
        return memory

    def restore(self, snapshot: Memory) -> None:
        """Put everything back."""
        snapshot.put_back()

    def _before_step(self, *_: Any) -> None:
        self._acting = self._rates.acting(self._lr())
        self._rates.write(self._lr())

    def _lr(self) -> float:
        return float(self._lrs[min(self._points, len(self._lrs) - 1)])

    def _after_step(self, *_: Any) -> None:
        self._steps += 1
        skipped = found_inf(self._swept)
        if skipped is not None:
            self._skipped = skipped if self._skipped is None else self._skipped + skipped

    def _attempted(self) -> None:
        self._attempts += 1

    def _close_point(self) -> None:
        """End a point, if the optimizer has stepped since the last one, or was to."""
        if not (self._steps or self._attempts):
            return
        if not self._losses:
            raise ConfigurationError(
                "the optimizer stepped and no loss was recorded: call test.record(loss) in the loop"
            )
        loss = sum(self._losses) / len(self._losses)
        taken, skipped = self._steps > 0, self._skipped
        self._losses, self._steps, self._attempts, self._skipped = [], 0, 0, None
        if not taken:
            if math.isfinite(loss):
                self._recording.skip()
                return
            # A scaler can't mend a loss that is not finite: it is a point.
            self._acting = self._rates.acting(self._lr())
        lr = self._lr()
        self._points += 1
        if self._acting < 0.99 * lr:
            self._recording.end(Stop.CAPPED)
        else:
            self._recording.add(self._acting, loss, skipped=skipped)

    def _conclude(self) -> Finding:
        seconds, points = time.perf_counter() - self._start, self._recording.steps
        facts = {
            "model": ", ".join(type(model).__name__ for model in self._models),
            "parameters": sum(p.numel() for model in self._models for p in model.parameters()),
            "device": ", ".join(map(str, self._devices)),
            "batch_size": self._batch_size,
            "accumulation_steps": None,
            "optimizer": described(self._swept),
            "ratios": list(self._rates.ratios),
            "versions": versions(),
        }
        cost = Cost(float(points), points, points, seconds)
        return conclude(self._recording, self._smoothing, self._plan, self._rule, cost, facts)

    def _need_open(self, what: str) -> None:
        if not self._open:
            raise ConfigurationError(f"the range test is not running: {what} inside its with block")


def _listed(name: str, given: Any, kind: type) -> list[Any]:
    items = list(given.values()) if isinstance(given, Mapping) else [given] if isinstance(given, kind) else given
    if not isinstance(items, (list, tuple)) or not items or not all(isinstance(item, kind) for item in items):
        seen = type(given).__name__
        raise ConfigurationError(f"{name} must be a {kind.__name__}, or a list or dict of them, got {seen}")
    return list(items)


def _chosen(optimizers: Any, sweep: int | str | None) -> torch.optim.Optimizer:
    if isinstance(optimizers, torch.optim.Optimizer):
        return optimizers
    if sweep is None and len(optimizers) == 1:
        sweep = next(iter(optimizers)) if isinstance(optimizers, Mapping) else 0
    try:
        chosen: torch.optim.Optimizer = optimizers[sweep]
    except (KeyError, IndexError, TypeError):
        known = ", ".join(map(repr, optimizers if isinstance(optimizers, Mapping) else range(len(optimizers))))
        raise OptimizerError(f"sweep must name the optimizer to sweep, one of {known}, got {sweep!r}") from None
    return chosen
