"""The page in a real browser."""

import base64
import math
from dataclasses import replace

import numpy as np
import pytest

from findlr import Curve, Finding, Plan, find, rules
from findlr.analysis.curve import Stop
from findlr.analysis.smoothing import bias_corrected
from findlr.analysis.text import rate_text
from findlr.analysis.verdict import Verdict
from findlr.finding import Cost
from findlr.testing import Quadratic
from findlr.views.drawing import describe
from findlr.views.report import page

HOSTILE = "</script><img src=x onerror=alert(1)><!--\"'`${alert(1)}\u2028\ud800"


def curve_of(n=300, baseline=True, seed=0, rises=True):
    """Flat at 2.3, falls to 0.4, and explodes."""
    random = np.random.default_rng(seed)
    lrs = np.geomspace(1e-8, 10, n)
    losses = 0.4 + 1.9 / (1 + lrs / 1e-2) + (lrs / 0.5) ** 2 * rises
    noise = 0.05 * random.standard_normal(n)
    validation = np.full(n, np.nan)
    validation[::10] = losses[::10] + 0.1
    return Curve(lrs, losses + noise, 2.3 + noise if baseline else None, validation, diverged=True)


@pytest.fixture(scope="session")
def finding():
    raced = find(Quadratic(noise=0.05), Plan("one_cycle", 400), num_steps=200, verify=True, budget=1.0)
    curve = curve_of()
    return replace(raced, curve=curve, suggestion=replace(rules.quick(curve)), stop=Stop.DIVERGED)


