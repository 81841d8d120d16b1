"""The held-out loss: in eval mode, with no statistics touched and no random state moved."""

# ruff: noqa: SLF001 - a module's own buffers have a private name only

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from findlr.analysis.text import told
from findlr.errors import LoaderError
from findlr.search.batches import PASS_ENDED
from findlr.search.failure import is_the_trainings, note
from findlr.search.interrupts import signals_wait
from findlr.search.memory import Memory
from findlr.search.splitting import first_batches
from findlr.torch.compiled import NoNewGraphs
from findlr.torch.data.batches import TorchBatches
from findlr.torch.data.nesting import batch_size, spare
from findlr.torch.losses import WithoutGraph
from findlr.torch.misfits import described, layer_misfit
from findlr.torch.ranks import Ranks, drawn_on_all
from findlr.torch.snapshot.notes import remember_rng
from findlr.torch.step import Evaluates, TakesSteps
from findlr.torch.training import Training

logger = logging.getLogger("findlr")

_MOST_BATCHES = 10_000  # in a pass over a validation loader that has no length


class HeldOut:
    """Losses of examples that are not trained on.

    Args:
        training: whose modules are evaluated.
        taker: gives the loss of a batch.
        loader: validation batches; without them, some of the training's are set aside.
        no_new_graphs: keeps torch.compile from making graphs for the evaluation.
        place: brings a batch to where the loss needs it.
    """

    def __init__(
        self,
        training: Training,
        taker: TakesSteps,
        loader: Iterable[Any] | None,
        no_new_graphs: NoNewGraphs,
        place: Callable[[Any], Any],
    ) -> None:
        self.forwards = 0
        self._training, self._taker, self._no_new_graphs, self._place = training, taker, no_new_graphs, place
        self._validation = None if loader is None else TorchBatches(loader, name="validation_loader")
        self._aside: list[Any] = []
        self._without_graph = WithoutGraph()
        self._is_known = self._by_training = False  # whether there is a loss in eval mode

    @property
    def places(self) -> list[TorchBatches]:
        """The data whose place a snapshot must remember."""
        return [] if self._validation is None else [self._validation]

    def hold_out(self, training_batches: TorchBatches, batches: int, steps: int, total_steps: int) -> int:
        """Set batches aside: the validation loader's first ones or, without one, some of the training's examples.

        A run of ``steps`` steps then trains on a share of the other examples: the square root of steps / total_steps.
        A training that sees its examples many times overfits, and short runs do so too only if they have fewer.

        Returns:
            How many forward passes ``evaluate`` takes; 0 if the step has no loss of one batch.

        Raises:
            LoaderError: the validation loader is empty.
        """
        if self._taker.why_no_loss() is not None:
            return 0
        self._training.check_verify(by_closure=getattr(self._taker, "by_closure", False))
        needed, share = steps * (self._taker.accumulation_steps or 1), math.sqrt(steps / total_steps)
        aside = drawn_on_all(self._training.ranks, lambda: self._set_aside(training_batches, batches, needed, share))
        count = self._training.ranks.least(len(aside)) or 0
        self._aside = [self._place(batch) for batch in aside[:count]]
        return count

    def _set_aside(self, training_batches: TorchBatches, batches: int, needed: int, share: float) -> list[Any]:
        if self._validation is None:
            return training_batches.hold_out(batches, needed, share)
        aside = first_batches(self._validation, batches, "validation_loader")
        training_batches.hold_out(0, needed, share)
        return aside

    def evaluate(self) -> torch.Tensor:
        """The mean loss on the batches set aside, which come again as they are, whatever the loss writes into them."""
        return self._mean_loss(map(spare, self._aside), len(self._aside))

    def validate(self) -> torch.Tensor:
        """The mean loss on all of the validation loader; no random state has moved.

        Ranks may wait for each other in a sharded layer, so each takes as many batches as the one that has fewest.

        Raises:
            LoaderError: the validation loader is empty, or does not seem to end.
        """
        assert self._validation is not None
        states = Memory()
        remember_rng(self._training.devices, states)
        try:
            length = self._validation.length()
            count = None if self._training.ranks.is_alone else self._training.ranks.least(length)
            with closing(self._validation.whole()) as batches:
                of_all = self._of_all_ranks(batches, count)
                return self._mean_loss(map(self._place, _ending(of_all) if length is None else of_all), count)
        finally:
            states.put_back()

    def _of_all_ranks(self, batches: Iterator[Any], count: int | None) -> Iterator[Any]:
        """As many batches as each rank has: so many or, where the loader of one has no length, one by one."""
        ranks = self._training.ranks
        if ranks.is_alone:
            return batches
        return islice(batches, count) if count is not None else _until_one_ends(ranks, batches)

    def _mean_loss(self, batches: Iterable[Any], count: int | None) -> torch.Tensor:
        with Evaluating(self._training.modules) as modes, self._no_new_graphs:
            if isinstance(self._taker, Evaluates):
                self._taker.begin_evaluation()
            if self._by_training:
                modes.train_all_but_torchs()
            failed = torch.tensor(math.nan, device=self._training.device)
            scored = self._training.ranks.scored(partial(self._loss, modes), iter(batches), count)
            loss, passes = mean_loss((batch, failed if found is None else found) for batch, found in scored)
        self.forwards += passes
        return loss

    def _loss(self, modes: Evaluating, batch: Any) -> torch.Tensor:
        """The loss of a batch in eval mode; in train mode where there is none, as with torchvision's detectors."""
        try:
            found = self._without_graph(partial(self._taker.loss, batch)).detach()
        except LoaderError as error:
            raise self._told_of(error, batch) from None
        except Exception as error:
            # Another rank may not have failed, and waits for this one.
            if self._is_known or dist.is_initialized() or not is_the_trainings(error):
                raise
            if not modes.train_all_but_torchs():
                raise self._told_of(error, batch) from None
            self._without_graph = WithoutGraph()
            try:
                found = self._without_graph(partial(self._taker.loss, batch)).detach()
            except Exception:  # noqa: BLE001 - the first one tells more
                raise self._told_of(error, batch) from None
            self._by_training = True
            logger.warning(
                "the training's loss can't be had in eval mode (%s), so held-out examples are scored with the model in "
                "train mode, and only torch's own layers in eval mode",
                told(error),
            )
        self._is_known = True
        return found

    def _told_of(self, error: Exception, batch: Any) -> Exception:
        """What the first batch raised or, of a loader that is not the training's, the error that names that one."""
        if self._validation is None:
            return error
        if isinstance(error, LoaderError):
            return LoaderError(f"validation_loader does not fit: {error}")
        seen = f"{described(batch)} of validation_loader"
        misfit = layer_misfit(error, seen)
        if misfit is None:
            note(error, f"the first batch is {seen}")
        return misfit or error


