"""The accuracy benchmark in small: findlr, run now, against what the others are recorded to have suggested."""

import json

import numpy as np
import pytest
import torch

from study import answers, cheaper, frontier, report
from study.baselines import AT_RANDOM, SEARCHES, Trainings, best_single
from study.frontier import Point, apart
from study.regret import DEFAULT_LR, Truth, load
from study.scores import Answer, Scores, bootstrap, scores
from study.suggest import suggestion
from study.tasks import REPORT, TASKS, fit_former, fit_kinds, fit_text, report_sequence, task
from study.tasks.optimizers import Lion, MuonAdamW, not_for_muon
from study.train import batches

# All tasks of the former report half that need no pretrained weights: on a handful the mean is one task's luck.
QUICK = tuple(t.name for t in fit_former.TASKS if t.family != "resumed" and t.name != "masks-tuned")
VERIFIED = tuple(name for name in QUICK if task(name).total_steps < 5000)


def recorded(path, finder, names, seeds):
    known = answers.load(path)
    return scores(
        finder,
        {name: {str(seed): known[name][finder][str(seed)] for seed in seeds} for name in names},
        {name: load()[name] for name in names},
    )


def run_now(finder, names, seeds):
    return scores(
        finder,
        {name: {str(seed): suggestion(finder, task(name), seed) for seed in seeds} for name in names},
        {name: load()[name] for name in names},
    )


@pytest.mark.parametrize(
    ("finder", "names", "seeds", "most_steps"), [("quick", QUICK, [0, 1, 2], 150), ("verified_0.5", VERIFIED, [0], 500)]
)
def test_findlr_is_not_behind(finder, names, seeds, most_steps):
    ours = run_now(finder, names, seeds)
    minimum = recorded(answers.PEERS, "fastai_minimum", names, seeds)
    article = recorded(answers.SUGGESTIONS, "article", names, seeds)
    assert ours.mean.mean <= min(minimum.mean.mean, article.mean.mean), (
        f"mean regret {ours.mean.mean:.4f}, by task {ours.by_task}; "
        f"fastai's minimum {minimum.mean.mean:.4f}, the article's rule {article.mean.mean:.4f}"
    )
    assert ours.diverged == 0
    assert max(answer.record["steps"] for answer in ours.all) <= most_steps


def truth(name="toy", split="fit", optimizer="Adam"):
    """Best at 1e-2, where the loss is 1; 3 without training."""
    return Truth(
        name=name,
        family="mlp",
        split=split,
        optimizer=optimizer,
        schedule="constant",
        total_steps=100,
        untrained=3.0,
        best_lr=1e-2,
        best_loss=1.0,
        noise=0.01,
        lrs=(1e-4, 1e-3, 1e-2, 1e-1),
        losses=(3.0, 2.0, 1.0, 3.0),
        complete=True,
    )


@pytest.mark.parametrize(
    ("lr", "regret"),
    [
        (1e-2, 0.0),
        (1e-3, 0.5),
        (10**-2.5, 0.25),  # log-linear in between
        (1e-9, 1.0),  # beyond the edges: the edge's
        (100.0, 1.0),
        (float("nan"), 1.0),
        (0.0, 1.0),
    ],
)
def test_regret(lr, regret):
    assert truth().regret(lr) == pytest.approx(regret)


def test_only_too_high_a_rate_diverges():
    assert truth().diverged(0.1)
    assert not truth().diverged(1e-4)


@pytest.mark.parametrize("known", fit_text.TASKS + fit_kinds.TASKS + REPORT, ids=lambda known: known.name)
def test_a_task_takes_steps(known, monkeypatch):
    if known.optimizer == "Muon+AdamW" and not hasattr(torch.optim, "Muon"):
        pytest.skip("torch has no Muon before 2.9")
    for module in (fit_text, report_sequence):
        monkeypatch.setattr(module, "pretrained", lambda _name, build, *_args, **_settings: build().state_dict())
    setup = known.make(0)
    before = [parameter.detach().clone() for parameter in setup.model.parameters()]
    optimizer = setup.make_optimizer(setup.model.parameters(), DEFAULT_LR[known.optimizer])
    stream = batches(setup.loader)
    for _ in range(2):
        inputs, targets = next(stream)
        optimizer.zero_grad()
        loss = setup.criterion(setup.model(inputs), targets)
        assert torch.isfinite(loss)
        loss.backward()
        optimizer.step()
    held_out = setup.validation_loss(setup.model)
    assert np.isfinite(held_out)
    assert setup.validation_loss(setup.model) == held_out  # the same draws each time
    moved = [not torch.equal(old, new) for old, new in zip(before, setup.model.parameters(), strict=True)]
    assert any(moved)


