"""A file that somebody made to hurt: one clear error, or a Finding that every view can show; nothing is executed."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.console import Console

from findlr import FileFormatError, Finding, NoSuggestionError, Plan, find, rules, trackers
from findlr.finding.saved import LARGEST
from findlr.testing import Quadratic
from findlr.views.console import show, show_all
from findlr.views.notebook import html
from findlr.views.report import page

mpl.use("Agg")

GOOD = find(Quadratic(noise=0.05), Plan("cosine", total_steps=300, momentum=0.9), verify=True).to_dict()
GOOD["curve"]["baseline"] = GOOD["curve"]["validation"] = GOOD["curve"]["loss"]
GOOD["facts"] = {
    "ratios": [1.0],
    "optimizer": {"name": "SGD", "module": "torch.optim.sgd", "arguments": {"momentum": 0.9}, "groups": [{"lr": 0.1}]},
    "batch_size": 32,
}
ATTACK = (
    "</script><img src=x onerror=alert(1)>\x1b[2J\x1b]0;owned\x07\u202e__import__('os').system('touch owned')\n\r\0"
)

numbers = (
    st.integers() | st.floats() | st.sampled_from([10**400, -(10**30), 2**63, 1e308, -1e308, 5e-324, 1e-300, 0, -1])
)
leaves = st.none() | st.booleans() | numbers | st.text() | st.sampled_from(["nan", "-inf", "CLEAR", ATTACK])
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))


def places(value, path=()):
    """Every place in nested dicts and lists; of a long list the first two."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(value, path, change):
    """A copy in which ``change`` was made at a place of a container."""
    value = value.copy()
    if len(path) == 1:
        change(value, path[0])
    else:
        value[path[0]] = changed(value[path[0]], path[1:], change)
    return value


def load(folder, content):
    path = folder / "finding.json"
    path.write_bytes(content)
    return Finding.load(path)


def look_at(finding, *, rendered=True):
    """Show it everywhere; nothing that a terminal obeys or a browser runs comes out.

    ``rendered`` is whether the notebook draws it, too, which takes a third of a second.
    """
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(file=nowhere, width=80, record=True)
        show(finding, console)
        show_all([finding], [ATTACK], console)
        told = console.export_text()
    assert not set(told) & set("\x1b\x07\x08\u202e\0")
    shown = html(finding) if rendered else ""
    assert len(shown.encode()) < 250_000
    assert "<script" not in shown
    assert "<img src=x" not in shown + page([finding], [ATTACK])
    finding.plot(Figure().subplots(), rules=[rules.valley])
    if finding.suggestion is not None:
        # An optimizer of any name, if it is one, is looked for in torch.optim, and nowhere else.
        known = re.compile(r"zip|\w+\.parameters|torch\.optim\.(lr_scheduler\.)?\w+")
        for node in ast.walk(ast.parse(finding.code())):
            assert not isinstance(node, ast.Call) or known.fullmatch(ast.unparse(node.func))
    else:
        with pytest.raises(NoSuggestionError):
            float(finding)
    assert len(str(finding).splitlines()) == 6
    assert all(line.isprintable() for line in (*str(finding).splitlines(), repr(finding)))
    assert trackers._texts(finding)
    assert trackers._numbers(finding)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@given(st.sampled_from(sorted(places(GOOD), key=str)), values)
@settings(max_examples=150, deadline=None)
def test_any_value_anywhere(folder, path, value):
    bad = changed(GOOD, path, lambda container, key: container.__setitem__(key, value))
    try:
        finding = load(folder, json.dumps(bad).encode())
    except FileFormatError as error:
        said = str(error)
    else:
        said = ""
        look_at(finding, rendered=False)
    assert len(said) < 600
    assert said.isprintable()


SHOWN = [path for path in places(GOOD) if path[0] != "facts" and path[-1] != "format"]


@given(st.sampled_from(SHOWN), leaves)
@settings(max_examples=25, deadline=None)
def test_any_leaf_in_a_notebook(folder, path, value):
    try:
        finding = load(folder, json.dumps(changed(GOOD, path, lambda part, key: part.__setitem__(key, value))).encode())
    except FileFormatError:
        return
    look_at(finding)


@pytest.mark.parametrize("path", [path for path in places(GOOD) if not isinstance(path[-1], int)], ids=str)
def test_any_field_missing(folder, path):
    bad = json.dumps(changed(GOOD, path, lambda container, key: container.__delitem__(key))).encode()
    free = path[0] == "facts" and len(path) != 3  # a fact may lack, and what is said of one is told by its reader
    if (free and len(path) > 1) or path == ("race", "held_out"):
        look_at(load(folder, bad), rendered=False)
    else:
        with pytest.raises(FileFormatError, match=rf"lacks {path[-1]}|no format|cannot be"):
            load(folder, bad)


@given(st.integers(0, len(json.dumps(GOOD)) - 1))
@settings(max_examples=50)
def test_a_file_that_was_cut_short(folder, length):
    with pytest.raises(FileFormatError, match="is no JSON"):
        load(folder, json.dumps(GOOD)[:length].encode())


