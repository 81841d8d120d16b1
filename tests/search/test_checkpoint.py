"""A race that was killed goes on from its checkpoint, and ends as one that was not."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from hashlib import sha256

import pytest

from findlr import ConfigurationError, FileFormatError, Finding, Plan, find, rules
from findlr.testing import Quadratic
from tests.finding.test_files import a_full_disk
from tests.search.test_race import Several

PLAN = Plan("one_cycle", total_steps=400)


class StopHere(BaseException):
    pass


def breaks_off(run, index, error=StopHere):
    def on_step(step):
        if (step.run, step.index) == (run, index):
            raise error

    return on_step


class Counted(Quadratic):
    steps = 0

    def step(self, lr):
        self.steps += 1
        return super().step(lr)


def searched(path, training=None, on_step=None, plan=PLAN, **how):
    training = Counted(noise=0.1) if training is None else training
    return find(training, plan, verify=True, checkpoint=path, on_step=on_step, **how)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "race.json"


@pytest.fixture
def kept(path):
    """A checkpoint of a search that was broken off in its second run."""
    with pytest.raises(StopHere):
        searched(path, on_step=breaks_off(2, 7))
    return path


@pytest.mark.parametrize("error", [StopHere, KeyboardInterrupt])
@pytest.mark.parametrize(
    "places", [[(1, 0)], [(2, 7)], [(1, 3), (1, 3), (3, 5)], [(3, 1), (3, 1)], [(None, 9), (2, 0)]]
)
def test_a_search_that_was_broken_off_ends_with_the_same_finding(path, places, error):
    for place in places:
        with pytest.raises(error):
            searched(path, on_step=breaks_off(*place, error))
    assert path.exists() or places == [(None, 9)]
    training = Counted(noise=0.1)
    before = training.snapshot()
    assert searched(path, training) == searched(None)
    assert training.snapshot() == before


def test_the_sweep_and_the_runs_that_ended_are_not_made_again(path, kept):
    training = Counted(noise=0.1)
    finding = searched(path, training)
    assert training.steps == 5 + 2 * finding.race.steps  # what tells the training, and two runs of three


def test_the_file_is_left_complete_and_a_search_that_finds_it_so_makes_no_run(path):
    first, training = searched(path), Counted(noise=0.1)
    text = path.read_bytes()
    assert searched(path, training) == first
    assert training.steps == 5
    assert path.read_bytes() == text
    assert [each.name for each in path.parent.iterdir()] == ["race.json"]


def test_runs_in_one_pass_are_kept_too(path):
    def made(**how):
        return searched(path, Several(curvature=2.0), plan=Plan(total_steps=1000), budget=3000, one_pass=True, **how)

    with pytest.raises(StopHere):
        made(on_step=breaks_off(5, 3))
    finding = made()
    whole = find(Several(curvature=2.0), Plan(total_steps=1000), verify=True, budget=3000, one_pass=True)
    assert repr(finding.race) == repr(whole.race)  # one of its losses is NaN
    assert (finding.suggestion, finding.cost) == (whole.suggestion, whole.cost)
    assert finding.race.path == "one pass"


def test_a_pass_that_was_only_tried_is_not_tried_again(path):
    def training():
        training = Several(curvature=2.0)
        training.wants = False
        return training

    how = dict(plan=Plan(total_steps=1000), budget=3000, one_pass=True)
    with pytest.raises(StopHere):
        searched(path, training(), breaks_off(2, 3), **how)
    assert searched(path, training(), **how) == searched(None, training(), **how)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(training=Counted(noise=0.1, seed=1)), "loss at step 0 of the sweep"),
        (dict(training=Counted(noise=0.1, weight=1.001)), "loss at step 0 of the sweep"),
        (dict(training=Quadratic(noise=0.1)), "training is Counted, here it is Quadratic"),
        (dict(plan=Plan("one_cycle", total_steps=401)), "plan.total_steps is 400, here it is 401"),
        (dict(plan=Plan("cosine", total_steps=400)), "plan.schedule is one_cycle, here it is cosine"),
        (dict(budget=300), "budget is None, here it is 300"),
        (dict(max_lr=5.0), "max_lr is 10.0, here it is 5.0"),
        (dict(rule=rules.valley), "rule is None, here it is valley"),
        (dict(control_variate=False), "control_variate is None, here it is False"),
    ],
)
def test_a_checkpoint_of_another_search_is_refused_and_stays(kept, change, words):
    text = kept.read_bytes()
    training = change.setdefault("training", Counted(noise=0.1))
    before = training.snapshot()
    with pytest.raises(ConfigurationError, match=words) as caught:
        searched(kept, **change)
    assert "is the checkpoint of another search" in str(caught.value)
    assert "delete the file" in str(caught.value)
    assert (kept.read_bytes(), training.snapshot()) == (text, before)


def test_trainings_whose_first_losses_are_alike_are_told_apart_by_later_ones(path):
    """An output layer at zero gives the same loss for any seed, until a rate acts."""
    with pytest.raises(StopHere):
        searched(path, Quadratic(floor=1.0, weight=0.01), breaks_off(1, 3))
    same = find(Quadratic(floor=1.0, weight=0.01), PLAN, verify=True)
    assert searched(path, Quadratic(floor=1.0, weight=0.01)) == same
    with pytest.raises(ConfigurationError, match=r"of the sweep is 1\.0005, here it is 1\.0"):
        searched(path, Quadratic(floor=1.0, weight=0.03))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace(b'"steps": 100', b'"steps": 101', 1),
        lambda text: text.replace(b"0.", b"1.", 1),
        lambda text: b"\xff\xfe",
        lambda text: b"[" * 100_000,
        lambda text: b"[]",
        lambda text: b"{}",
        lambda text: json.dumps(find(Quadratic()).to_dict()).encode(),
        lambda text: text.replace(b'"format": 1', b'"format": 2', 1),
    ],
)
def test_a_damaged_file_is_one_clear_error_and_stays(kept, damage):
    text = damage(kept.read_bytes())
    kept.write_bytes(text)
    training = Counted(noise=0.1)
    with pytest.raises(FileFormatError, match=r"race\.json is .*delete the file to begin anew") as caught:
        searched(kept, training)
    assert len(str(caught.value)) < 250
    assert (training.steps, kept.read_bytes()) == (0, text)


@pytest.mark.parametrize("value", [None, "x", [], {}, [[]], {"lr": 1}, 1e400])
@pytest.mark.parametrize(
    "field",
    [
        "asked",
        "facts",
        "sweep",
        "race",
        "sweep lr",
        "sweep loss 0",
        "sweep baseline",
        "sweep stop",
        "sweep steps",
        "race start",
        "race pass",
        "race runs",
        "race runs 0",
        "race runs 0 loss",
        "race runs 0 forwards",
    ],
)
def test_a_whole_file_of_which_a_field_is_wrong_is_one_clear_error_or_does_no_harm(kept, field, value):
    whole = json.loads(kept.read_text())
    data = whole["checkpoint"]
    holder, names = data, [int(name) if name.isdigit() else name for name in field.split()]
    for name in names[:-1]:
        holder = holder[name]
    holder[names[-1]] = value
    kept.write_text(json.dumps({**whole, "sha256": sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()}))
    try:
        searched(kept)
    except (FileFormatError, ConfigurationError) as error:
        assert "race.json" in str(error)  # noqa: PT017 - some values fit


@pytest.mark.parametrize(
    ("where", "words"),
    [("", "it is a folder"), ("missing/race.json", "its folder is not there"), (3, "name of a file")],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_first_step(tmp_path, where, words):
    training = Counted()
    with pytest.raises(ConfigurationError, match=words):
        searched(where if where == 3 else str(tmp_path / where), training)
    assert training.steps == 0


def test_without_a_race_there_is_nothing_to_keep(path):
    with pytest.raises(ConfigurationError, match="give verify=True"):
        find(Quadratic(), checkpoint=path)
    assert searched(path, Quadratic(curvature=1e-9)).race is None
    assert not path.exists()


@pytest.mark.posix
@pytest.mark.parametrize("early", [True, False])
def test_a_disk_that_is_full_ends_no_race_and_what_the_file_has_stays(path, caplog, early):
    whole = searched(path)
    room = 100 if early else path.stat().st_size - 1
    path.unlink()
    with a_full_disk(room):
        assert searched(path) == whole
    assert caplog.text.count("can't be kept in") == 1
    assert [each.name for each in path.parent.iterdir()] == ([] if early else [path.name])
    assert searched(path) == whole


def test_a_training_may_change_the_folder_that_it_is_in(tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def on_step(step):
        os.chdir(tmp_path / "there")

    whole = searched("race.json", on_step=on_step)
    assert [each.parent.name for each in tmp_path.glob("*/race.json")] == ["here"]
    monkeypatch.chdir(tmp_path / "here")
    training = Counted(noise=0.1)
    assert searched("race.json", training) == whole
    assert training.steps < 20


@pytest.mark.posix
def test_in_a_folder_that_is_gone_a_checkpoint_is_refused(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigurationError, match="give the whole path"):
        searched("race.json")


@pytest.mark.posix
def test_a_checkpoint_that_is_a_link_stays_one(path, tmp_path_factory):
    there = tmp_path_factory.mktemp("large")
    path.symlink_to(there / "race.json")
    assert searched(path) == searched(None)
    assert path.is_symlink()
    assert [each.name for each in there.iterdir()] == ["race.json"]


SCRIPT = """
import os, signal, sys, torch
from findlr import find_lr

