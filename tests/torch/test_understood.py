"""What people type, and the commonest mistakes, answered before the sweep."""

import functools
import traceback
from collections import UserDict

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from findlr import (
    ConfigurationError,
    LoaderError,
    LossError,
    OptimizerError,
    RangeTest,
    TorchTrainable,
    Verdict,
    find_lr,
)


def parts(targets=None, net=None, batch_size=16):
    torch.manual_seed(0)
    inputs = torch.randn(160, 8)
    net = net or nn.Linear(8, 3)
    data = TensorDataset(inputs, inputs[:, :3].argmax(dim=1) if targets is None else targets)
    return net, optim.SGD(net.parameters(), lr=0.1), DataLoader(data, batch_size)


@pytest.mark.parametrize(
    ("text", "how", "steps"),
    [
        ("5 epochs", {}, 50),
        ("1 epoch", {}, 10),
        ("0.5 epochs", {}, 5),
        (" 2 Epochs ", {}, 20),
        ("3epochs", {"accumulation_steps": 4}, 6),
        (70, {}, 70),
    ],
)
def test_a_length_in_epochs(text, how, steps):
    net, optimizer, loader = parts()
    finding = find_lr(net, optimizer, nn.CrossEntropyLoss(), loader, schedule="one_cycle", total_steps=text, **how)
    assert finding.plan.total_steps == steps
    number = find_lr(net, optimizer, nn.CrossEntropyLoss(), loader, schedule="one_cycle", total_steps=steps, **how)
    assert finding == number


@pytest.mark.parametrize("sweep", [1, "a", [], 0.5])
def test_one_optimizer_is_not_picked_among_several(sweep):
    net, optimizer, loader = parts()
    with pytest.raises(ConfigurationError, match="picks one optimizer of several, and there is one"):
        find_lr(net, optimizer, nn.CrossEntropyLoss(), loader, sweep=sweep)


def test_a_group_that_is_added_in_a_step_is_named():
    net, optimizer, loader = parts()

    def loss_fn(model, batch):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    with pytest.raises(ConfigurationError, match="the training has given SGD another number"):
        find_lr(net, optimizer, loss_fn=loss_fn, loader=loader)
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    "text", ["9" * 400 + " epochs", "five epochs", "5 steps", "0 epochs", "epochs", "-1 epochs", "", "1e3"]
)
def test_another_text_is_refused(text):
    net, optimizer, loader = parts()
    with pytest.raises(ConfigurationError, match="or a text such as '5 epochs', got"):
        find_lr(net, optimizer, nn.CrossEntropyLoss(), loader, total_steps=text)
    with pytest.raises(ConfigurationError, match="or a text such as '5 epochs', got"):
        RangeTest(net, optimizer, total_steps=text)


def test_epochs_need_a_length():
    net, optimizer, loader = parts()

    class Endless:
        def __iter__(self):
            return iter(loader)

    with pytest.raises(ConfigurationError, match="total_steps='5 epochs' needs a loader with a length"):
        find_lr(net, optimizer, nn.CrossEntropyLoss(), Endless(), total_steps="5 epochs")
    with pytest.raises(ConfigurationError, match="give total_steps='5 epochs', say"):
        find_lr(net, optimizer, nn.CrossEntropyLoss(), loader, epochs=5)


