"""What holds for all tests."""

import gc
import os
import signal
import sys

import hypothesis  # before anything is frozen: it looks who holds its random generators
import pytest

# Before torch is imported, and for the processes that tests start: threads that share two cores with the other tests
# wait for each other, five times as long as one alone; and a float sum depends on their number.
os.environ["OMP_NUM_THREADS"] = "1"

hypothesis.settings.register_profile("the same examples each time", derandomize=True)
hypothesis.settings.load_profile("the same examples each time")


def pytest_collection_modifyitems(items):
    if os.name == "nt":
        for item in items:
            if item.get_closest_marker("posix"):
                item.add_marker(pytest.mark.skip(reason="Windows has not what it needs"))


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


@pytest.fixture(autouse=True)
def _frozen():
    """Nor is what a test was the first to import: torch.compile's parts alone are 100,000 objects."""
    known = len(sys.modules)
    yield
    if len(sys.modules) > known + 50:
        gc.collect()
        gc.freeze()
