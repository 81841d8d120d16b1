"""What a Finding says of itself."""

import sys
from dataclasses import replace

import pytest

from findlr import ConfigurationError, NoSuggestionError, Plan, Stop, Suggestion, Verdict, find, rules
from findlr.finding import Cost
from findlr.finding.telling import code_lines, cost_text, plan_text
from findlr.testing import Quadratic
from findlr.views.notebook import html

SGD = {"name": "SGD", "module": "torch.optim.sgd", "arguments": {}, "groups": [{}]}
CLEAR = replace(find(Quadratic(noise=0.1), Plan("one_cycle", 400, "SGD")), facts={"optimizer": SGD})
REFUSED = find(Quadratic(), max_lr=1e-4)


def rows(finding):
    return {line[:15].strip(): line[15:] for line in str(finding).splitlines()}


class TestPrint:
    def test_six_lines_say_the_rate_the_interval_the_verdict_the_plan_what_is_next_and_the_cost(self):
        said = rows(CLEAR)
        low, high = CLEAR.interval
        assert list(said) == ["learning rate", "interval", "verdict", "plan", "next", "cost"]
        assert said["learning rate"] == f"{CLEAR.lr:.2g}"
        assert said["interval"] == f"{low:.2g} to {high:.2g}"
        assert said["verdict"] == f"CLEAR: {CLEAR.why}"
        assert said["plan"] == "SGD, one_cycle over 400 steps"
        assert said["next"] == CLEAR.code().replace("\n", "; ")
        assert said["cost"].startswith("100 steps, ")

    def test_what_is_next_can_be_pasted(self):
        import torch

        names = {"torch": torch, "model": torch.nn.Linear(1, 1)}
        exec(rows(CLEAR)["next"], names)
        assert names["scheduler"].total_steps == 400

    @pytest.mark.parametrize(
        ("plan", "told"),
        [
            (
                Plan("one_cycle", 400, "SGD"),
                "finding.apply(optimizer, scheduler) # once one_cycle's scheduler is made",
            ),
            (Plan("constant", 400, "SGD"), "finding.apply(optimizer)"),
        ],
    )
    def test_the_rates_of_very_many_groups_are_applied_not_listed(self, plan, told):
        facts = {"optimizer": {**SGD, "groups": [{}] * 10_000}, "ratios": [1.0] * 10_000}
        many = replace(CLEAR, plan=plan, facts=facts)
        assert rows(many)["next"] == told
        assert code_lines(many) == [told]
        assert len(many.code()) > 60_000
        assert f">{told}<" in html(many).replace("&#x27;", "'")

    def test_a_refusal_says_what_was_seen_and_what_to_change(self):
        said = rows(REFUSED)
        assert (said["learning rate"], said["interval"]) == ("none", "none")
        assert said["verdict"].startswith("STILL_FALLING: The loss is lowest")
        assert said["next"] == "raise max_lr until the loss turns up."
        assert "raise max_lr" not in said["verdict"]

    def test_a_colon_in_parentheses_is_no_advice(self):
        why = "The training fails after lr 0.1 (ValueError: f(x): too large): lower min_lr."
        said = rows(replace(REFUSED, why=why))
        assert said["verdict"].endswith("The training fails after lr 0.1 (ValueError: f(x): too large).")
        assert said["next"] == "lower min_lr."

    def test_a_search_that_was_broken_off_at_once_is_to_be_run_again(self):
        class Breaks(Quadratic):
            def step(self, lr):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) as caught:
            find(Breaks())
        said = rows(caught.value.finding)
        assert said["verdict"] == "TOO_SHORT: The sweep has no point, because an exception or an interrupt ended it."
        assert said["next"] == "run it again."

    @pytest.mark.parametrize("why", ["", "no colon", "a: ", ": b", "\x1b[2J\n\n: \0\n", "x: y: z"])
    @pytest.mark.parametrize("finding", [CLEAR, REFUSED], ids=["found", "refused"])
    def test_it_is_six_clean_lines_whatever_is_in_it(self, finding, why):
        odd = replace(finding, why=why, plan=Plan(optimizer="\x1b[2J\nSGD" * 99))
        assert len(str(odd).splitlines()) == 6
        assert all(line.isprintable() for line in str(odd).splitlines())
        assert repr(odd).isprintable()

    def test_groups_are_written_by_apply(self):
        several = replace(CLEAR, facts={"optimizer": SGD, "ratios": [0.1] * 9 + [1.0]})
        assert rows(several)["next"].startswith("finding.apply(optimizer); scheduler = ")

    def test_an_optimizer_that_is_not_known_has_no_line(self):
        assert rows(find(Quadratic()))["next"].startswith("train at 0.0")
        assert rows(find(Quadratic(), Plan("linear", 9)))["next"].endswith(" as the peak of the schedule")

    def test_repr_is_one_short_line(self):
        low, high = CLEAR.interval
        assert repr(CLEAR) == (
            f"Finding(lr={CLEAR.lr:.2g}, interval=({low:.2g}, {high:.2g}), verdict=CLEAR, "
            "plan='SGD, one_cycle over 400 steps')"
        )
        assert repr(REFUSED).startswith("Finding(lr=None, verdict=STILL_FALLING, ")


