"""Look at the built site: python scripts/check_site.py build/site.

Every link leads to a page and a place on it, and what people search for is in the headings of its page.
"""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What somebody may type, and the page that must have it in its title or a heading.
SEARCHED = {
    "install": "install.html",
    "hugging face": "huggingface.html",
    "lightning": "lightning.html",
    "warmup": "recipes.html",
    "imbalance": "recipes.html",
    "dict batch": "recipes.html",
    "lora": "finetuning.html",
    "total_steps": "faq.html",
    "flat": "gallery.html",
    "find_lr": "api.html",
}


class Page(HTMLParser):
    """A page's links and places."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element leads to, and what it is called."""
        named = dict(attrs)
        self.places |= {value for value in (named.get("id"), named.get("name") if tag == "a" else None) if value}
        self.links |= {value for value in (named.get("href"), named.get("src")) if value}


def broken(site: Path) -> list[str]:
    """Every link that leads nowhere."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("data:"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists() or (target in pages and unquote(parts.fragment) not in pages[target].places):
                found.append(f"{path.relative_to(site)}: {link}")
    return found


def not_found(site: Path) -> list[str]:
    """Every word that a search would not find on its page's headings."""
    items = json.loads((site / "search.json").read_text(encoding="utf-8"))["items"]
    headings: dict[str, str] = {}
    for item in items:
        page = item["location"].partition("#")[0]
        headings[page] = f"{headings.get(page, '')} {item['title']}".lower()
    return [
        f"{words}: not in the headings of {page}"
        for words, page in SEARCHED.items()
        if not all(word in headings.get(page, "") for word in words.split())
    ]


if __name__ == "__main__":
    site = Path(sys.argv[1]).resolve()
    wrong = broken(site) + not_found(site)
    sys.exit("\n".join(wrong) if wrong else 0)
