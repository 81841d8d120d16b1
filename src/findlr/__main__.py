"""``python -m findlr`` is ``findlr``."""

from findlr.command.cli import main

if __name__ == "__main__":
    main()