@pytest.mark.parametrize("each", [1, 2])
def test_a_loop_of_your_own_tells_an_epoch_by_its_loader_and_its_batches_to_a_step(each):
    net, optimizer, loader = parts()
    with RangeTest(net, optimizer, total_steps="5 epochs", schedule="cosine", warmup=2) as test:
        for i, (inputs, targets) in enumerate(test(loader)):
            loss = nn.functional.cross_entropy(net(inputs), targets)
            loss.backward()
            test.record(loss)
            if (i + 1) % each == 0:
                optimizer.step()
                optimizer.zero_grad()
    assert test.finding.plan.total_steps == 50 // each
    assert test.finding.plan.warmup == 2 / (50 // each)


def test_a_loop_without_a_loader_can_not_tell_an_epoch():
    net, optimizer, _ = parts()
    with (
        pytest.raises(ConfigurationError, match="needs a loader whose length is known"),
        RangeTest(net, optimizer, total_steps="5 epochs") as test,
    ):
        next(test.steps())


@pytest.mark.parametrize(
    ("name", "meant"),
    [("bf16", torch.bfloat16), ("bfloat16", torch.bfloat16), ("fp16", torch.float16), ("float16", torch.float16)],
)
def test_the_types_of_autocast_by_name(name, meant):
    net, optimizer, loader = parts()
    how = dict(num_steps=20, max_lr=1e-3)
    finding = find_lr(net, optimizer, nn.CrossEntropyLoss(), loader, autocast=name, **how)
    assert finding == find_lr(net, optimizer, nn.CrossEntropyLoss(), loader, autocast=meant, **how)
    assert finding.facts["autocast"] == str(meant).removeprefix("torch.")


@pytest.mark.parametrize("name", ["bf61", "16", True, 16, ""])
def test_another_type_of_autocast_is_refused(name):
    net, optimizer, loader = parts()
    with pytest.raises(ConfigurationError, match="or their names 'bf16' and 'fp16', got"):
        find_lr(net, optimizer, nn.CrossEntropyLoss(), loader, autocast=name)


class Returns(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(8, 3), kind

    def forward(self, inputs):
        return self.kind(logits=self.layer(inputs))


class Output(UserDict):
    loss = None


N = 160
MISTAKES = {
    "float classes": (
        nn.CrossEntropyLoss(),
        torch.zeros(N),
        None,
        LoaderError,
        r"\(16,\) and float32.*targets.long\(\)",
    ),
    "a column": (nn.CrossEntropyLoss(), torch.zeros(N, 1).long(), None, LoaderError, r"give it targets.squeeze\(1\)"),
    "int32": (nn.NLLLoss(), torch.zeros(N).int(), None, LoaderError, r"give it targets.long\(\)"),
    "too many": (
        nn.CrossEntropyLoss(),
        torch.full((N,), 7),
        None,
        LoaderError,
        "Target 7 is out of bounds.*must be 0 to 2",
    ),
    "labels that are ignored are no fault": (
        nn.CrossEntropyLoss(weight=torch.ones(2)),
        torch.full((N,), -100),
        None,
        LoaderError,
        r"shape: \[2\]\)\n",
    ),
    "one of each class": (nn.CrossEntropyLoss(), torch.zeros(N, 3).long(), None, LoaderError, r"targets.argmax\(1\)"),
    "logits": (nn.BCELoss(), torch.zeros(N, 3), None, LoaderError, "take BCEWithLogitsLoss"),
    "labels for a regression": (nn.MSELoss(), torch.zeros(N).long(), None, LoaderError, "of the same shape\n"),
    "a row": (nn.BCEWithLogitsLoss(), torch.zeros(N), nn.Linear(8, 1), LoaderError, r"targets.view_as\(outputs\)"),
    "whole": (nn.BCEWithLogitsLoss(), torch.zeros(N, 3).long(), None, LoaderError, r"give it targets.float\(\)"),
    "a function": (
        nn.functional.cross_entropy,
        torch.zeros(N),
        None,
        LoaderError,
        "cross_entropy can't take the first",
    ),
    "a dict": (nn.CrossEntropyLoss(), None, Returns(dict), ConfigurationError, "the model returns a dict"),
    "an output": (nn.CrossEntropyLoss(), None, Returns(Output), ConfigurationError, "let it return outputs.loss"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_commonest_mistakes_are_one_sentence_and_nothing_has_changed(mistake):
    criterion, targets, net, kind, words = MISTAKES[mistake]
    net, optimizer, loader = parts(targets, net)
    before, state = [p.clone() for p in net.parameters()], torch.get_rng_state()
    with pytest.raises(kind, match=words) as caught:
        find_lr(net, optimizer, criterion, loader)
    assert len("".join(traceback.format_exception(caught.value)).splitlines()) <= 15
    assert all(map(torch.equal, before, net.parameters()))
    assert torch.equal(state, torch.get_rng_state())


def test_a_batch_that_is_a_dict_names_the_line_to_write():
    net, optimizer, _ = parts()
    for batch in ({"input_ids": torch.zeros(4, 8)}, UserDict(input_ids=torch.zeros(4, 8))):
        with pytest.raises(LoaderError, match=r"loss_fn=lambda model, batch: model\(\*\*batch\).loss") as caught:
            find_lr(net, optimizer, nn.CrossEntropyLoss(), [batch] * 3)
        assert len("".join(traceback.format_exception(caught.value)).splitlines()) <= 15


def test_a_loss_fn_that_returns_the_models_output():
    net, optimizer, loader = parts(net=Returns(Output))
    with pytest.raises(LossError, match=r"got Output: return its \.loss"):
        find_lr(net, optimizer, loader=loader, loss_fn=lambda model, batch: model(batch[0]))


@pytest.mark.parametrize(
    ("way", "function", "called"),
    [
        ("loss_fn", lambda batch: batch, r"loss_fn\(model, batch\)"),
        ("loss_fn", lambda model, inputs, targets: inputs, r"loss_fn\(model, batch\)"),
        ("criterion", lambda outputs: outputs, r"criterion\(outputs, targets\)"),
        ("train_step", lambda: None, r"train_step\(draw\)"),
    ],
)
def test_a_function_that_takes_something_else_is_refused_before_anything_is_done(way, function, called):
    net, optimizer, loader = parts()
    with pytest.raises(ConfigurationError, match=f"{way} is called as {called}, and this one takes"):
        find_lr(net, optimizer, loader=loader, **{way: function})


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), torch.jit.script(nn.MSELoss()), max, torch.dist])
def test_a_criterion_that_does_not_tell_what_it_takes_is_taken(criterion):
    net, optimizer, loader = parts()
    TorchTrainable(net, optimizer, criterion, loader)


def test_a_complex_loss_is_one_sentence():
    net, optimizer, loader = parts()
    with pytest.raises(LossError, match=r"real number, got torch\.complex64"):
        find_lr(net, optimizer, loader=loader, loss_fn=lambda model, batch: model(batch[0]).mean() * 1j)


INPUTS = torch.randn(16, 8)
LAYERS = {
    "too wide": (nn.Linear(9, 3), INPUTS, r"float32 \(16, 8\), int64 \(16,\).*Linear\(in_features=9.*16x8 and 9x3"),
    "double": (nn.Linear(8, 3), INPUTS.double(), r"float64 \(16, 8\).*same dtype"),
    "strings": (nn.Linear(8, 3), ["a"] * 16, r"\(16 x str, int64 \(16,\)\).*must be Tensor, not list"),
    "arrays": (nn.Sequential(nn.ReLU(), nn.Linear(8, 3)), INPUTS.numpy(), r"NumPy array float32 \(16, 8\).*ReLU\(\)"),
    "nested": (nn.Sequential(nn.Conv2d(1, 3, 3)), INPUTS, r"Conv2d\(1, 3, kernel_size=.*3D"),
}


@pytest.mark.parametrize("mistake", LAYERS)
@pytest.mark.parametrize("way", ["criterion", "loss_fn", "train_step"])
def test_a_layer_that_cannot_take_the_first_batch_is_one_sentence(mistake, way):
    net, inputs, words = LAYERS[mistake]
    optimizer, criterion = optim.SGD(net.parameters(), lr=0.1), nn.CrossEntropyLoss()

    def loss_fn(model, batch):
        return criterion(model(batch[0]), batch[1])

    hows = {"criterion": {"criterion": criterion}, "loss_fn": {"loss_fn": loss_fn}}
    hows["train_step"] = {"train_step": lambda draw: loss_fn(net, draw())}
    with pytest.raises(LoaderError, match=f"can't take the first batch.*{words}") as caught:
        find_lr(net, optimizer, loader=[(inputs, torch.zeros(16).long())] * 5, **hows[way])
    assert len("".join(traceback.format_exception(caught.value)).splitlines()) <= 15
    assert len(caught.value.finding.curve) == 0
    assert "no loss was measured yet" in caught.value.__notes__[-1]


def test_a_layer_that_fails_on_a_later_batch_raises_what_it_raised():
    net, optimizer, loader = parts()
    batches = [next(iter(loader)), (torch.zeros(16, 7), torch.zeros(16).long())]
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        find_lr(net, optimizer, nn.CrossEntropyLoss(), batches)
    assert len(caught.value.finding.curve) == 1
    assert "what was measured is in" in caught.value.__notes__[-1]
    lines = traceback.format_exception(caught.value)
    assert sum("findlr/" in line for line in lines) == 2  # the call's, and no frame of how findlr takes a step


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("how", [{}, {"control_variate": False}, {"accumulation_steps": 2}, {"min_lr": 1.0}])
def test_a_first_loss_that_is_not_finite_is_no_matter_of_the_rate(value, how):
    net, optimizer, loader = parts()
    first, *rest = loader
    first[0][0, 0] = value
    finding = find_lr(net, optimizer, nn.CrossEntropyLoss(), [first, *rest], **how)
    assert (finding.verdict, len(finding.curve)) == (Verdict.NOT_FINITE, 1)
    assert "before any step: look for it in the data" in finding.why
    for words in ("min_lr", "lower", "became"):
        assert words not in f"{finding}{finding.why}{finding.stop.sentence}"


def test_an_exception_of_your_own_criterion_or_model_stays_as_it_is():
    class Own(nn.CrossEntropyLoss):
        def forward(self, outputs, targets):
            raise RuntimeError("mine")

    net, optimizer, loader = parts()
    for criterion in (Own(), Own().forward):
        with pytest.raises(RuntimeError, match="mine") as caught:
            find_lr(net, optimizer, criterion, loader)
        assert any("forward" in frame.name for frame in traceback.extract_tb(caught.value.__traceback__))
        assert caught.value.__notes__[0] == (
            "findlr: this was the first step; the first batch is (float32 (16, 8), int64 (16,))"
        )
        assert len("".join(traceback.format_exception(caught.value)).splitlines()) <= 25


@pytest.mark.parametrize("at", [2, 60])
def test_the_traceback_of_a_ctrl_c_shows_the_users_code_alone(at):
    """A notebook shows some lines of each frame; ``find_lr`` itself, and what it calls first, are two."""

    def pressed(outputs, targets):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(outputs, targets)

    net, optimizer, loader = parts()
    calls = []
    with pytest.raises(KeyboardInterrupt) as caught:
        find_lr(net, optimizer, pressed, loader, verify=True, num_steps=20, min_lr=1e-3, max_lr=1.0, total_steps=100)
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[1:] == ["find_lr", "found", "pressed"]
    assert caught.value.finding is not None


@pytest.mark.parametrize("number", [np.float32, np.float64, np.array], ids=lambda kind: kind.__name__)
def test_a_loss_that_is_a_number_of_numpys_is_one(number):
    net, optimizer, loader = parts()
    with RangeTest(net, optimizer, num_steps=20) as test:
        for inputs, targets in test(loader):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(inputs), targets)
            loss.backward()
            optimizer.step()
            test.record(number(loss.item()))
    assert len(test.finding.curve) == 20


