"""Kinds of trainings on a CUDA device: the losses after a search are those of a training without one."""

import contextlib
import gc
import os
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn, optim
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from findlr import RangeTest, find_lr, rewindable

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS, but there was no current CUDA context"),
]
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic algorithms ask for it

SETTINGS = dict(progress=False, max_lr=1.0)


@pytest.fixture(autouse=True)
def _deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class Recurrent(nn.Module):
    """cuDNN keeps an LSTM's weights in one block, and draws its dropout from a state of its own."""

    def __init__(self, dropout=0.3):
        super().__init__()
        self.lstm = nn.LSTM(4, 16, num_layers=2, dropout=dropout, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.lstm(x.view(-1, 4, 4))[0][:, -1])


class Noisy(nn.Module):
    """It draws by a generator of its own, on the device."""

    def __init__(self):
        super().__init__()
        self.net = mlp()
        self.generator = torch.Generator("cuda").manual_seed(3)

    def forward(self, x):
        noise = torch.randn(x.shape, device=x.device, generator=self.generator)
        return self.net(x + 0.1 * noise)


class OnTwoDevices(nn.Module):
    """Its first layer stays on the host."""

    def __init__(self):
        super().__init__()
        self.first, self.rest = nn.Linear(16, 32), nn.Linear(32, 4)

    def _apply(self, fn, recurse=True):
        self.rest._apply(fn, recurse)
        return self

    def forward(self, x):
        return self.rest(self.first(x.cpu()).relu().cuda())


def mlp():
    return nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4))


def conv():
    layers = nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(32, 4)).to(memory_format=torch.channels_last)


def attention():
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (1, 16)), layer, nn.Flatten(), nn.Linear(16, 4))


def adamw(net):
    return optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.1)


def half(net):
    return optim.SGD(net.to(torch.bfloat16).parameters(), lr=0.05, momentum=0.9)


KINDS = {
    "mlp": (mlp, adamw),
    "channels-last": (conv, adamw),
    "lstm": (lambda: Recurrent(dropout=0.0), adamw),
    "attention": (attention, adamw),
    "generator": (Noisy, adamw),
    "two-devices": (OnTwoDevices, adamw),
    "bf16-weights": (attention, half),
    "amsgrad": (mlp, lambda net: optim.Adam(net.parameters(), lr=1e-3, amsgrad=True, capturable=True)),
    "rmsprop": (mlp, lambda net: optim.RMSprop(net.parameters(), lr=1e-3, momentum=0.9, centered=True)),
    "muon": (
        lambda: nn.Sequential(nn.Linear(16, 32, bias=False), nn.ReLU(), nn.Linear(32, 4, bias=False)),
        lambda net: optim.Muon(net.parameters(), lr=0.02),
    ),
}


class Training:
    """A model, its optimizer and a shuffled loader on the host."""

    def __init__(self, kind="mlp", **loader):
        torch.manual_seed(0)
        make, optimizer = KINDS[kind]
        inputs = torch.randn(200, 16)
        self.data = TensorDataset(inputs, inputs[:, :4].argmax(1))
        self.net = make().cuda()
        self.optimizer = optimizer(self.net)
        self.dtype = self.optimizer.param_groups[0]["params"][0].dtype
        self.loader = DataLoader(self.data, 10, shuffle=True, **loader)

    def loss(self, net, batch):
        inputs, targets = (each.cuda(non_blocking=True) for each in batch)
        return functional.cross_entropy(net(inputs.to(self.dtype)).float(), targets)

    def search(self, **settings):
        return find_lr(self.net, self.optimizer, loader=self.loader, loss_fn=self.loss, **SETTINGS | settings)

    def train(self, epochs=1):
        losses = []
        for _ in range(epochs):
            for batch in self.loader:
                self.optimizer.zero_grad()
                loss = self.loss(self.net, batch)
                loss.backward()
                self.optimizer.step()
                losses.append(loss.detach())
        return torch.stack(losses).tolist()


