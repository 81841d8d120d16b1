"""Build what would be published, look into it, and try each extra alone in an environment of its own.

python scripts/release_check.py            # all; an extra that has passed with the same wheel is not tried again
python scripts/release_check.py torch cli  # these

A smoke test is one real search: the first example on a room's page (docs/EXTRA.md), or the code below.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
WORK = HOME / "build" / "release"
DIST = WORK / "dist"
MOST_BYTES = {".whl": 560_000, ".gz": 450_000}  # code alone: a picture or a table that slips in is more than is left
SDIST = re.compile(r"src/|(README|CHANGELOG)\.md$|LICENSE$|pyproject\.toml$|PKG-INFO$|hatch_build\.py$|\.gitignore$")
WHEEL = re.compile(r"findlr/|findlr-[\w.]+\.dist-info/")

QUADRATIC = """
from findlr import find
from findlr.testing import Quadratic
finding = find(Quadratic(noise=0.1))
assert 0.01 < finding.lr < 1
"""
TORCH = """
import torch
from torch import nn
from findlr import find_lr

def setup():
    torch.manual_seed(0)
    inputs = torch.randn(256, 4)
    data = torch.utils.data.TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))
    net = nn.Linear(4, 1)
    return net, torch.optim.SGD(net.parameters(), lr=1e-3), nn.MSELoss(), torch.utils.data.DataLoader(data, 32)

if __name__ == "__main__":
    assert 0.001 < find_lr(*setup()).lr < 1
"""
JAX = """
import jax
from findlr.jax import find_lr

inputs = jax.random.normal(jax.random.key(0), (256, 4))
batches = [(part, part.sum(axis=1)) for part in inputs.reshape(8, 32, 4)]

@jax.jit
def step(weights, batch, lr):
    loss, slope = jax.value_and_grad(lambda weights: ((batch[0] @ weights - batch[1]) ** 2).mean())(weights)
    return weights - lr * slope, loss

