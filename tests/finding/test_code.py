"""The code to paste: it trains as planned; and it is a contract that a framework of any kind can keep."""

import ast
import math
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from findlr import Finding, NoSuggestionError, OptimizerError, Plan, find
from findlr.analysis.plan import SCHEDULES
from findlr.analysis.text import rate_text
from findlr.finding.code import ASSUMED_STEPS, code_for, one_line
from findlr.finding.telling import next_text, plan_text
from findlr.testing import Quadratic
from findlr.torch.planned import read_schedule

SGD = {"name": "SGD", "module": "torch.optim.sgd", "arguments": {"momentum": 0.9}, "groups": [{}]}
ATTACKS = (
    "os.system('rm')",
    "a;b",
    "a b",
    "a.b()",
    "__import__('os').x",
    "a\n",
    "class",
    "",
    ".",
    "a..b",
    "a\u202e",
    7,
)


def finding_of(facts, plan=None):
    return replace(find(Quadratic(), plan), facts=facts)


def rates_of(code, steps, **names):
    """The rates at which the code trains, step by step."""
    names |= {"torch": torch, "model": torch.nn.Linear(2, 1)}
    exec(code, names)
    optimizer, scheduler, rates = names["optimizer"], names.get("scheduler"), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return np.array(rates)


class TestScheduler:
    @pytest.mark.parametrize("schedule", SCHEDULES)
    @pytest.mark.parametrize("warmup", [None, 0.1, 0.4])
    @pytest.mark.parametrize("steps", [100, 1000])
    def test_what_is_pasted_trains_at_the_plans_rates(self, schedule, warmup, steps):
        plan = Plan(schedule, steps, warmup=warmup)
        finding = finding_of({"optimizer": SGD}, plan)
        code = finding.code()
        assert len(code.splitlines()) == (1 if (schedule, warmup) == ("constant", None) else 2)
        shares = rates_of(code, steps) / float(rate_text(finding.lr))
        steepest = np.abs(np.diff(plan.shares(steps))).max()
        assert np.abs(shares - plan.shares(steps)).max() < 0.01 + 1.5 * steepest  # a step more or less
        assert shares.max() == pytest.approx(1.0, abs=0.03)
        assert (shares >= 0).all()

    def test_momentum_is_held_as_in_the_sweep(self):
        names = {"torch": torch, "model": torch.nn.Linear(2, 1)}
        exec(finding_of({"optimizer": SGD}, Plan("one_cycle", 100)).code(), names)
        assert names["optimizer"].param_groups[0]["momentum"] == 0.9

    def test_settings_of_several_numbers_are_tuples_as_an_optimizer_has_them(self):
        adam = {"name": "Adam", "module": "torch.optim.adam", "arguments": {"betas": [0.95, 0.999]}, "groups": [{}]}
        assert finding_of({"optimizer": adam}).code().endswith(", betas=(0.95, 0.999))")

    def test_a_constant_rate_needs_none(self):
        finding = finding_of({"optimizer": SGD}, Plan("constant", 50))
        assert finding.code() == f"optimizer = torch.optim.SGD(model.parameters(), lr={finding.lr:.2g}, momentum=0.9)"
        assert set(rates_of(finding.code(), 3)) == {float(rate_text(finding.lr))}

    def test_a_schedule_of_ones_own_is_asked_for_its_share(self):
        def schedule(progress):
            return 1 - progress / 2

        plan = Plan(schedule, 100)
        finding = finding_of({"optimizer": SGD}, plan)
        assert "# schedule is the function that was given" in finding.code()
        shares = rates_of(finding.code(), 100, schedule=schedule) / float(rate_text(finding.lr))
        np.testing.assert_allclose(shares, plan.shares(100), rtol=1e-6)

    @pytest.mark.parametrize("kind", ["noam", "cosine"])
    def test_a_scheduler_that_was_given_gets_its_peak(self, kind):
        def factor(step):
            return min((step + 1) ** -0.5, (step + 1) * 10**-1.5)

        def made(optimizer):
            schedulers = torch.optim.lr_scheduler
            if kind == "noam":
                return schedulers.LambdaLR(optimizer, factor)
            return schedulers.CosineAnnealingLR(optimizer, T_max=30)

        model = torch.nn.Linear(2, 1)
        scheduler = made(torch.optim.SGD(model.parameters(), lr=0.01))
        plan = Plan(*read_schedule(scheduler, 30))
        finding = finding_of({"optimizer": SGD}, plan)
        assert next_text(finding) == "finding.apply(optimizer, scheduler)"
        assert plan_text(finding.plan) == f"your {type(scheduler).__name__} over 30 steps"
        for each in (finding, Finding.from_dict(finding.to_dict())):
            constructs, applies = each.code().split("\n")
            names = {"torch": torch, "model": model, "finding": each}
            exec(constructs, names)
            names["scheduler"] = made(names["optimizer"])
            exec(applies, names)
            rates = []
            for _ in range(30):
                rates.append(names["optimizer"].param_groups[0]["lr"])
                names["optimizer"].step()
                names["scheduler"].step()
            np.testing.assert_allclose(np.array(rates) / finding.lr, plan.shares(30), rtol=1e-3)

    def test_a_length_that_nobody_gave_is_told(self):
        code = finding_of({"optimizer": SGD}, Plan("cosine")).code()
        assert f"T_max={ASSUMED_STEPS})  # {ASSUMED_STEPS} steps are assumed: no total_steps was given" in code
        assert "assumed" not in finding_of({"optimizer": SGD}, Plan("cosine", 1000)).code()

    def test_the_length_that_is_told_is_the_one_that_the_rule_takes(self):
        assert find(Quadratic(), Plan()).lr == find(Quadratic(), Plan(total_steps=ASSUMED_STEPS)).lr

    @pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
    def test_several_optimizers_are_written_together(self, schedule):
        facts = {"optimizer": SGD, "optimizers": 2, "ratios": [0.1, 1.0, 0.5]}
        finding = finding_of(facts, Plan(schedule, 100))
        layers = [torch.nn.Linear(1, 1) for _ in range(3)]
        one = torch.optim.SGD([{"params": layer.parameters()} for layer in layers[:2]], lr=1.0)
        two = torch.optim.AdamW(layers[2].parameters(), lr=1.0)
        assert next_text(finding) == "finding.apply(optimizers)"
        for write in (
            lambda: exec(finding.code(), {"optimizers": [one, two]}),
            lambda: finding.apply([one, two]),
            lambda: finding.apply({"one": one, "two": two}),
        ):
            for group in (*one.param_groups, *two.param_groups):
                group["lr"] = 1.0
            write()
            rates = [group["lr"] for group in (*one.param_groups, *two.param_groups)]
            assert rates == pytest.approx(finding.lrs, rel=0.05)
        assert finding.code().endswith("# the peak of the planned schedule") == (schedule != "constant")
        for optimizer, scheduler in ((one, None), ([one, two], torch.optim.lr_scheduler.ConstantLR(one))):
            with pytest.raises(OptimizerError, match=r"swept together|several are given"):
                finding.apply(optimizer, scheduler)

    def test_groups_keep_their_ratios_at_the_peak(self):
        finding = finding_of({"optimizer": SGD, "ratios": [0.1, 1.0]}, Plan("one_cycle", 100))
        layers = [torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)]
        optimizer = torch.optim.SGD([{"params": layer.parameters()} for layer in layers], lr=1.0)
        names = {"torch": torch, "optimizer": optimizer}
        exec(finding.code(), names)
        assert [group["max_lr"] for group in optimizer.param_groups] == pytest.approx(finding.lrs, rel=0.05)


