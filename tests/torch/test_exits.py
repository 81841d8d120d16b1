"""Exits that are hard to keep: odd tensors, no descriptors, two threads, exceptions that can't be written to."""

import gc
import subprocess
import sys
import textwrap
import threading
from array import array
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn, optim
from torch.utils._pytree import tree_map

from findlr import ConfigurationError, OptimizerError, RangeTest, RestoreError, find_lr
from tests.torch.training import OwnLoop, Training, leaves_nothing, loop, modes, step_in

SHORT = {"min_lr": 1e-4, "max_lr": 1e-1, "num_steps": 6}


def parts(net=None):
    torch.manual_seed(0)
    net = net or nn.Linear(4, 1)
    x = torch.randn(32, 4)
    return net, optim.SGD(net.parameters(), lr=0.1, momentum=0.9), nn.MSELoss(), [(x, x[:, :1])] * 4


doors = pytest.mark.parametrize("door", [find_lr, loop], ids=["find_lr", "own-loop"])


# Copies of odd tensors


class Plain(torch.Tensor):
    """Data, and a class."""


class Wrapper(torch.Tensor):
    """No data of its own, but a tensor that has."""

    refused = ()

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function._opname in cls.refused:
            raise NotImplementedError(function._opname)
        inner = tree_map(lambda value: value.inner if isinstance(value, cls) else value, (args, kwargs or {}))
        result = function(*inner[0], **inner[1])
        if function._opname.endswith("_"):
            return args[0]
        return tree_map(lambda value: cls(value) if isinstance(value, torch.Tensor) else value, result)


class Refusing(Wrapper):
    """It can be copied, and not be written to."""

    refused = ("copy_",)


class Uncopied(torch.Tensor):
    """It can't be copied."""

    def clone(self, *args, **how):
        raise NotImplementedError("clone")


def with_a(kind):
    class Net(nn.Linear):
        def forward(self, x):
            with torch.no_grad():
                held = self.odd.inner if isinstance(self.odd, Wrapper) else self.odd
                held.as_subclass(torch.Tensor).add_(1)
            return super().forward(x)

    net = Net(4, 1)
    data = torch.arange(3.0)
    net.register_buffer("odd", kind(data) if issubclass(kind, Wrapper) else data.as_subclass(kind))
    return net


@pytest.mark.parametrize("snapshot", ["device", "cpu", "disk"])
@pytest.mark.parametrize("kind", [Plain, Wrapper])
def test_a_tensor_of_a_subclass_is_put_back(kind, snapshot):
    net, *others = parts(with_a(kind))
    odd = net.odd
    with leaves_nothing():
        find_lr(net, *others, **SHORT, snapshot=snapshot)
    assert net.odd is odd
    assert type(odd) is kind
    held = odd.inner if kind is Wrapper else odd
    assert held.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("snapshot", ["device", "cpu", "disk"])
def test_a_parameter_of_a_subclass_is_put_back(snapshot):
    net, *_ = parts()
    net.weight = nn.Parameter(net.weight.detach().as_subclass(Plain))
    net, *others = parts(net)
    before = net.weight.tolist()
    find_lr(net, *others, **SHORT, snapshot=snapshot)
    assert net.weight.tolist() == before


@pytest.mark.parametrize("snapshot", ["device", "cpu", "disk"])
@doors
def test_a_tensor_that_could_not_be_put_back_is_found_before_the_first_step(door, snapshot):
    net, *others = parts(with_a(Refusing))
    with leaves_nothing(), pytest.raises(ConfigurationError, match=r"a Refusing of shape .* nothing was changed"):
        door(net, *others, **SHORT, snapshot=snapshot)
    assert net.odd.inner.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("snapshot", ["device", "cpu", "disk"])
@pytest.mark.parametrize("kind", ["nested", "no clone"])
@doors
def test_a_tensor_that_can_not_be_copied_is_named(door, kind, snapshot):
    net, *others = parts()
    of_a_kind = {
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "no clone": lambda: torch.ones(2).as_subclass(Uncopied),
    }
    net.register_buffer("odd", of_a_kind[kind]())
    with leaves_nothing(), pytest.raises(ConfigurationError, match=r"could not be put back.* nothing was changed"):
        door(net, *others, **SHORT, snapshot=snapshot)