assert 0.001 < find_lr(step, jax.numpy.zeros(4), batches).lr < 1
"""
COMMAND = "import subprocess, sys\nsubprocess.run(['findlr', {}], check=True)\n"
BESIDE = {"keras": "keras,demo"}
"""What needs another extra, too: Keras takes its backend from there, its example the digits and the picture."""
SMOKE = {
    "nothing": QUADRATIC,
    "torch": TORCH,
    "plot": f"{QUADRATIC}finding.plot('curve.png')\n",
    "pandas": f"{QUADRATIC}assert len(finding.to_pandas()) == len(finding.curve)\n",
    "cli": COMMAND.format("'run', 'findlr.testing:Quadratic'") + COMMAND.format("'doctor', 'findlr.testing:Quadratic'"),
    "jax": JAX,
    "demo": COMMAND.format("'demo'"),
    "testing": QUADRATIC + "from findlr.testing import TrainableConformance, TrainingConformance\n",
    "all": TORCH + "    find_lr(*setup()).plot('curve.png')\n",
}


def main() -> int:
    """Check all, or the extras that are named; the number of those that failed."""
    project = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = ["nothing", *project["optional-dependencies"]]
    asked = sys.argv[1:] or extras
    if unknown := set(asked) - set(extras):
        sys.exit(f"there is no extra {', '.join(unknown)}; there are {', '.join(extras)}")
    wheel = built()
    known = hashlib.sha256(wheel.read_bytes() + (HOME / "constraints.txt").read_bytes()).hexdigest()
    failed = [extra for extra in asked if not tried(extra, wheel, known)]
    print(f"{len(asked) - len(failed)} passed, {len(failed)} failed")
    return len(failed)


def built() -> Path:
    """Build the sdist, and the wheel from it; check both; return the wheel."""
    tools = WORK / "tools"
    if not (tools / ".ready").exists():
        environment(tools, "--group", f"{HOME / 'pyproject.toml'}:release")
        (tools / ".ready").touch()
    shutil.rmtree(DIST, ignore_errors=True)
    # On GitHub the repository is known; here the links need some address, to be looked at.
    known = {"GITHUB_REPOSITORY": "example/findlr", **os.environ}
    subprocess.run([python(tools), "-m", "build", "--outdir", DIST, HOME], check=True, env=known)
    files = sorted(DIST.iterdir())
    subprocess.run([python(tools), "-m", "twine", "check", "--strict", *files], check=True)
    wheel, sdist = sorted(files, key=lambda file: file.suffix, reverse=True)
    for file in files:
        size, most = file.stat().st_size, MOST_BYTES[file.suffix]
        print(f"{file.name}: {size:,} bytes")
        must(size <= most, f"{file.name} has more than {most:,} bytes")
    with tarfile.open(sdist) as packed:
        names = [name.partition("/")[2] for name in packed.getnames()]
    must(not (other := [name for name in names if not SDIST.match(name)]), f"the sdist holds {other}")
    with zipfile.ZipFile(wheel) as packed:
        must(not (other := [name for name in packed.namelist() if not WHEEL.match(name)]), f"the wheel holds {other}")
        must("findlr/py.typed" in packed.namelist(), "the wheel has no py.typed")
        (metadata,) = [packed.read(name) for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
    check_page(metadata)
    return wheel


def check_page(metadata: bytes) -> None:
    """All links of the page on an index are absolute, and the files that they name are there."""
    page = message_from_bytes(metadata)
    must(len(page.get_all("Project-URL", [])) == 4, "the project names no addresses")
    text = page.get_payload()
    assert isinstance(text, str)
    links = re.findall(r'(?:\]\(|(?:src|srcset|href)=")([^)"\s]+)', text)
    must(len(links) > 10, "README has no links")
    must(not (other := [link for link in links if not link.startswith(("https://", "#"))]), f"README links to {other}")
    own = re.findall(r"https://github\.com/[\w.-]+/findlr/(?:blob|raw)/v[^/]+/([^)\"#\s]+)", text)
    must(not (lost := [path for path in own if not (HOME / path).exists()]), f"README links to {lost}")


def tried(extra: str, wheel: Path, known: str) -> bool:
    """Install the wheel with one extra into a fresh environment, and run its smoke test."""
    passed = WORK / f"{extra}.passed"
    if passed.exists() and passed.read_text(encoding="utf-8") == known:
        print(f"{extra}: has passed")
        return True
    room, begun = WORK / extra, time.monotonic()
    requirement = str(wheel) if extra == "nothing" else f"{wheel}[{BESIDE.get(extra, extra)}]"
    try:
        environment(room, requirement)
        installed = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:  # where no src lies
            script = Path(folder, "smoke.py")
            script.write_text(SMOKE.get(extra) or example(extra), encoding="utf-8")
            path = f"{room / ('Scripts' if os.name == 'nt' else 'bin')}{os.pathsep}{os.environ['PATH']}"
            own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            own |= {"PATH": path, "HF_HUB_OFFLINE": "1", "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
            subprocess.run([python(room), script.name], cwd=folder, env=own, check=True, stdout=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        print(f"{extra}: FAILED, {error}")
        return False
    finally:
        shutil.rmtree(room, ignore_errors=True)
    seconds = f"{installed - begun:.0f} s to install, {time.monotonic() - installed:.0f} s to run"
    print(f"{extra}: passed; {seconds}", flush=True)
    passed.write_text(known, encoding="utf-8")
    return True


def example(extra: str) -> str:
    """The first example on a room's page, up to its first search."""
    page = HOME / "docs" / f"{extra}.md"
    must(page.exists(), f"there is no smoke test for the extra {extra}: add one, or a page {page.relative_to(HOME)}")
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    last = next((i for i, block in enumerate(blocks) if re.search(r"= *(\w+\.)*find_lr\(", block)), None)
    must(last is not None, f"{page.name} has no example with a search")
    return "\n".join(blocks[: (last or 0) + 1])


def environment(folder: Path, *what: str) -> None:
    """A new environment with this installed, in the versions that the tests ran with."""
    venv.create(folder, with_pip=True, clear=True)
    pip = [python(folder), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--upgrade", "pip>=25.1"], check=True)
    subprocess.run([*pip, "--constraint", HOME / "constraints.txt", *what], check=True)


def python(folder: Path) -> Path:
    """The Python of an environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def must(holds: bool, otherwise: str) -> None:
    """End with this message if something does not hold."""
    if not holds:
        sys.exit(otherwise)


if __name__ == "__main__":
    sys.exit(main())