class TestFrameworks:
    """What any training may tell of itself."""

    def test_where_the_rate_is_written(self):
        finding = finding_of({"optimizer": SGD, "sets": "trainer.args.learning_rate"}, Plan("linear", 500))
        assert finding.code() == f"trainer.args.learning_rate = {finding.lr:.2g}"

    def test_the_call_that_takes_the_rate(self):
        assert code_for({"sets": "net.set_params(lr="}, [0.1, 0.01], Plan()) == "net.set_params(lr=0.1)"

    def test_a_list_of_the_rates_of_all_groups(self):
        assert code_for({"sets": "learn.lr[]"}, [0.01, 0.1], Plan()) == "learn.lr = [0.01, 0.1]"

    def test_a_number_of_which_the_rates_are_multiples(self):
        facts = {"sets": "model.hparams.lr", "sets_share": 0.1}
        assert code_for(facts, [0.02, 0.2], Plan()) == "model.hparams.lr = 0.02"
        assert code_for(facts | {"sets": "learn.lr[]"}, [0.02, 0.2], Plan()) == "learn.lr = [0.002, 0.02]"

    @pytest.mark.parametrize("optimizer", ["trainer.optimizer", "trainer.create_optimizer()"])
    def test_the_groups_of_an_optimizer_that_is_there(self, optimizer):
        facts = {"sets": f"{optimizer}.param_groups"}
        groups = [{"lr": 1.0}, {"lr": 1.0, "initial_lr": 1.0}]
        made = SimpleNamespace(param_groups=groups)
        exec(
            code_for(facts, [0.02, 0.2], Plan()),
            {"trainer": SimpleNamespace(optimizer=made, create_optimizer=lambda: made)},
        )
        assert groups == [{"lr": 0.02, "initial_lr": 0.02}, {"lr": 0.2, "initial_lr": 0.2}]
        assert one_line(facts, [0.02, 0.2], Plan()) == f"finding.apply({optimizer})"
        assert one_line(facts, [0.02], Plan()) == code_for(facts, [0.02], Plan())

    def test_what_is_passed_first_and_what_the_rate_is_called(self):
        adam = {"name": "Adam", "module": "keras.optimizers", "arguments": {"beta_1": 0.8}, "groups": []}
        told = adam | {"parameters": "", "rate": "learning_rate"}
        assert (
            code_for({"optimizer": told}, [0.01], Plan())
            == "optimizer = keras.optimizers.Adam(learning_rate=0.01, beta_1=0.8)"
        )
        own = {"name": "Own", "module": "__main__", "arguments": {}}
        assert code_for({"optimizer": own}, [0.1], Plan()) == "optimizer = Own(model.parameters(), lr=0.1)"
        lion = {"name": "Lion", "module": "lion_pytorch.lion", "arguments": {}, "parameters": "net.blocks.parameters()"}
        code = code_for({"optimizer": lion}, [0.01], Plan("cosine", 9))
        assert code.startswith(
            "optimizer = lion_pytorch.lion.Lion(net.blocks.parameters(), lr=0.01)\nscheduler = torch."
        )

    def test_pytorchs_scheduler_is_not_for_another_frameworks_optimizer(self):
        told = SGD | {"module": "optax", "name": "sgd", "parameters": "", "rate": "learning_rate"}
        code = code_for({"optimizer": told}, [0.01], Plan("cosine", 9))
        assert code == "optimizer = optax.sgd(learning_rate=0.01, momentum=0.9)  # the peak of the planned schedule"

    @pytest.mark.parametrize(
        "facts",
        [
            *({}, {"optimizer": None}, {"optimizer": "sgd"}, {"optimizer": {}}, {"sets": 3}, {"sets": "a()(lr="}),
            *({"sets": ".param_groups"}, {"sets": "f(1).param_groups"}, {"sets": "a", "sets_share": "b"}),
            {"sets": "a", "sets_share": math.nan},
        ],
    )
    def test_without_a_word_of_it_the_rate_goes_into_an_optimizer_that_is_there(self, facts):
        assert code_for(facts, [0.01], Plan()) == (
            'for group, lr in zip(optimizer.param_groups, [0.01]): group["lr"] = lr'
        )

    def test_a_value_that_is_no_literal_is_not_written(self):
        told = SGD | {"arguments": {"momentum": math.inf}}
        assert "inf" not in code_for({"optimizer": told}, [0.01], Plan())