class Changing(nn.Linear):
    """Its buffers become others of their kind: of another type, or of a shape that broadcasts."""

    def __init__(self):
        super().__init__(4, 1)
        for name in ("typed", "grown", "shrunk"):
            self.register_buffer(name, torch.tensor([1.1]) if name != "shrunk" else torch.tensor([1.1, 2.2]))

    def forward(self, x):
        self.typed.data = self.typed.data.half()
        self.grown.resize_(3)
        self.shrunk.resize_(1)
        return super().forward(x)


@pytest.mark.parametrize("snapshot", ["device", "cpu", "disk"])
def test_the_type_and_the_shape_of_a_tensor_are_put_back(snapshot):
    net, *others = parts(Changing())
    before = {name: (id(buffer), buffer.dtype, buffer.clone()) for name, buffer in net.named_buffers()}
    find_lr(net, *others, **SHORT, snapshot=snapshot)
    for name, buffer in net.named_buffers():
        assert (id(buffer), buffer.dtype) == before[name][:2]
        assert torch.equal(buffer, before[name][2])


# No descriptors

CROWDED = """
    import os, resource, sys, tempfile
    import torch
    from findlr import ConfigurationError, find_lr

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    tempfile.tempdir = sys.argv[1]
    net = torch.nn.Linear(4, 1)
    x = torch.randn(32, 4)
    given = net, torch.optim.SGD(net.parameters(), lr=0.1), torch.nn.MSELoss(), [(x, x[:, :1])]
    how = dict(num_steps=5, snapshot="disk", progress=False)
    find_lr(*given, **how)
    torchs = os.listdir(sys.argv[1])  # 2.9 keeps an empty folder until it ends

    def crowd():
        taken = []
        while True:
            try:
                taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                return taken

    assert not any(os.path.isfile(os.path.join(sys.argv[1], name)) for name in torchs)
    before, ended = net.weight.detach().clone(), []
    for free in range(9):
        taken = crowd()
        for _ in range(free):
            os.close(taken.pop())
        try:
            find_lr(*given, **how)
            ended.append("found")
        except ConfigurationError as error:
            ended.append("refused")
        for each in taken:
            os.close(each)
        assert os.listdir(sys.argv[1]) == torchs, free
        assert torch.equal(net.weight, before)
    assert ended[0] == "refused" and ended[-1] == "found", ended
    taken = []
    find_lr(*given, **how, on_step=lambda step: taken.extend(crowd()))
    for each in taken:
        os.close(each)
    assert taken and os.listdir(sys.argv[1]) == torchs
    assert torch.equal(net.weight, before)
"""


@pytest.mark.posix
def test_no_descriptors_are_left(tmp_path):
    subprocess.run([sys.executable, "-c", textwrap.dedent(CROWDED), tmp_path], check=True)


# No memory

