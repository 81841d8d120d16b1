"""The code to paste: the optimizer at the suggested rate, and the scheduler of the plan.

What a training tells of itself in its facts is a contract, whatever its framework:

- ``facts["optimizer"]``: how the optimizer is made; see ``OptimizerFacts``.
- ``facts["optimizers"]``: how many were swept together, where that is more than one; their groups are in the order of
  a list of them.
- ``facts["sets"]``: where the rate is written in a framework that makes its optimizer itself, such as
  "trainer.args.learning_rate"; or the call that takes it, up to the rate: "net.set_params(lr=". Where it is there, the
  code is an assignment to it, or that call. With several groups it is the largest rate; a path that ends in "[]" takes
  a list of all, and one that ends in ".param_groups" is an optimizer's groups, whose rates are written one by one.
- ``facts["sets_share"]``: what is written there as a share of the largest rate, where it is not that rate itself.

A file may hold anything there. What is printed is names, dots, empty calls and plain literals; what is something else
is left out, or the code sets the rates of an optimizer that is there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from keyword import iskeyword
from typing import Any, NotRequired, TypedDict

from findlr.analysis.numbers import real
from findlr.analysis.plan import Plan
from findlr.analysis.schedules import WARMUP
from findlr.analysis.text import rate_text

ASSUMED_STEPS = 1000  # what the rules take for a plan without total_steps
LONG = 600  # letters; code that is longer, because it has the rates of many groups, is for ``finding.code()`` alone

_PARAMETERS, _RATE = "model.parameters()", "lr"
_GROUPS = ".param_groups"
_APPLY = "finding.apply(optimizer, scheduler)"
_LONGEST, _DEEPEST = 1000, 4  # of a value among the arguments
_SCHEDULERS = "torch.optim.lr_scheduler"


class OptimizerFacts(TypedDict):
    """How an optimizer is made, in plain values."""

    name: str
    """Its class's."""

    module: str
    """Its class's."""

    arguments: Mapping[str, Any]
    """Those that are not the defaults."""

    groups: Sequence[Mapping[str, Any]]
    """The settings of each of its param groups."""

    parameters: NotRequired[str]
    """The code of what is passed first: "model.parameters()" unless it is told; "" is nothing."""

    rate: NotRequired[str]
    """The rate's keyword: "lr" unless it is told; another one says that PyTorch's schedulers do not fit."""


def code_for(facts: Mapping[str, Any], lrs: Sequence[float], plan: Plan) -> str:
    """Python that trains as planned at the rates ``lrs``, in one line or two.

    Returns:
        The line that makes the optimizer or sets its rates, and the line of the scheduler where the plan has one. A
        scheduler of the user's own gets its peak from ``finding.apply``.

    Example:
        >>> adam = {"name": "Adam", "module": "torch.optim.adam", "arguments": {"amsgrad": True}, "groups": [{}]}
        >>> print(code_for({"optimizer": adam}, [0.00123], Plan("cosine", 500)))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.0012, amsgrad=True)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=500)
        >>> code_for({"sets": "trainer.args.learning_rate"}, [0.00123], Plan())
        'trainer.args.learning_rate = 0.0012'
        >>> code_for({"sets": "trainer.args.learning_rate", "sets_share": 0.1}, [0.00123, 0.0123], Plan())
        'trainer.args.learning_rate = 0.0012'
        >>> code_for({"sets": "net.set_params(lr="}, [0.00123], Plan())
        'net.set_params(lr=0.0012)'
    """
    if (line := _assignment(facts, lrs)) is not None:
        return line
    scheduler = scheduler_line(facts, lrs, plan)
    line = constructor(facts, lrs) or _loop(lrs, several=_several(facts))
    if scheduler is not None:
        return f"{line}\n{scheduler}"
    return line if plan.schedule == "constant" else f"{line}  # the peak of the planned schedule"


