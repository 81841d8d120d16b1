"""The processes of ``--workers``: what ends the command ends them, and they print nothing."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.posix

SCRIPT = """
import os, signal, sys, time
from findlr.command.pool import pool

if __name__ == "__main__":
    try:
        with pool(2) as made:
            if sys.argv[1] == "idle":
                [made.submit(time.sleep, 0.1).result() for _ in range(4)]
            (os.kill if sys.argv[2] == "KILL" else os.killpg)(os.getpid(), signal.Signals["SIG" + sys.argv[2]])
            time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize(("number", "said", "code"), [("INT", "interrupted\n", 0), ("KILL", "", -9)])
@pytest.mark.parametrize("when", ["starting", "idle"])
def test_no_process_is_left_and_none_prints(tmp_path, when, number, said, code):
    (file := tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(file), when, number]
    done = subprocess.run(  # ends once nobody has its pipes open any more
        command, capture_output=True, text=True, check=False, start_new_session=True, timeout=120
    )
    told = [line for line in done.stderr.splitlines() if "resource_tracker" not in line and "warnings.warn" not in line]
    assert (done.returncode, done.stdout, told) == (code, said, [])