class TestPlan:
    @pytest.mark.parametrize(
        ("plan", "text"),
        [
            (Plan(), "a constant rate over 1,000 steps (assumed: no total_steps was given)"),
            (Plan("one_cycle", 5000, "AdamW"), "AdamW, one_cycle over 5,000 steps"),
            (Plan(lambda progress: 1.0, 1), "a schedule of your own over 1 step"),
        ],
    )
    def test_it_is_said_in_words(self, plan, text):
        assert plan_text(plan) == text

    def test_the_cost_is_counted(self):
        assert cost_text(Cost(1.2, 1, 1, 200.0)) == "1 step, 3 min 20 s"
        assert len(cost_text(Cost(1e308, 1, 1, 1e308))) < 40


class TestNumber:
    def test_it_is_a_number_where_one_is_needed(self):
        assert float(CLEAR) == CLEAR.lr
        assert f"{CLEAR:.2g}" == f"{CLEAR.lr:.2g}"
        assert f"{CLEAR:>8.3f}" == f"{CLEAR.lr:>8.3f}"
        assert f"{CLEAR}" == str(CLEAR)

    def test_without_one_it_says_why(self):
        for use in (float, "{:.2g}".format):
            with pytest.raises(NoSuggestionError, match="raise max_lr"):
                use(REFUSED)
        assert f"{REFUSED}" == str(REFUSED)


class TestShow:
    def test_it_prints_what_the_console_shows(self, capsys):
        CLEAR.show()
        shown = capsys.readouterr().out
        assert f"suggestion    {CLEAR.lr:.2g} " in shown
        assert "against learning rate" in shown
        assert CLEAR.code() in shown

    def test_without_rich_it_is_plain_text(self, capsys, monkeypatch):
        for name in [name for name in sys.modules if name.partition(".")[0] == "rich" or "views.console" in name]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "rich", None)
        CLEAR.show()
        assert capsys.readouterr().out == f"{CLEAR}\n"


class TestRulesByName:
    @pytest.mark.parametrize("name", rules.RULES)
    def test_a_rule_answers_to_its_name(self, name):
        assert CLEAR.suggest(name) == CLEAR.suggest(rules.RULES[name])

    @pytest.mark.parametrize("name", ["vally", "", 3, None, ["valley"]])
    def test_another_name_is_told_the_right_ones(self, name):
        with pytest.raises(ConfigurationError, match="must be one of quick, article, valley, slide, steep, minimum"):
            CLEAR.suggest(name)
        with pytest.raises(ConfigurationError, match="must be one of quick"):
            REFUSED.suggest(name)


def test_a_rate_of_ones_own_rule_on_a_curve_without_a_dip_is_its_own_interval():
    rising = replace(CLEAR.curve, loss=CLEAR.curve.lr, baseline=None)
    finding = replace(CLEAR, curve=rising, suggestion=Suggestion(0.1, "mine", ""), verdict=Verdict.CLEAR)
    assert finding.interval == (0.1, 0.1)
    assert replace(finding, stop=Stop.FINISHED).search_space()["low"] == 0.1


def test_whys_have_the_rates_that_the_views_show():
    for name in ("quick", "article", "minimum"):
        answer = CLEAR.suggest(name)
        at = answer.lr if name == "quick" else answer.lr * 10
        assert f" {at:.2g}" in answer.why
