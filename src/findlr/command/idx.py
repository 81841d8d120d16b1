"""The idx format, that of MNIST's files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from findlr.errors import FileFormatError

Bytes = npt.NDArray[np.uint8]


def read_idx(path: Path, dimensions: int) -> Bytes:
    """Read a file of bytes in the idx format: 0, 0, 8, the number of dimensions, each dimension's size, the bytes.

    Args:
        path: the file; if it is not there, the same name with .gz is read.
        dimensions: how many are expected.

    Returns:
        The array, read-only, with at least one element.

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
    start = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:start].ljust(4 * dimensions, b"\0"), dtype=">u4").tolist())
    if content[:4] != bytes((0, 0, 8, dimensions)):
        raise FileFormatError(
            f"{found} is no idx file of bytes in {dimensions} dimension{'s' * (dimensions > 1)}: it starts with "
            f"{content[:4].hex(' ') or 'nothing'}; give MNIST's own file"
        )
    if not math.prod(shape) or len(content) != start + math.prod(shape):
        raise FileFormatError(
            f"{found} is damaged: it announces {' x '.join(map(str, shape))} bytes, and {len(content) - start} follow; "
            "download it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
