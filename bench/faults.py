"""What a search does to the heap of the usual allocator: page faults a step of the large net, in fresh processes.

    python -m bench.faults [--steps 50] [--rounds 5]

glibc gives the memory that is freed at the top of its heap back to the system, and takes it again at the next step,
page by page. Whether a net's gradients lie at the top goes by what was allocated after them, so the same bare loop
takes more or fewer faults as the heap happens to lie. The rows with something kept are the bare loop beside what a
search keeps: copies of the weights and the optimizer's state; or the gradients of the call, in whose place the sweep's
own can't come.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
from typing import Any

import torch

from bench import cost

ROWS = ("a bare loop", "with copies kept", "with its first gradients kept", "find_lr")


def kept(row: str, training: cost.Training) -> list[Any]:
    """What stays allocated while the loop of a row runs."""
    parameters = list(training.model.parameters())
    if row == "with copies kept":
        states = [value for state in training.optimizer.state.values() for value in state.values()]
        return [tensor.detach().clone() for tensor in (*parameters, *states)]
    return [parameter.grad for parameter in parameters] if row == "with its first gradients kept" else []


def faults(row: str, steps: int) -> float:
    """Page faults a step of a warm training, in this process."""
    torch.set_num_threads(1)
    cost.STEPS = steps
    training = cost.trainings(cost.NETS["large"])()
    cost.bare(training)()  # the optimizer's state is there
    held = kept(row, training)
    run = cost.ours(training, control_variate=False) if row == "find_lr" else cost.bare(training)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    del held
    return (after - before) / steps


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Count page faults under the usual allocator.")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--row", choices=ROWS, help="one row, once, in this process")
    arguments = parser.parse_args()
    if arguments.row is not None:
        print(faults(arguments.row, arguments.steps))
        return
    print("| | page faults a step: median | lowest | highest |\n|---|--:|--:|--:|")
    for row in ROWS:
        command = [sys.executable, "-m", "bench.faults", "--steps", str(arguments.steps), "--row", row]
        said = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(arguments.rounds)]
        counts = [float(each.stdout) for each in said]
        print(f"| {row} | {statistics.median(counts):,.0f} | {min(counts):,.0f} | {max(counts):,.0f} |", flush=True)


if __name__ == "__main__":
    main()
