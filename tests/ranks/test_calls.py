"""The sums over processes."""

import threading
import time

import pytest
import torch
import torch.distributed as dist

from findlr.torch.processes import calls


@pytest.fixture
def alone():
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield calls.Calls(None, torch.device("cpu"), by_device=False, calls_only=True)
    dist.destroy_process_group()


def released_late(monkeypatch, seconds):
    """Let a thread keep each tensor that torch is given so long, as one of gloo's that waits for Python's lock does."""
    threads, all_reduce = [], dist.all_reduce

    def late(values, **how):
        threads.append(threading.Thread(target=lambda _: time.sleep(seconds), args=(values,)))
        threads[-1].start()
        return all_reduce(values, **how)

    monkeypatch.setattr(dist, "all_reduce", late)
    return threads


def test_a_sum_ends_when_no_thread_of_torch_holds_a_tensor_any_more(monkeypatch, alone):
    # Torch aborts a process that ends earlier.
    threads = released_late(monkeypatch, 0.3)
    values = torch.tensor([1.0, 2.0, 0.0])
    alone.sum(values)
    assert not threads[0].is_alive()
    assert values.tolist() == [1, 2, 0]


def test_what_keeps_the_tensors_for_longer_is_waited_for_once(monkeypatch, alone):
    monkeypatch.setattr(calls, "_RELEASE_SECONDS", 0.1)
    threads = released_late(monkeypatch, 3)
    for _ in range(10):
        alone.sum(torch.zeros(3))
    assert all(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join()
