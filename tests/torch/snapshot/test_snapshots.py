"""Where a snapshot's copies live, what they take, and that nothing of them stays."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn, optim
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from findlr import ConfigurationError, RangeTest, RestoreError, TorchTrainable, find_lr
from findlr.search.memory import Memory
from findlr.torch.snapshot import files, stores
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.snapshot.stores import Store

STORES = ["device", "cpu", "disk"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The temporary folder; empty again after every test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.glob("findlr-*")) == []


class Net(nn.Module):
    """Tied weights, BatchNorm, a buffer that shares all its places, and a frozen layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(8)
        self.frozen = nn.Linear(8, 8).requires_grad_(requires_grad=False)
        self.register_buffer("expanded", torch.ones(1, 8).expand(4, 8), persistent=False)

    def forward(self, x):
        return self.last(self.norm(self.second(torch.relu(self.first(self.frozen(x) * self.expanded[0])))))


class Average:
    """An EMA that is no module."""

    def __init__(self, net):
        self.net, self.mean = net, [p.detach().clone() for p in net.parameters()]
        net.register_forward_hook(lambda *_: self.update())

    def update(self):
        for mean, parameter in zip(self.mean, self.net.parameters(), strict=True):
            mean.lerp_(parameter.detach(), 0.1)

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]


def parts(steps=3):
    torch.manual_seed(0)
    net = Net()
    optimizer = optim.Adam([{"params": net.parameters(), "lr": torch.tensor(0.01)}], foreach=False)
    x = torch.randn(64, 8)
    loader = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), 8, shuffle=True)
    criterion, average = nn.CrossEntropyLoss(), Average(net)
    train(net, optimizer, loader, steps)
    return net, optimizer, criterion, loader, average


def train(net, optimizer, loader, steps):
    for _, (x, y) in zip(range(steps), loader, strict=False):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()


def state(net, optimizer, average):
    tensors = [*net.parameters(), *net.buffers(), *(p.grad for p in net.parameters() if p.grad is not None)]
    tensors += [t for s in optimizer.state.values() for t in s.values()]
    tensors += [optimizer.param_groups[0]["lr"], *average.mean, torch.get_rng_state()]
    return [t.detach().clone() for t in tensors], [id(t) for t in net.parameters()], id(optimizer.param_groups[0]["lr"])


def same(a, b):
    return len(a[0]) == len(b[0]) and all(map(torch.equal, a[0], b[0])) and a[1:] == b[1:]


@pytest.mark.parametrize("verify", [False, True], ids=["sweep", "race"])
@pytest.mark.parametrize("steps", [0, 3], ids=["fresh", "warm"])
@pytest.mark.parametrize("snapshot", [*STORES, "auto"])
def test_every_store_puts_everything_back(snapshot, steps, verify):
    net, optimizer, criterion, loader, average = parts(steps)
    before = state(net, optimizer, average)
    how = {"verify": True, "schedule": "cosine", "total_steps": 400, "budget": 200} if verify else {}
    finding = find_lr(net, optimizer, criterion, loader, num_steps=40, restore=[average], snapshot=snapshot, **how)
    assert same(before, state(net, optimizer, average))
    assert net.second.weight is net.first.weight
    assert (finding.race is not None) == verify
    train(net, optimizer, loader, 3)
    other = parts(steps)
    train(other[0], other[1], other[3], 3)
    assert same((state(net, optimizer, average)[0],), (state(other[0], other[1], other[4])[0],))


class Packed:
    """A mean that is kept as bytes, so that a state dict alone tells of it as a tensor."""

    def __init__(self):
        self.packed = torch.zeros(3).numpy().tobytes()

    def state_dict(self):
        return {"mean": torch.frombuffer(bytearray(self.packed), dtype=torch.float32)}

    def load_state_dict(self, state):
        self.packed = state["mean"].numpy().tobytes()

    def follow(self, outputs):
        self.load_state_dict({"mean": self.state_dict()["mean"] * 0.9 + outputs.detach().mean()})


