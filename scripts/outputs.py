"""The code on the pages of the documents: run from top to bottom, and what it prints written below it.

python scripts/outputs.py                # every page whose code prints something
python scripts/outputs.py docs/use.md    # these pages
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
SECONDS = re.compile(r"[\d.]+(?= m?s\b)")


def rerun(page: Path) -> str:
    """The page with what its code prints now, but for the seconds that it shows; in the present folder."""
    text = page.read_text(encoding="utf-8")
    scope = {"__name__": "__docs__"} | (_reader() if page.name == "README.md" else {})
    new, printed = text, ""
    for found in BLOCK.finditer(text):
        kind, inside = found.groups()
        if kind == "python":
            if printed:
                raise ValueError(f"{page.name} does not show what a block prints: {printed}")
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(inside, page.name, "exec"), scope)  # noqa: S102  its own pages
            printed = out.getvalue()
        elif kind == "text" and printed:
            seconds = iter(SECONDS.findall(inside))
            printed = SECONDS.sub(lambda now: next(seconds, now[0]), printed)  # noqa: B023  called at once
            new = new.replace(f"```text\n{inside}```", f"```text\n{printed}```", 1)
            printed = ""
    if printed:
        raise ValueError(f"{page.name} does not show what its last block prints: {printed}")
    return new


def _reader() -> dict[str, Any]:
    """What a reader of the first page has: a small training."""
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    data = torch.utils.data.TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10), nn.LogSoftmax(1))
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
        "criterion": nn.NLLLoss(),
        "train_loader": torch.utils.data.DataLoader(data, batch_size=16, shuffle=True),
    }


def main() -> None:
    """Write the pages anew."""
    import torch

    torch.set_num_threads(1)
    asked = [Path(name).resolve() for name in sys.argv[1:]]
    for page in asked or [HOME / "README.md", *sorted((HOME / "docs").glob("*.md"))]:
        if not re.search(r"^```python\n.*^```$.*^```text$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            page.write_text(rerun(page), encoding="utf-8")
            os.chdir(HOME)
        print(page.relative_to(HOME))


if __name__ == "__main__":
    main()
