"""Checkpoints, the folder of a run, and leaving a run cleanly."""

from __future__ import annotations

import json
import platform
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import torch

from common.files import written_whole


def save(path: str | Path, content: dict[str, Any]) -> None:
    """Write a state_dict, or a dict of such and plain values, completely or not at all."""
    with written_whole(path) as temporary:
        torch.save(content, temporary)


def load(path: str | Path) -> dict[str, Any]:
    """Read what `save` wrote, on the CPU; nothing in the file is executed.

    Raises:
        ValueError: there is no such file, or it is damaged or no checkpoint; the message names it.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in reason:  # torch would have people load it with its code executed
            reason = "it holds something else, nothing of which was executed"
        raise ValueError(f"{path} is damaged or no checkpoint of tensors: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dict of tensors")
    return content


def random_state() -> dict[str, torch.Tensor]:
    """Return the state of torch's random generators, for `set_random_state`."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_state(states: dict[str, torch.Tensor]) -> None:
    """Set torch's random generators to what `random_state` returned."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def earlier_state(
    out_dir: Path, config: dict[str, Any], fixed: tuple[str, ...], resume: bool, overwrite: bool
) -> dict[str, Any] | None:
    """Return the state to go on from, None to start anew; nothing is written or deleted yet.

    Args:
        config: the hyperparameters, plain values; a state holds its own under "config".
        fixed: names of those that cannot change when a run is resumed.
    Raises:
        FileExistsError: an earlier run lies in `out_dir`; neither `resume` nor `overwrite` is set.
        ValueError: both are set, or a `fixed` hyperparameter differs from the earlier run's.
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other: choose one")
    earlier = _files_of_run(out_dir)
    if earlier and not (resume or overwrite):
        raise FileExistsError(
            f"{out_dir} holds an earlier run ({', '.join(path.name for path in earlier)}): go on "
            "with it (resume=True, --resume), write elsewhere (out_dir=..., --out-dir ...), or "
            "delete it and start anew (overwrite=True, --overwrite)"
        )
    if not resume:
        return None
    if not (out_dir / "state.pth").exists():
        print(f"{out_dir} holds no state.pth to resume: starting from the beginning")
        return None
    state = load(out_dir / "state.pth")
    before = state["config"]
    changed = {name: v for name, v in config.items() if name in before and before[name] != v}
    refused = [f"{name} {before[name]} -> {v}" for name, v in changed.items() if name in fixed]
    if refused:
        raise ValueError(
            f"cannot resume {out_dir} with {'; '.join(refused)}: take the earlier values, or "
            "another out_dir to start anew"
        )
    for name in sorted(changed.keys() - {"resume", "overwrite"}):
        print(f"resuming with {name} {before[name]} -> {changed[name]}")
    return state


def begin_run(out_dir: Path, config: dict[str, Any], overwrite: bool) -> None:
    """Write `config.json`, with `overwrite` after deleting the files of an earlier run."""
    if overwrite:
        for path in _files_of_run(out_dir):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    with written_whole(out_dir / "config.json") as temporary:
        temporary.write_text(json.dumps(config | versions, indent=2) + "\n", encoding="utf-8")


def _files_of_run(out_dir: Path) -> list[Path]:
    patterns = ("config.json", "log.csv", "curves.png", "samples", "*.pth")
    return [path for pattern in patterns for path in sorted(out_dir.glob(pattern))]


class StopSignal:
    """Notes Ctrl-C and SIGTERM inside a `with` block, so that a loop can save and leave.

    `stop.received` is the signal's number, 0 before it; a second Ctrl-C interrupts at once.
    """

    def __enter__(self) -> StopSignal:
        self.received = 0
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere signals do not arrive
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: object) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        print(f"\n{signal.Signals(number).name}: saving after this step", flush=True)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