EXHAUSTED = """
    import resource
    import sys
    from pathlib import Path

    import torch
    from findlr import find_lr

    torch.manual_seed(0)
    net, taken = torch.nn.Linear(2000, 2000), []
    x = torch.randn(4, 2000)
    given = net, torch.optim.SGD(net.parameters(), lr=0.1), torch.nn.MSELoss(), [(x, x)]
    how = dict(num_steps=5, snapshot=sys.argv[1], progress=False)
    find_lr(*given, **how)

    def exhaust(step):
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 25), resource.RLIM_INFINITY))
        while True:
            taken.append(torch.empty(1 << 20))

    before = net.weight.detach().clone()
    try:
        find_lr(*given, **how, on_step=exhaust)
    except RuntimeError as error:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert "can't allocate memory" in str(error), error
    assert taken
    assert torch.equal(net.weight, before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="how much memory a process has is not told here")
@pytest.mark.parametrize("snapshot", ["device", "cpu", "disk"])
def test_putting_back_takes_no_memory(snapshot):
    subprocess.run([sys.executable, "-c", textwrap.dedent(EXHAUSTED), snapshot], check=True)


# Two threads


def in_a_thread(function):
    """Start ``function``; return what waits for its end, and gives what it gave or raised."""
    result = []

    def work():
        try:
            result.append(function())
        except Exception as error:  # noqa: BLE001 - given
            result.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def end():
        thread.join(60)
        return result[0]

    return end


def test_searches_of_two_threads_take_turns():
    alone, seen, both = find_lr(*parts(), **SHORT), [], threading.Barrier(2)

    def search(given):
        both.wait(60)
        me = threading.get_ident()
        return find_lr(*given, **SHORT, on_step=lambda _: seen.append(me))

    # Made here, because both draw their weights from torch's one generator.
    ends = [in_a_thread(partial(search, given)) for given in (parts(), parts())]
    assert [end() for end in ends] == [alone, alone]
    assert seen in ([one] * 6 + [other] * 6 for one, other in ((seen[0], seen[-1]), (seen[-1], seen[0])))


@doors
def test_no_search_begins_while_another_thread_has_a_block_open(door):
    inside, may_end = threading.Event(), threading.Event()

    def block():
        net, optimizer, *_ = parts()
        with RangeTest(net, optimizer):
            inside.set()
            may_end.wait(60)

    end = in_a_thread(block)
    inside.wait(60)
    with leaves_nothing(), pytest.raises(ConfigurationError, match="open in another thread"):
        door(*parts(), **SHORT)
    may_end.set()
    assert end() is None
    assert len(door(*parts(), **SHORT).curve) == 6


@doors
def test_a_search_inside_a_block_of_the_same_thread(door):
    net, optimizer, *_ = parts()
    with RangeTest(net, optimizer):
        assert len(door(*parts(), **SHORT).curve) == 6


def test_a_thread_that_ended_inside_its_block_keeps_nobody_waiting():
    net, optimizer, *_ = parts()
    left = ExitStack()
    in_a_thread(lambda: left.enter_context(RangeTest(net, optimizer)))()
    assert len(find_lr(*parts(), **SHORT).curve) == 6
    left.close()


# Blocks that are entered by hand


def stepped(test, net, optimizer, criterion, loader, most=3):
    """Take some steps in a block."""
    for i, batch in enumerate(test(loader)):
        step_in(test, net, optimizer, criterion, batch)
        if i == most:
            break


def entered(net, optimizer, *others):
    """A block that was entered by hand, after some steps."""
    test = RangeTest(net, optimizer, **SHORT)
    test.__enter__()
    stepped(test, net, optimizer, *others)
    return test


@doors
def test_an_optimizer_whose_block_is_still_open_is_refused(door):
    given = net, optimizer, *_ = parts()
    before = net.weight.tolist()
    with leaves_nothing():
        test = entered(*given)
        with pytest.raises(OptimizerError, match=r"SGD is still open.*test.__exit__\(None, None, None\)"):
            door(*given, **SHORT)
        test.__exit__(None, None, None)
    assert net.weight.tolist() == before
    assert optimizer.state_dict()["state"] == {}
    assert len(door(*given, **SHORT).curve) == 6


@doors
def test_a_block_whose_name_is_lost_is_left_by_the_line_that_the_refusal_gives(door):
    given = net, optimizer, *_ = parts()
    before = net.weight.tolist()
    with leaves_nothing():
        entered(*given)  # and nobody has kept it
        gc.collect()
        with pytest.raises(OptimizerError, match="held by the optimizer: ") as refused:
            door(*given, **SHORT)
        eval(str(refused.value).partition("held by the optimizer: ")[2], {"optimizer": optimizer})
    assert net.weight.tolist() == before
    assert len(door(*given, **SHORT).curve) == 6


@pytest.mark.parametrize("step", [True, False])
def test_the_end_of_a_block_leaves_those_that_were_entered_in_it(step):
    outer, inner = parts(), parts()
    before, state = outer[0].weight.tolist(), torch.get_rng_state()
    with leaves_nothing():
        first, second = RangeTest(*outer[:2], **SHORT), RangeTest(*inner[:2], **SHORT)
        first.__enter__()
        second.__enter__()
        stepped(first, *outer)
        stepped(second, *inner)
        torch.rand(3)
        if not step:
            next(second.steps())
            inner[1].step()  # without a loss, which is an error
        with nullcontext() if step else pytest.raises(ConfigurationError, match="no loss was recorded"):
            first.__exit__(None, None, None)
    for net, optimizer, *_ in (outer, inner):
        assert net.weight.tolist() == before
        assert optimizer.state_dict()["state"] == {}
    assert torch.equal(torch.get_rng_state(), state)
    assert second.__exit__(None, None, None) is None
    assert modes()["stance"] == "default"


def test_a_block_that_the_main_thread_has_entered_is_left_there():
    given = net, *_ = parts()
    before = net.weight.tolist()
    with leaves_nothing():
        test = entered(*given)
        error = in_a_thread(lambda: test.__exit__(None, None, None))()
        assert type(error) is ConfigurationError
        assert "leave it in the main thread; it is open till then" in str(error)
        test.__exit__(None, None, None)
    assert net.weight.tolist() == before


def test_a_block_that_was_not_entered_has_no_end():
    net, optimizer, *_ = parts()
    with pytest.raises(ConfigurationError, match="was not entered"):
        RangeTest(net, optimizer).__exit__(None, None, None)


# Exceptions


@dataclass(frozen=True)
class Frozen(Exception):
    """Nothing can be written into it."""

    why: str = "frozen"


class Deaf(Exception):
    """It takes no note, and no attribute."""

    def __setattr__(self, name, value):
        raise RuntimeError(name)

    def add_note(self, note):
        raise RuntimeError(note)


class Bare(Exception):
    """It has slots."""

    __slots__ = ()


@pytest.mark.parametrize("error", [Frozen, Deaf, Bare])
@doors
def test_an_exception_that_can_carry_nothing_stays_itself(door, error):
    raised = error()

    class Failing(nn.Linear):
        def forward(self, x):
            raise raised

    net, *others = parts(Failing(4, 1))
    before = net.weight.tolist()
    with leaves_nothing(), pytest.raises(error) as caught:
        door(net, *others, **SHORT)
    assert caught.value is raised
    assert net.weight.tolist() == before


class Mute(Deaf):
    """Its traceback can't be set, nor its message be read."""

    def with_traceback(self, traceback):
        raise RuntimeError(traceback)

    def __str__(self):
        raise RuntimeError


