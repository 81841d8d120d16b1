"""The article's call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from inspect import signature
from os import PathLike
from typing import Any, Literal, Unpack

from findlr.analysis.curve import Step
from findlr.analysis.length import epochs_in
from findlr.analysis.plan import Plan
from findlr.analysis.rules import Rule
from findlr.errors import ConfigurationError
from findlr.finding import Finding
from findlr.search.find import found
from findlr.search.names import unknown_name
from findlr.search.settings import Settings
from findlr.search.sweep import Spacing
from findlr.search.watching import Progress
from findlr.torch.arguments import How
from findlr.torch.planned import planned, read_schedule, told_length, warn_of_epochs
from findlr.torch.step import Criterion, LossFn, TrainStep
from findlr.torch.trainable import TorchTrainable
from findlr.torch.training import Models, Optimizers


def find_lr(
    model: Models,
    optimizer: Optimizers,
    criterion: Criterion | None = None,
    loader: Iterable[Any] | None = None,
    *,
    loss_fn: LossFn | None = None,
    train_step: TrainStep | None = None,
    min_lr: float = 1e-8,
    max_lr: float = 10.0,
    num_steps: int | Literal["epoch"] = 100,
    spacing: Spacing = "exponential",
    divergence_threshold: float = 4.0,
    smoothing: float = 0.98,
    schedule: Any = "constant",
    total_steps: int | str | None = None,
    warmup: float | None = None,
    verify: bool = False,
    budget: float | None = None,
    executor: Executor | None = None,
    rule: Rule | str | None = None,
    control_variate: bool | None = None,
    one_pass: bool = False,
    restore: Sequence[Any] = (),
    progress: Progress | bool | None = None,
    on_step: Callable[[Step], object] | None = None,
    checkpoint: str | PathLike[str] | None = None,
    **how: Unpack[How],
) -> Finding:
    """Find a good learning rate by a range test, and put everything back.

    The rate goes up by a constant factor at each batch, from ``min_lr`` to ``max_lr``; the loss falls, bottoms out and
    explodes; the rate is read off that curve. Training after the call is bit-identical to training without it.

    Args:
        model: in any mode; the sweep trains it in train mode, and puts each batch on the device of its first parameter.
            With ``train_step``, several may be given.
        optimizer: any of ``torch.optim`` but Rprop; the ratios of its groups' rates are kept. Several, as a list or
            dict, are swept together, with their ratio kept; with ``train_step``, ``sweep`` says which are.
        criterion: ``criterion(outputs, targets)``, for a loader of pairs.
        loader: the training batches; a loader shorter than the sweep starts over.
        loss_fn: ``loss_fn(model, batch)``, in place of ``criterion``.
        train_step: ``train_step(draw)``, in place of both: a step of your own, such as a GAN's, which calls ``draw()``
            for each batch that it wants, steps the optimizer once, and returns the loss that its forward pass saw.
        min_lr: the first rate, above 0.
        max_lr: the last rate, above ``min_lr``.
        num_steps: optimizer steps, at least 2; "epoch" is the article's one pass over the loader.
        spacing: "exponential" or "linear".
        divergence_threshold: the sweep stops once the smoothed loss is this many times its best, above 1.
        smoothing: beta of the stop rule's average and of ``curve.smoothed()``, in [0, 1).
        schedule: of the training that is planned: its name, such as "constant", "one_cycle", "cosine" or "linear"; a
            scheduler of torch, transformers or timm; or a function of the progress (0 to 1) that returns the share of
            the peak rate.
        total_steps: optimizer steps of the training that is planned, or a text such as "5 epochs", which the loader's
            length and ``accumulation_steps`` tell; None if not known, which ``verify`` refuses.
        warmup: of a schedule given by its name: a share of the training (0 to 1), or a whole number of steps.
        verify: race the sweep's suggestion against rates near it, in short runs of the planned schedule.
        budget: what ``verify`` may spend, the sweep included and never exceeded: an int is steps, a float (0.5, 2.0) a
            share of ``total_steps``; None is half of them, and at least 350 steps.
        executor: makes the runs of ``verify`` at the same time, in its worker processes, each bit for bit the run that
            this process would make: ``concurrent.futures.ProcessPoolExecutor(2)``, ``findlr.ray.executor()``, or any
            other Executor whose tasks run in processes. You shut it down.
        rule: how the rate is chosen, such as ``findlr.rules.valley`` or its name; None is ``findlr.rules.quick``.
        control_variate: measure each batch's loss under the starting weights, too, which takes the batches' differences
            out of the curve and costs a forward pass a step; None does so wherever it can.
        one_pass: take the first runs of ``verify`` in one pass of stacked weights, where the model and the optimizer
            allow it: meant for a small model on a GPU. Their losses agree to rounding.
        restore: what else a step changes: anything with state_dict and load_state_dict (an EMA, a stateful criterion).
        progress: None shows the sweep where somebody may be looking, in a terminal or a notebook; True also writes
            plain lines into a log; False shows nothing; or a context manager that gives a function, called with each
            ``Step``.
        on_step: called with each ``Step`` once its loss is read, those of ``verify``'s runs, too. If it is a context
            manager as well, it is entered before the search and left after it.
        checkpoint: a file in which ``verify`` keeps the sweep and each run that has ended. A search that was killed, if
            it is called again in the same way, goes on with what the file has, and ends with the same Finding. The file
            is left complete at the end; one of another training is refused.
        **how: how a step is taken and remembered, all of ``TorchTrainable``: sweep, validation_loader,
            validation_every, autocast, scaler, accumulation_steps, clip_grad_norm, clip_grad_value, snapshot, consume.

    Returns:
        The Finding; where the curve gives no suggestion, its ``verdict`` and ``why`` say what to change.

    Raises:
        ConfigurationError: an argument that cannot work; the model is untouched.
        LoaderError: the model's layers or the criterion can't take the first batch; the model is put back.
        LossError: the criterion's result is not one number with a graph; the model is put back.
        Exception: the training's own, with what was measured as ``.finding``: no points, if it came before the first.

    Example:
        >>> import torch
        >>> from torch import nn, optim
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <...>
        >>> inputs = torch.randn(256, 4)
        >>> data = torch.utils.data.TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))
        >>> loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
        >>> net = nn.Linear(4, 1)
        >>> finding = find_lr(net, optim.SGD(net.parameters(), lr=1e-3), nn.MSELoss(), loader)
        >>> 0.001 < finding.lr < 1
        True

    Source: Gugger 2018, "How Do You Find A Good Learning Rate"; Smith 2015 (arXiv:1506.01186).
    """
    search = Settings(
        min_lr=min_lr,
        max_lr=max_lr,
        num_steps=num_steps,
        spacing=spacing,
        divergence_threshold=divergence_threshold,
        smoothing=smoothing,
        verify=verify,
        budget=budget,
        executor=executor,
        rule=rule,
        control_variate=control_variate,
        one_pass=one_pass,
        progress=progress,
        on_step=on_step,
        checkpoint=checkpoint,
    )
    for name in how:
        if name not in How.__annotations__:
            raise ConfigurationError(f"find_lr: {unknown_name(name, list(argument_names()))}")
    total_steps = told_length(schedule, total_steps)
    in_epochs = epochs_in(total_steps) is not None
    if not in_epochs:  # what is wrong with a plan is told first
        plan = Plan(*read_schedule(schedule, total_steps), warmup=warmup)
    trainable = TorchTrainable(
        model, optimizer, criterion, loader, loss_fn=loss_fn, train_step=train_step, restore=restore, **how
    )
    if in_epochs:
        plan = planned(schedule, total_steps, warmup, trainable.steps_per_epoch)
    warn_of_epochs(plan, total_steps, trainable.steps_per_epoch)
    return found(trainable, plan, search)


def argument_names() -> tuple[str, ...]:
    """The names of all of ``find_lr``'s arguments."""
    return (*(name for name in signature(find_lr).parameters if name != "how"), *How.__annotations__)