path, kill, at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(0)
inputs = torch.randn(320, 8)
data = torch.utils.data.TensorDataset(inputs, inputs[:, :3].argmax(dim=1))
loader = torch.utils.data.DataLoader(data, 16, shuffle=True)
nn = torch.nn
net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 3))
optimizer = torch.optim.AdamW(net.parameters())

def on_step(step):
    if step.run == kill and step.index == at:
        os.kill(os.getpid(), signal.SIGKILL)

finding = find_lr(
    net, optimizer, torch.nn.CrossEntropyLoss(), loader,
    schedule="one_cycle", total_steps=400, verify=True, on_step=on_step, checkpoint=path,
)
finding.save(path + ".finding")
for inputs, targets in loader:
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(inputs), targets).backward()
    optimizer.step()
print(sum(p.double().abs().sum().item() for p in net.parameters()).hex(), torch.rand(1).item())
"""


@pytest.mark.posix
def test_a_training_that_was_killed_in_its_race_goes_on(tmp_path):
    def run(name, kill=0, at=0):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / name), str(kill), str(at)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == (-signal.SIGKILL if kill else 0), done.stderr
        return done.stdout

    after = run("whole.json")
    for kill, at in ((1, 9), (2, 20), (3, 0)):
        run("killed.json", kill, at)
    assert run("killed.json") == after  # the training after it is the same to the last bit
    whole, again = (Finding.load(tmp_path / f"{name}.json.finding") for name in ("whole", "killed"))
    assert again == whole
    assert len(whole.race.runs) == 3
    assert math.isfinite(whole.race.start)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        f"{name}.json{more}" for name in ("whole", "killed") for more in ("", ".finding")
    )


@pytest.mark.parametrize("name", ["race\0.json", "x" * 300])
def test_what_is_no_name_of_a_file_is_refused(name):
    with pytest.raises(ConfigurationError, match="is no name of a file"):
        find(Quadratic(), Plan(total_steps=400), verify=True, checkpoint=name)


ANOTHER = """
    import sys
    from findlr import ConfigurationError, Plan, find
    from findlr.testing import Quadratic

    try:
        print(find(Quadratic(noise=0.1), Plan("one_cycle", total_steps=400), verify=True, checkpoint=sys.argv[1]).lr)
    except ConfigurationError as error:
        print(error)
"""


def another(path):
    """What another process says, which searches with the same checkpoint."""
    command = [sys.executable, "-c", textwrap.dedent(ANOTHER), path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.posix
@pytest.mark.parametrize("at", [(1, 0), (3, 5)])
def test_a_second_search_on_the_file_of_one_that_runs_is_refused(path, at, tmp_path):
    said = []
    on_step = lambda step: said.append(another(path)) if (step.run, step.index) == at else None  # noqa: E731
    found = searched(path, Quadratic(noise=0.1), on_step)
    (told,) = said
    assert told.startswith(f"another search writes {path}, and two can't keep their runs in one file: wait for its end")
    assert another(path) == str(found.lr)  # once it has ended
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_the_first_of_two_searches_that_has_swept_has_the_file(path, tmp_path):
    said = []
    on_step = lambda step: said.append(another(path)) if (step.run, step.index) == (None, 9) else None  # noqa: E731
    training = Quadratic(noise=0.1)
    with pytest.raises(ConfigurationError, match="another search writes") as caught:
        searched(path, training, on_step)
    assert training.weight == 1.0
    assert len(caught.value.finding.curve) > 9
    assert said == [str(searched(path, training).lr)]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