PLAIN = (ast.Module, ast.Assign, ast.Attribute, ast.Name, ast.Load, ast.Store, ast.Constant, ast.List, ast.Tuple)
CALLED = (ast.Call, ast.keyword, ast.For, ast.Subscript, ast.Expr, ast.UnaryOp, ast.USub)
words = (
    st.sampled_from(ATTACKS) | st.text(max_size=9) | st.sampled_from(["SGD", "torch.optim", "lr", "model.parameters()"])
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
plain = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


@given(
    st.fixed_dictionaries(
        {"name": words, "module": words, "arguments": st.dictionaries(st.text(max_size=5), plain, max_size=2)},
        optional={"parameters": words, "rate": words},
    ),
    words
    | words.map(lambda word: f"{word}(lr=")
    | words.map(lambda word: f"{word}[]")
    | words.map(lambda word: f"{word}.param_groups"),
)
def test_whatever_a_file_says_the_code_is_names_and_plain_literals(optimizer, sets):
    code = code_for({"optimizer": optimizer, "sets": sets}, [0.01], Plan())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        tree = ast.parse(code)
    assert len(code.splitlines()) == 1
    for node in ast.walk(tree):
        assert isinstance(node, PLAIN + CALLED), ast.dump(node)
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func).replace(".", "").isidentifier()


class TestApply:
    def test_what_has_no_groups_gets_the_line_to_write(self):
        finding = finding_of({"sets": "model.optimizer.learning_rate"})
        with pytest.raises(OptimizerError, match=r"dict has no param_groups") as error:
            finding.apply({})
        assert finding.code() in str(error.value)

    def test_without_a_rate_it_says_why(self):
        with pytest.raises(NoSuggestionError, match="raise max_lr"):
            find(Quadratic(), max_lr=1e-4).apply({})


def test_the_facts_come_through_a_file(tmp_path):
    facts = {"optimizer": SGD | {"parameters": "net", "rate": "eta"}, "sets": "a.b", "ratios": [1.0]}
    finding = finding_of(facts)
    finding.save(tmp_path / "finding.json")
    back = Finding.load(tmp_path / "finding.json")
    assert (back, back.code()) == (finding, finding.code())