def test_lion_steps_by_the_sign():
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = Lion([weight], lr=0.1)
    for gradient in ([2.0, -1.0], [-0.1, 30.0]):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    assert weight.tolist() == pytest.approx([1 - 0.1 - 0.1 * np.sign(0.9 * 0.02 - 0.1 * 0.1), 1 + 0.1 - 0.1])


def test_muon_takes_the_hidden_matrices():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch has no Muon before 2.9")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    not_for_muon(model[1].weight)
    optimizer = MuonAdamW(model.parameters(), lr=0.01)
    hidden, others = ([tuple(one.shape) for one in group["params"]] for group in optimizer.param_groups)
    assert hidden == [(4, 3)]
    assert others == [(4,), (2, 4), (2,)]
    model(torch.ones(1, 3)).sum().backward()
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [one.detach().clone() for one in model.parameters()]
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert len(optimizer.state) == 4


def test_names_and_splits_fit():
    names = [known.name for known in TASKS]
    assert len(set(names)) == len(names)
    assert {known.split for known in REPORT} == {"report"}
    assert all(known.split == "fit" for known in TASKS if known not in REPORT)
    assert all(truth.split == task(name).split for name, truth in load().items() if name in names)


def test_truths_are_sound():
    for known in load().values():
        if known.complete:  # till then, a rate may have too few seeds to be called the best
            assert min(known.losses) >= known.best_loss - 3 * known.noise, known.name
        assert known.regret(known.best_lr) == pytest.approx(0.0), known.name
        assert list(known.lrs) == sorted(known.lrs), known.name


def test_a_refusal_is_scored_as_the_default():
    answer = Answer(truth(), {"lr": None})
    assert answer.refused
    assert answer.lr == DEFAULT_LR["Adam"]
    assert answer.regret == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("interval", "covers"),
    [((5e-3, 2e-2), True), ((1.1e-2, 2e-2), True), ((1.3e-2, 2e-2), False), ((1e-3, 8e-3), False)],
)
def test_an_interval_covers_within_half_a_grid_step(interval, covers):
    assert Answer(truth(), {"lr": 1e-2, "interval": interval}).covers is covers


def test_scores():
    records = {
        "a": {"0": {"lr": 1e-2, "steps": 10}, "1": {"lr": 1e-3, "steps": 20}},
        "b": {"0": {"lr": 0.1, "steps": 0}},
    }
    made = scores("toy", records, {"a": truth("a"), "b": truth("b")})
    assert made.by_task == pytest.approx({"a": 0.25, "b": 1.0})
    assert made.mean.mean == pytest.approx(0.625)  # a task counts once, whatever its seeds
    assert made.median == pytest.approx(0.5)
    assert made.ninetieth == pytest.approx(0.9)
    assert made.worst == 1.0
    assert made.within == pytest.approx(1 / 3)
    assert made.diverged == pytest.approx(1 / 3)
    assert made.ratios == pytest.approx([10.0])
    assert made.steps == 10
    assert made.intervals is None
    assert made.minus(made).mean == 0.0
    assert scores("toy", {}, {"a": truth("a")}) is None


def test_one_sweep_is_told_by_its_verdict(capsys):
    known = truth("a")
    right, low = {"lr": 1e-2, "verdict": "CLEAR"}, {"lr": 1e-3, "verdict": "CLEAR"}
    refused = {"lr": None, "verdict": "FLAT"}
    report.print_verdicts(
        {
            report.QUICK: Scores(
                report.QUICK,
                {name: (Answer(known, right), Answer(known, last)) for name, last in (("a", low), ("b", refused))},
            ),
            report.WITH_FALLBACK: Scores(
                "",
                {
                    "a": (Answer(known, right), Answer(known, low)),
                    "b": (Answer(known, right), Answer(known, {**refused, "lr": 0.1})),
                },
            ),
        }
    )
    assert [line for line in capsys.readouterr().out.splitlines() if line] == [
        "CLEAR, its rate: 3 sweeps, mean regret .167, 95th percentile .450",
        "FLAT, its fallback: 1 sweeps, mean regret 1.000, 95th percentile 1.000",
        "seed to seed, where every seed is answered: 10.00, 10 (1 of 2 tasks)",
    ]


