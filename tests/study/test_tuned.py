"""The tables of the trainings from trained weights: what a rate loses there, and where the tables go."""

import pytest
import torch

from study import images, tuned

ENTRY = {
    "start": 3.0,
    "losses": {"0.001": 2.0, "0.002": 1.0, "0.004": 4.0, "0.008": float("nan"), "0.0015": 1.5},
    "answers": {
        "one": {"lr": 0.0015, "steps": 120},
        "other": {"lr": None, "steps": 100},
        "refused": {"lr": None, "fallback": 0.001, "steps": 90},
    },
}


@pytest.mark.parametrize(
    ("lr", "regret"),
    [(0.002, 0.0), (0.0015, 0.25), (0.001, 0.5), (0.004, 1.0), (0.008, 1.0), (None, 1.0)],
)
def test_what_a_rate_loses(lr, regret):
    assert tuned.regret(ENTRY, lr) == pytest.approx(regret)


def test_a_rate_that_was_not_trained_is_no_guess():
    with pytest.raises(KeyError):
        tuned.regret(ENTRY, 0.003)


def test_the_tables():
    better = ENTRY | {"losses": ENTRY["losses"] | {"0.001": 1.0}}
    assert tuned.grid_table([0.001, 0.002], [ENTRY, better]).splitlines()[2:] == [
        "| 0.001 | 1.50 | 0.25 |",
        "| 0.002 | 1.00 | 0.00 |",
    ]
    assert tuned.finders_table(["one", "other", "refused"], {"a habit": 0.001}, [ENTRY, better]).splitlines()[2:] == [
        "| one | 1.5e-03, 1.5e-03 | 0.25, 0.25 | 0.25 | 120 |",
        "| other | none, none | 1.00, 1.00 | 1.00 | 100 |",
        "| refused | none (1.0e-03), none (1.0e-03) | 0.50, 0.00 | 0.25 | 90 |",
        "| a habit | 1.0e-03 | 0.50, 0.00 | 0.25 | 0 |",
    ]


def test_a_table_takes_the_place_of_the_one_before_it():
    page = "a\n<!-- b: made by python -m study.c --table -->\nold\n<!-- end -->\nd <!-- end -->\n"
    assert tuned.put(page, "b", "c", "new") == page.replace("old", "new")
    assert tuned.put(page, "e", "c", "new") == page


def test_the_digits_are_pictures_of_which_none_is_on_both_sides():
    data = images.digits()
    assert data.inputs.shape == (600, 3, 48, 48)
    assert data.validation_inputs.shape == (500, 3, 48, 48)
    assert set(data.targets.tolist()) == set(range(10))
    nearest = torch.cdist(data.inputs.flatten(1), data.validation_inputs.flatten(1)).min()
    assert nearest > 0


def test_each_training_is_run_once_at_the_grid_and_at_what_was_answered(tmp_path, monkeypatch):
    trained = []

    def train(_task, lr, _seed):
        trained.append(lr)
        return 1.0

    monkeypatch.setattr(images, "KEPT", tmp_path / "images.json")
    monkeypatch.setattr(images, "TASKS", {task: ([0.5, 1.0], {"a habit": 0.1}) for task in list(images.TASKS)[:1]})
    monkeypatch.setattr(images, "SEEDS", (0,))
    monkeypatch.setattr(images, "train", train)
    monkeypatch.setattr(images, "untrained_loss", lambda *_: 2.0)
    monkeypatch.setattr(images, "ask", lambda *_: {"lr": None, "fallback": 0.3, "steps": 9})
    images.run(fresh=False, peers=False)
    images.run(fresh=False, peers=False)
    assert trained == [0.1, 0.3, 0.5, 1.0]
    kept = tuned.read(images.KEPT)["adamw 0"]
    assert kept["start"] == 2.0
    assert kept["answers"].keys() == images.FINDLR.keys()