def test_a_criterion_that_is_a_class_is_one_sentence():
    net, optimizer, loader = parts()
    with pytest.raises(ConfigurationError, match=r"criterion is the class CrossEntropyLoss itself: .*Loss\(\)"):
        find_lr(net, optimizer, nn.CrossEntropyLoss, loader)


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), nn.functional.cross_entropy])
def test_a_criterion_that_is_given_as_loss_fn_is_one_sentence(criterion):
    net, optimizer, loader = parts()
    with pytest.raises(ConfigurationError, match="takes outputs and targets: give it as criterion"):
        find_lr(net, optimizer, loader=loader, loss_fn=criterion)


class Asked:
    def __call__(self, one):
        return one


def as_asked(function):
    @functools.wraps(function)
    def called(model, batch):
        return function(batch)

    return called


@pytest.mark.parametrize(
    ("name", "function", "called"),
    [
        ("rule", lambda curve: 0.1, r"rule\(curve, plan\), and this one takes \(curve\)"),
        ("rule", lambda: 0.1, r"rule\(curve, plan\), and this one takes \(\)"),
        ("loss_fn", lambda model, x, y: 0.1, r"loss_fn\(model, batch\), and this one takes \(model, x, y\)"),
        ("loss_fn", lambda batch: 0.1, r"loss_fn\(model, batch\), and this one takes \(batch\)"),
        ("loss_fn", functools.partial(as_asked, None), r"loss_fn\(model, batch\), and this one takes \(\)"),
        ("criterion", Asked(), r"criterion\(outputs, targets\), and this one takes \(one\)"),
        ("criterion", Asked().__call__, r"criterion\(outputs, targets\), and this one takes \(one\)"),
        ("train_step", lambda: 0.1, r"train_step\(draw\), and this one takes \(\)"),
        ("train_step", lambda model, batch: 0.1, r"train_step\(draw\), and this one takes \(model, batch\)"),
        ("on_step", lambda: None, r"on_step\(step\), and this one takes \(\)"),
    ],
)
def test_a_function_that_cannot_be_called_as_it_will_be_is_refused_before_the_sweep(name, function, called):
    net, optimizer, loader = parts()
    way = {} if name in ("loss_fn", "train_step") else {"criterion": nn.CrossEntropyLoss()}
    with pytest.raises(ConfigurationError, match=f"{name} is called as {called}"):
        find_lr(net, optimizer, loader=loader, **way | {name: function})