@pytest.mark.parametrize("snapshot", STORES)
def test_what_only_a_state_dict_tells_of(snapshot):
    net, optimizer, criterion, loader, _ = parts()
    packed = Packed()
    packed.follow(torch.ones(1))
    before = packed.packed

    def following(outputs, targets):
        packed.follow(outputs)
        return criterion(outputs, targets)

    find_lr(net, optimizer, following, loader, num_steps=10, restore=[packed], snapshot=snapshot)
    assert packed.packed == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.parametrize("snapshot", STORES)
def test_every_store_on_a_bad_exit(snapshot, at, error):
    net, optimizer, criterion, loader, average = parts()
    before = state(net, optimizer, average)
    seen = []

    def failing(outputs, targets):
        seen.append(1)
        if len(seen) > at:
            raise error
        return criterion(outputs, targets)

    with pytest.raises(error) as caught:
        find_lr(net, optimizer, failing, loader, restore=[average], snapshot=snapshot, control_variate=False)
    assert same(before, state(net, optimizer, average))
    assert len(caught.value.finding.curve) == at


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("snapshot", STORES)
def test_every_store_around_a_loop_of_ones_own(snapshot, error, folder):
    net, optimizer, criterion, loader, average = parts()
    before, written = state(net, optimizer, average), 0
    test = RangeTest(net, optimizer, restore=[average], snapshot=snapshot, num_steps=10)
    with pytest.raises(error) if error else nullcontext(), test:
        written = len(nameless(folder))
        for x, y in test(loader):
            optimizer.zero_grad()
            loss = criterion(net(x), y)
            loss.backward()
            optimizer.step()
            test.record(loss)
            if error:
                raise error
    assert written == (snapshot == "disk")
    assert nameless(folder) == []  # at once, not when the test is forgotten
    assert same(before, state(net, optimizer, average))


def test_the_curve_is_the_same_from_every_store():
    curves = []
    for snapshot in STORES:
        net, optimizer, criterion, loader, _ = parts()
        curves.append(find_lr(net, optimizer, criterion, loader, snapshot=snapshot, control_variate=False).curve)
    assert curves[0] == curves[1] == curves[2]


@pytest.mark.parametrize("snapshot", ["cpu", "disk"])
def test_off_the_device_there_is_no_control_variate(snapshot):
    net, optimizer, criterion, loader, _ = parts()
    assert find_lr(net, optimizer, criterion, loader, snapshot=snapshot).curve.baseline is None
    with pytest.raises(ConfigurationError, match="not on the model's device"):
        find_lr(net, optimizer, criterion, loader, snapshot=snapshot, control_variate=True)


def test_a_store_that_is_none():
    net, optimizer, criterion, loader, _ = parts()
    with pytest.raises(ConfigurationError, match="auto, device, cpu, disk, got 'tape'"):
        find_lr(net, optimizer, criterion, loader, snapshot="tape")
    with pytest.raises(ConfigurationError, match="got 'tape'"):
        RangeTest(net, optimizer, snapshot="tape")


# What they take


def unique(net, optimizer):
    """Parameters, buffers, gradients, optimizer state and a tensor rate: each once, however many names it has."""
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    moments = [t for s in optimizer.state.values() for t in s.values()]
    found = {id(t): t for t in [*net.parameters(), *net.buffers(), *gradients, *moments]}
    return [*found.values(), optimizer.param_groups[0]["lr"]]


