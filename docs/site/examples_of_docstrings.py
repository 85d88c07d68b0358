"""Shows the examples of docstrings as code: their reader takes the heading ``Examples:`` for them, and ours is ``Example:``."""

import re

import griffe


class ExamplesOfDocstrings(griffe.Extension):
    """Renames the heading before the docstring is read."""

    def on_instance(self, *, obj, **_):
        """Called for each object that has been collected."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^(\s*)Example:\s*$", r"\1Examples:", obj.docstring.value, flags=re.M)
