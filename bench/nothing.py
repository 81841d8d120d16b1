"""From nothing to a number: whole processes that import, build the net, sweep 100 steps and print the rate.

    python -m bench.nothing [--rounds 15]

Each process is a fresh Python: torch, the data and the 784-100-10 net of bench/cost.py, then one finder's import, its
sweep from 1e-8 to 10, its set-up and restore, and its rate. They run in rounds, each round in a new order; a figure is
the median over the rounds of a process's wall time over that of imports, data and a bare loop alone, with 95 %.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import cost
from bench.ratios import ratio, ratio_text

MAX_LR = 10.0
ROOT = Path(__file__).parents[1]
CODE = """
from bench import cost
training = cost.trainings(cost.NETS["small"], {max_lr})()
print(cost.CONTESTANTS[{name!r}](training)()())
"""


def process(name: str) -> tuple[float, float]:
    """Wall seconds of a fresh Python that asks one contestant, and the rate that it prints.

    Raises:
        subprocess.CalledProcessError: it failed; its last words are printed.
    """
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    code = CODE.format(name=name, max_lr=MAX_LR)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        print(done.stderr[-500:], file=sys.stderr)
    done.check_returncode()
    return seconds, float(done.stdout.split()[-1])


def present() -> dict[str, float]:
    """The rate of each contestant that is installed; this warms the files up, too."""
    rates = {}
    for name in cost.CONTESTANTS:
        try:
            rates[name] = process(name)[1]
        except subprocess.CalledProcessError:
            print(f"left out: {name}", flush=True)
        else:
            print(f"{name}: {rates[name]:.2g}", flush=True)
    return rates


def measure(names: list[str], rounds: int) -> dict[str, np.ndarray[Any, Any]]:
    """Wall seconds of each contestant's process in each round."""
    order = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in order.sample(names, len(names)):
            times[name].append(process(name)[0])
        print(f"round {number + 1} of {rounds}", flush=True)
    return {name: np.array(seconds) for name, seconds in times.items()}


def summary(times: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """The figures."""
    bare = times[cost.BARE]
    rows = {name: {"seconds": round(float(np.median(each)), 2), **ratio(each, bare)} for name, each in times.items()}
    return {"rounds": len(bare), "load": os.getloadavg()[0], "rows": rows}


def table(processes: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| a whole process | seconds | over the first row |", "|---|--:|---|"]
    for name, of in processes["rows"].items():
        label = f"imports, data and {name}" if name in (cost.BARE, cost.AGAIN) else name
        lines.append(f"| {label} | {of['seconds']:.2f} | {ratio_text(of)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write into the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=cost.OUTPUT)
    arguments = parser.parse_args()
    processes = summary(measure(list(present()), arguments.rounds))
    document = json.loads(arguments.output.read_text()) if arguments.output.exists() else {"nets": {}}
    document["processes"] = processes
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(table(processes))


if __name__ == "__main__":
    main()
