"""The range test around a training loop of the user's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Never, Self
from weakref import WeakMethod

from findlr.analysis.curve import Step, Stop
from findlr.analysis.length import epochs_in
from findlr.analysis.plan import Plan
from findlr.analysis.rules import Rule
from findlr.analysis.text import without_verify
from findlr.errors import ConfigurationError, RankError
from findlr.finding import Cost, Finding
from findlr.search.alike import check_alike
from findlr.search.conclusion import conclude, may_verify
from findlr.search.failure import carry
from findlr.search.interrupts import HeldSignals, signals_wait
from findlr.search.names import refuse
from findlr.search.recording import Recording
from findlr.search.restoring import Unwritten, restored
from findlr.search.settings import SweepSettings, chosen_rule
from findlr.search.sweep import Spacing, sweep_lrs
from findlr.search.turns import Turn
from findlr.search.watching import Progress, display, entered
from findlr.torch.compiled import NoNewGraphs
from findlr.torch.given import asked_of, check_free, hooked
from findlr.torch.losses import READ_EVERY_STEPS
from findlr.torch.motion import most_change
from findlr.torch.planned import LoopPlan, read_schedule, told_length
from findlr.torch.point import make_endless
from findlr.torch.points import Points
from findlr.torch.scaler import count_all_attempts, count_attempts
from findlr.torch.snapshot.counted import Counted, Named
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.snapshot.notes import Around
from findlr.torch.snapshot.reach import Reached, attached_to, reached_around
from findlr.torch.snapshot.stores import StoreKind
from findlr.torch.training import Models, Optimizers, Sweep, Training

_VERIFIED = "find_lr(..., train_step=..., verify=True)"  # which a loop has not


class RangeTest(Points):
    """A range test around your own loop, which stays as it is.

    The rate is written just before each optimizer step, so a scheduler in the loop can't override it. Whatever the loop
    does between two items is one point: the mean of the losses recorded, at the rate of the steps taken. Leaving the
    block, by whatever exit, puts everything back.

    Args:
        model: a module; or several, as a list or dict, for a GAN say.
        optimizer: an optimizer; or several, as a list or dict.
        sweep: the index or key of the optimizer that is swept, if there are several; or a list of them, which are swept
            together, their ratio kept.
        restore: what else the loop changes: anything with state_dict and load_state_dict (an environment, an EMA).
            A GradScaler need not be in it; a step that it skips adds no point.
        snapshot: where the copies live: "device", "cpu", "disk", or "auto", which goes by the free memory.
        min_lr: this and what follows is as in ``find_lr``; ``num_steps`` counts the points.

    Raises:
        ConfigurationError: an argument that cannot work.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 1)
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
        sweep: Sweep = None,
        restore: Sequence[Any] = (),
        snapshot: StoreKind = "auto",
        min_lr: float = 1e-8,
        max_lr: float = 10.0,
        num_steps: int = 100,
        spacing: Spacing = "exponential",
        divergence_threshold: float = 4.0,
        smoothing: float = 0.98,
        schedule: Any = "constant",
        total_steps: int | str | None = None,
        warmup: float | None = None,
        rule: Rule | str | None = None,
        progress: Progress | bool | None = None,
        on_step: Callable[[Step], object] | None = None,
        **others: Never,
    ) -> None:
        refuse(others, RangeTest)
        settings = SweepSettings(
            min_lr=min_lr,
            max_lr=max_lr,
            num_steps=num_steps,
            spacing=spacing,
            divergence_threshold=divergence_threshold,
            smoothing=smoothing,
            rule=rule,
            progress=progress,
            on_step=on_step,
        )
        self._training = training = Training(model, optimizer, sweep=sweep, restore=restore, snapshot=snapshot)

        length = told_length(schedule, total_steps)

        def plan(steps: Any) -> Plan:
            return training.planned(Plan(*read_schedule(schedule, steps, epochs_in(length)), warmup=warmup))

        self._plan = LoopPlan(plan, length)
        self._settings, self._rule = settings, chosen_rule(rule)
        self._lrs = sweep_lrs(settings.min_lr, settings.max_lr, settings.num_steps, spacing)  # type: ignore[arg-type]
        on_host = self._training.ranks.is_alone and all(device.type == "cpu" for device in self._training.devices)
        read_every = 1 if on_host else READ_EVERY_STEPS
        self._recording = Recording(self._training.read, len(self._lrs), settings.stop_rule(), read_every)
        self._recording.watch(on_step)
        self._start_points()
        self._signals, self._turn = HeldSignals(together=not self._training.ranks.is_alone), Turn(is_block=True)
        self._finding: Finding | None = None

    @property
    def finding(self) -> Finding:
        """What the test found; available once its block has been left.

        Raises:
            ConfigurationError: the block has not been left yet, or was never entered.
        """
        if self._finding is None:
            raise ConfigurationError("the range test is not over: ask for .finding after its with block")
        return self._finding

    @signals_wait
    def __enter__(self) -> Self:
        if self._open or self._finding is not None:
            raise ConfigurationError("a RangeTest is entered once: make a new one for another test")
        self._exits = ExitStack()
        try:
            self._signals.hold()
            self._turn.take()
            self._turn.leave = WeakMethod(self._leave)
            self._begin()
        except BaseException:
            try:
                self._exits.close()
            finally:
                self._turn.give()
                self._signals.release(self._carry)
            raise
        self._open, self._start = True, time.perf_counter()
        return self

    def _begin(self) -> None:
        """Remember everything, and hook into the optimizers' steps; ``_exits`` undoes it all."""
        training, exits = self._training, self._exits
        check_free(training.swept)
        reached = reached_around()
        training.include(reached)
        training.watched += [Around(reached), Counted.of_a_loop(reached.functions), Named(reached.functions)]
        training.include(Reached(statefuls=attached_to(training.optimizers, is_alone=training.ranks.is_alone)))
        if not training.ranks.is_alone:
            check_alike(training.ranks, {**self._settings.asked(), **asked_of(training)}, training.facts())
        progress = self._settings.progress if training.ranks.rank == 0 else False
        self._recording.watch(exits.enter_context(display(progress)))
        exits.enter_context(entered(self._settings.on_step))
        memory = exits.enter_context(Unwritten(restored(self)))
        self._recording.could_change = partial(most_change, training, memory)
        exits.enter_context(NoNewGraphs())
        exits.callback(count_all_attempts(training.swept, self._point.attempted))
        for scaler in training.scalers:  # whose class may have a step() of its own
            exits.callback(count_attempts(scaler, training.swept, self._point.attempted))
        for scheduler in training.schedulers:
            exits.callback(make_endless(scheduler))
        for optimizer in training.swept:
            exits.callback(hooked(optimizer).register_step_pre_hook(self._before_step).remove)
            exits.callback(hooked(optimizer).register_step_post_hook(self._point.stepped).remove)

    @signals_wait
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._open:
            if self._finding is None:
                raise ConfigurationError("the RangeTest was not entered, so there is no block to leave")
            return  # it was left already
        if self._signals.are_of_another_thread:
            raise ConfigurationError(
                "the RangeTest was entered in the main thread, and is to be left in another one, which can't give the "
                "handlers of signals back: leave it in the main thread; it is open till then"
            )
        self._open = False
        failure = error
        closing = [batches.close for batches in self._loaders.values()]
        leave = partial(self._exits.__exit__, kind, error, traceback)
        parts: list[Callable[[], object]] = [*self._turn.inside(), partial(self._finish, error), leave, *closing]
        for part in parts:
            try:
                part()
            except BaseException as late:  # noqa: BLE001 - raised below, once everything is back
                with suppress(Exception):  # it can't be written to
                    late.__context__ = late.__context__ or failure
                failure = late
        failure = self._settled(failure)
        try:
            self._end(failure)
            if failure is not None and failure is not error:
                raise failure
        finally:
            del failure  # its traceback has this frame
            self._turn.give()
            self._signals.release(self._carry)  # last: from there on a Ctrl-C is the user's own

    def _leave(self) -> None:
        """Leave the block because the one around it ends."""
        self.__exit__(None, None, None)

    def _settled(self, failure: BaseException | None) -> BaseException | None:
        """What this rank raises, once all ranks have come to the end."""
        ranks = self._training.ranks
        if ranks.is_alone:
            return failure
        try:
            if failure is None:
                ranks.any(False)  # all have come here
                return None
            common = ranks.settle(failure, ends=True)
        except RankError as error:
            common = error
        return (common.own or common) if isinstance(common, RankError) else common

    def _finish(self, error: BaseException | None) -> None:
        """The loop is over: close its last point, and say why."""
        if error is None and not self.done:
            self._training.ranks.end(
                ConfigurationError(
                    f"the RangeTest's block was left at point {self._points}, and not on all ranks: leave it on all of "
                    "them after the same step, by a loss that is their mean, say"
                )
            )
            self._close_point()
            self._recording.end(Stop.FINISHED if self._points == len(self._lrs) else Stop.LEFT)

    def _end(self, failure: BaseException | None) -> None:
        """Make the Finding; an exception that broke the test off carries it."""
        if failure is not None:
            self._recording.interrupt()
        try:
            self._finding = self._conclude(broken_off=failure is not None)
        except Exception as late:  # the rule's
            self._finding = getattr(late, "finding", None)
            if failure is None:
                raise
        if failure is not None:
            self._carry(failure)

    def _carry(self, error: BaseException) -> None:
        carry(error, self._finding, "test.finding", self._memory)

    def snapshot(self) -> TorchMemory:
        """Copies of all that the loop can change."""
        self._memory = self._training.snapshot()
        return self._memory

    def restore(self, snapshot: TorchMemory) -> None:
        """Put everything back."""
        snapshot.put_back()

    def _conclude(self, *, broken_off: bool) -> Finding:
        seconds, points = time.perf_counter() - self._start, self._recording.steps
        if broken_off and not self._training.ranks.is_alone:  # what all ranks have read, because some had come further
            points = len(self._recording.curve(self._settings.smoothing))
        facts = {**self._training.facts(), "accumulation_steps": None, "autocast": None}
        cost = Cost(float(points), points, points, seconds)
        plan = self._plan.over(self._drawn, self._points)
        finding = conclude(self._recording, self._settings.smoothing, plan, self._rule, cost, facts)
        may = may_verify(self._training)
        return replace(
            finding, why=finding.why.replace("verify=True", _VERIFIED) if may else without_verify(finding.why)
        )
