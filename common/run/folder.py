"""The folder of a run: who writes to it, and what it goes on from."""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import torch

from common import checkpoint, processes
from common.device import is_out_of_memory
from common.files import locked, refuse_unwritable, remove_leftovers, written_whole
from common.run.log import write_log

_STATES = ("state.pth", "state_previous.pth")
_OF_MEMORY = ("batch_size", "patch_size", "lr_size", "hr_size", "n_features", "n_blocks")
_OF_MEMORY += ("discriminator_features", "valid_crop")  # hyperparameters that take it


class Run:
    """The folder of a run, which one process at a time writes to.

    `state.pth` is the run. It is written whole, and the one before it is kept, from the beginning
    on, as `state_previous.pth`: from either a run goes on to the same bits. In a `with` block the
    folder belongs to this process, and errors name the last good state.

    Args:
        config: the hyperparameters, plain values; a state holds its own.
        fixed: names of those that cannot change when a run is resumed.
    Raises:
        BlockingIOError: another process writes to the folder.
        FileExistsError: an earlier run lies there; neither `resume` nor `overwrite` is set.
        ValueError: both are set, a `fixed` hyperparameter differs from the earlier run's, or no
            state is left to go on from.
    """

    def __init__(
        self,
        out_dir: Path,
        config: dict[str, Any],
        fixed: tuple[str, ...],
        resume: bool,
        overwrite: bool,
    ):
        if resume and overwrite:
            raise ValueError("resume and overwrite exclude each other: choose one")
        self.out_dir, self.overwrite = out_dir, overwrite
        self.config = config | {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "processes": processes.count(),
        }
        self.changes: list[dict[str, Any]] = []  # of hyperparameters, each time it was resumed
        self.rows: list[dict[str, Any]] = []  # of the log
        self._state: dict[str, Any] | None = None
        if processes.is_first():
            refuse_unwritable(out_dir)
            if out_dir.exists():
                with self._locked():
                    self._state = self._earlier_state(fixed, resume)
        self._state = processes.on_first(lambda: self._state)
        self._is_new = self._state is None
        self._seen = self._stamp()

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        refusal = (
            f"another run writes to {self.out_dir}: wait until it ends, stop it, or write "
            "elsewhere (out_dir=..., --out-dir ...)"
        )
        return locked(self.out_dir, wait_for=None, refusal=refusal)

    def _earlier_state(self, fixed: tuple[str, ...], resume: bool) -> dict[str, Any] | None:
        earlier = _files_of_run(self.out_dir)
        if earlier and not (resume or self.overwrite):
            raise FileExistsError(
                f"{self.out_dir} holds an earlier run ({_names(earlier)}): go on with it "
                "(resume=True, --resume), write elsewhere (out_dir=..., --out-dir ...), or delete "
                "it and start anew (overwrite=True, --overwrite)"
            )
        if not resume:
            return None
        state = self._last_state()
        if state is None:
            networks = [p for p in earlier if p.suffix == ".pth" and p.name not in _STATES]
            if networks:
                raise ValueError(
                    f"{self.out_dir} holds {_names(networks)}, but no good state.pth to resume: "
                    "write elsewhere (out_dir=..., --out-dir ...), or delete it and start anew "
                    "(overwrite=True, --overwrite)"
                )
            print(f"{self.out_dir} holds no state.pth to resume: starting from the beginning")
            return None
        self._compare(state, fixed)
        return state

    def _compare(self, state: dict[str, Any], fixed: tuple[str, ...]) -> None:
        """Say what has changed since the state was written, or refuse it."""
        if "changes" not in state:
            raise ValueError(
                f"{self.out_dir} holds the state of an earlier version of this script: write "
                "elsewhere (out_dir=..., --out-dir ...), or start anew (overwrite=True, "
                "--overwrite)"
            )
        before = state["config"]
        changed = {k: [before[k], v] for k, v in self.config.items() if before.get(k, v) != v}
        refused = [f"{k} {old} -> {new}" for k, (old, new) in changed.items() if k in fixed]
        if refused:
            raise ValueError(
                f"cannot resume {self.out_dir} with {'; '.join(refused)}: take the earlier values, "
                "or another out_dir to start anew"
            )
        self.changes = state["changes"]
        changed = {k: changed[k] for k in sorted(changed) if k not in ("resume", "overwrite")}
        for name, (old, new) in changed.items():
            print(f"resuming with {name} {old} -> {new}")
        if changed:
            self.changes.append({"at": state["at"], "changed": changed})

    def _last_state(self) -> dict[str, Any] | None:
        """Return the newest state that is not damaged, None when there is none."""
        for name in _STATES:
            path = self.out_dir / name
            if not path.exists():
                continue
            try:
                state = checkpoint.load(path)
            except ValueError as error:
                print(error)
                path.replace(path.with_name(f"damaged_{name}"))
                continue
            if name != _STATES[0]:
                print(f"going on with the last good checkpoint, {path}: {_place(state)}")
            return state
        return None

    def _stamp(self) -> tuple[int, ...] | None:
        path = self.out_dir / "state.pth"
        return (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None

    def restore(self, at: dict[str, Any], parts: dict[str, Any], device: torch.device) -> None:
        """Set the parts of a run to what the state holds of them, and note them for `save`.

        Optimisers keep the hyperparameters they were made with, but for the learning rate.

        Args:
            at: the place in the run, plain values; changed in place.
            parts: networks, optimisers and what else has a `state_dict`, by name.
        """
        self._at, self._parts, self._device = at, parts, device
        if processes.rank():  # others draw other numbers
            torch.manual_seed(torch.initial_seed() + processes.rank())
        if self._state is None:
            return
        state, self._state = self._state, None  # (it takes as much memory as the networks)
        for name, part in parts.items():
            groups = getattr(part, "param_groups", [])
            kept = ("params", "lr")
            made_with = [{k: v for k, v in g.items() if k not in kept} for g in groups]
            part.load_state_dict(state[name])
            for group, values in zip(getattr(part, "param_groups", []), made_with, strict=True):
                group.update(values)
        at.update(state["at"])
        self.rows[:] = state["rows"]
        if processes.rank() < len(state["random"]):
            checkpoint.set_random_state(state["random"][processes.rank()], device)

    def save(self) -> None:
        """Write state.pth; the one before it is kept until the next."""
        self._save(self.out_dir / "state.pth", previous=self.out_dir / "state_previous.pth")

    def _save(self, path: Path, previous: Path | None = None) -> None:
        state = {name: part.state_dict() for name, part in self._parts.items()}
        state |= {"at": self._at, "rows": self.rows, "config": self.config}
        state |= {"changes": self.changes}
        state["random"] = processes.from_all(checkpoint.random_state(self._device))
        if processes.is_first():
            checkpoint.save(path, state, previous)

    def __enter__(self) -> Run:
        with contextlib.ExitStack() as stack:
            if processes.is_first():
                stack.enter_context(self._locked())
                self._begin()
            if self._is_new:
                self._save(self.out_dir / "state_previous.pth")
            self._held = stack.pop_all()
        return self

    def _begin(self) -> None:
        if self._stamp() != self._seen:
            raise BlockingIOError(f"another run has written to {self.out_dir} just now: run again")
        if self.overwrite:
            for path in _files_of_run(self.out_dir):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for folder in (self.out_dir, self.out_dir / "samples"):
            remove_leftovers(folder, older_than=0)
        content = json.dumps(self.config | {"changes": self.changes}, indent=2)
        with written_whole(self.out_dir / "config.json") as temporary:
            temporary.write_text(content + "\n", encoding="utf-8")
        # Of an epoch that was logged when the run was killed, and not saved: it comes again.
        log = self.out_dir / "log.csv"
        write_log(log, self.rows) if self.rows else log.unlink(missing_ok=True)

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        self._held.close()
        if isinstance(error, FloatingPointError):
            raise FloatingPointError(
                f"{error}. {self._last_good()}: resume with a lower learning rate"
            ) from error
        if error is not None and is_out_of_memory(error):
            lower = [
                f"{name} (now {self.config[name]})" for name in _OF_MEMORY if name in self.config
            ]
            raise MemoryError(
                f"{self._device} has too little memory: lower {', '.join(lower)}. "
                f"{self._last_good()} ({str(error).splitlines()[0]})"
            ) from error
        if isinstance(error, OSError | RuntimeError):
            kind = OSError if isinstance(error, OSError) else RuntimeError
            raise kind(f"{error}. {self._last_good()}: resume from it (--resume)") from error

    def _last_good(self) -> str:
        for name in _STATES:
            with contextlib.suppress(ValueError):
                path = self.out_dir / name
                return f"The last good checkpoint is {path}, {_place(checkpoint.load(path))}"
        return "There is no good checkpoint"


def _place(state: dict[str, Any]) -> str:
    return ", ".join(
        f"{k} {state['at'][k]}" for k in ("stage", "epoch", "step") if k in state["at"]
    )


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _files_of_run(out_dir: Path) -> list[Path]:
    patterns = ("*.pth", "config.json", "log.csv", "curves.png", "samples")
    found = [path for pattern in patterns for path in sorted(out_dir.glob(pattern))]
    return [path for path in found if path.name[0] != "."]  # those a killed process was writing
