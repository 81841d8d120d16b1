"""The plan: names of schedules as people type them, warmups, families of optimizers, numbers of other libraries."""

import enum
import inspect
import math

import numpy as np
import pytest
import torch

from findlr import ConfigurationError, Finding, Plan, Suggestion, find, rules
from findlr.analysis.answer import answer
from findlr.analysis.belief import believe
from findlr.analysis.curve import Curve
from findlr.analysis.families import family
from findlr.analysis.plan import SCHEDULES
from findlr.analysis.usual import usual
from findlr.testing import Quadratic

NAMES = {
    "constant": ["Constant", "fixed", "ConstantLR", "get_constant_schedule"],
    "one_cycle": ["OneCycleLR", "onecycle", "one-cycle", "ONE_CYCLE", "1cycle", "OneCycle LR"],
    "cosine": ["CosineAnnealingLR", "cosine_annealing", "CosineLRScheduler", "cosine_with_restarts"],
    "linear": ["LINEAR", "linear_decay"],
    "wsd": ["warmup_stable_decay", "WSDLR", "trapezoidal"],
    "polynomial": ["PolynomialLR", "poly", "polynomial_decay"],
    "inverse_sqrt": ["inverse-sqrt", "InverseSqrtLR", "noam"],
    "cosine_with_min_lr": ["Cosine-With-Min-LR"],
}
WARMED = {
    "constant": ["constant_with_warmup", "WarmupLR"],
    "cosine": [
        "cosine_with_warmup",
        "get_cosine_schedule_with_warmup",
        "LinearWarmupCosineAnnealingLR",
        "WarmupCosine",
    ],
    "linear": ["linear_with_warmup", "linear-warmup", "WarmupDecayLR"],
    "polynomial": ["polynomial_decay_with_warmup"],
    "cosine_with_min_lr": ["cosine_warmup_with_min_lr"],
}


def valley(n=100, edge=2.0):
    rates = 10.0 ** np.linspace(-8, 1, n)
    return Curve(rates, 1 - np.exp(-((np.log10(rates) + edge) ** 2)))


# Names of schedules


@pytest.mark.parametrize(("name", "typed"), [(name, typed) for name in NAMES for typed in [name, *NAMES[name]]])
def test_a_schedule_has_one_name_however_it_is_typed(name, typed):
    assert Plan(typed) == Plan(name)
    assert (Plan(typed).schedule, Plan(typed).warmup) == (name, None)


def test_every_schedule_is_known_by_its_own_name():
    assert NAMES.keys() == SCHEDULES.keys()


@pytest.mark.parametrize(("name", "typed"), [(name, typed) for name in WARMED for typed in WARMED[name]])
def test_a_name_with_a_warmup_is_the_schedule_after_one(name, typed):
    plan = Plan(typed)
    assert (plan.schedule, plan.warmup) == (name, 0.05)
    assert plan == Plan(name, warmup=0.05)
    assert plan.share(0.0) == 0.0
    assert plan.share(0.05) == 1.0


def test_an_enum_and_a_class_are_names():
    class SchedulerType(str, enum.Enum):  # noqa: UP042 - as transformers has it
        COSINE = "cosine"

    class Kind(enum.Enum):
        LINEAR = "linear"

    assert Plan(SchedulerType.COSINE).to_dict() == Plan("cosine").to_dict()
    assert Plan(Kind.LINEAR).schedule == "linear"
    assert Plan(torch.optim.lr_scheduler.OneCycleLR).schedule == "one_cycle"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("onecicle", r"did you mean 'one_cycle'.*constant, one_cycle, cosine, .*inverse_sqrt"),
        ("cosnie", "did you mean 'cosine'"),
        ("xyz", "not known; use one of constant, one_cycle"),
        ("", "not known"),
        ("StepLR", "give the scheduler itself"),
        ("LinearLR", "give the scheduler itself"),
        ("multi_step", "give the scheduler itself"),
        ("CosineAnnealingWarmRestarts", "give the scheduler itself"),
        ("reduce_lr_on_plateau", "schedule='constant'"),
        ("ReduceLROnPlateau", "schedule='constant'"),
        ("greedy", "schedule='constant'"),
    ],
)
def test_a_name_that_does_not_tell_the_shape_is_refused(name, words):
    with pytest.raises(ConfigurationError, match=words):
        Plan(name)


@pytest.mark.parametrize("schedule", [lambda p: "a", lambda p: None, lambda p: 1 / 0, lambda a, b: a, "cosine".upper])
def test_a_function_that_is_no_schedule_is_refused(schedule):
    with pytest.raises(ConfigurationError, match="share of the peak"):
        Plan(schedule)


def test_an_exception_of_a_schedule_that_has_no_text_is_named():
    class Unprintable(Exception):
        def __repr__(self):
            raise RuntimeError

        __str__ = __repr__

    def schedule(_):
        raise Unprintable

    with pytest.raises(ConfigurationError, match=r"Unprintable: \(its message cannot be read\)"):
        Plan(schedule)