def test_differences_are_paired_by_task():
    other = Scores("other", {"a": (Answer(truth("a"), {"lr": 1e-3}),)})
    mine = Scores("mine", {name: (Answer(truth(name), {"lr": 1e-2}),) for name in ("a", "b")})
    assert mine.minus(other).mean == pytest.approx(-0.5)


def test_bootstrap_holds_the_mean():
    values = np.random.default_rng(1).exponential(size=40)
    spread = bootstrap(values)
    assert spread.low < spread.mean < spread.high
    assert spread.high - spread.low == pytest.approx(2 * 1.96 * values.std() / 40**0.5, rel=0.1)


def test_the_best_single_rate_is_of_the_fit_half_only():
    rates = best_single({"a": truth("a"), "b": truth("b", split="report", optimizer="SGD")})
    assert rates["Adam"] == pytest.approx(1e-2, rel=0.1)
    assert rates["SGD"] == DEFAULT_LR["SGD"]


def test_a_training_counts_all_it_spends():
    trainings = Trainings(task("mlp-teacher"), seed=0, budget=100.0)
    first = trainings.score(0.1, 20)
    assert trainings.spent == pytest.approx(20 + 8 / 3)
    assert trainings.score(0.1, 20) == first  # the same weights, the same batches
    rungs = []
    trainings.score(0.1, 20, lambda loss, step: rungs.append(step))
    assert rungs == [2, 6]
    assert trainings.spent == pytest.approx(60 + 5 * 8 / 3)


def trials_of(search):
    trainings = Trainings(task("mlp-teacher"), seed=0, budget=150.0)
    study = SEARCHES[search](trainings)
    assert trainings.spent <= 150
    return study.trials


@pytest.mark.filterwarnings("ignore:Clip non-finite values")  # Optuna's, where a rate makes the loss infinite
@pytest.mark.parametrize("search", ["tpe", "gp"])
def test_a_search_with_a_model_differs_from_the_random_one_by_its_later_rates_only(search):
    drawn, chosen = (trials_of(each) for each in ("random", search))
    rates, others = ([trial.params["lr"] for trial in trials] for trials in (chosen, drawn))
    assert rates[:AT_RANDOM] == others[:AT_RANDOM]
    assert set(rates[AT_RANDOM:]).isdisjoint(others[AT_RANDOM:])
    assert [trial.value for trial in chosen[:AT_RANDOM]] == [trial.value for trial in drawn[:AT_RANDOM]]
    assert len(chosen) == len(drawn) == 9  # the last one does not fit in the budget
    assert all(trial.distributions == drawn[0].distributions for trial in chosen + drawn)


def test_records_are_added_to(tmp_path):
    path = tmp_path / "suggestions.json"
    answers.add(path, "a", {"quick": {0: {"lr": 0.1}}}, {"findlr": "1"})
    answers.add(path, "a", {"quick": {0: {"lr": 0.2}, 1: {"lr": 0.3}}, "article": {0: {"lr": None}}}, {"findlr": "2"})
    assert answers.load(path) == {"a": {"quick": {"0": {"lr": 0.2}, "1": {"lr": 0.3}}, "article": {"0": {"lr": None}}}}
    assert json.loads(path.read_text())["versions"] == {"findlr": "2"}


@pytest.mark.parametrize("arguments", [["--split", "fit", "--tasks"], ["--markdown"]])
def test_the_report_prints(arguments, monkeypatch, capsys, tmp_path):
    picture = tmp_path / "accuracy.png"
    monkeypatch.setattr("sys.argv", ["report", *arguments, "--picture", str(picture)])
    report.main()
    printed = capsys.readouterr().out
    assert "fastai valley (its default)" in printed
    assert "missing:" in printed or "verified" in printed
    assert 0 < picture.stat().st_size < 80_000


