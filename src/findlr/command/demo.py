"""The article's example, on real data: finds a rate, and then tries whether it is good."""

from __future__ import annotations

import gzip
import math
import statistics
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from findlr.analysis.text import rate_text
from findlr.errors import FileFormatError, MissingExtraError
from findlr.finding import Finding

try:
    import torch
    from rich.console import Console
    from sklearn.datasets import load_digits
    from torch import nn
    from torch.nn import functional
    from torch.utils.data import DataLoader, TensorDataset
except ImportError as error:
    package = str(error.name).partition(".")[0]
    raise MissingExtraError.of({"sklearn": "scikit-learn"}.get(package, package), "demo") from None

from findlr.torch import find_lr
from findlr.views.console import show
from findlr.views.figures import need_matplotlib

need_matplotlib("demo")

BATCH_SIZE = 64
HIDDEN = 100
MULTIPLES = (1 / 100, 1 / 10, 1.0, 10.0, 100.0)
SEEDS = range(5)
CLASSES = 10

_Bytes = npt.NDArray[np.uint8]


class SimpleNeuralNet(nn.Module):
    """The article's network: one hidden layer, ReLU, log-softmax."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.output = nn.Linear(hidden, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Log-probabilities, shape (batch, classes)."""
        return functional.log_softmax(self.output(functional.relu(self.hidden(inputs))), dim=-1)


@dataclass(frozen=True, eq=False)
class Data:
    """Images as rows of normalised numbers, their classes, and how they are trained on.

    Args:
        name: what they are.
        train: inputs, shape (n, pixels), and classes, shape (n,).
        held_out: the same, to judge the training by.
        num_steps: of the sweep.
        epochs: of each training in the comparison.
    """

    name: str
    train: tuple[torch.Tensor, torch.Tensor]
    held_out: tuple[torch.Tensor, torch.Tensor]
    num_steps: int | Literal["epoch"]
    epochs: int

    def network(self, seed: int) -> SimpleNeuralNet:
        """A fresh network, the same for the same seed."""
        torch.manual_seed(seed)
        return SimpleNeuralNet(self.train[0].shape[1], HIDDEN, CLASSES)

    def loader(self, seed: int) -> DataLoader[tuple[torch.Tensor, ...]]:
        """The training batches, in an order that ``seed`` determines."""
        order = torch.Generator().manual_seed(seed)
        return DataLoader(TensorDataset(*self.train), batch_size=BATCH_SIZE, shuffle=True, generator=order)


def digits() -> Data:
    """scikit-learn's 1797 handwritten digits of 8 x 8 pixels; one in five, at random, is held out."""
    pixels, classes = load_digits(return_X_y=True)
    held_out, train = np.split(np.random.default_rng(0).permutation(len(pixels)), [len(pixels) // 5])
    train_part, held_out_part = _tensors((pixels[train], classes[train]), (pixels[held_out], classes[held_out]))
    return Data("Handwritten digits", train_part, held_out_part, num_steps=100, epochs=10)


def mnist(folder: Path) -> Data:
    """MNIST from its idx files; its test images are held out.

    Args:
        folder: holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same of ``t10k``, gzipped or not.

    Raises:
        FileFormatError: a file is missing or damaged.
    """
    train, held_out = (_labelled_images(folder, part) for part in ("train", "t10k"))
    if train[0].shape[1] != held_out[0].shape[1]:
        raise FileFormatError(f"{folder}: the train and t10k images differ in size; download MNIST's four files again")
    train_part, held_out_part = _tensors(train, held_out)
    return Data("MNIST", train_part, held_out_part, num_steps="epoch", epochs=1)


def read_idx(path: Path, dimensions: int) -> _Bytes:
    """Bytes in MNIST's format: 0, 0, 8, how many dimensions, each one's size, the bytes; the file may end in .gz.

    Raises:
        FileFormatError: the file is missing, damaged, or of another kind.
    """
    zipped = path.with_name(path.name + ".gz")
    found = next((each for each in (path, zipped) if each.is_file()), None)
    if found is None:
        raise FileFormatError(f"{path} is missing, and {zipped.name} too: give the folder with MNIST's four idx files")
    try:
        content = gzip.decompress(found.read_bytes()) if found == zipped else found.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileFormatError(f"{found} is damaged ({error}); download it again") from None
    if content[:4] != bytes((0, 0, 8, dimensions)):
        start = content[:4].hex(" ") or "nothing"
        raise FileFormatError(
            f"{found} is no idx file of {dimensions}-D bytes: it starts with {start}; give MNIST's own"
        )
    start_of_bytes = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:start_of_bytes].ljust(4 * dimensions, b"\0"), dtype=">u4").tolist())
    if not math.prod(shape) or len(content) != start_of_bytes + math.prod(shape):
        announced = " x ".join(map(str, shape))
        raise FileFormatError(f"{found} is damaged: it announces {announced} bytes, and has others; download it again")
    return np.frombuffer(content, dtype=np.uint8, offset=start_of_bytes).reshape(shape)