def key(name, code=None, text=None):
    codes = {"ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35, "PageUp": 33}
    return {
        "key": name,
        "windowsVirtualKeyCode": codes.get(name, ord(name.upper()) if len(name) == 1 else 0),
        **({"text": name} if len(name) == 1 else {}),
    }


def set_beta(opened, beta):
    opened.run(
        """const slider = document.getElementById('beta');
        for (let i = 0; i <= Number(slider.max); i++) {
          slider.value = String(i);
          slider.dispatchEvent(new Event('input', {bubbles: true}));
          if (document.getElementById('beta-value').textContent === String(arguments[0])) return;
        }
        throw new Error('no such step');""",
        beta,
    )
    opened.settled()


def drawn(opened, run=0, layer=4):
    """A column of the chart's own data at its run's points; NaN where nothing is drawn."""
    values = opened.run(
        """const [chart, [run, layer]] = [window.findlrChart, arguments];
        return chart.places[run].map((at) => chart.plot.data[1 + 6 * run + layer][at] ?? null)""",
        run,
        layer,
    )
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def pixels(opened):
    return opened.run("return document.querySelector('canvas').toDataURL()")


class TestOneRun:
    @pytest.mark.parametrize("beta", [0, 0.9, 0.98, 0.999])
    def test_the_slider_smooths_the_raw_losses_as_python_does(self, opened, finding, beta):
        shown = opened([finding])
        before = pixels(shown)
        set_beta(shown, beta)
        usable = len(finding.curve.usable())
        expected = bias_corrected(finding.curve.loss, beta)[10 : usable - 5]
        values = drawn(shown)
        assert np.isnan(values[:10]).all()
        assert np.isnan(values[usable - 5 :]).all()
        np.testing.assert_allclose(values[10 : usable - 5], expected, rtol=1e-13)
        assert (pixels(shown) == before) == (beta == finding.curve.smoothing)

    def test_the_sliders_keys_move_it(self, opened, finding):
        shown = opened([finding])
        shown.keys("#beta", key("ArrowRight"))
        assert shown.texts("#beta-value") == ["0.985"]
        assert shown.run("return document.getElementById('beta').getAttribute('aria-valuetext')") == "0.985"

    def test_raw_validation_and_corrected_losses_are_drawn(self, opened, finding):
        shown = opened([finding])
        usable = len(finding.curve.usable())
        assert np.array_equal(drawn(shown, layer=0)[:usable], finding.curve.loss[:usable])
        there = np.flatnonzero(np.isfinite(finding.curve.validation[:usable]))
        np.testing.assert_allclose(drawn(shown, layer=2)[there], finding.curve.validation[there], rtol=1e-6)
        part = finding.curve.usable()
        corrected = part.loss - part.baseline + part.baseline.mean()
        np.testing.assert_allclose(drawn(shown, layer=1)[:usable], corrected, rtol=1e-6)
        read = describe(finding).read.line
        np.testing.assert_allclose(drawn(shown, layer=5)[:usable], read.loss, rtol=1e-6)

    def test_before_anybody_looks_the_values_are_those_at_the_suggestion(self, opened, finding):
        lr, smoothed, *_ = map(float, opened([finding]).texts("#readout td")[:2])
        at = int(np.argmin(np.abs(finding.curve.log10_lr - math.log10(finding.lr))))
        assert lr == pytest.approx(finding.curve.lr[at], rel=1e-3)
        assert smoothed == pytest.approx(finding.curve.smoothed().loss[at], rel=1e-3)

    @pytest.mark.parametrize("share", [0.2, 0.7])
    def test_the_mouse_over_the_chart_shows_the_values_there(self, opened, finding, share):
        shown = opened([finding])
        left, top, width, height = shown.plot_area()
        shown.mouse("mouseMoved", left + 5, top + 5)
        shown.mouse("mouseMoved", left + share * width, top + height / 2)
        shown.settled()
        low, high = shown.run("return window.findlrChart.view.x")
        at = int(np.argmin(np.abs(finding.curve.log10_lr - (low + share * (high - low)))))
        lr, smoothed, loss, *_ = map(float, shown.texts("#readout td")[:3])
        nearest = int(np.argmin(np.abs(np.log10(finding.curve.lr / lr))))
        assert abs(nearest - at) <= 1  # a pixel
        assert loss == pytest.approx(finding.curve.loss[nearest], rel=1e-3)
        assert smoothed == pytest.approx(finding.curve.smoothed().loss[nearest], rel=1e-3)

    def test_the_keyboard_goes_from_point_to_point_and_says_each(self, opened, finding):
        shown = opened([finding])
        start = int(np.argmin(np.abs(finding.curve.log10_lr - math.log10(finding.lr))))
        shown.keys("#chart", key("ArrowRight"))
        (first,) = shown.texts("#spoken")
        shown.keys("#chart", key("ArrowRight"))
        (second,) = shown.texts("#spoken")
        for text, at in ((first, start + 1), (second, start + 2)):
            words = text.replace(",", "").split()
            assert float(words[2]) == pytest.approx(finding.curve.lr[at], rel=1e-3)
            assert float(words[words.index("loss") + 1]) == pytest.approx(finding.curve.loss[at], rel=1e-3)
        shown.keys("#chart", key("+"))
        shown.settled()
        assert float(shown.texts("#readout td")[0]) == pytest.approx(finding.curve.lr[start + 2], rel=1e-3)
        shown.keys("#chart", key("Home"))
        assert float(shown.texts("#spoken")[0].replace(",", "").split()[2]) == pytest.approx(1e-8)

    def test_zoom_by_drag_button_key_and_back(self, opened, finding):
        shown = opened([finding])
        view = "return [...window.findlrChart.view.x, ...window.findlrChart.view.loss]"
        everything = shown.run(view)
        left, top, width, height = shown.plot_area()
        corner, end = (left + 0.6 * width, top + 0.2 * height), (left + 0.9 * width, top + 0.8 * height)
        shown.mouse("mouseMoved", *corner)
        shown.mouse("mousePressed", *corner, button="left", buttons=1, clickCount=1)
        shown.mouse("mouseMoved", *end, button="left", buttons=1)
        shown.mouse("mouseReleased", *end, button="left", clickCount=1)
        shown.settled()
        x_low, x_high, low, high = shown.run(view)
        span = everything[1] - everything[0]
        assert (x_low, x_high) == pytest.approx(
            (everything[0] + 0.6 * span, everything[0] + 0.9 * span), abs=0.02 * span
        )
        assert everything[2] < low < high < everything[3]
        shown.run("document.getElementById('zoom-all').click()")
        assert shown.run(view) == everything
        shown.keys("#chart", key("+"))
        assert np.ptp(shown.run(view)[:2]) == pytest.approx(span / 2)
        shown.keys("#chart", *[key("+")] * 30, key("ArrowRight"), *[key("-")] * 30)
        assert shown.run(view)[:2] == pytest.approx(everything[:2])
        shown.keys("#chart", key("0"))
        assert shown.run(view) == everything
        shown.settled()
        assert (
            shown.run("return [window.findlrChart.plot.scales.x.min, window.findlrChart.plot.scales.x.max]")
            == everything[:2]
        )

    def test_rules_are_switched_on_and_off(self, opened, finding):
        shown = opened([finding])
        answers = dict(zip(shown.texts("#rules tbody th"), shown.texts("#rules tbody td.number"), strict=True))
        for name, rule in rules.RULES.items():
            (answer,) = (value for label, value in answers.items() if label.endswith(name))
            assert answer == rate_text(finding.suggest(rule).lr)
        before = pixels(shown)
        box = "document.querySelectorAll('#rules input')[2]"
        shown.run(f"{box}.click()")
        shown.settled()
        assert shown.run("return [...window.findlrChart.state.rules]") == ["valley"]
        assert pixels(shown) != before
        shown.run(f"{box}.click()")
        shown.settled()
        assert pixels(shown) == before

    def test_each_layer_is_switched_off_and_on(self, opened, finding):
        shown = opened([finding])
        whole = pixels(shown)
        labels = shown.texts("#layers label")
        assert len(labels) == 7
        for i in range(7):
            shown.run("document.querySelectorAll('#layers input')[arguments[0]].click()", i)
            shown.settled()
            assert pixels(shown) != whole, labels[i]
            shown.run("document.querySelectorAll('#layers input')[arguments[0]].click()", i)
            shown.settled()
            assert pixels(shown) == whole, labels[i]

    def test_the_race_the_code_and_the_facts_are_told(self, opened, finding):
        shown = opened([finding])
        rows = shown.texts("#race tbody tr")
        assert len(rows) == len(finding.race.runs)
        assert shown.texts("#code code") == [finding.code()]
        assert shown.texts("#summary p")[0] == "for one_cycle over 400 steps"
        lrs = sorted(run.lr for run in finding.race.runs)
        assert all(row.startswith(rate_text(lr)) for row, lr in zip(rows, lrs, strict=True))
        assert shown.driver.title == f"Learning rate {rate_text(finding.lr)} - findlr"
        facts = dict(zip(shown.texts("#facts th"), shown.texts("#facts td"), strict=True))
        assert facts["why"] == finding.why
        assert facts["end"] == finding.stop.sentence
        assert facts["total_steps"] == "400"

    def test_code_is_copied(self, opened, finding, driver):
        permission = {"permission": {"name": "clipboard-read"}, "setting": "granted"}
        driver.execute_cdp_cmd("Browser.setPermission", permission)
        shown = opened([finding])
        shown.run("document.querySelector('#code button').click()")
        shown.settled()
        assert shown.texts("#code [role=status]") == [" Copied."]

    def test_the_table_has_every_point(self, opened, finding):
        shown = opened([finding])
        shown.run("document.querySelector('#points summary').click()")
        shown.settled()
        seen = []
        for _ in range(3):
            rows = shown.run(
                "return [...document.querySelectorAll('#points tbody tr')].map((r) => r.cells[1].textContent)"
            )
            seen += map(float, rows)
            shown.run("document.querySelectorAll('#points .toolbar button')[1].click()")
        assert seen == pytest.approx(finding.curve.lr.tolist(), rel=1e-4)

    def test_a_refusal_says_why(self, opened):
        curve = Curve(np.geomspace(1e-8, 10, 100), np.full(100, 2.3))
        refused = find(Quadratic(curvature=1e-9), num_steps=100)
        shown = opened([replace(refused, curve=curve)])
        assert shown.texts("h1") == [f"No suggestion. {refused.verdict.sentence}"]
        assert refused.why in shown.texts("#summary p")[0]
        assert set(shown.texts("#rules td:last-child")) == {"For the reason above."}
        assert shown.run("return [...document.querySelectorAll('#rules input')].every((box) => box.disabled)")
        assert shown.run("return document.getElementById('code').hidden")

    @pytest.mark.parametrize("lrs", [[], [1e-3], [1e-3, 1e-2]])
    def test_curves_of_hardly_any_point_open(self, opened, lrs):
        curve = Curve(lrs, [math.nan] * len(lrs), diverged=bool(lrs))
        none = Finding(None, Verdict.NOT_FINITE, "why", Stop.NOT_FINITE, curve, Plan(), Cost(1, 1, 1, 0.1), {})
        shown = opened([none])
        shown.keys("#chart", key("ArrowRight"), key("+"), key("End"))
        set_beta(shown, 0.9)


class TestSeveralRuns:
    def test_each_has_its_line_and_can_be_hidden(self, opened, finding):
        other = replace(finding, curve=curve_of(200, baseline=False, seed=1), race=None)
        shown = opened([finding, other], ["first", "second"])
        assert shown.texts("h1") == ["2 runs"]
        for run, each in enumerate((finding, other)):
            line = each.curve.smoothed().clipped()
            values = drawn(shown, run)
            np.testing.assert_allclose(values[10 : 10 + len(line)], line.loss, rtol=1e-13)
        assert [text.strip() for text in shown.texts("#readout tbody th")] == ["●first", "■second"]
        whole = pixels(shown)
        shown.run("document.querySelectorAll('#runs input')[1].click()")
        shown.settled()
        assert pixels(shown) != whole
        assert shown.run("return [...window.findlrChart.state.runs]") == [0]

    def test_they_are_drawn_by_what_the_rule_reads_if_all_have_that(self, opened, finding):
        layers = "return [...window.findlrChart.state.layers]"
        alike = opened([finding, replace(finding, curve=curve_of(seed=1))]).run(layers)
        assert ("read" in alike, "smoothed" in alike) == (True, False)
        refused = replace(finding, suggestion=None, verdict=Verdict.FLAT)
        some = opened([finding, refused]).run(layers)
        assert ("read" in some, "smoothed" in some) == (False, True)

    def test_the_slider_moves_all(self, opened, finding):
        other = replace(finding, curve=curve_of(seed=1))
        shown = opened([finding, other])
        set_beta(shown, 0.5)
        for run, each in enumerate((finding, other)):
            usable = len(each.curve.usable())
            expected = bias_corrected(each.curve.loss, 0.5)[10 : usable - 5]
            np.testing.assert_allclose(drawn(shown, run)[10 : usable - 5], expected, rtol=1e-13)


def hostile(finding):
    """Its text in every field that can hold one."""
    return replace(
        finding,
        suggestion=replace(finding.suggestion, rule=HOSTILE, why=HOSTILE),
        why=HOSTILE,
        plan=replace(finding.plan, optimizer=HOSTILE),
        facts={
            HOSTILE: HOSTILE,
            "model": HOSTILE,
            "nested": {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]},
            "optimizer": {
                "name": HOSTILE,
                "module": HOSTILE,
                "arguments": {HOSTILE: HOSTILE},
                "groups": [{HOSTILE: 1}],
            },
            "versions": {"torch": HOSTILE},
        },
    )


