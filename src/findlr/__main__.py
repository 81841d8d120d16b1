"""``python -m findlr`` is ``findlr``."""

from findlr.cli import main

if __name__ == "__main__":
    main()
