"""A JAX training as the search sees it: a step, a state, and data."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

import jax

from findlr.analysis.numbers import whole
from findlr.analysis.plan import Plan
from findlr.analysis.text import told
from findlr.errors import ConfigurationError, LoaderError
from findlr.jax.around import Around
from findlr.jax.control_variate import Baseline
from findlr.jax.data import batch_size, batches_of, is_used_up, own, without_torch
from findlr.jax.forms import form_of
from findlr.jax.held_out import HeldOut
from findlr.jax.optimizers import Known, model_names, versions
from findlr.jax.parameters import check_functions
from findlr.jax.rates import rate_of
from findlr.jax.state import ARRAYS, Leaves, Live, Snapshot, copied, devices_of, number_in, numbers_in
from findlr.jax.traced import LOOK_EVERY_STEPS, Traced
from findlr.search.memory import remember_host_rng
from findlr.search.parcel import Base, Parcel

logger = logging.getLogger("findlr")


class JaxTrainable:
    """A step, its state, and its data; the arguments are those of ``findlr.jax.find_lr``."""

    read_every = LOOK_EVERY_STEPS
    trial_steps = 0  # vmap makes of a step what it is by itself

    def __init__(
        self,
        step: Callable[..., Any],
        state: Any,
        loader: Any,
        *,
        set_lr: Callable[..., Any] | None = None,
        evaluate: Callable[..., Any] | None = None,
        loss: Callable[..., Any] | None = None,
        place: Callable[[Any], Any] | None = None,
        optimizer: str = "",
        accumulation_steps: int = 1,
        consume: bool = False,
    ) -> None:
        if (whole(accumulation_steps) or 0) < 1:
            raise ConfigurationError(f"accumulation_steps must be a whole number above 0, got {accumulation_steps!r}")
        self._step = step
        self._form = form_of(state, step)
        self._known = Known(state, optimizer)
        self._model = model_names(state)
        self._rate = rate_of(step, self._form, set_lr)
        check_functions(self._form.arguments, evaluate, loss, place)
        self._traced = Traced(self._form, step, loss, self._rate, Around(step, set_lr, evaluate, loss, place))
        self.batches = batches_of(loader, consume=consume)
        self._place = place or without_torch
        self.accumulation_steps = int(accumulation_steps)
        self._given: Leaves | None = self._form.start  # the state, until a step is taken; no step is given it
        self._live: Live | None = None
        self._numbers = numbers_in(self._form.start) if isinstance(step, jax.stages.Wrapped) else []
        self._is_checked = self._uses_up_batches = False
        self._baseline = Baseline(self._traced)
        self._held_out = HeldOut(self._form, self._traced, evaluate, self._place)
        self._latest: Any = None
        self._batch_size: int | None = None
        self.backwards = 0
        self.see_together: Callable[[int, Sequence[Sequence[float]]], object] | None = None

    @property
    def forwards(self) -> int:
        """Forward passes of a whole batch so far."""
        return self.backwards + self._baseline.forwards + self._held_out.forwards

    def step(self, lr: float) -> Any:
        """Take one step at ``lr``; the loss before it stays on its device.

        Raises:
            ConfigurationError: another rate acted, or the step does not do what it must.
        """
        live = self._begun()
        self._rate.write(live, lr)
        self._baseline.begin()
        losses = []
        before = [] if self._is_checked else self._counts(live)
        for _ in range(self.accumulation_steps):
            batch = self._next()
            self._baseline.drawn(live, batch)
            losses.append(live.take(self._step, batch, *self._rate.arguments(lr)))
            self._uses_up_batches = self._uses_up_batches or (not self._is_checked and is_used_up(batch))
        self.backwards += 1
        if not self._is_checked:
            self._check(live, lr, before)
        self._latest = losses[0] if len(losses) == 1 else sum(losses) / len(losses)
        return self._latest

    def _begun(self) -> Live:
        """The state that steps change: a copy, made when the first one is taken."""
        if self._live is None:
            assert self._given is not None
            self._live = self._form.live([copied(leaf) for leaf in self._as_arrays(self._given)])
        self._given = None
        return self._live

    def _as_arrays(self, leaves: Leaves) -> Leaves:
        """The leaves, with arrays for those of Python's numbers of which a step makes some, as ``jax.jit`` does."""
        made = list(leaves)
        for place in self._numbers:
            made[place] = jax.numpy.asarray(made[place])
        return made

    def _now(self) -> Leaves:
        """The leaves of the state as they are given to what is compiled."""
        return self._as_arrays(self.leaves())

    def _next(self) -> Any:
        batch = self._place(self.batches.next())
        if self._batch_size is None:
            self._batch_size = batch_size(batch)
        return own(batch) if self._uses_up_batches or not self._is_checked else batch

    def _check(self, live: Live, lr: float, before: list[tuple[str, Any]]) -> None:
        """Look at what the first step has done.

        Raises:
            ConfigurationError: the rate that acted is not the one asked for, or the optimizer took no step, or several.
        """
        self._rate.check(live, lr)
        if self._counts(live) != [(name, count + (name == "gradient_step")) for name, count in before]:
            raise ConfigurationError(
                f"accumulation_steps is {self.accumulation_steps}, and optax.MultiSteps did not make one step of so "
                "many calls: give the number that it was built with, in place of a function if it was built with one"
            )
        after = live.leaves()
        self._numbers = [place for place in numbers_in(self._form.start) if isinstance(after[place], ARRAYS)]
        self._is_checked = True

    def _counts(self, live: Live) -> list[tuple[str, Any]]:
        """The steps that optax.MultiSteps has made, and the calls since its last one."""
        pairs = zip(self._form.paths, live.leaves(), strict=True) if self._known.counts_steps else ()
        return [(path[-1], number_in(leaf)) for path, leaf in pairs if path[-1] in ("gradient_step", "mini_step")]

    def read(self, losses: list[Any]) -> list[float]:
        """The losses as numbers; waits for the device, once."""
        return [float(loss) for loss in jax.device_get(losses)]

    def prepare_baseline(self, snapshot: Snapshot) -> str | None:
        """Get ready for ``baseline`` under the weights of ``snapshot``."""
        start = self._form.live(self._as_arrays(snapshot.leaves))
        self._rate.write(start, jax.numpy.zeros(()))  # a step that takes several, in a loop of its own, must not train
        self._baseline.prepare(start.leaves())
        return None

    def baseline(self) -> Any:
        """The last batch's loss under those weights; None if the step can't tell it."""
        return self._baseline.loss(self._latest)

    # A race

    def hold_out(self, batches: int, steps: int, total_steps: int) -> int:
        """Set batches aside for ``evaluate``; 0 if the step's loss can't be had without a step."""
        needed, share = steps * self.accumulation_steps, math.sqrt(steps / total_steps)
        return self._held_out.hold_out(self.batches, self._now(), batches, needed, share)

    def unseen(self) -> bool:
        """Whether no run has trained on what ``evaluate`` scores."""
        return self.batches.unseen()

    def evaluate(self) -> float:
        """The mean loss on the batches set aside, or what the user's function says."""
        return self._held_out.score(self._now())

    def keep_batches(self, steps: int) -> None:
        """Draw the batches of ``steps`` steps, to come again after each restore, unless they take too much memory."""
        if not self.batches.keep(steps * self.accumulation_steps):
            logger.info("the batches of %d steps are drawn anew for each run, because they can't be kept", steps)

    def prepare_together(self, runs: int) -> str | None:  # noqa: ARG002 - the protocol's
        """The reason why runs can't be taken in one pass, if one is known beforehand, or None."""
        if not self.batches.kept:
            return "the batches are not kept"
        return "the state is on several devices" if len(devices_of(self._form.start)) > 1 else None

    def run_together(self, snapshot: Snapshot, rates: Sequence[Sequence[float]]) -> list[float] | str:
        """The held-out losses of several runs in one pass; or why they must be made one after another."""
        self.restore(snapshot)
        count, accumulated = len(rates), self.accumulation_steps
        kept = [self._place(batch) for batch in self.batches.kept]
        try:
            runs = self._traced.runs(self._as_arrays(snapshot.leaves), count)
            waiting: list[Any] = []
            for number, lrs in enumerate(zip(*rates, strict=True)):
                at = number * accumulated
                waiting.append(runs.step(lrs, kept[at : at + accumulated]))
                self.backwards += count
                if number == 0 or (number + 1) % LOOK_EVERY_STEPS == 0 or number + 1 == len(rates[0]):
                    seen, waiting = runs.look(waiting), []
                    if self.see_together is not None:
                        self.see_together(0, seen)
                    if not any(runs.finite):
                        break
            score = self._held_out.score
            ends = [score(runs.leaves(run)) if fine else math.inf for run, fine in enumerate(runs.finite)]
        except Exception as error:  # noqa: BLE001 - of whatever kind: one after another they can run, or say what is wrong
            return told(error)
        return [end if math.isfinite(end) else math.inf for end in ends]

    # Going back

    def snapshot(self) -> Snapshot:
        """A copy of the state that no step is given, the place in the data, and random states."""
        memory = self.batches.new_memory()
        try:
            if self._given is None:
                assert self._live is not None
                self._given = [copied(leaf) for leaf in self._live.leaves()]
            self.batches.remember(memory)
            memory.add(partial(setattr, self._held_out, "aside", self._held_out.aside), name="the batches set aside")
            self._traced.around.remember(memory)
            remember_host_rng(memory)
            self.batches.remember_rng(memory)
        except BaseException:
            memory.close()  # what is only half remembered will not be put back
            raise
        return Snapshot(self._given, memory)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back; the user's own state has never been elsewhere."""
        self._baseline.stop()
        self._live, self._given = None, snapshot.leaves
        snapshot.memory.put_back()

    def why_not_packed(self, *, forked: bool) -> str | None:
        """Why it can't be sent to other processes, or None."""
        spawned = "give ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('spawn'))"
        return f"JAX has threads of its own, with which a forked process hangs: {spawned}" if forked else None

    def try_packing(self, base: Base) -> None:
        """Pickle it without its data, of which a race sends the batches that it keeps."""
        light = copy(self)
        vars(light)["batches"] = ()
        Parcel.of(light, base)

    def packed(self, base: Base) -> Parcel[JaxTrainable] | str:
        """It as another process gets it; or why there is no such thing."""
        return self.batches.why_not_sent() or Parcel.of(self, base)

    # What it knows

    def leaves(self) -> Leaves:
        """The leaves of the state as it is now."""
        return self._live.leaves() if self._given is None and self._live is not None else list(self._given or ())

    def acting_lr(self, lr: float) -> float:
        """The rate that acts when asked for ``lr``: rounded to its array's type."""
        return self._rate.acting(lr)

    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the loader.

        Raises:
            LoaderError: the loader has no length.
        """
        length = self.batches.length()
        if length is None:
            raise LoaderError("num_steps='epoch' needs a loader with a length: give a number of steps")
        return max(length // self.accumulation_steps, 1)

    def planned(self, plan: Plan) -> Plan:
        """``plan`` with what is known of the optimizer and the epochs, where it leaves them open."""
        epochs, length = plan.epochs, self.batches.length()
        if epochs is None and length and plan.total_steps is not None:
            epochs = plan.total_steps / self.steps_per_epoch()
        return self._known.planned(replace(plan, epochs=epochs))

    def facts(self) -> dict[str, Any]:
        """The model, the optimizer, ratios of its groups, versions."""
        several = len(self._rate.ratios) > 1
        facts = {
            "model": self._model,
            "parameters": self._known.parameters,
            "device": ", ".join(sorted({device.platform for device in devices_of(self._form.start)})),
            "batch_size": self._batch_size,
            "accumulation_steps": self.accumulation_steps,
            "optimizer": self._known.described(),
            "ratios": list(self._rate.ratios),
            "versions": versions(),
        }
        makes = self._known.makes() and not several
        return facts if makes else {**facts, "sets": f"{self._rate.name}s[]" if several else self._rate.name}
