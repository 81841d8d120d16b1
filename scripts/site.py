"""Gather the documents for the site: python scripts/site.py FOLDER.

The pages are those that are read in the repository. Here their links to source files become links to pages that
Zensical makes from the docstrings, their formulas become MathML, which a browser shows without a script, and the
notebook becomes a page.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Literal

from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from scripts.notebook import NOTEBOOK, as_markdown  # noqa: E402 - scripts are no package that is installed
from scripts.public import EXTENDING, PUBLIC, ROOMS  # noqa: E402

SOURCE = ROOT / "src" / "findlr"
FIRST = r'<div class="first" markdown>\n\n![\2](\1)\n\n</div>'


def pages() -> dict[Path, str]:
    """Each page's file, and its name on the site."""
    top = {page: "index.md" if page.stem == "README" else f"{page.stem.lower()}.md" for page in ROOT.glob("*.md")}
    return top | {page: page.name for page in sorted((ROOT / "docs").glob("*.md"))} | {NOTEBOOK: f"{NOTEBOOK.stem}.md"}


def rooms() -> dict[str, list[str]]:
    """Each room of the package, and the modules in it."""
    found: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(("findlr", *(part for part in parts if part != "__init__")))
        if parts[0] not in ("__init__", "__main__"):
            found.setdefault(parts[0], []).append(name)
    return found


def on_the_site(target: str, page: Path, names: dict[Path, str]) -> str:
    """Where a relative link of ``page`` leads on the site."""
    link, _, anchor = target.partition("#")
    file = (page.parent / link).resolve() if link else page
    tail = f"#{anchor}" if anchor else ""
    if file in names:
        return f"{names[file] if link else ''}{tail}"
    if file.is_relative_to(SOURCE):
        parts = [part for part in file.relative_to(SOURCE).with_suffix("").parts if part != "__init__"]
        return f"internals/{parts[0]}.md" + (f"#findlr.{'.'.join(parts)}" if len(parts) > 1 else "")
    if file.is_relative_to(ROOT / "docs" / "img"):
        return f"img/{file.name}"
    return f"files/{str(file.relative_to(ROOT)).lstrip('.')}"  # what begins with a dot is not published


def mathml(formula: str, display: Literal["inline", "block"] = "inline") -> str:
    """A formula as a browser shows it; a prime is high up by itself, and must not be raised once more."""
    prime = r'<mrow>\1<mo lspace="0" rspace="0">&#x02032;</mo></mrow>'
    return re.sub(r"<msup>(<mi>\w</mi>)<mi>&#x02032;</mi></msup>", prime, convert(formula, display=display))


def formula(found: re.Match[str]) -> str:
    """One in a line, with the signs around it; a bare <math> that begins a line would be a block of its own."""
    before, inside, after = found.groups()
    return f'<span class="together">{before}{mathml(inside)}{after}</span>'


def picture(found: re.Match[str]) -> str:
    """One for light pages, and its twin for dark ones where there is one."""
    alt, name = found[1], found[2]
    if not (ROOT / "docs" / "img" / f"{name}-dark.png").exists():
        return found[0]
    return f"![{alt}](img/{name}.png#only-light)![{alt}](img/{name}-dark.png#only-dark)"


def translated(text: str, page: Path, names: dict[Path, str], out: Path) -> str:
    """A page's text with the links, the formulas and the pictures of the site."""

    def link(found: re.Match[str]) -> str:
        target = found[1]
        if target.startswith(("https://", "http://")):
            return found[0]
        new = on_the_site(target, page, names)
        if new.startswith("files/"):
            (out / new).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(page.parent / target.partition("#")[0], out / new)
        return f"]({new})"

    in_prose = (
        (r'<picture>.*?<img src="(\S+)" alt="([^"]*)">\s*</picture>', FIRST),  # the first page's, for any host
        (r"(\(?)(?<![\\`$])\$([^$`]+)\$([).,:;]*)", formula),
        (r"\]\(([^)\s]+)\)", link),
        (r"!\[([^\]]*)\]\(img/([\w-]+)\.png\)", picture),
    )
    parts = re.split(r"^(```.*?^```\n)", text, flags=re.MULTILINE | re.DOTALL)
    for i, part in enumerate(parts):
        if part.startswith("```math\n"):
            parts[i] = f'\n<div class="formula">{mathml(part[8:-4], "block")}</div>\n'
        elif not part.startswith("```"):
            for pattern, new in in_prose:
                parts[i] = re.sub(pattern, new, parts[i], flags=re.DOTALL)
    return "".join(parts)