def test_a_function_is_asked_itself_and_not_what_it_wraps():
    net, optimizer, loader = parts()
    loss_fn = as_asked(lambda batch: nn.functional.cross_entropy(net(batch[0]), batch[1]))
    assert find_lr(net, optimizer, loader=loader, loss_fn=loss_fn, num_steps=5).curve.loss[0] > 0


@pytest.mark.parametrize("use", [lambda batch: batch[0], lambda batch: batch.to("cpu"), lambda batch: [*batch]])
def test_a_train_step_that_takes_draw_for_a_batch_is_told_so(use):
    net, optimizer, loader = parts()
    with pytest.raises((TypeError, AttributeError)) as caught:
        find_lr(net, optimizer, loader=loader, train_step=use)
    assert "batch = draw()" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("max_iter", "'num_steps'"),
        ("n_iter", "'num_steps'"),
        ("seed", "leave it out"),
        ("stop_div", "leave it out"),
        ("update_attr", r"leave it out, finding.apply\(optimizer\)"),
        ("show_plot", r"leave it out, finding.plot\(\)"),
        ("lr", "leave it out, .*min_lr to max_lr"),
        ("grad_scaler", "'scaler'"),
        ("memory_cache", "'snapshot'"),
        ("bf16", "'autocast'"),
        ("zzz", "there are .*min_lr"),
    ],
)
def test_a_name_of_another_tool_is_not_taken_for_one_that_only_looks_alike(name, told):
    net, optimizer, loader = parts()
    with pytest.raises((ConfigurationError, TypeError), match=f"no argument '{name}'.*{told}"):
        find_lr(net, optimizer, nn.CrossEntropyLoss(), loader, **{name: 100})


