"""What mkdocstrings must know of our docstrings: "Example:" is the section that it calls "Examples:"."""

import re
from typing import Any

from griffe import Extension, Object


class Sections(Extension):
    """Renames the section as the docstrings are loaded."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Look at one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