def _labelled_images(folder: Path, part: str) -> tuple[_Bytes, _Bytes]:
    images = read_idx(folder / f"{part}-images-idx3-ubyte", dimensions=3)
    labels_path = folder / f"{part}-labels-idx1-ubyte"
    labels = read_idx(labels_path, dimensions=1)
    if len(labels) != len(images) or labels.max() >= CLASSES:
        raise FileFormatError(
            f"{labels_path}: needs one label from 0 to {CLASSES - 1} for each of the {len(images)} images, has "
            f"{len(labels)} labels up to {labels.max()}; download MNIST's four files again"
        )
    return images.reshape(len(images), -1), labels


def _tensors(*parts: tuple[npt.NDArray[Any], npt.NDArray[Any]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs with mean 0 and standard deviation 1 over the first part, and classes."""
    mean, deviation = float(parts[0][0].mean()), float(parts[0][0].std()) or 1.0
    for inputs, classes in parts:
        values = (inputs.astype(np.float32) - mean) / deviation
        yield torch.from_numpy(values), torch.from_numpy(classes.astype(np.int64))


@dataclass(frozen=True)
class Row:
    """One line of the comparison.

    Args:
        multiple: of the suggested rate.
        lr: the rate.
        losses: held-out losses after training at it, one per seed.
    """

    multiple: float
    lr: float
    losses: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean loss; infinite if a run diverged."""
        return sum(self.losses) / len(self.losses) if all(map(math.isfinite, self.losses)) else math.inf

    @property
    def times(self) -> str:
        """The multiple as people write it."""
        return f"{self.multiple:g} x" if self.multiple >= 1 else f"1/{1 / self.multiple:g} x"

    def __str__(self) -> str:
        diverged = sum(not math.isfinite(loss) for loss in self.losses)
        if diverged:
            result = f"diverged in {diverged} of {len(self.losses)} runs"
        else:
            result = f"{self.mean:.4f} +/- {statistics.stdev(self.losses):.4f}"
        return f"{self.times:>8}  {rate_text(self.lr):>8}   {result}"


def compare(data: Data, lr: float) -> Iterator[Row]:
    """Train at multiples of a rate, from the same starts, on the same batches.

    Yields:
        A Row for each of ``MULTIPLES``, as soon as it is known.
    """
    for multiple in MULTIPLES:
        yield Row(multiple, multiple * lr, tuple(held_out_loss(data, multiple * lr, seed) for seed in SEEDS))


def held_out_loss(data: Data, lr: float, seed: int) -> float:
    """The mean loss on the held-out images after training at ``lr``; ``seed`` determines the start and the batches."""
    net = data.network(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    (inputs, classes), order = data.train, torch.Generator().manual_seed(seed)
    for _ in range(data.epochs):
        for batch in torch.split(torch.randperm(len(inputs), generator=order), BATCH_SIZE):
            optimizer.zero_grad()
            functional.nll_loss(net(inputs[batch]), classes[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        return functional.nll_loss(net(data.held_out[0]), data.held_out[1]).item()


def run(data: Data, output: Path) -> Finding:
    """Find a rate, show it, and show whether it is good.

    Args:
        data: what to train on.
        output: the folder for ``finding.json`` and ``curve.png``; made if it is not there.
    """
    torch.set_num_threads(1)  # enough for so small a network, and its numbers are the same on any number of cores
    output.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    console.print(
        f"{data.name}: {len(data.train[0])} images in batches of {BATCH_SIZE}; one hidden layer of {HIDDEN}; SGD.\n",
        soft_wrap=True,
    )
    net = data.network(seed=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loader = data.loader(seed=0)
    steps = data.epochs * len(loader)
    finding = find_lr(net, optimizer, nn.NLLLoss(), loader, num_steps=data.num_steps, total_steps=steps)
    show(finding, console)
    finding.save(output / "finding.json")
    finding.plot(output / "curve.png")
    console.print(f"\nWritten: {output / 'curve.png'} and {output / 'finding.json'}\n", soft_wrap=True)
    if finding.suggestion is not None:
        _show_comparison(data, finding.lr, console)
    return finding


def _show_comparison(data: Data, lr: float, console: Console) -> None:
    console.print(
        f"Is it good? {data.epochs} epoch{'s' * (data.epochs > 1)} at multiples of it: the loss on "
        f"{len(data.held_out[0])} held-out images,\nmean and standard deviation over {len(SEEDS)} seeds; "
        "the same starts, the same batches.\n",
        soft_wrap=True,
    )
    console.print("multiple      rate   held-out loss", style="bold")
    rows = []
    for row in compare(data, lr):
        console.print(str(row))
        rows.append(row)
    console.print(f"\n{in_words(rows)}", soft_wrap=True)


def in_words(rows: Sequence[Row]) -> str:
    """Which multiple was best, and what the suggestion beats: a sentence."""
    (suggested,) = (row for row in rows if row.multiple == 1.0)
    best = min(rows, key=lambda row: row.mean)
    beaten = [row.times for row in rows if suggested.mean < row.mean]
    what = "the suggestion itself" if best is suggested else f"{best.times} the suggestion"
    return f"Best was {what}; the suggestion beats {', '.join(beaten) or 'none of its multiples'}."
