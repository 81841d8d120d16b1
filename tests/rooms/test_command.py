"""``findlr run`` and what its function returns: a framework's own object is told which call takes it."""

from importlib import import_module

import pytest

from findlr import ConfigurationError
from findlr.command.target import _ROOMS, search

MODULES = {"fastai": "fastai.learner", "ignite": "ignite.engine"}


@pytest.mark.parametrize(("package", "name"), _ROOMS)
def test_a_frameworks_own_object_is_told_its_call(package, name):
    pytest.importorskip(package)
    kind = getattr(import_module(MODULES.get(package, package)), name)
    room = _ROOMS[package, name]
    assert hasattr(import_module(f"findlr.{room}"), "find_lr")
    made = kind.__new__(type("Own", (kind,), {}))  # what it is does not hang on how it was made
    for returned in (made, (made, 1, 2)):
        with pytest.raises(ConfigurationError, match=rf"; for {name}, call findlr.{room}.find_lr in your script$"):
            search(returned, {})
