import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbclient import NotebookClient

from findlr import Curve, Finding, Plan, Stop, Suggestion, find
from findlr.analysis.answer import answer
from findlr.finding import Cost
from findlr.testing import Quadratic
from findlr.views.notebook import html

KNOWN = {"optimizer": {"name": "SGD", "module": "torch.optim.sgd", "arguments": {}, "groups": [{}]}}
ODD = "</script><img src=x onerror=alert(1)>'\"&"


def finding_of(curve):
    suggestion, verdict, why = answer(curve, Plan())
    return Finding(suggestion, verdict, why, Stop.FINISHED, curve, Plan(), Cost(1, 1, 1, 0.0), {})


def parsed(finding):
    return ElementTree.fromstring(html(finding).replace("&nbsp;", " "))


class TestHtml:
    def test_it_says_the_suggestion_its_interval_the_verdict_and_why(self):
        finding = find(Quadratic(noise=0.1))
        text = " ".join("".join(parsed(finding).itertext()).split())
        low, high = finding.interval
        assert text.startswith(f"{finding.lr:.2g} (quick) interval {low:.2g} to {high:.2g}")
        assert f"CLEAR {finding.why}" in text

    def test_it_says_what_the_number_is_for_and_what_to_paste(self):
        finding = replace(find(Quadratic(), Plan("one_cycle", 400, "SGD"), verify=True), facts=KNOWN)
        text = " ".join("".join(parsed(finding).itertext()).split())
        assert "for SGD, one_cycle over 400 steps" in text
        assert " ".join(finding.code().split()) in text
        assert finding.suggestion.why in text
        assert f"Race: {len(finding.race.runs)} runs of {finding.race.steps} steps" in text
        assert "(assumed: no total_steps was given)" in html(find(Quadratic()))

    def test_the_line_that_the_rule_reads_is_drawn(self):
        finding = find(Quadratic(noise=0.1))
        curve = replace(finding.curve, baseline=finding.curve.loss * 0 + 5)
        lines = [len(list(parsed(replace(finding, curve=each)).iter("polyline"))) for each in (finding.curve, curve)]
        assert lines == [1, 2]

    def test_a_refusal_says_why(self):
        finding = find(Quadratic(), max_lr=1e-4)
        text = "".join(parsed(finding).itertext())
        assert text.startswith("No suggestion")
        assert finding.why in text
        assert not list(parsed(finding).iter("circle"))

    def test_the_mark_stands_on_the_line_within_the_interval(self):
        picture = parsed(find(Quadratic()))
        (mark,), (band,) = picture.iter("circle"), picture.iter("rect")
        x, y = float(mark.get("cx")), float(mark.get("cy"))
        points = [tuple(map(float, point.split(","))) for point in picture.find(".//polyline").get("points").split()]
        xs, ys = zip(*points, strict=True)
        assert y == pytest.approx(np.interp(x, xs, ys), abs=1)
        assert float(band.get("x")) < x < float(band.get("x")) + float(band.get("width"))

    def test_the_line_falls_to_the_right(self):
        points = parsed(find(Quadratic())).find(".//polyline").get("points").split()
        ys = [float(point.split(",")[1]) for point in points]
        assert ys == sorted(ys)  # which grow downwards
        assert ys[-1] - ys[0] > 50

    def test_a_needle_in_a_long_line_is_drawn(self):
        loss = np.linspace(2.0, 1.0, 5000)
        loss[3333] = 0.0
        curve = Curve(np.geomspace(1e-8, 10, 5000), loss, smoothing=0.0)
        points = parsed(finding_of(curve)).find(".//polyline").get("points").split()
        *others, needle = sorted(float(point.split(",")[1]) for point in points)
        assert len(points) <= 120
        assert needle - others[-1] > 50

    def test_it_takes_the_colours_of_the_page(self):
        assert "currentColor" in html(find(Quadratic()))
        assert "black" not in html(find(Quadratic()))

    def test_texts_are_escaped(self):
        finding = find(Quadratic())
        odd = Finding(**{**vars(finding), "why": ODD, "suggestion": Suggestion(0.1, ODD, ODD, (0.01, 1.0))})
        assert ODD in "".join(parsed(odd).itertext())
        assert "<img" not in html(odd)

    @given(st.integers(2, 3000), st.text(max_size=3000), st.text(max_size=300), st.integers(0, 9))
    def test_it_is_small_and_static(self, n, why, rule, seed):
        draw = np.random.default_rng(seed)
        curve = Curve(np.geomspace(1e-8, 10, n), draw.normal(2.3, 0.2, n) * 10.0 ** draw.integers(-30, 30))
        finding = finding_of(curve)
        finding = Finding(**{**vars(finding), "why": why, "suggestion": Suggestion(0.01, rule, "", (0.001, 0.1))})
        text = html(finding)
        assert len(text.encode()) < 10_000
        assert "<script" not in text.lower()
        assert "http" not in text.replace(why, "").replace(rule, "")

    @pytest.mark.parametrize(
        "curve",
        [Curve([], []), Curve([1e-3], [2.0]), Curve([1e-3], [math.nan], diverged=True)],
        ids=["empty", "one point", "nan"],
    )
    def test_without_a_line_there_is_no_picture(self, curve):
        assert "<svg" not in html(finding_of(curve))


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
    grown = [text.count(",") for text in updates[:first] if "<polyline" in text]
    assert len(grown) > 1
    assert grown == sorted(set(grown))
    (failed,) = notebook.cells[3].outputs
    assert "step" not in failed.data["text/html"]  # none was taken
    (only,) = notebook.cells[1].outputs
    assert only.output_type == "execute_result"
