"""What only a CUDA device can show: no waiting in a sweep's steps, few reads, exact states, graphs, half precision."""

import copy
import math
import os
from contextlib import contextmanager

import pytest
import torch
from torch import nn, optim

from findlr import TorchTrainable, find, find_lr
from findlr.search.restoring import restored
from findlr.torch.snapshot.stores import HostStore

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),  # said once
    pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream"),  # a graph's warm-up is on another one
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS, but there was no current CUDA context"),
]
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic algorithms ask for it

RANGE = dict(min_lr=1e-8, max_lr=1e-4)  # nothing diverges
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: optim.AdamW(p, lr=1e-3),
    "fused": lambda p: optim.AdamW(p, lr=1e-3, fused=True),
    "tensor-rate": lambda p: optim.AdamW(p, lr=torch.tensor(1e-3, device="cuda"), capturable=True),
}


def parts(optimizer="sgd", dropout=0.1):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, 4)).cuda()
    inputs = torch.randn(20, 16, 32)
    batches = [(batch, batch[:, :4].argmax(1)) for batch in inputs]  # on the host, as a DataLoader gives them
    return net, OPTIMIZERS[optimizer](net.parameters()), nn.CrossEntropyLoss(), batches


def state(net, optimizer):
    tensors = [*net.state_dict().values(), torch.cuda.get_rng_state()]
    tensors += [torch.as_tensor(group["lr"]) for group in optimizer.param_groups]
    tensors += [v for kept in optimizer.state.values() for v in kept.values() if torch.is_tensor(v)]
    return [tensor.clone() for tensor in tensors]


def same(before, after):
    return len(before) == len(after) and all(map(torch.equal, before, after))


def train(net, optimizer, criterion, batches):
    losses = []
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = criterion(net(inputs.cuda()), targets.cuda())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@contextmanager
def waiting_forbidden():
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "settings",
    [{}, dict(autocast=torch.bfloat16), dict(clip_grad_norm=1.0, clip_grad_value=0.1), dict(accumulation_steps=2)],
    ids=["plain", "bf16", "clipped", "accumulated"],
)
def test_the_steps_between_two_reads_wait_for_nothing(optimizer, settings):
    training = TorchTrainable(*parts(optimizer), **settings)
    with restored(training) as snapshot:
        assert training.prepare_baseline(snapshot) is None
        training.step(1e-5)
        assert training.baseline() is not None  # it checks itself, once
        losses = []
        with waiting_forbidden():
            for _ in range(9):
                losses += [training.step(training.acting_lr(1e-5)), training.baseline()]
        assert all(map(math.isfinite, training.read(losses)))


def test_losses_come_over_once_in_ten_steps():
    read = []

    class Counting(TorchTrainable):
        def read(self, losses):
            read.append(len(losses))
            return super().read(losses)

    find(Counting(*parts()), **RANGE, num_steps=100, control_variate=True, progress=False)
    assert read == [20] * 10  # a loss and a baseline each


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("snapshot", ["device", "cpu", "disk"])
def test_the_state_is_exactly_what_it_was(optimizer, snapshot):
    net, optimizer, criterion, batches = parts(optimizer)
    train(net, optimizer, criterion, batches[:3])
    before = state(net, optimizer)
    find_lr(net, optimizer, criterion, batches, snapshot=snapshot)
    assert same(before, state(net, optimizer))


def test_training_after_it_is_bit_identical_under_deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        expected = train(*parts())
        given = parts()
        find_lr(*given)
        assert train(*given) == expected
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_model_captured_in_a_cuda_graph_is_swept_and_put_back():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4)).cuda()
    net = copy.deepcopy(plain)
    _, _, criterion, batches = parts()
    sample = batches[0][0].cuda()
    torch.cuda.make_graphed_callables(net, (sample.clone(),))  # what it is given, it writes each batch into
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    before, output = [parameter.clone() for parameter in net.parameters()], net(sample).clone()
    curve = find_lr(net, optimizer, criterion, batches).curve
    expected = find_lr(plain, optim.SGD(plain.parameters(), lr=0.1), criterion, batches).curve
    assert len(curve) == len(expected)
    assert curve.loss[:70] == pytest.approx(expected.loss[:70], rel=1e-3)  # it learns: the graph sees the weights
    assert curve.baseline is None  # functional_call can't give a graph other weights, and the self-check sees it
    assert same(before, list(net.parameters()))
    assert torch.equal(net(sample), output)