class Leaves(BaseException):
    """No Exception, as an interrupt of the user's own."""

    def __setattr__(self, name, value):
        raise RuntimeError(name)


@pytest.mark.parametrize(
    "at", range(1, 9)
)  # a step's own pass, the replays of its self-check, and those of later steps
@pytest.mark.parametrize("error", [Frozen, Deaf, Bare, Mute, Leaves])
@pytest.mark.parametrize("scripted", [False, True])
def test_an_exception_that_can_carry_nothing_stays_itself_in_the_replay_pass(error, at, scripted):
    raised, passes = error(), array("b")  # not a list, which a pass under the starting weights would put back

    class Failing(nn.MSELoss):
        def forward(self, outputs, targets):
            passes.append(torch.is_grad_enabled())
            if len(passes) >= at:  # the first one without gradients is computed again with them
                raise raised
            return super().forward(outputs, targets)

    net, optimizer, _, loader = parts(torch.jit.script(parts()[0]) if scripted else None)
    before, state = net.weight.tolist(), torch.get_rng_state()
    bound = None if scripted else dict(net.named_parameters())  # a script makes new objects each time
    with leaves_nothing(), pytest.raises(error) as caught:
        find_lr(net, optimizer, Failing(), loader, **{**SHORT, "min_lr": 1e-9, "max_lr": 1e-8})
    assert caught.value is raised
    assert passes.tolist()[:at] == [True, False, False, False, True, False, True, False][:at]
    assert (net.weight.tolist(), optimizer.state_dict()["state"]) == (before, {})
    assert torch.equal(torch.get_rng_state(), state)
    assert scripted or all(parameter is bound[name] for name, parameter in net.named_parameters())


class Stubborn:
    """It can't be put back."""

    def __init__(self, error=OSError, text="gone"):
        self.error = error(text)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        raise self.error


class Panic(BaseException):
    """What a library in Rust raises."""

    def __str__(self):
        raise RuntimeError


