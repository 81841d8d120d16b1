"""What is loaded when: a process pays for each module before it has a number."""

import subprocess
import sys

import pytest

from conftest import ROOMS

SWEEP = """
import torch
from torch.utils.data import DataLoader, TensorDataset
net = torch.nn.Linear(4, 2)
loader = DataLoader(TensorDataset(torch.randn(64, 4), torch.randint(2, (64,))), 8)
optimizer, criterion = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), torch.nn.CrossEntropyLoss()
for inputs, targets in loader:  # what a step of torch's own loads
    optimizer.zero_grad()
    criterion(net(inputs), targets).backward()
    optimizer.step()
before = set(sys.modules)
"""
HELP = "from findlr.command.cli import main; main(['--help'])"


def loaded(code, before="before = set(sys.modules)"):
    """The modules that code loads, findlr's own and the standard library's aside."""
    told = "atexit.register(lambda: print(*set(sys.modules) - before, file=sys.stderr))"
    whole = f"import atexit, sys\n{before}\n{told}\n{code}"
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=True)
    own = {"findlr", *sys.stdlib_module_names}
    return {name for name in done.stderr.split() if name.partition(".")[0] not in own}


@pytest.mark.parametrize("code", ["import findlr", "from findlr.command.cli import main"])
def test_nothing_is_loaded_before_it_is_needed(code):
    assert loaded(code) == set()


def test_help_loads_what_prints_it():
    packages = {name.partition(".")[0] for name in loaded(HELP)}
    assert "typer" in packages
    assert not packages & {"numpy", "torch", "sklearn", "matplotlib", "pandas", "scipy"}


@pytest.mark.parametrize("name", ["errors", "rules", "testing", "torch", "trackers"])
def test_a_public_module_is_there_without_an_import_of_its_own(name):
    code = (
        f"import sys, findlr; assert 'findlr.{name}' not in sys.modules or '{name}' == 'errors'; findlr.{name}.__all__"
    )
    if name in {"errors", "trackers"}:
        code = code.removesuffix(".__all__")
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "name", ["views.console", "views.plot", "views.notebook", "views.report", "torch", "command.cli"]
)
def test_an_import_draws_no_random_number(name):
    drawn = "random.getstate(), numpy.random.get_state()[2], numpy.random.get_state()[1].tobytes()"
    code = f"import random, numpy; before = {drawn}; import findlr.{name}; assert before == ({drawn})"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_asked_for_by_its_name_alone(room):
    code = f"import findlr\ntry: print(findlr.{room}.__name__)\nexcept findlr.MissingExtraError as error: print(error)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert f"findlr.{room}" in done.stdout or f"findlr[{room}]" in done.stdout


@pytest.mark.parametrize(
    ("room", "package"),
    [(room, room) for room in ("accelerate", "fastai", "ignite", "lightning", "ray", "skorch")]
    + [("huggingface", "transformers")],
)
def test_a_package_that_is_there_and_can_not_be_imported_is_not_called_missing(room, package, tmp_path):
    (tmp_path / f"{package}.py").touch()  # as a script of one's own may be called
    done = subprocess.run(
        [sys.executable, "-c", f"import findlr.{room}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    said = done.stderr.splitlines()[-1]
    assert f"MissingExtraError: {'pytorch-' * (room == 'ignite')}{package} can't be imported (" in said
    assert f"its name, or run: pip install --upgrade 'findlr[{room}]'" in said


def test_only_public_names_are_completed():
    code = "import findlr; findlr.find, findlr.rules, findlr.trackers; print(*dir(findlr))"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    import findlr

    public = {*findlr.__all__, "errors", "testing", "torch", "trackers"}
    assert {name for name in names if not name.startswith("__")} == public
    assert "__version__" in names


def test_an_editor_completes_public_names_and_the_rooms():
    jedi = pytest.importorskip("jedi")
    import findlr

    names = {each.name for each in jedi.Script("import findlr\nfindlr.").complete(2, 7)}
    rooms = {"analysis", "command", "finding", "search", "views", *ROOMS}  # that are there
    public = {*findlr.__all__, "errors", "testing", "torch", "trackers"}
    assert {name for name in names if not name.startswith("_")} - rooms == public


@pytest.mark.parametrize(
    ("code", "before"),
    [
        ("from findlr import find, testing; find(testing.Quadratic())", "import numpy; before = set(sys.modules)"),
        ("from findlr import find_lr; find_lr(net, optimizer, criterion, loader, control_variate=True)", SWEEP),
    ],
)
def test_a_search_loads_only_findlr(code, before):
    assert loaded(code, before) == set()
