"""The page's file; what a browser makes of it is in tests/browser."""

import json
import re
import sys
from base64 import b64decode, b64encode
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from html.parser import HTMLParser

import numpy as np
import pytest

from findlr import ConfigurationError, Curve, Plan, find
from findlr.analysis.race import Race, Run
from findlr.testing import Quadratic
from findlr.views.drawing import describe
from findlr.views.report import page, write_report


@pytest.fixture(scope="module")
def finding():
    return find(Quadratic(noise=0.1))


class Elements(HTMLParser):
    """The page's elements with their texts, as a browser sees them."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        self.found.append(["/" + tag, {}, ""])

    def handle_data(self, text):
        if self.found:
            self.found[-1][2] += text

    def named(self, tag):
        return [(attributes, text) for name, attributes, text in self.found if name == tag]


def data_of(text):
    (found,) = (inner for attributes, inner in Elements(text).named("script") if attributes.get("id") == "data")
    return json.loads(found)


def test_the_policy_allows_exactly_what_is_in_the_page(finding):
    elements = Elements(page([finding]))
    (policy,) = (meta["content"] for meta, _ in elements.named("meta") if "http-equiv" in meta)
    rules = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        texts = [text for attributes, text in elements.named(tag) if attributes.get("type") != "application/json"]
        hashes = {f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in texts}
        assert set(rules.pop(rule).split()) == hashes
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_nothing_is_loaded_and_the_library_comes_with_its_licence(finding):
    text = page([finding])
    sources = re.findall(r"(?:src|href)=\"([^\"]*)\"", text)
    assert all(source.startswith(("#", "data:")) for source in sources)
    assert re.search(r"uPlot \d+\.\d+\.\d+, as in its npm package", text)
    assert "The MIT License" in text


def test_losses_come_whole_and_rates_to_float32(finding):
    (run,) = data_of(page([finding]))
    assert np.array_equal(np.frombuffer(b64decode(run["loss"]), "<f8"), finding.curve.loss)
    rates = np.frombuffer(b64decode(run["log10_lr"]), "<f4")
    np.testing.assert_allclose(rates, finding.curve.log10_lr, rtol=1e-6)
    line = finding.curve.smoothed().clipped()
    assert (finding.curve.lr[run["start"]], run["end"] - run["start"]) == (line.lr[0], len(line))


@pytest.fixture(scope="module")
def long(finding):
    """50,000 points with a needle up and a needle down, each a single point."""
    n, random = 50_000, np.random.default_rng(0)
    x = np.linspace(0, 1, n)
    loss = 2.3 - np.exp(-(((x - 0.7) / 0.1) ** 2)) + 0.05 * random.standard_normal(n)
    loss[12_345], loss[23_456] = 9.0, -4.0
    validation = np.where(np.arange(n) % 1000, np.nan, loss)
    return replace(finding, curve=Curve(10 ** (9 * x - 8), loss, 2.3 + 0.05 * random.standard_normal(n), validation))


def test_a_long_curve_is_thinned_and_loses_no_peak(long):
    text = page([long])
    (run,) = data_of(text)
    assert len(text) < 1.5e6
    kept = np.frombuffer(b64decode(run["kept"]), "<i4")
    curve = long.curve
    assert (run["points"], kept[0], kept[-1]) == (len(curve), 0, len(curve) - 1)
    assert {12_345, 23_456} <= set(kept)
    assert np.array_equal(np.frombuffer(b64decode(run["loss"]), "<f8"), curve.loss[kept])
    line = curve.smoothed().clipped()
    ends = kept[run["start"]], kept[run["end"] - 1]
    assert (curve.lr[ends[0]], curve.lr[ends[1]]) == (line.lr[0], line.lr[-1])
    usable = range(ends[0], ends[1] + 1)
    assert {usable[i] for i in (line.loss.argmin(), line.loss.argmax())} <= set(kept)
    measured = np.isfinite(np.frombuffer(b64decode(run["validation"]), "<f4"))
    assert {kept[measured][i] for i in (0, -1)} <= set(range(0, len(curve), 1000))


def test_a_long_curves_averages_are_pythons_and_keep_their_peaks(long):
    (run,) = data_of(page([long]))
    kept = np.frombuffer(b64decode(run["kept"]), "<i4")
    assert long.curve.smoothing in run["betas"]
    for beta, packed in zip(run["betas"], run["averages"], strict=True):
        line, shown = long.curve.smoothed(beta).loss, np.frombuffer(b64decode(packed), "<f4")
        np.testing.assert_array_equal(shown, line[kept].astype("<f4"))
        for part in np.array_split(np.arange(len(line)), 50):
            inside = line[kept[(kept >= part[0]) & (kept <= part[-1])]]
            assert (inside.min(), inside.max()) == (line[part].min(), line[part].max())


def test_numbers_that_json_lacks_are_null(finding):
    race = Race((Run(0.1, 9, float("inf")),), float("nan"), 0.1, False)
    curve = replace(finding.curve, loss=np.r_[finding.curve.loss[:-1], np.nan], diverged=True)
    (run,) = data_of(page([replace(finding, race=race, curve=curve)]))
    assert run["race"]["runs"] == [{"lr": 0.1, "steps": 9, "loss": None}]
    assert run["race"]["start"] is None
    assert np.isnan(np.frombuffer(b64decode(run["loss"]), "<f8")[-1])


def test_the_page_knows_what_the_number_is_for(finding):
    planned = replace(finding, plan=Plan("one_cycle", 4000, "AdamW"))
    (run,) = data_of(page([planned]))
    assert run["plan"] == "AdamW, one_cycle over 4,000 steps"
    facts = {title: dict(pairs) for title, pairs in run["facts"]}
    assert facts["Result"]["learning rate"] == f"{finding.lr:.2g}"
    assert facts["Plan"]["total_steps"] == "4000"
    (run,) = data_of(page([finding]))
    assert "assumed" in run["plan"]
    assert dict(map(tuple, dict(run["facts"])["Plan"]))["total_steps"] == "1000, assumed: none were given"


def test_no_text_of_a_run_can_end_its_element(finding):
    evil = "</script><script>alert(1)</script><!--&lt;"
    text = page([finding], [evil])
    assert len(Elements(text).named("script")) == len(Elements(page([finding])).named("script"))
    assert data_of(text)[0]["label"] == evil


def undated(text):
    """A page without the date at its top."""
    return re.sub(r"report, \d{4}-\d\d-\d\d \d\d:\d\d", "report", text, count=1)


def test_the_head_has_the_date_and_what_it_is_from(finding, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/home/train.py", raising=False)
    before = datetime.now().astimezone()
    head = re.search(r"learning-rate report, ([^<]*)<", page([finding]))[1]
    date, _, script = head.partition(", ")
    assert before <= datetime.strptime(f"{date}:59.999999", "%Y-%m-%d %H:%M:%S.%f").astimezone()
    assert script == "train.py"
    assert re.search(r"report, [-0-9: ]*, from &lt;a&gt;.json<", page([finding], source="from <a>.json"))
    assert re.search(r"report, [-0-9: ]*<", page([finding], source=""))


def test_what_the_rule_reads_is_there(finding):
    (run,) = data_of(page([finding]))
    drawing = describe(finding)
    read = np.frombuffer(b64decode(run["read"]), "<f4")
    np.testing.assert_allclose(read, drawing.read.line.loss, rtol=1e-6)
    assert run["dip"]["top"] == drawing.read.dip.loss.max()
    assert run["signs"] == [{"lr": finding.belief.dip, "label": drawing.signs[0].label}]
    assert run["suggestion"]["label"] == f"suggested {finding.lr:.2g}"
    (run,) = data_of(page([replace(finding, suggestion=None)]))
    assert (run["read"], run["dip"], run["signs"], run["suggestion"]) == (None, None, [], None)


def test_the_methods_file_is_the_functions(finding, tmp_path):
    path = finding.report(str(tmp_path / "one.html"))
    assert path == tmp_path / "one.html"
    assert undated(path.read_text()) == undated(write_report([finding], tmp_path / "two.html").read_text())


def test_wrong_input_writes_nothing(finding, tmp_path):
    for findings, labels in (([], None), ([finding], ["a", "b"])):
        with pytest.raises(ConfigurationError):
            write_report(findings, tmp_path / "none.html", labels=labels)
    assert list(tmp_path.iterdir()) == []
