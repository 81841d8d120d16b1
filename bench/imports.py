"""What importing findlr costs beside importing NumPy: whole processes, interleaved, less Python's own start.

    python bench/imports.py [ROUNDS]

Exits with 1 if the ratio of the medians is above 1.5.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

_MOST = 1.5


def seconds(code: str) -> float:
    """Wall time of a fresh Python that runs ``code``."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main(rounds: int) -> int:
    """Print the table; return the exit code."""
    codes = {"nothing": "pass", "numpy": "import numpy", "findlr": "import findlr", "numpy again": "import numpy"}
    times: dict[str, list[float]] = {name: [] for name in codes}
    for code in codes.values():
        seconds(code)  # warm the file cache
    for _ in range(rounds):
        for name, code in codes.items():
            times[name].append(seconds(code))
    bare = statistics.median(times["nothing"])
    cost = {name: statistics.median(each) - bare for name, each in times.items() if name != "nothing"}
    for name, each in cost.items():
        print(f"import {name:12} {each * 1e3:6.1f} ms  {each / cost['numpy']:5.2f} x numpy")
    return int(cost["findlr"] > _MOST * cost["numpy"])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 15))
