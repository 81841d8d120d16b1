"""Batches of any nesting: moved, told apart, and given to a loss of one's own.

The "meta" device stands for a device: tensors do move there.
"""

from collections import OrderedDict, UserDict, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn, optim
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from findlr import LoaderError, find_lr
from findlr.torch.data.nesting import batch_size, copied, moved, tensors_in

META = torch.device("meta")


class Pair(NamedTuple):
    inputs: Any
    targets: Any


@dataclass
class Example:
    x: torch.Tensor
    name: str = "a"
    length: int = field(init=False, default=3)


@dataclass(frozen=True, slots=True)
class Frozen:
    x: torch.Tensor


class Encoding(UserDict):
    """As a tokenizer's: it moves in place."""

    def to(self, device):
        self.data = {key: value.to(device) for key, value in self.items()}
        return self


class Graph:
    """Moves itself, in place; takes no non_blocking."""

    def __init__(self):
        self.x, self.moves = torch.ones(2), 0

    def to(self, device):
        self.x, self.moves = self.x.to(device), self.moves + 1
        return self


class Quiet(Graph):
    """Moves itself and returns nothing."""

    def to(self, device, non_blocking=False):
        assert non_blocking
        super().to(device)


class ReadOnly(Mapping):
    def __init__(self, data):
        self.data = data

    def __getitem__(self, key):
        return self.data[key]

    def __iter__(self):
        return iter(self.data)

    def __len__(self):
        return len(self.data)


def x():
    return torch.ones(2)


BATCHES = {
    "tensor": (x, torch.Tensor),
    "pair": (lambda: (x(), x()), tuple),
    "list": (lambda: [x(), [x(), "text", 3, None]], list),
    "named tuple": (lambda: Pair(x(), {"y": x()}), Pair),
    "dict": (lambda: {"x": x(), 1: (x(),)}, dict),
    "ordered dict": (lambda: OrderedDict(b=x(), a=x()), OrderedDict),
    "default dict": (lambda: defaultdict(list, a=x()), defaultdict),
    "encoding": (lambda: Encoding(ids=x(), mask=x()), Encoding),
    "proxy": (lambda: MappingProxyType({"a": x()}), dict),
    "read-only mapping": (lambda: ReadOnly({"a": x()}), dict),
    "deque": (lambda: deque([x()], maxlen=3), deque),
    "dataclass": (lambda: Example(x()), Example),
    "frozen dataclass": (lambda: Frozen(x()), Frozen),
    "graph": (Graph, Graph),
    "quiet": (Quiet, Quiet),
    "packed": (lambda: pack_sequence([x()]), PackedSequence),
    "nested": (lambda: {"a": [Pair(Example(x()), Encoding(ids=x()))]}, dict),
}


@pytest.mark.parametrize(("make", "kind"), BATCHES.values(), ids=BATCHES)
def test_every_tensor_moves_and_the_batch_is_left_as_it_is(make, kind):
    batch = make()
    there = moved(batch, META)
    assert type(there) is kind
    found = list(tensors_in(there))
    assert found
    # PackedSequence keeps its batch sizes on the CPU, by definition.
    assert all(t.device == META for t in found if not (kind is PackedSequence and t.dtype == torch.int64))
    assert all(t.device.type == "cpu" for t in tensors_in(batch))
    assert len(list(tensors_in(batch))) == len(found)


@pytest.mark.parametrize("how", [{}, {"control_variate": False}, {"verify": True, "total_steps": 400}], ids=str)
def test_a_loss_function_may_take_the_batches_apart(how):
    net = nn.Linear(2, 1)
    loader = [{"inputs": torch.ones(4, 2), "targets": torch.zeros(4, 1)} for _ in range(3)]
    pairs = [list(batch.values()) for batch in loader]

    def of_dict(model, batch):
        targets = batch.pop("targets")
        return nn.functional.mse_loss(model(input=batch.pop("inputs")), targets)

    def of_list(model, batch):
        targets = batch.pop()
        return nn.functional.mse_loss(model(batch.pop()), targets)

    for given, loss_fn in ((loader, of_dict), (pairs, of_list)):
        find_lr(net, optim.SGD(net.parameters(), lr=0.1), loader=given, loss_fn=loss_fn, **how)
        assert [len(batch) for batch in given] == [2, 2, 2]


def test_what_is_no_tensor_stays():
    batch = {"names": ["a", "b"], "n": 3, "none": None, "set": {1}, "x": x()}
    there = moved(batch, META)
    assert {key: value for key, value in there.items() if key != "x"} == {k: v for k, v in batch.items() if k != "x"}
    example = moved(Example(x(), "b"), META)
    assert (example.name, example.length) == ("b", 3)
    assert list(moved(OrderedDict(b=x(), a=x()), META)) == ["b", "a"]
    assert moved(defaultdict(list, a=x()), META)["new"] == []
    assert moved(deque([x()], maxlen=3), META).maxlen == 3