class TestHostileText:
    @pytest.mark.parametrize("runs", [1, 2])
    def test_it_is_shown_and_never_run(self, opened, finding, runs):
        shown = opened([hostile(finding)] * runs, [HOSTILE] * runs)
        assert shown.run("return document.querySelectorAll('img, [onerror]').length") == 0
        assert shown.run("return document.scripts.length") == 3
        readable = HOSTILE.replace("\ud800", "\ufffd")
        assert sum(readable in text for text in shown.texts("#facts td")) >= 8 * runs
        shown.run("document.querySelectorAll('#rules input')[2].click()")
        shown.keys("#chart", key("ArrowRight"))
        shown.settled()

    def test_the_policy_forbids_what_is_not_in_the_page(self, opened, finding):
        shown = opened([finding])
        blocked = shown.driver.execute_async_script(
            """const done = arguments[0]; const seen = [];
            document.addEventListener('securitypolicyviolation', (event) => {
              seen.push(event.effectiveDirective);
              if (seen.length === 4) done(seen.sort());
            });
            const script = document.createElement('script');
            script.textContent = 'window.ran = true';
            document.body.append(script);
            const style = document.createElement('style');
            style.textContent = 'body { display: none }';
            document.body.append(style);
            const image = new Image();
            image.src = 'https://example.invalid/pixel.png';
            fetch('https://example.invalid/').catch(() => {});"""
        )
        assert blocked == ["connect-src", "img-src", "script-src-elem", "style-src-elem"]
        assert shown.run("return window.ran === undefined")
        shown.listen()
        assert len(shown.errors) >= 4  # each was told, before anything left the browser
        shown.errors.clear()
        shown.requests.clear()