def storages():
    """The storages of all tensors that are alive: where, and how many bytes."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if type(t) in (torch.Tensor, nn.Parameter)]
    tensors = [t for t in tensors if t.layout is torch.strided and not is_functorch_wrapped_tensor(t)]  # has a storage
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


@pytest.mark.parametrize("snapshot", STORES)
def test_a_snapshot_holds_once_what_it_copies_and_no_more_while_it_is_put_back(snapshot):
    net, optimizer, criterion, loader, average = parts()
    training = TorchTrainable(net, optimizer, criterion, loader, snapshot=snapshot)
    before = storages()
    memory = training.snapshot()
    made = {place: size for place, size in storages().items() if place not in before}
    held = [*unique(net, optimizer), *average.mean]  # which a hook of the model's holds
    copies = sum(t.untyped_storage().nbytes() for t in held)
    rng = torch.get_rng_state().nbytes
    assert sum(made.values()) == rng + (files.BUFFER if snapshot == "disk" else copies)
    called = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            many = function is torch.ops.aten._foreach_copy_.default
            called.extend([torch.ops.aten.copy_] * len(args[0]) if many else [function.overloadpacket])
            return function(*args, **(kwargs or {}))

    if snapshot != "disk":
        with Watch():
            memory.put_back()
        views = {torch.ops.aten.detach, torch.ops.aten.as_strided}
        copying = [f for f in called if f is torch.ops.aten.copy_]
        assert len(copying) == len(held)
        assert set(called) - views == {torch.ops.aten.copy_}
    memory.close()
    assert not {place for place in storages() if place not in before} & set(made) or snapshot == "disk"


@pytest.mark.parametrize("snapshot", STORES)
def test_a_tensor_that_cannot_be_put_back_does_not_keep_the_others_from_it(snapshot):
    net, optimizer, criterion, loader, average = parts()
    how = {"restore": [average], "snapshot": snapshot}
    memory = TorchTrainable(net, optimizer, criterion, loader, **how).snapshot()
    before, mean = state(net, optimizer, average), net.norm.running_mean.clone()
    train(net, optimizer, loader, 1)
    copy_back = memory.store.copy_back

    def refuses_one(tensors, copies):
        if any(tensor is net.norm.running_mean for tensor in tensors):
            raise OSError("the file is gone")
        copy_back(tensors, copies)

    memory.store.copy_back = refuses_one
    named = r"could not be put back: a Tensor of shape \(8,\) \(OSError: the file is gone\); everything else was"
    with pytest.raises(RestoreError, match=named):
        memory.put_back()
    memory.close()
    net.norm.running_mean.copy_(mean)
    assert same(before, state(net, optimizer, average))


def test_what_a_device_that_has_failed_does_not_give_back_is_told_once():
    memory = Memory()

    def fails():
        raise RuntimeError("the device is gone")

    for i in range(40):
        memory.add(fails, name=f"weight {i}")
    with pytest.raises(RestoreError) as caught:
        memory.put_back()
    named = "weight 0, weight 1, weight 2, weight 3, weight 4 and 35 more (RuntimeError: the device is gone)"
    assert str(caught.value) == f"could not be put back: {named}; everything else was"


class Full(Store):
    """A device without room for a copy."""

    def keep(self, tensors):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(("device", "relieved"), [("meta", True), ("cpu", False)])
def test_copies_that_take_a_devices_memory_say_what_spares_it(device, relieved):
    tensors = [torch.zeros(4, device=device), torch.zeros(5, device=device)]
    memory = TorchMemory()
    memory.note(*tensors)
    memory.copy(lambda _: Store())
    assert ('snapshot="cpu"' in memory.relief) is relieved
    memory = TorchMemory()
    memory.note(*tensors)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        memory.copy(lambda _: Full())
    assert ('snapshot="cpu"' in "".join(getattr(caught.value, "__notes__", []))) is relieved


def test_on_a_device_one_call_copies_all_tensors_of_a_type():
    tensors = [torch.zeros(n, device="meta", dtype=dtype) for n in (2, 3) for dtype in (torch.float32, torch.bfloat16)]
    odd = torch.zeros(1, 3, device="meta").expand(2, 3)
    memory, counted = TorchMemory(), Counter()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            counted[str(function)] += 1
            return function(*args, **(kwargs or {}))

    memory.note(*tensors, torch.zeros(2), odd)
    memory.copy()
    with Watch():
        memory.put_back()
    assert counted["aten._foreach_copy_.default"] == 2
    assert counted["aten.copy_.default"] == 2


@pytest.mark.parametrize("snapshot", STORES)
def test_a_closed_snapshot_cannot_be_put_back(snapshot):
    net, optimizer, criterion, loader, _ = parts()
    training = TorchTrainable(net, optimizer, criterion, loader, snapshot=snapshot)
    memory = training.snapshot()
    memory.close()
    memory.close()
    with pytest.raises(ConfigurationError, match="closed"):
        training.restore(memory)


def test_a_view_on_disk_takes_its_own_bytes_alone(folder):
    store = stores.DiskStore()
    (kept,) = store.keep([torch.zeros(1 << 20)[:4]])
    (file,) = nameless(folder)
    assert file.stat().st_size == 16
    assert torch.equal(store.read(kept), torch.zeros(4))
    store.close()


class Own(torch.Tensor):
    """A subclass."""


KINDS = {
    "scalar": lambda: torch.tensor(5.0),
    "empty": lambda: torch.randn(0, 3),
    "channels last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(4, 5).t(),
    "a view with gaps": lambda: torch.randn(10, 10)[::2, 1:3],
    "expanded": lambda: torch.arange(4)[None].expand(3, 4),
    "conjugated": lambda: torch.randn(3, dtype=torch.complex64).conj(),
    "negated": lambda: torch.randn(3, dtype=torch.complex64).conj().imag,
    "bfloat16": lambda: torch.randn(3).bfloat16(),
    "bool": lambda: torch.tensor([True, False]),
    "a subclass": lambda: torch.randn(2, 2).as_subclass(Own),
    "a parameter": lambda: nn.Parameter(torch.randn(3)),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "mkldnn": lambda: torch.randn(3, 4).to_mkldnn(),
    "quantized": lambda: torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint8),
    "more than is read at once": lambda: torch.randn(5_000_000),
}


def dense(tensor):
    if tensor.is_sparse or tensor.is_mkldnn:
        return tensor.to_dense()
    return tensor.dequantize() if tensor.is_quantized else tensor.detach()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", KINDS)
def test_any_tensor_comes_back_from_disk(kind):
    store, tensor = stores.DiskStore(), KINDS[kind]()
    before = dense(tensor).clone()
    first, kept = store.keep([torch.ones(3), tensor])
    read = store.read(kept)
    assert type(read) is (Own if kind == "a subclass" else torch.Tensor)
    assert torch.equal(dense(read), before)
    strides_matter = kind not in ("sparse", "mkldnn", "a view with gaps", "expanded", "negated")
    assert not strides_matter or read.stride() == tensor.stride()
    if kind not in ("expanded", "quantized"):  # the one is written as what it looks at, the other can't be zeroed
        with torch.no_grad():
            tensor.copy_(KINDS[kind]() if kind == "mkldnn" else torch.zeros_like(tensor))  # which it does not have
            store.copy_back([tensor], [kept])
        assert torch.equal(dense(tensor), before)
    assert torch.equal(store.read(first), torch.ones(3))
    store.close()
    store.close()


@pytest.mark.parametrize(
    ("free", "chosen"), [((None, None), "device"), ((100, 0), "device"), ((99, 100), "cpu"), ((0, 99), "disk")]
)
def test_auto_goes_by_the_free_memory_and_says_so(free, chosen, monkeypatch, caplog):
    caplog.set_level("INFO", logger="findlr")
    monkeypatch.setattr(stores, "_FEW_BYTES", 50)
    store = stores.store_for("auto", 50, lambda kind: [free[kind == "cpu"]])
    store.close()
    kinds = {"device": stores.Store, "cpu": stores.HostStore, "disk": stores.DiskStore}
    assert type(store) is kinds[chosen]
    assert f"are kept on {chosen}" in caplog.text


def test_auto_does_not_ask_for_the_free_memory_where_it_needs_little():
    assert type(stores.store_for("auto", (4 << 20) - 1, lambda _: pytest.fail("asked"))) is stores.Store


def test_auto_counts_what_the_store_will_keep(monkeypatch):
    counted = []
    monkeypatch.setattr("findlr.torch.training.free_memory", lambda _: 1 << 60)
    real = stores._chosen
    monkeypatch.setattr(stores, "_chosen", lambda nbytes, free: counted.append(nbytes) or real(nbytes, free))
    net, optimizer, criterion, loader, average = parts()
    TorchTrainable(net, optimizer, criterion, loader).snapshot().close()
    expanded = net.expanded.nbytes - net.expanded.untyped_storage().nbytes()
    held = [*unique(net, optimizer), *average.mean]
    assert counted == [sum(t.nbytes for t in held) - expanded]


def test_the_hosts_free_memory_is_known_on_linux():
    free = stores.free_memory(torch.device("cpu"))
    assert (free is None) != sys.platform.startswith("linux")


# The file on disk


def nameless(folder):
    """The open files of this process that lie in a folder and have no name there."""
    links = [link for link in Path("/proc/self/fd").iterdir() if os.path.lexists(link)]
    return [link for link in links if str(link.readlink()).startswith(f"{folder}/") and link.exists()]


def run(script, folder, **how):
    code = "import os, sys, torch\nfrom torch import nn, optim\nfrom findlr.torch.snapshot.stores import DiskStore\n"
    env = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", code + textwrap.dedent(script)], env=env, text=True, stdout=-1, stderr=-1, **how
    )


HOLDING = """
    store = DiskStore()
    store.keep([torch.ones(10)])
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.posix
def test_the_file_has_no_name_and_so_nothing_is_left_by_a_process_that_is_killed(folder):
    with run(HOLDING, folder, stdin=subprocess.PIPE) as killed:
        assert killed.stdout.readline() == "ready\n"
        assert list(folder.iterdir()) == []
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert list(folder.iterdir()) == []


