"""Text from outside, as it can be shown."""

from __future__ import annotations


def plain(text: object, most: int = 300) -> str:
    """Return a text from outside, an error's for example, in one line a terminal can be shown."""
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "?" for c in line[:most])
