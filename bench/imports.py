"""What importing findlr costs beside importing NumPy, and its help: whole processes, interleaved.

    python bench/imports.py [ROUNDS]

Python's own start is taken off. "all of the core" is what a search without a framework needs; `import findlr` alone
waits for what is asked for. Exits with 1 if the core takes more than 1.5 times NumPy, or the help more than 0.3 s.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

_MOST, _MOST_FOR_HELP = 1.5, 0.3
_CODES = {
    "nothing": "pass",
    "numpy": "import numpy",
    "findlr": "import findlr",
    "all of the core": "from findlr import find",
    "numpy again": "import numpy",
    "findlr --help": "from findlr.command.cli import main; main(['--help'])",
}


def seconds(code: str) -> float:
    """Wall time of a fresh Python that runs ``code``."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(rounds: int) -> int:
    """Print the table; return the exit code."""
    times: dict[str, list[float]] = {name: [] for name in _CODES}
    for code in _CODES.values():
        seconds(code)  # warm the file cache
    for _ in range(rounds):
        for name, code in _CODES.items():
            times[name].append(seconds(code))
    bare = statistics.median(times["nothing"])
    cost = {name: statistics.median(each) - bare for name, each in times.items() if name != "nothing"}
    for name, each in cost.items():
        print(f"{name:16} {each * 1e3:6.1f} ms  {each / cost['numpy']:5.2f} x numpy")
    return int(cost["all of the core"] > _MOST * cost["numpy"] or cost["findlr --help"] > _MOST_FOR_HELP)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 15))