# Warmup


def test_a_warmup_is_a_share_or_steps():
    plan = Plan("linear", 1001, warmup=100)
    assert plan.warmup == pytest.approx(100 / 1001)
    assert plan == Plan("linear", 1001, warmup=100 / 1001)
    shares = plan.shares(1001)
    assert shares[[0, 50, 1000]] == pytest.approx([0.0, 0.5, 0.0], abs=2e-3)
    assert shares.argmax() == pytest.approx(100, abs=1)
    assert Plan("linear_with_warmup", warmup=0.2).warmup == 0.2
    assert Plan("linear_with_warmup", warmup=0) == Plan("linear")


@pytest.mark.parametrize(("name", "own"), [("one_cycle", 0.3), ("wsd", 0.05), ("inverse_sqrt", 0.05)])
def test_a_schedule_that_warms_up_anyway_takes_the_length_of_it(name, own):
    assert Plan(name, warmup=own).shares(101).tolist() == Plan(name).shares(101).tolist()
    longer = Plan(name, warmup=0.5)
    assert longer.share(0.5) == pytest.approx(1.0)
    assert longer.share(0.25) < 0.7
    with pytest.raises(ConfigurationError, match="more than 0"):
        Plan(name, warmup=0)


def test_the_inverse_root_falls_as_one_over_the_root_of_the_steps():
    plan = Plan("inverse_sqrt", warmup=0.04)
    assert plan.share(0.02) == 0.5
    assert [plan.share(0.16), plan.share(0.64)] == pytest.approx([0.5, 0.25])


@pytest.mark.parametrize(
    ("schedule", "steps", "warmup", "words"),
    [
        ("linear", None, 100, "needs total_steps"),
        ("linear", 100, 100, "fewer than total_steps"),
        ("linear", 100, 1.5, "share below 1"),
        ("linear", 100, -0.1, "share of the run"),
        ("linear", 100, "a", "share of the run"),
        ("linear", 100, True, "share of the run"),
        ("linear", 100, float("nan"), "share below 1"),
        (lambda progress: 1.0, 100, 0.1, "has its own"),
    ],
)
def test_a_warmup_that_does_not_fit_is_refused(schedule, steps, warmup, words):
    with pytest.raises(ConfigurationError, match=words):
        Plan(schedule, steps, warmup=warmup)


def test_a_plan_with_a_warmup_is_saved_and_one_without_is_saved_as_before(tmp_path):
    finding = find(Quadratic(), Plan("cosine_with_warmup", 1000, warmup=100))
    finding.save(tmp_path / "one.json")
    assert Finding.load(tmp_path / "one.json") == finding
    assert Finding.load(tmp_path / "one.json").plan.warmup == 0.1
    assert "warmup" not in Plan("cosine").to_dict()
    with pytest.raises(ConfigurationError):
        Plan.from_dict({**finding.plan.to_dict(), "warmup": 5.0})


# Shares of the peak


@pytest.mark.parametrize("name", ["constant", "one_cycle", "cosine", "linear", "wsd"])
def test_a_schedule_is_a_share_of_the_peak(name):
    shares = Plan(name).shares(1000)
    assert shares.max() == pytest.approx(1.0, abs=1e-4)
    assert shares.min() >= 0
    assert (np.abs(np.diff(shares)) < 0.03).all()