def one_line(facts: Mapping[str, Any], lrs: Sequence[float], plan: Plan) -> str | None:
    """The same in one line, for what stands below the plan; None where nothing is known of the optimizer.

    Several groups, whose rates make a long line, get ``finding.apply``.
    """
    if (groups := _groups(facts)) is not None and len(lrs) > 1:
        return f"finding.apply({groups})"
    if (line := _assignment(facts, lrs)) is not None:
        return line
    if not _optimizer(facts):
        return None
    if _several(facts):
        return "finding.apply(optimizers)"
    if plan.scheduler and _optimizer(facts).get("rate", _RATE) == _RATE:
        return _APPLY
    scheduler = scheduler_line(facts, lrs, replace(plan, total_steps=plan.total_steps or ASSUMED_STEPS))
    lines = [constructor(facts, lrs) or "finding.apply(optimizer)", *([] if scheduler is None else [scheduler])]
    line = "; ".join(lines)
    applied = (
        "finding.apply(optimizer)" if scheduler is None else f"{_APPLY}  # once {plan.schedule}'s scheduler is made"
    )
    return line if len(line) <= LONG else applied


def constructor(facts: Mapping[str, Any], lrs: Sequence[float]) -> str | None:
    """The line that makes the optimizer; None with several groups, or where the facts do not tell it in plain names."""
    optimizer = _optimizer(facts)
    if len(lrs) != 1:
        return None
    module, name = str(optimizer.get("module")), str(optimizer.get("name"))
    rate, parameters = optimizer.get("rate", _RATE), optimizer.get("parameters", _PARAMETERS)
    if not (_is_path(module) and _is_name(name) and _is_name(rate) and _is_call(parameters)):
        return None
    arguments = [parameters] if parameters else []
    arguments.append(f"{rate}={rate_text(lrs[0])}")
    for key, value in dict(optimizer.get("arguments") or {}).items():
        literal = _literal(value)
        if not _is_name(key) or key == rate or literal is None or len(literal) > _LONGEST:
            return None
        arguments.append(f"{key}={literal}")
    # A class of the script itself has its bare name there.
    where = "torch.optim." if module.startswith("torch.optim.") else "" if module == "__main__" else f"{module}."
    return f"optimizer = {where}{name}({', '.join(arguments)})"


def scheduler_line(facts: Mapping[str, Any], lrs: Sequence[float], plan: Plan) -> str | None:
    """PyTorch's scheduler for the plan; None for a constant rate, several optimizers, and one that is not PyTorch's."""
    if _optimizer(facts).get("rate", _RATE) != _RATE or _several(facts):
        return None
    if plan.scheduler:
        name = plan.scheduler if _is_name(plan.scheduler) else "scheduler"
        return f"{_APPLY}  # once your {name} is made on this optimizer"
    steps = ASSUMED_STEPS if plan.total_steps is None else plan.total_steps
    remarks = []
    if isinstance(plan.schedule, str):
        made = _scheduler(plan.schedule, plan.warmup, steps, lrs)
    else:
        made = f"{_SCHEDULERS}.LambdaLR(optimizer, lambda step: schedule(min(step / {max(steps - 1, 1)}, 1.0)))"
        remarks.append("schedule is the function that was given")
    if plan.total_steps is None:
        remarks.append(f"{steps} steps are assumed: no total_steps was given")
    remark = f"  # {'; '.join(remarks)}" if remarks else ""
    return made and f"scheduler = {made}{remark}"


