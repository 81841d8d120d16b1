"""A framework's room has no tests where the framework is not installed: `make test-rooms` has them all."""

import os
from importlib.util import find_spec

PACKAGES = {"huggingface": "transformers"}
os.environ.setdefault("KERAS_BACKEND", "torch")  # one to a process; tests of the other start their own
ROOMS = ("accelerate", "fastai", "huggingface", "ignite", "jax", "keras", "lightning", "ray", "skorch")

collect_ignore = [
    path
    for room in ROOMS
    if find_spec(PACKAGES.get(room, room)) is None
    for path in (f"src/findlr/{room}.py", f"src/findlr/{room}", f"tests/rooms/test_{room}.py")
]
if collect_ignore:  # it has all of them
    collect_ignore.append("tests/rooms/test_let_go.py")
