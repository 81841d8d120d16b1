"""The conformance suites on several processes, which must all come to the same.

    torchrun --nproc-per-node 2 -m findlr.testing.ranks module:factory

``factory`` is a suite of your own, a subclass of ``TrainableConformance`` or ``TrainingConformance``; or a function
that gives a new Trainable, the same one every time but for its data. Each process runs each test. What a test came to,
and each Finding of a ``search``, must be the same on all. A test that hangs for a minute ends its process, and shows
where.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from findlr.errors import ConfigurationError
from findlr.finding import Finding
from findlr.testing.checks import must
from findlr.testing.conformance import TrainableConformance
from findlr.testing.training import TrainingConformance

_SECONDS = 60
_FILE = """\
from findlr.testing.ranks import suite


class TestOnRanks(suite({target!r})):
    pass
"""


def suite(target: str) -> type[Any]:
    """The suite that ``module:factory`` names, whose searches are compared.

    Raises:
        ConfigurationError: it names none.

    Example:
        >>> issubclass(suite("findlr.testing:Quadratic"), TrainableConformance)
        True
    """
    module, _, name = target.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"{target!r} names nothing to test ({error}): give module:factory") from error
    finally:
        del sys.path[0]
    if isinstance(factory, type) and issubclass(factory, TrainingConformance):

        class Compared(factory):  # type: ignore[misc]
            def search(self, training: Any, **how: Any) -> Finding:
                found: Finding = super().search(training, **how)
                _same("the Finding", found.to_dict() | {"cost": None})
                return found

        return Compared
    if isinstance(factory, type) and issubclass(factory, TrainableConformance):
        return factory

    class Made(TrainableConformance):
        def trainable(self) -> Any:
            return factory()

    return Made


def _same(what: str, mine: Any) -> None:
    import torch.distributed as dist

    everyones: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, repr(mine))
    must(len(set(everyones)) == 1, f"{what} is not the same on all ranks: {everyones}")


class _Lockstep:
    """Compares what each test came to; a hang ends the process."""

    @pytest.hookimpl
    def pytest_runtest_setup(self) -> None:
        faulthandler.dump_traceback_later(_SECONDS, exit=True)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        report: pytest.TestReport = yield
        if call.when == "call":
            try:
                _same(f"what {item.name} came to", report.outcome)
            except AssertionError as error:
                report.outcome, report.longrepr = "failed", str(error)
        return report


def main(target: str) -> int:
    """Run the suite on this process, and return 0 if all tests passed on all."""
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    is_first = dist.get_rank() == 0
    shown = ["-q"] if is_first else ["-p", "no:terminal"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "test_on_ranks.py")
        file.write_text(_FILE.format(target=target), encoding="utf-8")
        options = ["--import-mode=importlib", "-p", "no:cacheprovider", f"--rootdir={folder}", *shown]
        code = pytest.main([str(file), *options], plugins=[_Lockstep()])
    faulthandler.cancel_dump_traceback_later()
    dist.destroy_process_group()
    return int(code)


if __name__ == "__main__":
    os.environ.setdefault("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    if len(sys.argv) != 2:
        sys.exit("give module:factory, a suite or a function that gives a Trainable")
    sys.exit(main(sys.argv[1]))
