"""Makes the package's page on an index: README with absolute links, and the project's addresses.

The repository's address stands nowhere: GitHub tells it to each workflow, the release's too, as GITHUB_REPOSITORY.
Without that the links stay as they are, and the project names no address.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"""(\]\(|(?:src|srcset|href)=")(?![a-z]+:|#)([^)"\s]+)""")
_PICTURES = (".gif", ".png", ".svg")


def absolute(text: str, address: str, version: str) -> str:
    """Markdown whose links into the repository are absolute, and lead to the files of this version."""

    def link(found: re.Match[str]) -> str:
        kind = "raw" if found[2].endswith(_PICTURES) else "blob"
        return f"{found[1]}{address}/{kind}/v{version}/{found[2]}"

    return _LINK.sub(link, text)


class Page(MetadataHookInterface):
    """README and the addresses, for the metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Write both, unless they come with an sdist that has them."""
        if "readme" in metadata:
            return
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository = os.environ.get("GITHUB_REPOSITORY")
        if repository:
            address = f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{repository}"
            owner, name = repository.split("/")
            text = absolute(text, address, metadata["version"])
            metadata["urls"] = {
                "Documentation": f"https://{owner.lower()}.github.io/{name}/",
                "Source": address,
                "Issues": f"{address}/issues",
                "Changelog": f"{address}/blob/v{metadata['version']}/CHANGELOG.md",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
