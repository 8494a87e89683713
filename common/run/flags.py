"""Command-line flags from a function's signature."""

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
    """Call a function, of several the one that the first word names, with the other flags.

    What is wrong with them is said in a line, and Ctrl-C ends the program without a traceback.
    """
    run = tyro.extras.subcommand_cli_from_dict if isinstance(function, dict) else tyro.cli
    try:
        return run(function if isinstance(function, dict) else comments_as_help(function))
    except (ValueError, OSError, ImportError, FloatingPointError, MemoryError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)  # as shells have it
