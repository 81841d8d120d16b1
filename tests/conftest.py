"""The two cores that CI has are shared; and a float sum depends on the number of threads."""

import gc
import os
import signal

import hypothesis  # before anything is frozen: it looks who holds its random generators
import pytest
import torch

hypothesis.settings.register_profile("the same examples each time", derandomize=True)
hypothesis.settings.load_profile("the same examples each time")


def pytest_collection_modifyitems(items):
    if os.name == "nt":
        for item in items:
            if item.get_closest_marker("posix"):
                item.add_marker(pytest.mark.skip(reason="Windows has not what it needs"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _signals_as_in_a_terminal():
    """What tests start would ignore them, too, where these were started by nohup or in the background."""
    for name, usual in {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}.items():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(autouse=True, scope="module")
def _collected():
    """What the modules before have left is not walked through again, at each collection."""
    gc.collect()
    gc.freeze()
