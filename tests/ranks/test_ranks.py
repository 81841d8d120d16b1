"""A search on several processes: the same everywhere, put back everywhere, and no process waits for one that failed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import findlr
from tests.ranks.cases import problems

ROOT = Path(__file__).parents[2]
ASKED = [
    "2 exits('ddp', ['sgd'], before=(3,))",
    "3 exits('ddp', ['adamw-fused'], ('finish', 'raise'))",
    "2 exits('fsdp', ['adamw-foreach'], before=(3,))",
    "2 places('ddp', (15,), (1,))",
    "2 ways",
    "3 apart('ddp')",
    "2 apart('fsdp')",
    "2 fault('ddp', 'forward', kill, 7, 1)",
    "3 fault('fsdp', 'forward', kill, 7, 0)",
    "2 fault('fsdp', 'backward', fail, 12, 1)",
    "2 sharded_ways",
    "3 by_hand",
    "2 refused",
    "2 like_the_wrapper",
]
SOURCE = Path(findlr.__file__).parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{SOURCE}{os.pathsep}{ROOT}"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--monitor-interval", "0.1"]


@pytest.fixture(scope="module")
def results(request, tmp_path_factory):
    """All cases that tests ask for, by one process that loads torch once."""
    out = tmp_path_factory.mktemp("ranks") / "results.json"
    tests = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    cases = {params.get("asked", params.get("case")) for params in tests}
    command = [sys.executable, "-m", "tests.ranks.cases", str(out), *(case for case in ASKED if case in cases)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    return json.loads(out.read_text())


@pytest.mark.timeout(900)  # all cases run in the first test
@pytest.mark.parametrize("asked", ASKED)
def test_every_rank_is_put_back_and_finds_the_same(results, asked):
    assert problems(asked, **results[asked]) == []


@pytest.mark.parametrize(
    ("case", "name", "error"),
    [
        ("2 fault('ddp', 'forward', kill, 7, 1)", "it", "RankError: rank 1 ended without a word"),
        ("2 fault('fsdp', 'backward', fail, 12, 1)", "it", "RankError: rank 1 failed: ValueError: blown"),
        ("2 exits('ddp', ['sgd'], before=(3,))", "sgd raise 3", "RankError: rank 1 failed: ValueError: blown"),
        ("2 exits('ddp', ['sgd'], before=(3,))", "sgd interrupt 3", "RankError: rank 1 was interrupted by a signal"),
        ("3 apart('ddp')", "steps", "RankError: rank 1 and 2 failed: ConfigurationError: num_steps is 28, and 24 on"),
        (
            "3 apart('ddp')",
            "snapshot",
            "RankError: rank 1 and 2 failed: ConfigurationError: snapshot is disk, and auto",
        ),
        ("3 apart('ddp')", "scaler", "RankError: rank 1 and 2 failed: ConfigurationError: scaler is GradScaler, and"),
        ("3 apart('ddp')", "alone", "RankError: rank 1 and 2 did not begin this search"),
        (
            "3 apart('ddp')",
            "loop",
            "RankError: rank 1 and 2 failed: ConfigurationError: the RangeTest's block was left",
        ),
        ("2 apart('fsdp')", "looked at", "RankError: rank 1 failed: ValueError: blown"),
        ("3 by_hand", "search", "ConfigurationError: a step of this training calls processes outside"),
        ("3 by_hand", "loop", "ConfigurationError: a step of this training calls processes outside"),
        ("2 sharded_ways", "callback fails", "RankError: rank 1 failed: ValueError: blown"),
        ("2 sharded_ways", "no data on one", "RankError: rank 1 failed: LoaderError: loader is empty"),
        ("2 sharded_ways", "validation that one fails in", "RankError: rank 1 failed: ValueError: blown"),
        ("2 sharded_ways", "race that one fails to score", "RankError: rank 1 failed: ValueError: blown"),
        ("2 sharded_ways", "validation that one can't read", "RankError: rank 1 failed: ValueError: blown"),
        ("2 sharded_ways", "tensor parallel, one fails", "RankError: rank 1 failed: ValueError: blown"),
        ("2 refused", "fsdp1", "ConfigurationError: FullyShardedDataParallel"),
        ("2 refused", "sparse", "ConfigurationError: DistributedDataParallel can't be searched with sparse gradients"),
        ("2 refused", "closure", "OptimizerError: LBFGS"),
    ],
)
def test_the_first_rank_is_told_what_happened(results, case, name, error):
    assert results[case]["ranks"][0][name]["error"].startswith(error)


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("2 exits('ddp', ['sgd'], before=(3,))", "sgd raise 3"),
        ("2 exits('fsdp', ['adamw-foreach'], before=(3,))", "adamw-foreach raise 3"),
        ("2 fault('fsdp', 'backward', fail, 12, 1)", "it"),
    ],
)
def test_the_rank_that_failed_raises_its_own_exception(results, case, name):
    assert results[case]["ranks"][1][name]["error"] == "ValueError: blown"


@pytest.mark.parametrize("case", ["2 ways"])
def test_a_loop_that_one_rank_leaves_has_measured_the_same_on_all(results, case):
    first, second = (rank["loop that one leaves 3"] for rank in results[case]["ranks"])
    assert (first["points"], first["finding"]) == (10, second["finding"])
    assert second["error"] == "ValueError: blown"


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("2 ways", "race that one fails in 3"),
        ("2 sharded_ways", "race that one fails in"),
        ("2 sharded_ways", "another one is never called"),
    ],
)
def test_no_rank_raises(results, case, name):
    assert [rank[name]["error"] for rank in results[case]["ranks"]] == [None, None]


@pytest.mark.parametrize("case", ["2 ways"])
def test_a_sweep_ends_where_the_first_stream_does(results, case):
    for rank in results[case]["ranks"]:
        assert (rank["data end 3"]["stop"], rank["data end 3"]["points"]) == ("DATA_ENDED", 10)
        assert rank["data end in the race 3"]["error"] is None


@pytest.mark.parametrize("case", ["3 by_hand"])
def test_ranks_that_no_wrapper_joins_search_together_where_one_is_given(results, case):
    assert [rank["search, wrapped"]["facts"] for rank in results[case]["ranks"]] == [[24, 3]] * 3


@pytest.mark.parametrize("case", ["2 ways"])
def test_facts_tell_the_ranks_and_the_batch_of_all(results, case):
    (first, _) = results[case]["ranks"]
    assert first["criterion 0"]["facts"] == [16, 2]


def torchrun(*command, cwd=ROOT):
    return subprocess.run(
        [*TORCHRUN, *command], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_page_runs_under_torchrun(tmp_path):
    page = (ROOT / "docs" / "ranks.md").read_text()
    (block,) = re.findall(r"^```py\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "train.py").write_text(block)
    # A file for each rank: in one pipe their lines mix where Python does not buffer.
    done = torchrun("--log-dir", str(tmp_path / "logs"), "--redirects", "1", "train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = [file.read_text().split() for file in sorted(tmp_path.glob("logs/*/attempt_0/*/stdout.log"))]
    assert [words[:3] for words in printed] == [["0", "2", "32"], ["1", "2", "32"]]
    assert printed[0][3] == printed[1][3]


@pytest.mark.parametrize(("suite", "passes"), [("Outside", True), ("Disagrees", False)])
def test_the_suite_runs_on_ranks(suite, passes):
    done = torchrun("-m", "findlr.testing.ranks", f"tests.ranks.suites:{suite}")
    assert (done.returncode == 0) == passes, done.stdout + done.stderr
    assert ("is not the same on all ranks" in done.stdout) == (not passes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_torchrun_ends_all_and_leaves_nothing(number, tmp_path):
    command = [*TORCHRUN, "-m", "tests.ranks.endless"]
    environment = ENVIRONMENT | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        while b"searching" not in (line := run.stdout.readline()):
            assert line
        start = time.monotonic()
        run.send_signal(number)
        told = run.stdout.read().decode()
    assert time.monotonic() - start < 30, told
    assert told.splitlines().count("put back") == 2, told
    assert not [*tmp_path.glob("findlr*"), *tmp_path.glob("tmp*")]
