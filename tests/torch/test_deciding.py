"""Which callbacks decide what is trained, told by their code."""

import pytest

from findlr.torch.deciding import decides


class Base:
    """Stands where a framework's class of callbacks does."""


def freezes(model):
    for parameter in model.parameters():
        parameter.requires_grad = False


def counts(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


class Directly(Base):
    def on_train_begin(self, model):
        model.body.requires_grad_(False)


class InAFunctionInside(Base):
    def on_epoch_begin(self, model):
        def visit(module):
            module.weight.requires_grad = False

        model.apply(visit)


class InAFunctionThatItNames(Base):
    def on_train_begin(self, model):
        freezes(model)


class ByTheModelsOwnMethod(Base):
    def on_train_begin(self, model):
        model.freeze_feature_encoder()


class Inherits(Directly):
    pass


class Held(Base):
    def __init__(self, function, name="function"):
        vars(self)[name] = function


class AddsAGroup(Base):
    def on_epoch_begin(self, model, optimizer):
        optimizer.add_param_group({"params": model.head.parameters()})


class Counts(Base):
    def on_train_begin(self, model):
        self.count = counts(model)


class Writes(Base):
    def on_train_begin(self, model):
        self.file = "freeze"


class Later(Base):
    def on_epoch_end(self, model):
        freezes(model)


@pytest.mark.parametrize(
    "callback",
    [
        Directly(),
        InAFunctionInside(),
        InAFunctionThatItNames(),
        ByTheModelsOwnMethod(),
        Inherits(),
        Held(freezes),
        Held(Directly().on_train_begin),
        AddsAGroup(),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_what_freezes_unfreezes_or_adds_parameters_decides(callback):
    assert decides(callback, type("Callback", (), {"__module__": "framework.callbacks"}))


@pytest.mark.parametrize(
    "callback",
    [Counts(), Writes(), Later(), Held(freezes, "on_train_end")],
    ids=lambda callback: type(callback).__name__,
)
def test_what_looks_tells_or_comes_after_a_step_does_not(callback):
    assert not decides(callback, type("Callback", (), {"__module__": "framework.callbacks"}))


def test_what_comes_with_the_framework_is_left_to_it():
    assert not decides(Directly(), Base)
