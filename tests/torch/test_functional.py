"""Other tensors in a model's places give what ``torch.func.functional_call`` gives, and leave nothing behind."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from findlr.errors import LossError
from findlr.torch.functional import Places


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(self.first(x).relu())


class Twice(nn.Module):
    """One module under two names."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.again = self.layer

    def forward(self, x):
        return self.again(self.layer(x))


class Recurrent(nn.Module):
    """Its layer keeps a list of its weights."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 6, batch_first=True)

    def forward(self, x):
        return self.lstm(x[None])[0][0]


class Replacing(nn.Module):
    """Each pass puts a new layer, a new parameter and a new buffer in the places of the old ones."""

    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(6, 6), nn.Parameter(torch.ones(6))
        self.register_buffer("shift", torch.zeros(6))

    def forward(self, x):
        y = self.layer(x) * self.scale + self.shift
        layer = nn.Linear(6, 6)
        layer.load_state_dict(self.layer.state_dict())
        self.layer, self.scale, self.shift = layer, nn.Parameter(self.scale.detach().clone()), self.shift + 1
        return y


KINDS = {
    "plain": lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6, bias=False)),
    "tied": Tied,
    "twice": Twice,
    "recurrent": Recurrent,
    "weight-norm": lambda: weight_norm(nn.Linear(6, 6)),
    "spectral-norm": lambda: spectral_norm(nn.Linear(6, 6)),
    "replacing": Replacing,
    "a name without a tensor": lambda: nn.BatchNorm1d(6, affine=False),
}


def parts(kind):
    torch.manual_seed(0)
    net = KINDS[kind]()
    named = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    others = {n: torch.randn_like(t) if t.is_floating_point() else t.clone() for n, t in named.items()}
    return net, others, torch.randn(5, 6)


def tensors(net):
    found = [*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)]
    return {name: (tensor, tensor.detach().clone()) for name, tensor in found}


@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_what_functional_call_gives(kind):
    net, others, inputs = parts(kind)
    reference = KINDS[kind]()
    reference.load_state_dict(net.state_dict())
    places = Places(net)
    for _ in range(3):
        expected = functional_call(reference, {name: t.clone() for name, t in others.items()}, (inputs,))
        before = tensors(net)
        with places:
            places.lend({name: t.clone() for name, t in others.items()})
            assert torch.equal(net(inputs), expected)
        if kind != "replacing":  # there, the names of its new layer belong to nobody
            after = tensors(net)
            assert before.keys() == after.keys()
            for name, (tensor, value) in before.items():
                assert after[name][0] is tensor
                assert torch.equal(tensor, value)


def test_a_part_that_was_added_or_replaced_since_the_last_time_is_found():
    net, others, inputs = parts("plain")
    places = Places(net)
    net[0] = nn.Linear(6, 6)
    net.append(nn.Linear(6, 6))
    with places:
        places.lend(others)
        assert torch.equal(net[0].weight, others["0.weight"])
        expected = functional_call(net, others, (inputs,))
        assert torch.equal(net(inputs), expected)


def test_a_part_that_a_forward_pass_within_the_block_has_added_keeps_its_own_tensors():
    net, others, inputs = parts("replacing")
    places = Places(net)
    with places:
        places.lend(others)
        net(inputs)  # puts a new layer in
        own = net.layer.weight
        places.lend(others)
        assert net.layer.weight is others["layer.weight"]
    assert net.layer.weight is own


def test_a_parameter_that_is_gone_is_nowhere_and_does_not_come_again():
    net, others, _ = parts("plain")
    places = Places(net)
    del net[0].bias
    with places:
        places.lend(others)
    assert "bias" not in net[0]._parameters


def test_a_part_that_is_gone_is_an_error():
    net, others, _ = parts("plain")
    places = Places(net)
    del net[3]
    with places, pytest.raises(LossError, match="takes modules or parameters away"):
        places.lend(others)