@doors
@pytest.mark.parametrize(
    ("error", "told"), [(SystemExit, "SystemExit: gone"), (KeyboardInterrupt, "gone"), (Panic, r"cannot be read\)")]
)
def test_whatever_is_raised_where_something_is_put_back_the_rest_is_put_back(door, error, told):
    parts_ = net, optimizer, _, _ = parts()
    stubborn = Stubborn(error, "\x1b[2Jgone")
    before, state = net.weight.tolist(), torch.get_rng_state()
    with leaves_nothing(), pytest.raises(RestoreError, match=rf"the Stubborn \([^\x1b]*{told}\); everything") as caught:
        door(*parts_, **SHORT, restore=[stubborn])
    assert caught.value.__cause__ is stubborn.error
    assert (net.weight.tolist(), optimizer.state_dict()["state"]) == (before, {})
    assert torch.equal(torch.get_rng_state(), state)


@doors
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_could_not_be_put_back_is_named_and_the_users_exception_is_reachable(door, error):
    net, optimizer, criterion, loader = parts()
    calls = []

    def failing(outputs, targets):
        calls.append(1)
        if len(calls) > 3:
            raise error("the user's")
        return criterion(outputs, targets)

    how = {"control_variate": False} if door is find_lr else {}
    with leaves_nothing(), pytest.raises(RestoreError, match=r"the Stubborn .*gone") as caught:
        door(net, optimizer, failing, loader, **{**SHORT, "max_lr": 1e-3}, restore=[Stubborn()], **how)
    users = caught.value.__context__
    assert type(users) is error
    assert len(caught.value.finding.curve) == len(users.finding.curve) == 3
    assert not any("put back;" in note for each in (caught.value, users) for note in each.__notes__)


def test_a_large_tensor_that_changed_is_no_everything(caplog):
    outside = torch.zeros(600_000)
    net, optimizer, criterion, loader = parts()

    def loss(net, batch):
        if outside.add_(1)[0] > 3:
            raise ValueError("the user's")
        return criterion(net(batch[0]), batch[1])

    with pytest.raises(ValueError) as caught:
        find_lr(net, optimizer, loss_fn=loss, loader=loader, **SHORT, control_variate=False)
    assert "has changed, and is not put back" in caplog.text
    assert any("everything but a tensor of shape (600000,)" in note for note in caught.value.__notes__)


# Modes


def leave_modes():
    """As a block that was broken off as it ended does."""
    torch.set_grad_enabled(False)
    torch.set_autocast_enabled("cpu", True)
    torch.set_autocast_dtype("cpu", torch.float16)
    torch.autocast_increment_nesting()
    torch.compiler.set_stance("force_eager")
    torch.autograd.set_detect_anomaly(True, check_nan=False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("medium")
    torch.set_default_dtype(torch.float64)
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True


@pytest.mark.parametrize("make", [Training, OwnLoop], ids=["find_lr", "own-loop"])
@pytest.mark.parametrize("mode", sorted({*modes()} - {"autocast's cache", "inference mode"}))
def test_torchs_modes_are_put_back(make, mode):
    before = modes()

    def stop(step):
        leave_modes()
        raise KeyboardInterrupt

    def call(training):
        with pytest.raises(KeyboardInterrupt):
            training.call(**SHORT, on_step=stop)
        assert modes()[mode] == before[mode]

    try:
        call(make())
    finally:
        torch.set_grad_enabled(True)
        torch.set_autocast_enabled("cpu", False)
        torch.set_autocast_dtype("cpu", torch.bfloat16)
        if modes()["nested autocast"] != before["nested autocast"]:
            torch.autocast_decrement_nesting()
        torch.compiler.set_stance("default")
        torch.autograd.set_detect_anomaly(False)
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision("highest")
        torch.set_default_dtype(torch.float32)
        torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False


def test_weights_that_autocast_has_cached_are_not_the_searchs():
    net, optimizer, criterion, loader = parts()
    x = loader[0][0]

    def forward():
        with torch.autocast("cpu", torch.bfloat16):
            return net(x)

    def stop(step):
        if step.index == 4:
            torch.autocast_increment_nesting()  # a block that was broken off as it ended
            torch.set_autocast_enabled("cpu", True)
            net(x)
            raise KeyboardInterrupt

    before = forward()
    with pytest.raises(KeyboardInterrupt):
        find_lr(net, optimizer, criterion, loader, **SHORT, on_step=stop)
    assert torch.equal(forward(), before)
