"""A framework's room has no tests where the framework is not installed: `make test-rooms` has them all."""

from importlib.util import find_spec

PACKAGES = {"huggingface": "transformers"}
ROOMS = ("accelerate", "fastai", "huggingface", "ignite", "lightning", "ray", "skorch")

collect_ignore = [
    path
    for room in ROOMS
    if find_spec(PACKAGES.get(room, room)) is None
    for path in (f"src/findlr/{room}.py", f"src/findlr/{room}", f"tests/rooms/test_{room}.py")
]