def around(training, search):
    """The losses before and after a search, and those of the same training without it."""
    without, within = training(), training()
    expected = without.train(), without.train()
    torch.cuda.synchronize()
    within = training()
    before = within.train()
    finding = search(within)
    assert expected == (before, within.train())
    return finding


@pytest.mark.parametrize("snapshot", ["device", "cpu"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep(kind, snapshot):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of cuDNN's weights, which lie in one block, say
        finding = around(lambda: Training(kind), lambda training: training.search(snapshot=snapshot))
    assert len(finding.curve) > 50
    assert finding.facts["device"] == ("cpu, cuda" if kind == "two-devices" else "cuda")


@pytest.mark.parametrize("kind", ["mlp", "lstm", "attention", "channels-last"])
def test_a_race(kind):
    finding = around(lambda: Training(kind), lambda training: training.search(verify=True, total_steps=100, budget=3.0))
    assert len(finding.race.runs) > 1


def test_batches_that_come_from_the_device_to_a_model_on_the_host():
    net, inputs = nn.Linear(4096, 4), torch.randn(40, 64, 4096)
    there = [batch.cuda() for batch in inputs]
    curves = [
        find_lr(net, optim.SGD(net.parameters(), lr=0.1), lambda y, _: y.square().mean(), data, **SETTINGS).curve
        for data in ([(x, x[:, 0]) for x in inputs], [(x, x[:, 0]) for x in there])
    ]
    assert curves[0].loss.tolist() == curves[1].loss.tolist()


@pytest.mark.parametrize("snapshot", ["device", "cpu", "disk"])
def test_a_sparse_tensor_of_the_model(snapshot):
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(16, 4)
            self.register_buffer("edges", torch.eye(10).to_sparse())

        def forward(self, x):
            return torch.sparse.mm(self.edges, self.net(x))

    KINDS["sparse"] = Graph, adamw
    torch.use_deterministic_algorithms(False)  # a sparse product has none
    training = Training("sparse")
    before = {name: tensor.clone() for name, tensor in training.net.state_dict().items()}
    training.search(snapshot=snapshot)
    assert all(map(torch.equal, map(dense, before.values()), map(dense, training.net.state_dict().values())))


def dense(tensor):
    return tensor.to_dense() if tensor.is_sparse else tensor


def test_pinned_batches_from_workers():
    around(lambda: Training(num_workers=2, pin_memory=True), Training.search)


def test_dropout_that_cudnn_draws(caplog):
    KINDS["lstm-dropout"] = Recurrent, adamw
    training = Training("lstm-dropout")
    expected = training.train()
    training = Training("lstm-dropout")
    training.search()
    assert training.train() == expected  # before the first step, nothing is lost
    assert "cuDNN" not in caplog.text
    training = Training("lstm-dropout")
    training.train()
    expected = training.train()
    training = Training("lstm-dropout")
    training.train()
    training.search()
    assert training.train() != expected  # else docs/restore.md has become too modest
    assert "cuDNN draws the dropout of the model's LSTM from a state of its own" in caplog.text


def test_under_a_default_device():
    """Everything is made on the device, the draws of the loader's sampler too."""

    def under():
        return Training(generator=torch.Generator("cuda").manual_seed(1))

    with torch.device("cuda"):
        around(under, Training.search)


def test_on_a_stream_of_its_own():
    stream = torch.cuda.Stream()

    def search(training):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            finding = training.search()
        torch.cuda.current_stream().wait_stream(stream)
        return finding

    around(Training, search)


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores", "ignore:The CUDA Graph is empty")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_model(mode):
    """``reduce-overhead`` takes CUDA graphs."""

    class Compiled(Training):
        def __init__(self):
            super().__init__("attention")
            self.net = torch.compile(self.net, mode=mode)

    torch.use_deterministic_algorithms(False)  # which Inductor does not know
    around(Compiled, Training.search)


def test_a_step_of_ones_own_with_a_scaler():
    class Scaled(Training):
        def __init__(self):
            super().__init__()
            self.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**20)

        def step(self, draw):
            with torch.autocast("cuda", torch.float16):
                loss = self.loss(self.net, draw())
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return loss.detach()

        def train(self):
            losses = []
            for batch in self.loader:
                losses.append(self.step(lambda batch=batch: batch))
            return torch.stack(losses).tolist()

    def search(training):
        how = dict(loader=training.loader, train_step=training.step, restore=[training.scaler])
        return find_lr(training.net, training.optimizer, **how, **SETTINGS)

    around(Scaled, search)


def test_a_loop_of_ones_own():
    def search(training):
        with RangeTest(training.net, training.optimizer, max_lr=1.0, progress=False) as test:
            for batch in test(rewindable(training.loader)):
                training.optimizer.zero_grad()
                loss = training.loss(training.net, batch)
                loss.backward()
                training.optimizer.step()
                test.record(loss)
        return test.finding

    around(Training, search)


def test_out_of_memory_stays_an_exception_and_leaves_nothing():
    class Hungry(Training):
        greedy = False

        def loss(self, net, batch):
            if self.greedy and self.optimizer.param_groups[0]["lr"] > 1e-5:
                torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
            return super().loss(net, batch)

    def search(training):
        gc.collect()
        before = torch.cuda.memory_allocated()
        training.greedy = True
        with pytest.raises(torch.OutOfMemoryError):
            training.search()
        training.greedy = False
        gc.collect()
        assert torch.cuda.memory_allocated() == before

    around(Hungry, search)


class Wide(Training):
    """Its weights are .9 GB, more than its batches and what is between the layers."""

    def __init__(self, optimizer):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 15_000), nn.Linear(15_000, 15_000), nn.Linear(15_000, 4)).cuda()
        self.optimizer = optimizer(self.net.parameters(), lr=1e-4)


