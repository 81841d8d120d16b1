"""What the documents say is so: their code runs, their links lead somewhere, their names and lines of code exist."""

import ast
import importlib
import inspect
import json
import multiprocessing
import operator
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import matplotlib as mpl
import nbformat
import pytest
import torch
from nbclient import NotebookClient
from torch import nn

import findlr
from conftest import ROOMS
from findlr import RangeTest, Verdict, find_lr, rules
from findlr.torch import cyclic
from findlr.torch.search import argument_names
from scripts.outputs import rerun
from scripts.public import EXTENDING, PUBLIC
from scripts.public import ROOMS as PUBLIC_ROOMS
from study import finetuning, images, tuned

mpl.use("Agg")

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ELSEWHERE = {*ROOMS, "coming-from"}  # whose code runs in tests/rooms, with the frameworks
IMAGES = ROOT / "docs" / "img"
NOTEBOOK = ROOT / "docs" / "ten-minutes.ipynb"

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def prose(page):
    """A page without its blocks of code."""
    text = notebook_text(page) if page == NOTEBOOK else page.read_text()
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def notebook_text(page):
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_all_pages_are_looked_at():
    names = {page.name for page in PAGES}
    assert names >= {"README.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert names >= {"article.md", "architecture.md", "decisions.md", "extend.md", "gallery.md"}
    assert names >= {"names.md", "recipes.md", "science.md", "views.md"}
    assert names >= {"choose.md", "coming-from.md", "curve.md", "faq.md", "finetuning.md", "install.md", "use.md"}


def test_the_readme_is_read_in_one_go():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", [*PAGES, NOTEBOOK], ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"""(?:\]\(|(?:src|srcset)=")([^)"\s]+)""", prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize("page", [*PAGES, NOTEBOOK], ids=lambda page: page.name)
def test_a_link_says_what_is_there(page):
    for text in re.findall(r"(?<!!)\[([^\]]+)\]\(", prose(page)):
        assert not re.search(r"\.(md|ipynb)$|^(here|this|link)$", text), text


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem not in ELSEWHERE], ids=lambda page: page.name)
def test_the_code_runs_and_prints_what_stands_below_it(page, tmp_path, monkeypatch, forks):
    if "num_workers=" in page.read_text() and not forks:
        pytest.skip("the page's dataset is in no file that a new process could import")
    monkeypatch.chdir(tmp_path)
    assert_about_equal(rerun(page), page.read_text())


@pytest.fixture
def forks():
    """Whether workers can be forked; they are, as long as a test runs."""
    if "fork" not in multiprocessing.get_all_start_methods():
        yield False
        return
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("fork", force=True)
    yield True
    multiprocessing.set_start_method(before, force=True)


def assert_about_equal(printed, shown):
    """The same words, and numbers not further apart than another machine's rounding may bring them; seconds may."""
    printed, shown = (re.sub(r"[\d.]+ (m?s)\b", r"\1", text) for text in (printed, shown))
    number = r"\d+(?:\.\d+)?(?:e-?\d+)?"
    assert re.sub(number, "#", printed).split() == re.sub(number, "#", shown).split()
    for got, expected in zip(re.findall(number, printed), re.findall(number, shown), strict=True):
        assert float(expected) / 1.5 <= float(got) <= float(expected) * 1.5, "run scripts/outputs.py"