@pytest.mark.parametrize(
    ("schedule", "steps", "words"),
    [
        ("onecicle", None, "did you mean 'one_cycle'"),
        (3, None, "schedule"),
        (lambda progress: -1.0, None, "at least 0"),
        (lambda progress: 0.0, None, "not all 0"),
        (lambda progress: math.nan, None, "finite"),
        ("constant", 0, "total_steps"),
        ("constant", True, "total_steps"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(schedule, steps, words):
    with pytest.raises(ConfigurationError, match=words):
        Plan(schedule, steps)


# Numbers


@pytest.mark.parametrize("number", [np.int64(100), np.array([100]), torch.tensor(100), torch.tensor([100]), 100.0])
def test_numbers_of_other_libraries_are_numbers(number):
    plan = Plan("cosine", number, parameters=number, momentum=number / 200, warmup=np.float32(0.25))
    assert plan == Plan("cosine", 100, parameters=100, momentum=0.5, warmup=0.25)
    assert [type(plan.total_steps), type(plan.parameters), type(plan.momentum)] == [int, int, float]
    assert Plan("cosine", 1000, warmup=np.int32(100)) == Plan("cosine", 1000, warmup=100)


@pytest.mark.parametrize("steps", ["a", 0, -1, 1.5, float("nan"), float("inf"), [1, 2], torch.ones(2), True, 1j])
def test_steps_that_are_no_number_are_refused(steps):
    with pytest.raises(ConfigurationError, match="total_steps must be a whole number"):
        Plan("cosine", steps)
    with pytest.raises(ConfigurationError, match="parameters must be a whole number"):
        Plan("cosine", parameters=steps)


@pytest.mark.parametrize("epochs", ["a", 0, -1, math.nan, math.inf, [1, 2]])
def test_epochs_that_are_no_number_above_0_are_refused(epochs):
    with pytest.raises(ConfigurationError, match="epochs must be a number above 0, or None, got"):
        Plan(epochs=epochs)


@pytest.mark.parametrize("pretrained", ["a", -0.1, 1.1, math.nan, [0.5]])
def test_a_pretrained_share_that_is_none_is_refused(pretrained):
    with pytest.raises(ConfigurationError, match="pretrained must be a share from 0 to 1, True, False or None, got"):
        Plan(pretrained=pretrained)


@pytest.mark.parametrize("momentum", ["a", math.nan, math.inf])
def test_a_momentum_that_is_no_number_is_refused(momentum):
    with pytest.raises(ConfigurationError, match="momentum must be a finite number"):
        Plan(momentum=momentum)


@pytest.mark.parametrize("momentum", [1.0, 1.2, -0.5])
def test_an_odd_momentum_is_saved_and_loaded(momentum):
    finding = find(Quadratic(), Plan(optimizer="SGD", momentum=momentum))
    assert Finding.from_dict(finding.to_dict()) == finding


# Families of optimizers


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adamw", "AdamW"),
        ("ADAM", "Adam"),
        ("AdamW8bit", "AdamW"),
        ("PagedAdamW32bit", "AdamW"),
        ("paged_adamw_8bit", "AdamW"),
        ("adamw_torch_fused", "AdamW"),
        ("FusedAdam", "Adam"),
        ("DeepSpeedCPUAdam", "Adam"),
        ("PagedLion8bit", "Lion"),
        ("SophiaG", "Sophia"),
        ("AdamWScheduleFree", "AdamWScheduleFree"),
        ("AdamWScheduleFreeClosure", "AdamWScheduleFree"),
        ("ScheduleFreeAdamW", "AdamWScheduleFree"),
        ("SGDScheduleFree", "SGDScheduleFree"),
        ("DAdaptAdam", "DAdaptation"),
        ("DAdaptLion", "DAdaptation"),
        ("prodigy", "Prodigy"),
        ("MuonWithAuxAdam", "Muon"),
        ("Mine", None),
        ("AdamP", None),
        ("", None),
    ],
)
def test_a_name_tells_its_family(name, expected):
    assert family(name) == expected
    assert Plan(optimizer=name).optimizer == (name if expected is None else expected)


def test_every_optimizer_of_torch_is_its_own_family():
    kinds = [name for name, kind in vars(torch.optim).items() if inspect.isclass(kind) and name != "Optimizer"]
    assert [family(name) for name in kinds] == kinds


def test_usual_rates_stand_to_adamw_as_their_authors_say():
    def of(name, parameters=100_000_000, **plan):
        return 10 ** usual(Plan(optimizer=name, parameters=parameters, **plan), 2.3)

    adamw = of("AdamW")
    assert of("adamw") == adamw
    assert 1 / 10 < of("Lion") / adamw < 1 / 3
    assert of("Sophia") == adamw
    assert 0.008 < of("Muon", schedule="cosine") < 0.025
    assert of("Muon") == of("Muon", parameters=10_000)
    assert 1 < of("AdamWScheduleFree") / of("AdamW", schedule="linear") < 10
    assert of("Adafactor", parameters=10_000) == pytest.approx(0.01)
    assert of("Prodigy", total_steps=100_000, schedule="cosine") == 1.0
    assert usual(Plan(optimizer="SGDScheduleFree"), 2.3) is None


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam", "DoG"])
def test_an_optimizer_that_finds_its_rate_gets_one_and_says_so(name):
    plan = Plan("cosine", 5000, name)
    found = rules.quick(valley(), plan)
    assert isinstance(found, Suggestion)
    assert (found.lr, believe(valley(), plan).lr) == (1.0, 1.0)
    assert found.interval[0] < 1.0 < found.interval[1]
    assert f"{plan.optimizer} finds its rate by itself" in found.why
    refused = answer(Curve(10.0 ** np.linspace(-8, 1, 100), [1.0] * 100), plan)
    assert refused.suggestion is None
    assert f"{plan.optimizer} finds its rate by itself" in refused.why
    assert "by itself" not in answer(Curve(10.0 ** np.linspace(-8, 1, 100), [1.0] * 100), Plan()).why


def test_an_optimizer_that_is_no_name_is_refused():
    with pytest.raises(ConfigurationError, match="a name, such as 'AdamW', got int"):
        Plan(optimizer=3)