class TestForEveryone:
    @pytest.mark.parametrize("dark", [False, True])
    @pytest.mark.parametrize("width", [390, 1200])
    @pytest.mark.parametrize("runs", [1, 3])
    def test_axe_finds_no_serious_fault(self, opened, finding, axe, runs, width, dark):
        shown = opened([finding] * runs, width=width, dark=dark)
        shown.run("for (const details of document.querySelectorAll('details')) details.open = true")
        shown.settled()
        shown.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
        found = shown.driver.execute_async_script("axe.run().then(arguments[0])")
        assert found["passes"]
        faults = [
            (fault["id"], [node["html"][:100] for node in fault["nodes"]])
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
        ]
        assert faults == []

    @pytest.mark.parametrize("runs", [1, 3])
    def test_a_phone_needs_no_scrolling_sideways(self, opened, finding, runs):
        shown = opened([finding] * runs, width=390, height=800)
        assert shown.run("return document.documentElement.scrollWidth") <= 390
        wide = "[...document.querySelectorAll('main > section:not(#points) .scroll')]"
        cut = f"return {wide}.filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.getAttribute('aria-label'))"
        assert shown.run(cut) == ["Values at the cursor"] * (runs > 1)  # six columns; else nothing is cut inside of it

    def test_the_scheme_of_the_system_is_followed_at_once(self, opened, finding):
        shown = opened([finding])
        paper, chart = "return getComputedStyle(document.body).backgroundColor", pixels(shown)
        light = shown.run(paper)
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        shown.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        shown.settled()
        assert (light, shown.run(paper)) == ("rgb(255, 255, 255)", "rgb(18, 23, 29)")
        assert pixels(shown) != chart

    def test_it_prints(self, opened, finding):
        shown = opened([finding], dark=True)
        before = pixels(shown)
        printed = shown.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
        assert len(base64.b64decode(printed["data"])) > 20_000
        shown.settled()
        assert pixels(shown) == before  # and the screen is as it was

    def test_paper_is_white_and_has_all_facts(self, opened, finding):
        shown = opened([finding] * 2, dark=True)
        look = (
            "return [getComputedStyle(document.body).backgroundColor,"
            "document.querySelectorAll('#facts details[open]').length, window.findlrChart.plot.width]"
        )
        before = shown.run(look)
        shown.run("window.dispatchEvent(new Event('beforeprint'))")
        paper, facts, width = shown.run(look)
        assert (paper, facts) == ("rgb(255, 255, 255)", 2)
        assert width < before[2]
        shown.run("window.dispatchEvent(new Event('afterprint'))")
        assert shown.run(look) == before


