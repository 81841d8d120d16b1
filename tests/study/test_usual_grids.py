"""What is usual, judged on grids that others have published; here on grids of two cells."""

import math
from dataclasses import replace

import pytest

from study import usual_grids

LRS = (1e-4, 1e-3, 1e-2)


@pytest.fixture
def folder(tmp_path):
    trained = [*zip(LRS, (2.2, 2.0, 2.3), strict=True), (LRS[-1], 2.5)]
    big = "".join(f"100000000,4000000000,64,1000,{lr},{loss}\n" for lr, loss in trained)
    few = "".join(f"100000000,4000000000,128,500,{lr},2.0\n" for lr in LRS[:2])
    head = "parameters,tokens,batch_sequences,steps,peak_lr,loss\n"
    (tmp_path / usual_grids.PRETRAINING).write_text(head + big + few)
    tuned = "".join(f"some/Model-3-8B-Base,{lr},16,{0.5 + lr}\n" for lr in reversed(LRS))
    (tmp_path / usual_grids.LORA).write_text("model,peak_lr,lora_rank,test_nll\n" + tuned)
    return tmp_path


def test_a_cell_is_one_setting_at_three_rates_at_least(folder):
    (cell,) = usual_grids.pretraining(folder / usual_grids.PRETRAINING)
    assert (cell.plan.schedule, cell.plan.total_steps, cell.plan.parameters) == ("cosine", 1000, 10**8)
    assert (cell.lrs, cell.losses, cell.best_lr) == (LRS, (2.2, 2.0, 2.4), 1e-3)
    (tuned,) = usual_grids.lora(folder / usual_grids.LORA)
    assert (tuned.plan.schedule, tuned.plan.total_steps, tuned.plan.parameters) == ("linear", 780, 16 * 2_600_000)
    assert 0 < tuned.plan.pretrained < 0.01
    assert tuned.lrs == LRS


@pytest.mark.parametrize(
    ("lr", "lost", "inside"),
    [(1e-3, 0.0, True), (10**-3.5, 0.1, True), (10**-2.5, 0.2, True), (1e-6, 0.2, False), (1.0, 0.4, False)],
)
def test_a_loss_is_log_linear_between_the_rates(folder, lr, lost, inside):
    (cell,) = usual_grids.pretraining(folder / usual_grids.PRETRAINING)
    assert cell.lost(lr) == pytest.approx(lost)
    assert cell.has(lr) is inside


def test_what_is_usual_is_asked_by_the_plan_alone(folder):
    (cell,) = usual_grids.pretraining(folder / usual_grids.PRETRAINING)
    by_hand = -2.36 - 0.25 * 4 - 1.3 * math.log10(0.5) + 0.4 - 0.12
    assert math.log10(usual_grids.usual(cell)) == pytest.approx(by_hand, abs=0.01)
    assert usual_grids.usual(cell, epochs=None) == pytest.approx(usual_grids.usual(cell) * 10**-0.4)
    (tuned,) = usual_grids.lora(folder / usual_grids.LORA)
    by_hand += 0.25 * 4 - 0.25 * math.log10(16 * 260) - 0.2 * math.log10(0.78) - 0.5
    assert math.log10(usual_grids.usual(tuned)) == pytest.approx(by_hand, abs=0.01)


@pytest.mark.parametrize(
    ("model", "billions"), [("moonshotai/Kimi-K2.6", 1000), ("openai/gpt-oss-20b", 20), ("x/Qwen3.5-397B-A17B", 397)]
)
def test_a_model_says_how_large_it_is(model, billions):
    assert usual_grids.parameters_of(model) == billions * 1e9
    with pytest.raises(ValueError, match="does not say how large"):
        usual_grids.parameters_of("some/model")


def test_the_tables_print(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["usual_grids", str(folder)])
    usual_grids.main()
    printed = capsys.readouterr().out
    printed, tuned = printed.split("LoRA: 1 cells, 3 rates")
    assert "pretraining: 1 cells, 3 rates" in printed
    (row,) = (line for line in printed.splitlines() if line.startswith("always 0.001") and "0 of 1" in line)
    assert row.split()[3:-3] == [*["0.00", "%"] * 4, "0.0000", "1.00,", "x/÷", "1.0"]
    assert "up to 9 billion parameters" in tuned


def test_how_the_best_rate_moves_with_the_rank_is_counted(folder):
    (cell,) = usual_grids.lora(folder / usual_grids.LORA)
    higher = replace(cell, groups=("", "rank 128"), losses=(0.6, 0.5, 0.7))
    others = [replace(each, name="another") for each in (cell, higher)]
    lower = replace(others[1], groups=("", "rank 1"))
    assert usual_grids.by_rank([higher, cell, lower, *others[:1]]).endswith("rises in 1, stays in 0, falls in 1")
    assert usual_grids.by_rank([cell]).endswith("rises in 0, stays in 0, falls in 0")