def _scheduler(schedule: str, warmup: float | None, steps: int, lrs: Sequence[float]) -> str | None:
    """The call that makes a schedule by its name; None for a constant rate."""
    if schedule == "one_cycle":
        rates = [rate_text(lr) for lr in lrs]
        peak = rates[0] if len(rates) == 1 else f"[{', '.join(rates)}]"
        rise = "" if warmup is None else f"pct_start={warmup:.4g}, "
        return f"{_SCHEDULERS}.OneCycleLR(optimizer, max_lr={peak}, total_steps={steps}, {rise}cycle_momentum=False)"
    if schedule == "wsd":  # up, the peak, and down
        shares = f"1.0, 0.05 + {0.95 / (warmup or WARMUP):.4g} * step / {steps}, 5 - 5 * step / {steps}"
        return f"{_SCHEDULERS}.LambdaLR(optimizer, lambda step: max(0.0, min({shares})))"
    if schedule == "inverse_sqrt":
        rise = f"{max(1, round((warmup or WARMUP) * steps))}"
        return f"{_SCHEDULERS}.LambdaLR(optimizer, lambda step: min((step + 1) / {rise}, ({rise} / (step + 1)) ** 0.5))"
    rises = 0 if warmup is None else min(max(1, round(warmup * steps)), steps - 1)
    falls = steps - rises
    after = {
        "cosine": f"CosineAnnealingLR(optimizer, T_max={falls})",
        "linear": f"LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters={falls})",
        "polynomial": f"PolynomialLR(optimizer, total_iters={falls})",
        "cosine_with_min_lr": "LambdaLR(optimizer, lambda step: "
        f"0.55 + 0.45 * torch.cos(torch.tensor(torch.pi * step / {falls})).item())",
    }.get(schedule)
    parts = [f"LinearLR(optimizer, start_factor=1 / {rises}, total_iters={rises})"] if rises else []
    parts = [f"{_SCHEDULERS}.{part}" for part in (*parts, after) if part is not None]
    if len(parts) == 2:
        return f"{_SCHEDULERS}.SequentialLR(optimizer, [{', '.join(parts)}], milestones=[{rises}])"
    return parts[0] if parts else None


def _optimizer(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    told = facts.get("optimizer")
    return told if isinstance(told, Mapping) else {}


def _groups(facts: Mapping[str, Any]) -> str | None:
    """The optimizer that is there, whose groups are written one by one."""
    where = facts.get("sets")
    if not isinstance(where, str) or not where.endswith(_GROUPS):
        return None
    optimizer = where.removesuffix(_GROUPS)
    return optimizer if optimizer and _is_call(optimizer) else None


def _assignment(facts: Mapping[str, Any], lrs: Sequence[float]) -> str | None:
    where, share = facts.get("sets"), real(facts.get("sets_share", 1.0))
    if not isinstance(where, str) or share is None or not 0 < share < math.inf:
        return None
    if (groups := _groups(facts)) is not None:
        return _loop(lrs, groups, 'group["initial_lr"] = ')  # from which its next scheduler starts
    rate = rate_text(max(lrs) * share)
    if _is_path(where):
        return f"{where} = {rate}"
    if _is_path(each := where.removesuffix("[]")):
        return f"{each} = [{', '.join(rate_text(lr * share) for lr in lrs)}]"
    call, _, keyword = where.removesuffix("=").partition("(")
    return (
        f"{call}({keyword}={rate})" if where == f"{call}({keyword}=" and _is_path(call) and _is_name(keyword) else None
    )


def _several(facts: Mapping[str, Any]) -> bool:
    return (real(facts.get("optimizers", 1)) or 1) > 1


def _loop(lrs: Sequence[float], optimizer: str = "optimizer", besides: str = "", *, several: bool = False) -> str:
    rates = ", ".join(map(rate_text, lrs))
    groups = "[g for each in optimizers for g in each.param_groups]" if several else f"{optimizer}.param_groups"
    return f'for group, lr in zip({groups}, [{rates}]): {besides}group["lr"] = lr'


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isidentifier() and not iskeyword(value)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST and all(map(_is_name, value.split(".")))


def _is_call(value: Any) -> bool:
    """Whether it is a path, the call of one without arguments, or nothing."""
    return value == "" or (isinstance(value, str) and _is_path(value.removesuffix("()")))


def _literal(value: Any, depth: int = 0) -> str | None:
    """A plain value as Python writes it; None if it is no such value."""
    if value is None or isinstance(value, (bool, str)):
        return repr(value)
    if isinstance(value, int):
        return repr(int(value))
    if isinstance(value, float) and math.isfinite(value):
        return repr(float(value))
    if not isinstance(value, (list, tuple)) or depth == _DEEPEST:
        return None
    items = [_literal(item, depth + 1) for item in value]
    if None in items:
        return None
    return f"({', '.join(map(str, items))}{',' * (len(items) == 1)})"  # a file has lists, an optimizer's are tuples