@pytest.mark.posix
def test_a_search_on_disk_takes_one_descriptor(folder):
    net, optimizer, criterion, loader, average = parts()
    memory = TorchTrainable(net, optimizer, criterion, loader, restore=[average], snapshot="disk").snapshot()
    assert len(nameless(folder)) == 1
    memory.close()
    assert nameless(folder) == []


@pytest.mark.posix
def test_a_fork_that_ends_does_not_take_the_file_away(folder):
    script = """
        store = DiskStore()
        (kept,) = store.keep([torch.ones(3)])
        if os.fork() == 0:
            sys.exit(0)
        os.wait()
        assert torch.equal(store.read(kept), torch.ones(3))
    """
    process = run(script, folder)
    assert process.communicate()[1] == ""
    assert process.returncode == 0


FULL = """
    import resource
    from findlr import find_lr, ConfigurationError
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 100_000), nn.Linear(100_000, 1))
    before = [p.clone() for p in net.parameters()]
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    try:
        find_lr(net, optimizer, nn.MSELoss(), [(torch.ones(2, 4), torch.ones(2, 1))], snapshot="disk")
    except ConfigurationError as error:
        print(error)
    assert all(map(torch.equal, before, net.parameters()))
    assert not optimizer.state
"""


@pytest.mark.posix
def test_a_disk_that_is_full_is_one_clear_error_and_nothing_is_left(folder):
    process = run(FULL, folder)
    out, errors = process.communicate()
    assert errors == ""
    assert "can't write to the temporary folder" in out
    assert "TMPDIR" in out


def test_a_temporary_folder_that_is_none(folder, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "missing"))
    net, optimizer, criterion, loader, average = parts()
    before = state(net, optimizer, average)
    with pytest.raises(ConfigurationError, match="can't write to the temporary folder"):
        find_lr(net, optimizer, criterion, loader, snapshot="disk")
    assert same(before, state(net, optimizer, average))


def test_a_snapshot_that_fails_half_way_leaves_nothing(folder):
    class Stubborn:
        def state_dict(self):
            return {"copied": "last", "self": self}

        def load_state_dict(self, state):
            raise AssertionError

        def __deepcopy__(self, memo):
            raise KeyboardInterrupt

    net, optimizer, criterion, loader, _ = parts()
    with pytest.raises(KeyboardInterrupt) as caught:
        TorchTrainable(net, optimizer, criterion, loader, restore=[Stubborn()], snapshot="disk").snapshot()
    assert caught.tb  # holds the frames, and so the store: it is not the garbage collector's doing
    assert nameless(folder) == []
