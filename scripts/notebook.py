"""The notebook of the documents: run anew in its place, or as a page of the site.

python scripts/notebook.py     # runs docs/ten-minutes.ipynb, and keeps what it prints and draws
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

NOTEBOOK = Path(__file__).parents[1] / "docs" / "ten-minutes.ipynb"


def as_markdown(notebook: Path, pictures: Path) -> str:
    """The notebook as a page; its pictures are written beside the others."""
    parts = []
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
            elif picture := output["data"].get("image/png"):
                name = f"{notebook.stem}-{number}.png"
                (pictures / name).write_bytes(base64.b64decode(picture))
                parts.append(f"![What the line above draws](img/{name})")
    return "\n\n".join(parts) + "\n"


def run(notebook: Path) -> None:
    """Run it, and keep its outputs in it."""
    import nbformat
    from nbclient import NotebookClient

    content = nbformat.read(notebook, as_version=4)
    NotebookClient(content, timeout=300, coalesce_streams=True).execute()
    for cell in content.cells:
        cell.metadata = {}  # times of this run
        cell.pop("execution_count", None)
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                output.pop("execution_count", None)
    nbformat.write(content, notebook)


if __name__ == "__main__":
    run(Path(sys.argv[1]) if len(sys.argv) > 1 else NOTEBOOK)