class Stuck:
    def to(self, device, non_blocking=False):
        raise RuntimeError("nailed down")


@pytest.mark.parametrize(
    ("batch", "where"),
    [
        (Stuck(), "batch,"),
        ((x(), Stuck()), r"batch\[1\],"),
        ({"a": {"b": [Stuck()]}}, r"batch\['a'\]\['b'\]\[0\],"),
        (Pair(x(), Example(Stuck())), r"batch\.targets\.x,"),
    ],
)
def test_a_part_that_cannot_be_moved_is_named(batch, where):
    with pytest.raises(LoaderError, match=f"loader's {where} of type Stuck, can't be moved to meta.*nailed down"):
        moved(batch, META)


def test_in_a_search_that_is_the_error_and_nothing_is_lost():
    net = nn.Linear(2, 1)
    before, optimizer = net.weight.clone(), optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(LoaderError, match=r"batch\[1\]"):
        find_lr(net, optimizer, loader=[(x(), Stuck())], loss_fn=lambda model, batch: model(batch[0]).sum())
    assert torch.equal(net.weight, before)


@pytest.mark.parametrize(("make", "kind"), BATCHES.values(), ids=BATCHES)
def test_a_copy_shares_no_memory(make, kind):
    batch = make() if kind is not dict else dict(make())
    copy = copied(batch)
    assert type(copy) is type(batch)
    ours, theirs = list(tensors_in(copy)), list(tensors_in(batch))
    assert all(map(torch.equal, ours, theirs))
    assert not {t.data_ptr() for t in ours} & {t.data_ptr() for t in theirs}


def test_the_size_of_a_batch():
    assert batch_size([3, {"a": torch.tensor(1.0), "b": torch.ones(5, 2)}, torch.ones(4)]) == 5
    assert batch_size(Example(torch.ones(6))) == 6
    assert batch_size(["text", 3]) is None


# A loss of one's own, of whatever the loader gives


class Two(nn.Module):
    """Takes two inputs, and gives the loss itself if it is given targets."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(2, 1), nn.Linear(3, 1)

    def forward(self, left, right, labels=None):
        outputs = self.left(left) + self.right(right)
        return outputs if labels is None else SimpleNamespace(loss=(outputs - labels).square().mean(), logits=outputs)


class Three(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor
    labels: torch.Tensor


@dataclass
class Row:
    left: torch.Tensor
    right: torch.Tensor
    labels: torch.Tensor


LOSSES = {
    "several inputs": (tuple, lambda m, b: (m(b[0], b[1]) - b[2]).square().mean()),
    "named tuple": (lambda b: Three(*b), lambda m, b: (m(b.left, b.right) - b.labels).square().mean()),
    "dict": (
        lambda b: dict(zip(Three._fields, b, strict=True)),
        lambda m, b: (m(b["left"], b["right"]) - b["labels"]).square().mean(),
    ),
    "dataclass": (lambda b: Row(*b), lambda m, b: (m(b.left, b.right) - b.labels).square().mean()),
    "encoding": (lambda b: Encoding(zip(Three._fields, b, strict=True)), lambda m, b: m(**b).loss),
    "a model that gives its loss": (lambda b: dict(zip(Three._fields, b, strict=True)), lambda m, b: m(**b).loss),
}


@pytest.mark.parametrize(("pack", "loss_fn"), LOSSES.values(), ids=LOSSES)
def test_a_loss_of_ones_own_gives_the_same_curve_whatever_the_batch(pack, loss_fn):
    def curve(pack, loss_fn):
        torch.manual_seed(0)
        rows = [(torch.randn(4, 2), torch.randn(4, 3), torch.randn(4, 1)) for _ in range(7)]
        net = Two()
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        finding = find_lr(net, optimizer, loader=[pack(row) for row in rows], loss_fn=loss_fn)
        assert finding.facts["batch_size"] == 4
        return finding.curve

    assert curve(pack, loss_fn) == curve(*LOSSES["several inputs"])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.parametrize("fits", [True, False])
def test_a_batch_of_rows_of_any_length(layout, fits):
    rows = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3), torch.ones(1, 3)], layout=layout)
    net = nn.Linear(3 if fits else 2, 1)

    def loss_fn(model, batch):
        return sum(model(row).square().mean() for row in batch.unbind())

    how = dict(loader=[rows], loss_fn=loss_fn, num_steps=5)
    if fits:
        assert find_lr(net, optim.SGD(net.parameters(), lr=0.1), **how).facts["batch_size"] == 3
        return
    with pytest.raises(LoaderError, match=r"float32 nested \(3, \.\.\.\)" if layout is torch.strided else "float32"):
        find_lr(net, optim.SGD(net.parameters(), lr=0.1), **how)
