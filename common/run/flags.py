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
    if not comments:  # the docstring has them
        return function
    lines = "".join(f"\n    {name}: {comment}" for name, comment in comments)
    function.__doc__ = f"{inspect.getdoc(function)}\n\nArgs:{lines}"
    return function


def command_line(function: Callable | dict[str, Callable]) -> Any:
    """Call a function with the command line's flags; what is wrong with them is said in a line.

    Of several functions the command line's first word chooses one.
    """
    try:
        if isinstance(function, dict):
            return tyro.extras.subcommand_cli_from_dict(function)
        return tyro.cli(comments_as_help(function))
    except (ValueError, OSError, ImportError, FloatingPointError, MemoryError) as error:
        sys.exit(f"error: {error}")