@contextlib.contextmanager
def at_most(gigabytes):
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(gigabytes * 1e9 / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        gc.collect()
        torch.cuda.empty_cache()


def test_the_copies_go_to_the_host_where_the_process_may_not_take_more():
    with at_most(2.2):
        curve = Wide(optim.SGD).search(num_steps=20, max_lr=1e-3).curve
    assert len(curve) == 20
    assert curve.baseline is None  # which asks for copies on the device


def test_where_the_copies_leave_no_memory_for_a_step_it_says_what_spares_some():
    with at_most(5.2):
        training = Wide(optim.AdamW)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            training.search(snapshot="device", num_steps=10)
        assert any('snapshot="cpu" keeps the copies on the host' in note for note in caught.value.__notes__)
        del caught
        training.optimizer.zero_grad()
        assert len(training.search(snapshot="cpu", num_steps=10, max_lr=1e-3).curve) == 10


@pytest.mark.parametrize("snapshot", ["device", "cpu", "disk"])
def test_no_memory_of_the_device_is_kept(snapshot):
    training = Training()
    training.train()
    gc.collect()
    before = torch.cuda.memory_allocated()
    finding = training.search(snapshot=snapshot)
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + 1024  # gradients are as they were
    assert finding.facts["device"] == "cuda"


@contextlib.contextmanager
def one_rank(tmp_path):
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


class ByDDP(Training):
    def __init__(self):
        super().__init__()
        self.net = nn.parallel.DistributedDataParallel(self.net)


class Sharded(Training):
    policies = {}  # noqa: RUF012 - written by subclasses

    def __init__(self):
        super().__init__("attention")
        for layer in (self.net[1], self.net):
            fully_shard(layer, **self.policies)
        self.optimizer = adamw(self.net)


class ShardedInHalf(Sharded):
    policies = {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)}  # noqa: RUF012


class ShardedOffloaded(Sharded):
    policies = {"offload_policy": CPUOffloadPolicy()}  # noqa: RUF012


@pytest.mark.parametrize("snapshot", ["device", "cpu"])
@pytest.mark.parametrize("kind", [ByDDP, Sharded, ShardedInHalf, ShardedOffloaded])
def test_a_rank_of_nccl(kind, snapshot, tmp_path):
    with one_rank(tmp_path):
        finding = around(kind, lambda training: training.search(snapshot=snapshot))
    assert len(finding.curve) > 50