class TestSizes:
    def test_300_points(self, finding):
        assert len(page([finding]).encode()) < 150_000

    def test_five_runs_of_10000_points(self, opened):
        runs = []
        for seed in range(5):
            curve = curve_of(10_000, seed=seed)
            quick = rules.quick(curve)
            runs.append(Finding(quick, Verdict.CLEAR, "why", Stop.DIVERGED, curve, Plan(), Cost(1, 1, 1, 0.1), {}))
        shown = opened(runs)
        assert shown.path.stat().st_size < 2_000_000
        usable = len(runs[4].curve.usable())
        np.testing.assert_allclose(
            drawn(shown, 4)[10 : usable - 5], runs[4].curve.smoothed().clipped().loss, rtol=1e-12
        )

    def test_a_long_run_is_thinned_and_smoothed_as_python_does(self, opened, finding):
        long = replace(finding, curve=curve_of(50_000))
        shown = opened([long])
        assert shown.path.stat().st_size < 1_500_000
        set_beta(shown, 0.9)
        kept = np.array(shown.run("return Array.from(window.findlrChart.runs[0].kept)"))
        values = drawn(shown)
        expected = long.curve.smoothed(0.9).loss[kept]
        there = np.isfinite(values)
        assert kept[there][0] == 10
        assert kept[there][-1] == len(long.curve.usable()) - 6
        np.testing.assert_allclose(values[there], expected[there], rtol=1e-6)
        shown.run("document.querySelector('#points details').open = true")
        shown.settled()
        assert shown.texts("#points [role=status]")[0].endswith("the peaks of all 50000 points")