def test_a_loss_that_never_moves_is_not_told_to_take_more_steps():
    net, optimizer, loader = parts()
    finding = find_lr(net, optimizer, lambda outputs, _: 0.0 * outputs.sum(), loader)
    assert (finding.verdict, "all losses are the same" in finding.why) == (Verdict.FLAT, True)
    assert "too few to tell" not in finding.why


@pytest.mark.parametrize(
    ("lrs", "told"), [((-0.1, 0.1), "none below 0"), ((float("nan"), 0.1), "finite"), ((0.0, 0.0), "above 0")]
)
def test_rates_that_are_none_are_named(lrs, told):
    net, optimizer, loader = parts()
    optimizer = optim.SGD([{"params": [net.weight], "lr": 0.1}, {"params": [net.bias], "lr": 0.1}], lr=0.1)
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["lr"] = lr
    with pytest.raises(OptimizerError, match=told):
        find_lr(net, optimizer, nn.CrossEntropyLoss(), loader)


def test_an_optimizer_that_is_given_twice_is_refused():
    net, optimizer, loader = parts()
    with pytest.raises(OptimizerError, match="given twice"):
        find_lr(net, [optimizer, optimizer], nn.CrossEntropyLoss(), loader)


@pytest.mark.parametrize("given", [{"min_lr": 1e-320}, {"min_lr": 1e-200}, {"max_lr": 1e150}, {"max_lr": 1.7e308}])
def test_a_rate_that_no_view_could_show_is_none(given):
    net, optimizer, loader = parts()
    with pytest.raises(ConfigurationError, match=f"{next(iter(given))} must be a finite rate between 1e-100 and 1e100"):
        find_lr(net, optimizer, nn.CrossEntropyLoss(), loader, **given)


class TakesNoRate(optim.SGD):
    """Steps by the rate that it was built with, whatever its groups say; or by one that it sets itself."""

    def __init__(self, parameters, lr, warms_up):
        super().__init__(parameters, lr)
        self.own, self.taken, self.warms_up = lr, 0, warms_up

    def step(self, closure=None):
        self.taken += 1
        for group in self.param_groups:
            group["lr"] = self.own * min(1.0, self.taken / 100 if self.warms_up else 1.0)
        return super().step(closure)


@pytest.mark.parametrize("warms_up", [False, True])
def test_an_optimizer_that_takes_its_rate_from_elsewhere_is_no_clear_curve(warms_up):
    net, _, loader = parts()
    found = find_lr(net, TakesNoRate(net.parameters(), 0.03, warms_up), nn.CrossEntropyLoss(), loader)
    assert found.suggestion is None
    assert "takes its rate from elsewhere than its param groups' lr" in found.why


def test_data_that_grow_easier_are_no_clear_curve_in_a_loop():
    torch.manual_seed(0)
    inputs = torch.randn(3200, 8)
    targets = torch.randn(3200, 1) * torch.linspace(3, 0.5, 3200)[:, None]
    net = nn.Linear(8, 1)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    with RangeTest(net, optimizer) as test:
        for x, y in test(list(zip(inputs.split(32), targets.split(32), strict=True))):
            loss = nn.functional.mse_loss(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            test.record(loss)
    assert test.finding.verdict is Verdict.FLAT
    assert "shuffle them" in test.finding.why