def point(share, lr, name="toy"):
    record = {"lr": lr, "steps": 100 * share}  # of the toy's 100
    return Point.of(scores(name, {"a": {"0": record}}, {"a": truth("a")}))


def test_a_point_is_beaten_by_what_costs_and_loses_no_more():
    cheap, good, poor = point(0.1, 1e-3), point(1.0, 1e-2), point(1.0, 1e-3)
    assert (cheap.share, cheap.mean) == pytest.approx((0.1, 0.5))
    assert not cheap.beats(good)
    assert not good.beats(cheap)
    assert cheap.beats(poor)
    assert good.beats(poor)
    assert not poor.beats(poor)
    rows = list(frontier.rows([poor, good, point(0.0, 1e-2, report.SINGLE)]))
    assert [row[-1] for row in rows] == ["", "", "toy"]  # a rate that nobody looked for beats nobody


@pytest.mark.parametrize(
    ("places", "moved"),
    [
        ([], []),
        ([3.0, 1.0], [3.0, 1.0]),
        ([0.2, 0.0, 5.0], [0.6, -0.4, 5.0]),
        ([1.0, 0.9, 0.0], [1.5 + 2 / 15, 0.5 + 2 / 15, -0.5 + 2 / 15]),  # the first two push the third
    ],
)
def test_words_are_kept_apart(places, moved):
    assert apart(places, 1.0) == pytest.approx(moved)


def test_the_frontier_prints(monkeypatch, capsys, tmp_path):
    picture = tmp_path / "frontier.png"
    monkeypatch.setattr("sys.argv", ["frontier", "--picture", str(picture)])
    frontier.main()
    printed = capsys.readouterr().out
    assert printed.count("findlr verified, budget 3") >= 4
    assert 0 < picture.stat().st_size < 80_000


def run_of(end, half=None):
    """Losses after each tenth: straight down from 1, or by way of ``half`` at the half."""
    return tuple(np.interp(np.linspace(0.1, 1, 10), [0, 0.5, 1], [1, (1 + end) / 2 if half is None else half, end]))


@pytest.mark.parametrize(
    ("replay", "losses", "paid", "believed"),
    [
        (cheaper.as_it_is, (run_of(0.2), run_of(0.4), run_of(0.4)), 3, True),
        (cheaper.given_up(5, 0.1), (run_of(0.2), run_of(0.9), run_of(0.25)), 1 + 0.5 + 1, True),
        (cheaper.given_up(7, 0.1), (run_of(0.2), run_of(0.9), run_of(0.25)), 1 + 0.7 + 1, True),
        (cheaper.given_up(5, 0.1), (run_of(0.2), run_of(0.1, half=0.9), run_of(0.25)), 1 + 0.5 + 1, True),  # the winner
        (cheaper.given_up(5, 0.1), (run_of(0.2), (float("inf"),) * 10, run_of(0.25)), 1 + 0.5 + 1, True),
        (cheaper.two_if_alike(0.05), (run_of(0.2), run_of(0.23), run_of(0.4)), 2, True),
        (cheaper.two_if_alike(0.05), (run_of(0.2), run_of(0.25), run_of(0.4)), 3, True),
        (cheaper.learned_by(0.9), (run_of(0.2), run_of(0.4), run_of(0.4)), 3, False),
    ],
)
def test_a_replay_pays_for_what_it_runs(replay, losses, paid, believed):
    lrs = (0.02, 0.06, 0.02 / 3)
    raced = cheaper.Raced("mlp-teacher", "1", 133.0, 0.03, 1e-2, 100, 1.0, lrs, losses)
    lr, runs = replay(raced)
    assert runs == pytest.approx(paid)
    assert (lr == raced.alone) is not believed


def test_a_real_race_is_replayed_as_it_was():
    known = task("mlp-teacher")
    raced = cheaper.raced(known, "1")
    assert len(raced.lrs) == len(raced.losses) == 3
    assert cheaper.as_it_is(raced)[0] == pytest.approx(suggestion("verified_1", known, 0)["lr"], rel=1e-6)
