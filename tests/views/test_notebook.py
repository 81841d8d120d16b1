import math
import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import nbformat
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from nbclient import NotebookClient

from findlr import Curve, Finding, Plan, Suggestion, find
from findlr.testing import Quadratic
from findlr.views.notebook import html
from tests.views.made import finding_of

KNOWN = {"optimizer": {"name": "SGD", "module": "torch.optim.sgd", "arguments": {}, "groups": [{}]}}
ODD = "</script><img src=x onerror=alert(1)>'\"&"


SVG = "{http://www.w3.org/2000/svg}"


def parsed(finding):
    return ElementTree.fromstring(html(finding).replace("&nbsp;", " "))


def picture_of(finding):
    return next(parsed(finding).iter(f"{SVG}svg"))


class TestHtml:
    def test_it_says_the_suggestion_its_interval_the_verdict_and_why(self):
        finding = find(Quadratic(noise=0.1))
        text = " ".join("".join(parsed(finding).itertext()).split())
        low, high = finding.interval
        assert text.startswith(f"{finding.lr:.2g} interval {low:.2g} to {high:.2g}")
        assert finding.suggestion.why in text
        assert "quick" not in text
        assert f"valley: {finding.suggest('valley').why}" in html(
            replace(finding, suggestion=finding.suggest("valley"))
        )
        assert f"CLEAR {finding.why}" in text

    def test_it_says_what_the_number_is_for_and_what_to_paste(self):
        finding = replace(find(Quadratic(), Plan("one_cycle", 400, "SGD"), verify=True), facts=KNOWN)
        text = " ".join("".join(parsed(finding).itertext()).split())
        assert "for SGD, one_cycle over 400 steps" in text
        assert " ".join(finding.code().split()) in text
        assert finding.suggestion.why in text
        assert f"Race: {len(finding.race.runs)} runs of {finding.race.steps} steps" in text
        assert "(assumed: no total_steps was given)" in html(find(Quadratic()))

    def test_the_picture_is_the_plots(self):
        finding = find(Quadratic(noise=0.1), Plan("one_cycle", 400, "SGD"), verify=True)
        curve = replace(finding.curve, baseline=finding.curve.loss * 0 + 5)
        told = ["".join(text.itertext()) for text in picture_of(replace(finding, curve=curve)).iter(f"{SVG}text")]
        ax = replace(finding, curve=curve).plot(Figure().subplots())
        assert {text.get_text() for text in ax.get_legend().get_texts()} < set(told)
        assert "raw loss less batch differences" in told
        (legend,) = (group for group in picture_of(finding).iter(f"{SVG}g") if group.get("id", "").startswith("legend"))
        styles = "".join(part.get("style", "") for part in legend.iter())
        assert not re.search(r"fill: ?var\(", styles)  # no box, because the page's paper may not be known
        assert f"loss after {finding.race.steps} steps" in told

    def test_without_matplotlib_it_says_so_and_all_the_rest(self, monkeypatch):
        finding = find(Quadratic())
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        text = html(finding)
        assert "<svg" not in text
        assert "matplotlib is not installed; run: pip install" in text
        assert finding.why in text

    def test_two_calls_give_the_same(self):
        finding = find(Quadratic())
        assert html(finding) == html(finding)

    def test_a_refusal_says_why(self):
        finding = find(Quadratic(), max_lr=1e-4)
        text = "".join(parsed(finding).itertext())
        assert text.startswith("No suggestion")
        assert finding.why in text
        assert "suggested" not in text

    def test_it_takes_the_colours_of_the_page_and_leaves_it_alone(self):
        text = html(find(Quadratic()))
        assert "currentColor" in text
        assert set(re.findall("#[0-9a-f]{6}", text)) <= {
            "#2a8bd0",
            "#e0600f",
            "#8c8c8c",
            "#b0b0b0",
        }  # stand out on both
        assert "<style" not in text
        assert "fill: none" in next(picture_of(find(Quadratic())).iter(f"{SVG}path")).get("style")  # no paper

    def test_texts_are_escaped(self):
        finding = find(Quadratic())
        odd = Finding(**{**vars(finding), "why": ODD, "suggestion": Suggestion(0.1, ODD, ODD, (0.01, 1.0))})
        assert ODD in "".join(parsed(odd).itertext())
        assert "<img" not in html(odd)

    @settings(max_examples=15, deadline=None)
    @given(st.integers(2, 3000), st.text(max_size=3000), st.text(max_size=300), st.integers(0, 9))
    def test_it_is_small_and_static(self, n, why, rule, seed):
        draw = np.random.default_rng(seed)
        curve = Curve(np.geomspace(1e-8, 10, n), draw.normal(2.3, 0.2, n) * 10.0 ** draw.integers(-30, 30))
        finding = finding_of(curve)
        finding = Finding(**{**vars(finding), "why": why, "suggestion": Suggestion(0.01, rule, "", (0.001, 0.1))})
        text = html(finding)
        assert len(text.encode()) < 400_000
        assert "<script" not in text.lower()

    def test_a_long_curve_is_no_larger(self):
        lrs = np.geomspace(1e-8, 10, 20_000)
        text = html(finding_of(Curve(lrs, 2.3 + np.random.default_rng(0).normal(0, 0.1, len(lrs)))))
        assert len(text.encode()) < 400_000

    @pytest.mark.parametrize(
        "curve",
        [Curve([], []), Curve([1e-3], [2.0]), Curve([1e-3], [math.nan], diverged=True)],
        ids=["empty", "one point", "nan"],
    )
    def test_hardly_any_point_is_shown_too(self, curve):
        assert "No suggestion" in html(finding_of(curve))


class Client(NotebookClient):
    """Keeps all that the kernel sent."""

    def process_message(self, message, cell, index):
        self.__dict__.setdefault("sent", []).append(message)
        return super().process_message(message, cell, index)


CELLS = (
    """
import time
from findlr import find
from findlr.testing import Quadratic

class Slow(Quadratic):
    def step(self, lr):
        time.sleep(0.01)
        return super().step(lr)

find(Slow(noise=0.1))
""",
    "find(Slow(), num_steps=30, progress=False)",
    "from findlr import Plan; find(Slow(), Plan(total_steps=400), verify=True)",
    "try: find(Slow(noise='loud'))\nexcept TypeError: pass",
)


def test_a_real_notebook_shows_the_sweep_as_it_runs_and_then_the_finding():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS])
    client = Client(notebook, timeout=120)
    client.execute()
    live, result = notebook.cells[0].outputs
    assert live.data["text/html"].startswith("<div")
    assert "step 100/100" in live.data["text/html"]
    assert result.output_type == "execute_result"
    assert "<b>CLEAR</b>" in result.data["text/html"]
    assert "Finding(" in result.data["text/plain"]
    raced = notebook.cells[2].outputs[0].data["text/html"]
    assert "race of 3 runs of " in raced
    assert raced.count(" at 0.") == 3
    updates = [message["content"]["data"]["text/html"] for message in client.sent if "update" in message["msg_type"]]
    assert any("run 2/3" in text and "so far" in text and "<polyline" in text for text in updates)
    first = next(i for i, text in enumerate(updates) if "step 100/100" in text and "<polyline" not in text)
    assert "smoothed" not in live.data["text/html"]  # what stays is one quiet line
    grown = [text.count(",") for text in updates[:first] if "<polyline" in text]
    assert len(grown) > 1
    assert grown == sorted(set(grown))
    (failed,) = notebook.cells[3].outputs
    assert "step" not in failed.data["text/html"]  # none was taken
    (only,) = notebook.cells[1].outputs
    assert only.output_type == "execute_result"