@pytest.mark.parametrize("optimizer", ["sgd", "fused"])
def test_half_precision_with_a_scaler(optimizer):
    net, optimizer, criterion, batches = parts(optimizer)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**24)  # the first steps overflow
    before, fused = state(net, optimizer), optimizer.defaults.get("fused")
    curve = find_lr(net, optimizer, criterion, batches, autocast=torch.float16, scaler=scaler, **RANGE).curve
    assert all(map(math.isfinite, curve.loss))
    # A fused kernel skips where only the device knows, so its rates are used up; others are taken again.
    assert (len(curve) < 100) if fused else (len(curve) == 100 and curve.lr[0] == 1e-8)
    assert same(before, state(net, optimizer))
    assert scaler.get_scale() == 2.0**24


def test_a_race_in_one_pass_ends_where_the_runs_by_themselves_end():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4)).cuda()
    training = TorchTrainable(net, optim.SGD(net.parameters(), lr=0.1), nn.CrossEntropyLoss(), parts()[3])
    training.hold_out(4, 50, 50)
    training.keep_batches(50)
    rates = [[lr] * 50 for lr in (0.001, 0.01, 0.1, 0.3)]
    assert training.prepare_together(4) is None
    with restored(training) as begin:
        ends = training.run_together(begin, rates)
        assert not isinstance(ends, str), ends
        for lrs, end in zip(rates, ends, strict=True):
            training.restore(begin)
            for lr in lrs:
                training.step(lr)
            assert end == pytest.approx(training.evaluate(), rel=1e-3)


def shapes_and_kinds():
    torch.manual_seed(0)
    yield torch.randn(3000, 3000, device="cuda")  # more than one buffer
    yield torch.randn(64, 32, 40, 40, device="cuda").to(memory_format=torch.channels_last)
    yield torch.randn(1 << 19, device="cuda", dtype=torch.complex64)
    yield torch.randn(1 << 20, device="cuda") > 0
    yield torch.randn(1 << 20, device="cuda", dtype=torch.bfloat16)
    yield torch.randn(1 << 22, device="cuda")[5 : 5 + (1 << 20)]  # a part of a larger one
    yield torch.randn(1000, 2000, device="cuda").t()  # not in its memory's order
    yield torch.randn(2000, 2000, device="cuda")[:, ::2]  # with gaps
    yield nn.Parameter(torch.randn(1000, 1000, device="cuda"))
    yield torch.randn(5, device="cuda")


def test_copies_on_the_host_are_exact_whatever_their_shape_and_kind():
    tensors = list(shapes_and_kinds())
    store, before = HostStore(), [tensor.detach().clone() for tensor in tensors]
    copies = store.keep(tensors)
    assert all(torch.equal(copy, old.cpu()) for copy, old in zip(copies, before, strict=True))
    assert [copy.stride() for copy in copies] == [tensor.stride() for tensor in before]
    with torch.no_grad():
        for tensor in tensors:
            tensor.zero_()
        store.copy_back(tensors, copies)
    assert all(map(torch.equal, tensors, before))


def test_what_is_kept_on_the_host_is_not_pinned():
    tensors = [torch.randn(1 << 24, device="cuda") for _ in range(4)]  # 256 MiB
    copies = HostStore().keep(tensors)
    assert not any(copy.is_pinned() for copy in copies)
    assert all(torch.equal(copy, tensor.cpu()) for copy, tensor in zip(copies, tensors, strict=True))
