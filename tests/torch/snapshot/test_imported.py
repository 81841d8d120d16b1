"""What a step uses of another file of the user's own is looked into as what the script itself has."""

import sys
import types
from types import SimpleNamespace

import pytest
import torch
from torch import optim

from findlr import RangeTest
from findlr.testing.bits import bits
from findlr.torch.snapshot.reach import reached_from
from tests import second
from tests.second import Centre, average_of, named_as_torchs, passed_on, taught, with_attributes
from tests.second import adversarial as trained_here
from tests.second import replaced as moved_here
from tests.torch.snapshot.test_reach import net_and_batches, search_by

USES = {
    "a name": lambda outputs: 2 * moved_here(outputs),
    "a name of a module": lambda outputs: 2 * second.replaced(outputs),
    "a class": lambda outputs: 2 * Centre.loss(outputs),
    "a critic": lambda outputs: 2 * trained_here(outputs),
    "a critic of a module": lambda outputs: 2 * second.adversarial(outputs),
    "attributes of a function": lambda outputs: 2 * with_attributes(outputs),
    "a wrapper of a library's function": lambda outputs: 2 * named_as_torchs(outputs),
    "caches": lambda outputs: 2 * taught(outputs),
}


DOORS = ["loss_fn", "train_step", "loop"]
TAKES = [(use, door) for use in USES for door in DOORS if door != "loop" or not use.startswith("a name")]


@pytest.mark.parametrize(("use", "door"), TAKES)
def test_what_an_imported_function_or_class_keeps(use, door):
    net, batches = net_and_batches()
    call = USES[use]
    before = bits(second.state())
    search_by(door, net, optim.SGD(net.parameters(), lr=0.1), batches, lambda m, b: call(m(b[0])))
    assert bits(second.state()) == before


def test_attributes_of_a_function_that_a_loop_names():
    net, batches = net_and_batches()
    optimizer, before = optim.SGD(net.parameters(), lr=0.1), bits(second.state())
    with RangeTest(net, optimizer, num_steps=4, progress=False) as test:
        for inputs, _ in test(batches):
            loss = with_attributes(net(inputs))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            test.record(loss)
    assert bits(second.state()) == before


@pytest.mark.parametrize("door", DOORS)
def test_what_the_closure_of_an_imported_function_holds(door):
    net, batches = net_and_batches()
    update, distance, weights = average_of(net)

    def loss_fn(model, batch):
        update()
        return (model(batch[0])[:, :1] - batch[1]).square().mean() + distance()

    before = bits(weights())
    search_by(door, net, optim.SGD(net.parameters(), lr=0.1), batches, loss_fn)
    assert bits(weights()) == before


@pytest.mark.parametrize("door", DOORS)
def test_what_a_function_holds_that_an_imported_one_wraps(door):
    net, batches = net_and_batches()
    kept = SimpleNamespace(centre=torch.zeros(2))
    wrapped = passed_on(lambda outputs: outputs - kept.centre.lerp_(outputs.detach().mean(0), 0.1))
    search_by(door, net, optim.SGD(net.parameters(), lr=0.1), batches, lambda m, b: wrapped(m(b[0])).square().mean())
    assert not kept.centre.any()


@pytest.mark.parametrize("door", ["loss_fn", "train_step"])
def test_a_tensor_that_a_step_puts_into_a_module_of_a_package(door, monkeypatch):
    package, part = types.ModuleType("own"), types.ModuleType("own.part")
    package.part, part.mean, part.own = part, torch.zeros(2), package
    for module in (package, part):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def loss_fn(model, batch):
        outputs = model(batch[0])
        package.part.mean = package.part.mean.lerp(outputs.detach().mean(0), 0.1)
        return (outputs - package.part.mean).square().mean()

    net, batches = net_and_batches()
    search_by(door, net, optim.SGD(net.parameters(), lr=0.1), batches, loss_fn)
    assert not part.mean.any()


@pytest.mark.parametrize("name", ["own_state", "own_state.inner"])
def test_what_a_function_imports_by_itself(name, monkeypatch):
    for each in ("own_state", "own_state.inner"):
        monkeypatch.setitem(sys.modules, each, types.ModuleType(each))
    sys.modules["own_state"].inner, kept = sys.modules["own_state.inner"], sys.modules[name]
    kept.mean, names = torch.zeros(2), {"__name__": "a_script"}
    exec(f"def m(o):\n import {name} as s\n s.mean = s.mean.lerp(o.detach().mean(0), .1)\n return o - s.mean", names)
    net, batches = net_and_batches()
    optimizer, loss_fn = optim.SGD(net.parameters(), lr=0.1), lambda m, b: names["m"](m(b[0])).square().mean()
    search_by("train_step", net, optimizer, batches, loss_fn)
    assert not kept.mean.any()


@pytest.mark.parametrize(("folder", "found"), [("/home/me", 2), ("/usr/lib/python3/site-packages", 0)])
def test_what_an_installed_library_holds_is_left_alone(folder, found, monkeypatch):
    name = f"from{folder.replace('/', '_')}"
    library = types.ModuleType(name)
    library.__file__ = f"{folder}/{name}.py"
    monkeypatch.setitem(sys.modules, name, library)
    exec("from torch import zeros\nmean, other = zeros(2), zeros(2)\ndef used(): return mean.add_(1)", vars(library))
    names = {"__name__": "a_script", "used": library.used, "library": library}
    exec("def step(): return used() + library.used() + library.other", names)
    assert len(reached_from(names["step"]).tensors) == found


@pytest.mark.parametrize(("files", "found"), [(8, 1), (9, 0)])
def test_code_of_a_large_package_is_looked_into_for_eight_calls(files, found):
    names = {"__name__": "file0", "mean": torch.zeros(2)}
    exec("def function0(): return mean", names)
    for i in range(1, files):
        names = {"__name__": f"file{i}", f"function{i - 1}": names[f"function{i - 1}"]}
        exec(f"def function{i}(): return function{i - 1}()", names)
    called = names[f"function{files - 1}"]
    assert len(reached_from(lambda: called() + 1).tensors) == found
