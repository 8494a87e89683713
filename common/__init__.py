"""What at least two of the model folders use in the same way, and what names no model."""

import importlib.util
import sys

# Scripts import this before all else, so that whoever forgot to install is told how.
_PACKAGES = ("torch", "torchvision", "numpy", "PIL", "matplotlib", "tqdm", "tyro", "filelock")
if _missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
    sys.exit(
        f"error: not installed in this Python ({sys.executable}): {', '.join(_missing)}. "
        "`bash scripts/quickstart.sh` installs everything in .venv, which "
        "`source .venv/bin/activate` chooses; or: python -m pip install -r requirements.txt"
    )
