"""What the documents say is so: their code runs, their links lead somewhere, their names and lines of code exist."""

import ast
import contextlib
import importlib
import inspect
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from torch import nn

from findlr import RangeTest, Verdict, find_lr, rules
from findlr.torch import cyclic

mpl.use("Agg")

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
IMAGES = ROOT / "docs" / "img"

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def prose(page):
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_all_pages_are_looked_at():
    names = {page.name for page in PAGES}
    assert names >= {"README.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert names >= {"article.md", "architecture.md", "gallery.md", "names.md", "recipes.md", "science.md", "views.md"}


@pages
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(file), target


@pages
def test_the_code_runs_and_prints_what_stands_below_it(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "__docs__"}
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    printed = None
    for kind, text in blocks:
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(text, page.name, "exec"), scope)
            printed = out.getvalue()
        elif kind == "text" and printed:
            assert_about_equal(printed, text)
            printed = None
    assert not printed, "the page does not show what its last block prints"


def assert_about_equal(printed, shown):
    """The same words, and numbers not further apart than another machine's rounding may bring them."""
    number = r"\d+(?:\.\d+)?(?:e-?\d+)?"
    assert re.sub(number, "#", printed).split() == re.sub(number, "#", shown).split()
    for got, expected in zip(re.findall(number, printed), re.findall(number, shown), strict=True):
        assert float(expected) / 2 <= float(got) <= float(expected) * 2


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


# The rooms


ASKED_FOR = {"finding": {"notebook", "plot", "report"}, "finder": {"live"}}  # the written exceptions


def rooms():
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.split("## The rooms")[1].split("\n## ")[0]
    rows = [re.findall(r"\]\(\.\./src/findlr/(\S+?)\.py\)", row) for row in table.splitlines() if row.startswith("| [")]
    assert len(rows) > 10
    return [{name.split("/")[0] for name in row} for row in rows]


def test_the_table_of_rooms_is_whole_and_in_order():
    source = ROOT / "src" / "findlr"
    there = {path.stem for path in source.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set().union(*rooms()) == there - {"__init__", "__main__"}
    above = {"__version__"}
    for row in rooms():
        above |= row
        for name in row:
            for path in [source / f"{name}.py"] if (source / f"{name}.py").exists() else (source / name).glob("*.py"):
                assert imported(path) - above <= ASKED_FOR.get(name, set()), path


def imported(path):
    """The rooms that a file imports."""
    result = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "findlr":
            parts = node.module.split(".")
            result |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return result


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
    parameters = inspect.signature(find_lr).parameters
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
    assert {Path(path.name) for path in IMAGES.iterdir()} == shown
    for path in IMAGES.iterdir():
        assert path.stat().st_size < 80_000


def test_the_scripts_make_every_picture(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name in ("figures.py", "gallery.py"):
        script = [sys.executable, str(ROOT / "docs" / name), str(tmp_path)]
        done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
    made_by_the_benchmark = {"accuracy.png", "frontier.png", "growth.png"}
    assert {path.name for path in tmp_path.iterdir()} == {
        path.name for path in IMAGES.iterdir()
    } - made_by_the_benchmark
