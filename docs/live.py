"""Make the picture of a race as a notebook shows it, in light and dark: python docs/live.py [folder].

It needs IPython and chromium. The search is a real one, on scikit-learn's handwritten digits; the picture is of one
moment in it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from figures import digits, simple_net
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from torch import nn

from findlr import find_lr
from findlr.views import notebook

PICTURE = "notebook-race"
STYLES = {"": ("#ffffff", "#1f2328"), "-dark": ("#0d1117", "#e6edf3")}  # paper and ink


def shown() -> list[str]:
    """All that a notebook is given to show while a race runs, in order."""
    notebook._REFRESH = 0.0  # every step is shown, so that the same moment is there on any machine
    shell = InteractiveShell.instance()
    shell.display_pub = CapturingDisplayPublisher(shell=shell)
    torch.manual_seed(0)
    net = simple_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    plan = {"schedule": "one_cycle", "total_steps": 3000}
    find_lr(net, optimizer, nn.NLLLoss(), digits(), **plan, verify=True, progress=notebook.LiveSweep())
    return [each["data"]["text/html"] for each in shell.display_pub.outputs if "text/html" in each["data"]]


def photograph(html: str, path: Path, paper: str, ink: str) -> None:
    """Let a browser draw a part of a page into a picture."""
    style = f"body {{background: {paper}; color: {ink}; font: 14px sans-serif; margin: 8px}}"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        page.write_text(f"<!doctype html><meta charset=utf-8><style>{style}</style>{html}", encoding="utf-8")
        flags = ("--headless", "--no-sandbox", "--hide-scrollbars", "--force-device-scale-factor=2")
        at = ("--window-size=620,106", f"--screenshot={path}", page.as_uri())
        subprocess.run(["chromium", *flags, *at], check=True, capture_output=True)


def main() -> None:
    """Draw a moment near the end of the second run."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/img").resolve()
    moment = next(html for html in shown() if "run 2/3" in html and "  step 430/" in html)
    for suffix, (paper, ink) in STYLES.items():
        photograph(moment, folder / f"{PICTURE}{suffix}.png", paper, ink)
    print(moment[: moment.index("<svg")])


if __name__ == "__main__":
    main()