def test_the_notebook_runs_and_prints_what_it_shows(tmp_path):
    shown = nbformat.read(NOTEBOOK, as_version=4)
    rerun = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(rerun, timeout=200, coalesce_streams=True, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    for old, new in zip(shown.cells, rerun.cells, strict=True):
        was, now = old.get("outputs", []), new.get("outputs", [])
        assert [output.output_type for output in was] == [output.output_type for output in now]
        assert_about_equal("".join(o.get("text", "") for o in now), "".join(o.get("text", "") for o in was))


# The lines of code beside the formulas


def lookup(page, name, target):
    module = (page.parent / target).resolve().relative_to(ROOT / "src").with_suffix("")
    found = importlib.import_module(".".join(part for part in module.parts if part != "__init__"))
    for part in name.split("."):
        found = getattr(found, part)
    return found


def linked_objects(page, text):
    links = re.findall(r"\[`([\w.]+)`\]\((\S+?\.py)\)", text)
    return [lookup(page, name, target) for name, target in links if not name.endswith(".py")]


@pages
def test_linked_functions_exist(page):
    linked_objects(page, prose(page))


FORMULAS = [ROOT / "docs" / name for name in ("article.md", "science.md")]


def formulas():
    blocks = re.compile(r"^```math\n(.*?)^```\n\n(.*?)(?:\n\n|\Z)", flags=re.MULTILINE | re.DOTALL)
    return [(page, *found) for page in FORMULAS for found in blocks.findall(page.read_text())]


def test_every_formula_is_looked_at():
    for page, least in zip(FORMULAS, (8, 4), strict=True):
        assert sum(here == page for here, *_ in formulas()) == page.read_text().count("```math") >= least


@pytest.mark.parametrize(("page", "formula", "below"), formulas(), ids=lambda value: str(value)[-24:].strip())
def test_a_formulas_line_of_code_is_in_the_function_named(page, formula, below):
    flat = " ".join(below.split())
    assert flat.startswith("In the code: ")
    sentence = flat.split(".py)")[0] + ".py)"
    (function,) = linked_objects(page, sentence)
    source = " ".join(inspect.getsource(function).split())
    lines = re.findall(r"(?<!\[)`([^`]+)`", sentence)
    assert lines
    for line in lines:
        assert line in source


# The layers


ASKED_FOR = {
    "finding/finding.py": {"views.console", "views.notebook", "views.plot", "views.report"}
}  # the written exceptions
NO_VIEW = {"analysis", "finding", "search"}
VIEW_ASKED_FOR = ASKED_FOR | {"search/watching.py": {"views.live"}}
SOURCE = ROOT / "src" / "findlr"


def layers():
    """The folders of each layer, from the ground up."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (found,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    storeys = [[room.strip(" ()") for room in layer.split("|")] for layer in reversed(found)]
    return [
        [room for room in storey if (SOURCE / room).is_dir() or (SOURCE / f"{room}.py").exists()] for storey in storeys
    ]


def rows():
    """What the first cells of the page's table link to, in its order."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.split("## The layers")[1].split("\n## ")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| [")]
    return [re.findall(r"\]\(\.\./src/findlr/(\S+)\)", cell) for cell in cells]


def test_each_folder_and_each_room_has_one_row():
    there = {path.parent for path in SOURCE.rglob("__init__.py")} - {SOURCE}
    there = {path / "__init__.py" for path in there} | {p for p in SOURCE.glob("*.py") if p.name[:2] != "__"}
    linked = [SOURCE / target for row in rows() for target in row]
    assert sorted(linked) == sorted(there)
    assert all(len(row) == 1 for row in rows())


def test_the_table_is_in_the_order_of_the_layers():
    in_table = list(dict.fromkeys(row[0].split("/")[0].removesuffix(".py") for row in rows()))
    level = {room: i for i, layer in enumerate(layers()) for room in layer}
    assert in_table == sorted(in_table, key=level.__getitem__)
    assert set(in_table) == set(level)


def test_each_file_imports_only_what_stands_below_it():
    below = {"__version__"} | {name for name in findlr.__all__ if name.endswith("Error")}
    looked_at = 0
    for layer in layers():
        for room in layer:
            for path in files_of(room):
                looked_at += 1
                name = str(path.relative_to(SOURCE))
                for target in imported(path) - ASKED_FOR.get(name, set()):
                    assert target.split(".")[0] in below | {room}, (name, target)
                if room in NO_VIEW:
                    assert {t for t in imported(path) if t.startswith("views")} <= VIEW_ASKED_FOR.get(name, set()), name
        below |= set(layer)
    assert looked_at > 60


def files_of(room):
    return [SOURCE / f"{room}.py"] if (SOURCE / f"{room}.py").exists() else sorted((SOURCE / room).rglob("*.py"))


def imported(path):
    """What a file imports of the package: a room, a dot, a module of it."""
    result = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "findlr":
            _, *parts = node.module.split(".")
            names = [".".join(parts[:2])] if len(parts) > 1 else [".".join([*parts, n.name]) for n in node.names]
            result |= set(names)
    return result


def test_the_house_is_one_page():
    assert len((ROOT / "docs" / "architecture.md").read_text().splitlines()) <= 120


def test_the_walks_lead_through_files_once():
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.split("## How four things walk")[1].split("\n## ")[0]
    walks = re.findall(r"^- \*\*`(\w+)`\*\*: (.*)$", section, flags=re.MULTILINE)
    assert [name for name, _ in walks] == ["lr", "batch", "snapshot", "plan"]
    for name, walk in walks:
        files = re.findall(r"\]\(\.\./src/findlr/(\S+?)\)", walk)
        assert len(files) > 4
        assert len(set(files)) == len(files), name
    assert walks[-1][1].count(" up to ") == 2


# What may be added


def test_every_optional_protocol_is_on_the_page():
    page = (ROOT / "docs" / "extend.md").read_text()
    source = ast.parse((SOURCE / "search" / "trainable.py").read_text())
    protocols = [
        node.name
        for node in source.body
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases)
    ]
    assert re.findall(r"^\| `(\w+)`(?: \(of the snapshot\))? \|", page.split("## Two suites")[0], flags=re.MULTILINE)
    for name in protocols:
        assert f"`{name}`" in page or f"[`{name}`]" in page, name


