"""Command-line flags from a function's signature."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

import tyro


def comments_as_help(function: Callable) -> Callable:
    """Add the comment behind each parameter to the docstring, where tyro finds its help texts."""
    signature = inspect.getsource(function).partition('"""')[0]
    comments = re.findall(r"^\s+(\w+): .*?#\s*(.+)$", signature, re.MULTILINE)
    lines = "".join(f"\n    {name}: {comment}" for name, comment in comments)
    function.__doc__ = f"{inspect.getdoc(function)}\n\nArgs:{lines}"
    return function


def command_line(function: Callable) -> Any:
    """Call `function` with the command line's flags; what is wrong with them is said in a line."""
    try:
        return tyro.cli(comments_as_help(function))
    except (ValueError, OSError, ImportError, FloatingPointError, MemoryError) as error:
        sys.exit(f"error: {error}")
