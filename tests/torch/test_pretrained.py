"""Weights that were trained before are told from fresh ones, and the plan knows what the data and the start are."""

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from findlr import Plan, RangeTest, TorchTrainable, find_lr
from findlr.torch.pretrained import is_pretrained, pretrained


def net():
    return nn.Sequential(nn.Linear(384, 384), nn.ReLU(), nn.Linear(384, 100), nn.ReLU(), nn.Linear(100, 10))


INITS = {
    "torch's own": lambda weight: None,
    "normal": lambda weight: nn.init.normal_(weight, 0, 0.2),
    "BERT's": lambda weight: nn.init.normal_(weight, 0, 0.02),
    "truncated": lambda weight: nn.init.trunc_normal_(weight, 0, 0.1, -0.2, 0.2),
    "xavier": nn.init.xavier_uniform_,
    "kaiming": nn.init.kaiming_normal_,
    "kaiming uniform": nn.init.kaiming_uniform_,
    "orthogonal": nn.init.orthogonal_,
    "zeros": nn.init.zeros_,
    "eye": nn.init.eye_,
}


@pytest.mark.parametrize("init", INITS.values(), ids=INITS)
def test_a_fresh_start_is_no_pretrained_one(init):
    for seed in range(5):
        torch.manual_seed(seed)
        model = net()
        for layer in model[::2]:
            with torch.no_grad():
                init(layer.weight)
        assert not is_pretrained([model])


@pytest.mark.parametrize("init", INITS.values(), ids=INITS)
@pytest.mark.parametrize("sizes", [(2, 64, 2), (3, 64, 2), (20, 32, 8), (4, 32, 8)])
def test_nor_is_a_small_one(init, sizes):
    found = 0
    for seed in range(50):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(*sizes[:2]), nn.ReLU(), nn.Linear(*sizes[1:]))
        for layer in model[::2]:
            with torch.no_grad():
                init(layer.weight)
        found += is_pretrained([model])
    assert found <= 2


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    loader = DataLoader(data, batch_size=32, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(10):
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    return model, loader


def trains(parameters):
    return [torch.optim.SGD(parameters, lr=0.1)]


def test_a_trained_start_is_told_and_how_much_of_it_is_trained_on(trained):
    model, _ = trained
    whole = sum(p.numel() for p in model.parameters())
    assert is_pretrained([model])
    assert pretrained([model], trains(model.parameters())) == 1.0
    assert pretrained([model], trains(model[0].parameters())) == pytest.approx(6500 / whole)
    assert pretrained([net()], trains(net().parameters())) == 0.0


def test_layers_of_a_class_of_ones_own_are_looked_at_and_computed_weights_are_not_touched(trained):
    class Same(nn.Linear):  # as the convolutions of EfficientNet and timm are
        pass

    model = copy.deepcopy(trained[0])
    for layer in model[::2]:
        layer.__class__ = Same
    assert is_pretrained([model])
    assert not is_pretrained([Same(384, 384)])
    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64))
    before = copy.deepcopy(normed.state_dict())
    is_pretrained([normed])
    assert all(torch.equal(value, before[name]) for name, value in normed.state_dict().items())


def test_a_new_head_on_what_is_frozen_is_a_fresh_start_and_an_adapter_is_none(trained):
    first, act, last = copy.deepcopy(trained[0])
    trunk = nn.Sequential(first, act)
    model = nn.Sequential(trunk, nn.Linear(100, 10))
    assert pretrained([model], trains(model.parameters())) == 1.0
    trunk.requires_grad_(False)
    assert pretrained([model], trains(model.parameters())) == 0.0
    assert pretrained([model], trains(model[1].parameters())) == 0.0
    assert pretrained([trunk, nn.Linear(100, 10)], trains(trunk.parameters())) == 0.0  # nothing is trained
    adapter = nn.Linear(64, 64)
    adapted = nn.Sequential(adapter, trunk, nn.Linear(100, 10))
    assert pretrained([adapted], trains(adapted.parameters())) == pytest.approx((4160 + 1010) / (4160 + 1010 + 6500))
    prompt = nn.Parameter(torch.zeros(64))  # of no module
    assert pretrained([model], trains([prompt])) == pytest.approx(64 / (1010 + 6500))
    deep = nn.Sequential(nn.Linear(64, 64).requires_grad_(False), copy.deepcopy(first).requires_grad_(True), last)
    assert pretrained([deep], trains(deep.parameters())) > 0.5  # its last layers were trained before


@pytest.mark.parametrize(
    "odd",
    [
        *(nn.Sequential(), nn.Linear(3, 3), nn.Embedding(1000, 8), nn.Linear(64, 64, dtype=torch.float16)),
        nn.utils.skip_init(nn.Linear, 256, 1),
    ],
    ids=["empty", "few weights", "another layer", "half", "one output"],
)
def test_what_tells_nothing_is_a_fresh_start(odd):
    if isinstance(odd, nn.Linear) and odd.out_features == 1:
        nn.init.orthogonal_(odd.weight, 3.0)  # beyond torch's bounds, and so looked at by rows and columns
    assert not is_pretrained([odd])


def test_the_plan_knows_the_epochs_and_the_start(trained):
    model, loader = trained
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    trainable = TorchTrainable(model, optimizer, nn.CrossEntropyLoss(), loader)
    plan = trainable.planned(Plan("linear", 114))  # an epoch is 57 steps
    assert (plan.epochs, plan.pretrained) == (2.0, pytest.approx(6500 / 7510))
    told = Plan("linear", 114, epochs=7, pretrained=False)
    assert (trainable.planned(told).epochs, trainable.planned(told).pretrained) == (7.0, 0.0)
    assert trainable.planned(Plan()).epochs is None


def test_the_plan_of_a_loop_knows_the_epochs(trained):
    model, loader = trained
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with RangeTest(model, optimizer, num_steps=20, total_steps=570) as test:
        for inputs, targets in test(loader):
            loss = nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            test.record(loss)
    assert (test.finding.plan.epochs, test.finding.plan.pretrained) == (10.0, 1.0)


def test_a_finding_of_a_trained_start_says_so(trained):
    model, loader = trained
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    finding = find_lr(model, optimizer, nn.CrossEntropyLoss(), loader, total_steps=570, progress=False)
    assert finding.belief.doubts["pretrained"] > 0
