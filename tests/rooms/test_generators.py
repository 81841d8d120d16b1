"""The packages that a search does not look into for random generators have none that their code names."""

import importlib
import sys
from contextlib import suppress
from types import FunctionType

import pytest

from findlr.search.generators import NAME_NONE
from findlr.search.objects import GENERATORS
from findlr.search.whose import FOREIGN

PARTS = {  # which import most of the others
    "lightning": "lightning.pytorch",
    "transformers": "transformers.trainer",
    "ignite": "ignite.engine",
    "fastai": "fastai.vision.all",
    "matplotlib": "matplotlib.pyplot",
}


def held(value, left=4):
    """A value, what a class or a function has, and what is in a container."""
    yield value
    if left:
        inner = []
        if isinstance(value, type):
            inner = vars(value).values()
        elif isinstance(value, (staticmethod, classmethod)):
            inner = [value.__func__]
        elif isinstance(value, FunctionType):
            inner = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *vars(value).values()]
        elif type(value) in (list, tuple, set, dict) and len(value) <= 1000:
            inner = value.values() if isinstance(value, dict) else value
        for each in list(inner):
            yield from held(each, left - 1)


@pytest.mark.parametrize("package", sorted(NAME_NONE - FOREIGN))
def test_a_package_names_no_generator(package):
    pytest.importorskip(package)
    with suppress(ImportError):
        importlib.import_module(PARTS.get(package, package))
    modules = [module for name, module in list(sys.modules.items()) if name.split(".")[0] == package]
    values = [value for module in modules for value in list(vars(module).values())]
    mine = [value for value in values if str(getattr(value, "__module__", package)).split(".")[0] == package]
    assert not [each for value in mine for each in held(value) if isinstance(each, GENERATORS)]