@given(st.binary(max_size=200))
def test_any_bytes(folder, content):
    with pytest.raises(FileFormatError):
        load(folder, content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps(GOOD).replace('"why"', '"why": "", "why"', 1), "has 'why' twice"),
        (json.dumps(GOOD | {"format": 2}), "format 2"),
        (json.dumps(GOOD | {"format": True}), "format True"),
        (json.dumps(GOOD | {"format": "x" * 10**6}), "format 'xxx"),
        (json.dumps(GOOD | {"facts": {"a": json.loads("[" * 900 + "]" * 900)}}), "deep"),
        ("[" * 10**6, "more than|no JSON"),
        ('{"a":' * 10**5 + "1" + "}" * 10**5, "no JSON"),
        ("9" * 10**6, "no JSON"),
        (json.dumps(GOOD | {"cost": GOOD["cost"] | {"forwards": 10**30}}), "cost.forwards is 1000"),
        (json.dumps(GOOD).encode("utf-16"), "no JSON"),
        (b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), "no JSON"),
        (b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.", "no JSON"),
        (b"", "no JSON"),
        (b"\0" * 1000, "no JSON"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[:20],
)
def test_one_clear_error(folder, content, words):
    with pytest.raises(FileFormatError, match=words) as error:
        load(folder, content if isinstance(content, bytes) else content.encode())
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["optimizer", "ratios", "sets", "sets_share"])
@given(value=values)
@settings(max_examples=60, deadline=None)
def test_any_fact(folder, name, value):
    try:
        finding = load(folder, json.dumps(GOOD | {"facts": GOOD["facts"] | {name: value}}).encode())
    except FileFormatError as error:
        said = str(error)
    else:
        said = ""
        look_at(finding, rendered=False)
    assert len(said) < 400
    assert said.isprintable()


@pytest.mark.parametrize("facts", [{"float": "nan"}, {"float": 1}, {"a": {"float": "inf"}}, {"": [{"float": "nan"}]}])
def test_facts_that_look_like_a_float(folder, facts):
    finding = load(folder, json.dumps(GOOD | {"facts": facts}).encode())
    look_at(finding)
    assert finding.to_dict()["facts"] == facts


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "x" * 10**5},
        {"verdict": "\x1b[2J\n"},
        {"stop": "x" * 10**5},
        {"plan": GOOD["plan"] | {"schedule": "x" * 10**5}},
        {"plan": GOOD["plan"] | {"schedule": []}},
        {"plan": GOOD["plan"] | {"schedule": ["nan"]}},
        {"facts": {"sets": 3}},
        {"facts": {"sets_share": "x" * 10**5}},
        {"facts": {"ratios": [{"float": "nan"}]}},
        {"facts": {"ratios": [None]}},
        {"facts": {"optimizer": []}},
    ],
    ids=lambda change: str(change)[:30],
)
def test_a_long_or_wrong_value_is_a_short_error(folder, change):
    with pytest.raises(FileFormatError) as error:
        load(folder, json.dumps(GOOD | change).encode())
    assert len(str(error.value)) < 400
    assert str(error.value).isprintable()


def test_an_infinite_curve_is_drawn(folder):
    curve = GOOD["curve"] | {"loss": [1e308, -1e308] * (len(GOOD["curve"]["loss"]) // 2)}
    curve["loss"] += [0.0] * (len(GOOD["curve"]["lr"]) - len(curve["loss"]))
    with np.errstate(all="ignore"):
        look_at(load(folder, json.dumps(GOOD | {"curve": curve}).encode()))


def test_a_few_points_have_no_line(folder):
    short = {name: value[:12] if isinstance(value, list) else value for name, value in GOOD["curve"].items()}
    look_at(load(folder, json.dumps(GOOD | {"curve": short}).encode()))


def test_texts_from_a_file_do_nothing(folder, monkeypatch):
    monkeypatch.chdir(folder)
    bad = GOOD | {"why": ATTACK, "suggestion": GOOD["suggestion"] | {"rule": ATTACK, "why": ATTACK * 99}}
    for name, value in (("name", ATTACK), ("module", ATTACK), ("arguments", {ATTACK: 1, "momentum": ATTACK})):
        bad["facts"] = GOOD["facts"] | {"optimizer": GOOD["facts"]["optimizer"] | {name: value}}
        finding = load(folder, json.dumps(bad).encode())
        look_at(finding)
        assert Finding.from_dict(json.loads(json.dumps(finding.to_dict()))) == finding
    assert not (folder / "owned").exists()


@pytest.mark.posix
@pytest.mark.parametrize(
    "content",
    [
        "[" + "[]," * (LARGEST // 3 - 1) + "1]",
        "[" + "0.5," * (LARGEST // 4 - 1) + "1]",
        '{"a": "' + "x" * LARGEST + '"}',
        '{"a": "' + "x" * (LARGEST - 9) + '"}',
    ],
    ids=["lists", "numbers", "a text that is too long", "the longest text"],
)
def test_a_huge_file_is_one_clear_error_where_the_memory_does_not_hold_it(tmp_path, content):
    (tmp_path / "huge.json").write_text(content)
    del content
    limit = 640 * 2**20  # bytes of address space, with Python's own and NumPy's
    code = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit})); "
    code += "import sys; from findlr import Finding; Finding.load(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "huge.json"],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1].startswith("findlr.errors.FileFormatError: "), done.stderr


@pytest.mark.posix
def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(FileFormatError, match="no regular file"):
            Finding.load(path)