def test_every_fact_is_on_the_page(scope):
    table = (ROOT / "docs" / "extend.md").read_text().split("## Facts")[1].split("\n## ")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    # In place of what says how torch's optimizer is made; and of several processes.
    others = ["sets", "sets_share", "world_size"]
    assert sorted(named) == sorted([*scope["finding"].facts, *others])
    assert set(scope["finding"].facts["optimizer"]) == {"name", "module", "arguments", "groups"}


def test_the_suites_on_the_page_pass(tmp_path):
    page = (ROOT / "docs" / "extend.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "test_extend.py").write_text("\n".join(blocks))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 10


# What was measured


@pytest.mark.parametrize("module", [finetuning, images])
def test_the_tables_of_the_true_story_are_those_that_were_measured(module):
    page = (ROOT / "docs" / "finetuning.md").read_text()
    assert module.written(page, tuned.read(module.KEPT)) == page, f"run python -m {module.__name__} --table"
    assert f"made by python -m {module.__name__} --table" in page


# The names of other finders


def names():
    text = (ROOT / "docs" / "names.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows if row[1].strip() != "findlr"]


@pytest.fixture(scope="module")
def scope():
    torch.manual_seed(0)
    inputs = torch.randn(256, 4)
    data = torch.utils.data.TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    call = [net, optimizer, nn.MSELoss(), torch.utils.data.DataLoader(data, batch_size=32)]
    finding = find_lr(*call)
    ax = finding.plot()
    return {"call": call, "finding": finding, "curve": finding.curve, "plan": finding.plan, "ax": ax} | {
        "optimizer": optimizer,
        "model": net,
        "rules": rules,
        "RangeTest": RangeTest,
        "cyclic": cyclic,
    }


@pytest.mark.parametrize("row", names(), ids=lambda row: row[0][:40])
def test_the_names_on_the_right_exist(row, scope):
    _, ours, note = row
    assert re.search(r"`|^not (needed|yet)", ours)
    parameters = argument_names()
    for code in re.findall(r"`([^`]+)`", ours):
        name, _, value = code.partition("=")
        if not name.isidentifier():
            eval(code, dict(scope))
            continue
        assert name in parameters, code
        if value:
            find_lr(*scope["call"], **{name: ast.literal_eval(value)})
    for code in re.findall(r"`((?:finding|rules)\.[^`]+)`", note):
        eval(code, dict(scope))


def test_the_names_page_covers_what_others_have_too():
    ours = " ".join(row[1] for row in names())
    for name in ("model", "optimizer", "criterion", "loader", "loss_fn", "min_lr", "max_lr", "num_steps", "spacing"):
        assert re.search(rf"`{name}[`=]", ours), name
    for name in ("divergence_threshold", "smoothing", "rule", "on_step"):
        assert re.search(rf"`{name}[`=]", ours), name


# The faults of other finders


def peers():
    rows = [line.split("|")[1:-1] for line in (ROOT / "docs" / "peers.md").read_text().splitlines() if "|" in line]
    return [row for row in rows if not row[-1].strip().startswith(("---", "here"))]


@pytest.mark.parametrize("row", peers(), ids=lambda row: row[-2].strip()[:50])
def test_every_line_has_its_test_or_says_that_it_has_none(row):
    tests = re.findall(r"\[(test_\w+)\]\((\S+\.py)\)", row[-1])
    assert tests or re.search(r"not yet|test_cli", row[-1])
    for name, target in tests:
        assert f"\ndef {name}(" in (ROOT / "docs" / target).read_text(), name


# The page of the API


def test_the_pages_of_the_api_have_every_public_name():
    there = {name.removeprefix("findlr.") for group in (*PUBLIC.values(), EXTENDING) for name in group}
    errors = {name for name in findlr.__all__ if name.endswith("Error")}
    assert next(iter(PUBLIC.values()))[0] == "findlr.find_lr"
    assert {*findlr.__all__} - errors - {"rules"} <= there
    for group in (*PUBLIC.values(), EXTENDING):
        for name in group:
            operator.attrgetter(name.removeprefix("findlr."))(findlr)
    assert {"find_lr"} <= {name for names in PUBLIC_ROOMS.values() for name in names}
    assert {*ROOMS} <= {*PUBLIC_ROOMS}


# The pictures


def test_the_gallery_says_what_each_verdict_is():
    page = (ROOT / "docs" / "gallery.md").read_text()
    assert re.findall(r"^## ([A-Z_]+)$", page, flags=re.MULTILINE) == [verdict.name for verdict in Verdict]
    for verdict in Verdict:
        section = page.split(f"## {verdict.name}\n")[1].split("\n## ")[0]
        assert section.strip().startswith(verdict.sentence)
        assert f"img/gallery-{verdict.name.lower()}.png" in section
        assert "**Do**" in section


def test_the_pictures_are_small_and_shown():
    shown = {Path(name) for page in PAGES for name in re.findall(r"img/([\w-]+\.png)", page.read_text())}
    twins = {Path(f"{name.stem}-dark.png") for name in shown}
    there = {Path(path.name) for path in IMAGES.iterdir()}
    assert shown <= there <= shown | twins
    for path in IMAGES.iterdir():
        assert path.stat().st_size < 80_000


def test_the_scripts_have_every_picture(monkeypatch):
    """That they make them is seen by ``make pictures``."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    figures, gallery, live = map(importlib.import_module, ("figures", "gallery", "live"))
    names = [live.PICTURE, *figures.PICTURES, *(f"gallery-{verdict.name.lower()}" for verdict in gallery.GALLERY)]
    made_by_the_benchmark = {
        "accuracy.png",
        "frontier.png",
        "growth.png",
        "jax.png",
        "keras.png",
        "settings.png",
    }  # or by the code on a page
    made = {f"{name}{ending}.png" for name in names for ending in figures.STYLES}
    assert made == {path.name for path in IMAGES.iterdir()} - made_by_the_benchmark