def said(source: Path) -> str:
    """The first sentence of a file."""
    return (ast.get_docstring(ast.parse(source.read_text())) or "").partition("\n\n")[0].replace("\n", " ")


def directive(name: str) -> str:
    """What makes a name's text from its docstring; of a suite, not its tests; of a callback, not its events."""
    members = {"FindLR": "[finding]"}.get(name.rpartition(".")[2], "false" if name.endswith("Conformance") else "")
    shown = f"\n      members: {members}" if members else ""
    return f"::: {name}\n    options:\n      heading_level: 3\n      show_source: false{shown}"


def api(out: Path) -> None:
    """One page of what is public, find_lr first; what belongs to a framework, or to adding one, ends its own page."""
    blocks = [
        "# API: find_lr and everything public",
        "What `from findlr import ...` offers. How it works inside has [pages of its own](internals/index.md).",
    ]
    for title, names in PUBLIC.items():
        blocks += [f"## {title}", *map(directive, names)]
    calls = {f"{room}.md": [f"findlr.{room}.{name}" for name in names] for room, names in ROOMS.items() if there(room)}
    calls["extend.md"] = list(EXTENDING)
    blocks.append("## On other pages")
    for page, names in calls.items():
        with (out / page).open("a") as file:
            file.write("\n\n".join(["", "## API", *map(directive, names), ""]))
        blocks.append(f"- {', '.join(f'[`{name}`]({page}#{name})' for name in names)}")
    (out / "api.md").write_text("\n\n".join(blocks) + "\n")


def there(room: str) -> bool:
    """Whether the package has that room."""
    return (SOURCE / room).is_dir() or (SOURCE / f"{room}.py").exists()


def internals(out: Path) -> None:
    """A page for each room, made from its docstrings, and one that lists them."""
    (out / "internals").mkdir()
    index = [
        "# Every module\n",
        "How the modules build on each other: [the code in one page](../architecture.md);",
        "what you may call is on [one page of its own](../api.md).\n",
        "| | |\n|---|---|",
    ]
    for room, modules in rooms().items():
        source = SOURCE / f"{room}.py" if (SOURCE / f"{room}.py").exists() else SOURCE / room / "__init__.py"
        index.append(f"| [`findlr.{room}`]({room}.md) | {said(source)} |")
        # A package's names stand in their modules.
        own = "\n    options:\n      members: false" if len(modules) > 1 else ""
        blocks = [f"# findlr.{room}", f"::: {modules[0]}{own}", *(f"::: {name}" for name in modules[1:])]
        (out / "internals" / f"{room}.md").write_text("\n\n".join(blocks) + "\n")
    (out / "internals" / "index.md").write_text("\n".join(index) + "\n")


def main(out: Path) -> None:
    """Write every page into ``out``, which is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "img", out / "img")
    for name in ("site.css", "site.js"):
        shutil.copy(ROOT / "scripts" / name, out / name)
    names = pages()
    for page, name in names.items():
        text = as_markdown(page, out / "img") if page == NOTEBOOK else page.read_text()
        (out / name).write_text(translated(text, page, names, out))
    api(out)
    internals(out)


if __name__ == "__main__":
    os.chdir(ROOT)
    main(Path(sys.argv[1]))