def _ending(batches: Iterator[Any]) -> Iterator[Any]:
    for number, batch in enumerate(batches):
        if number == _MOST_BATCHES:
            raise LoaderError(
                f"validation_loader gave {_MOST_BATCHES:,} batches and has not ended: give one that ends, because each "
                "validation loss is the mean of all"
            )
        yield batch


def _until_one_ends(ranks: Ranks, batches: Iterator[Any]) -> Iterator[Any]:
    """Batches until a rank has no more."""
    while not ranks.any((batch := next(batches, PASS_ENDED)) is PASS_ENDED):
        yield batch


class Evaluating:
    """Eval mode, by the flags, because a module's own ``train()`` may do anything; each flag comes back."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modes = [(module, module.training, root.training) for root in modules for module in root.modules()]
        self._buffers: list[tuple[dict[str, Any], str, torch.Tensor, torch.Tensor]] = []

    def train_all_but_torchs(self) -> bool:
        """Train mode, but for torch's own layers, which draw or count there; what the others write into comes back.

        Returns:
            Whether there are any others.
        """
        for module, mode, of_root in self._modes:
            if type(module).__module__.startswith("torch.") or isinstance(module, (_NormBase, _DropoutNd)):
                continue
            module.training = mode or not of_root
            own = module._buffers
            self._buffers += [(own, name, held, held.clone()) for name, held in own.items() if held is not None]
        return any(module.training for module, *_ in self._modes)

    @signals_wait
    def __enter__(self) -> Self:
        for module, _, _ in self._modes:
            module.training = False
        return self

    @signals_wait
    def __exit__(self, *_: object) -> None:
        for module, mode, _of_root in self._modes:
            module.training = mode
        with torch.no_grad():
            for own, name, held, value in self._buffers:
                own[name] = held.copy_(value)


def mean_loss(scored: Iterable[tuple[Any, torch.Tensor]]) -> tuple[torch.Tensor, int]:
    """The mean loss of all examples, on its device, and the number of batches; a smaller batch counts for less.

    Args:
        scored: batches and their losses.

    Raises:
        LoaderError: there is no batch.
    """
    losses, sizes = [], []
    for batch, found in scored:
        if found.numel():  # the training does not go on without this batch
            losses.append(found.reshape(()))
            sizes.append(batch_size(batch) or 1)
    if not losses:
        raise LoaderError("validation_loader is empty: it gave no batch; give one that has data")
    stacked = torch.stack(losses)
    shares = torch.tensor(sizes, dtype=stacked.dtype, device=stacked.device) * (len(sizes) / sum(sizes))
    return (stacked * shares).mean(), len(losses)
