"""The folder of a run: which process writes to it, and the state that it continues from."""

import contextlib
import json
import platform
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import checkpoint, processes
from common.device import is_out_of_memory
from common.files import locked, refuse_unwritable, remove_leftovers, written_whole
from common.run.log import Progress, write_log

_STATES = ("state.pth", "state_previous.pth")
_VERSION = 2  # of a state's content
_CONFIG = "config.json"
_SIGNS = ("*.pth", _CONFIG, "log.csv", "curves.png", "samples")  # of a run
_TAKE_MEMORY = ("batch_size", "patch_size", "lr_size", "hr_size", "n_features", "n_blocks")
_TAKE_MEMORY += ("discriminator_features", "valid_crop")
_OUTPUT = (".txt", ".log", ".out", ".err")  # what a run prints may go beside its files
_ELSEWHERE = "choose an empty or new folder (out_dir=..., --out-dir ...)"
_ANEW = f"{_ELSEWHERE}, or delete it and start anew (overwrite=True, --overwrite)"
_KINDS = (FloatingPointError, ArithmeticError, MemoryError, OSError, RuntimeError)


class RunFolder:
    """A run's files, which one process at a time writes.

    `state.pth` is the run: it is written whole, and the one before it is kept as
    `state_previous.pth`; from either a run continues to the same bits. `config` are the
    hyperparameters, read here are out_dir, resume and overwrite; those named in `fixed` cannot
    change when a run is resumed, and "script" never. `progress` and `rows` say how far the run is.

    Raises `BlockingIOError` when another process writes to the folder; `FileExistsError` when an
    earlier run lies there and neither resume nor overwrite is set, or other files and no run;
    `ValueError` when both are, when the run is another script's, when a fixed hyperparameter
    differs, or no state is left to continue from.
    """

    def __init__(self, config: dict[str, Any], fixed: tuple[str, ...]):
        resume, self.overwrite = config["resume"], config["overwrite"]
        if resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other: choose one")
        self.path = path = Path(config["out_dir"])
        self.states = [path / name for name in _STATES]  # the newest, and the one before it
        first_time = "continue with resume=True (--resume)"
        self.again = "run the same command again" if resume else first_time
        config = {k: v if isinstance(v, int | float | None) else str(v) for k, v in config.items()}
        versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
        self.config = config | versions | {"processes": processes.count()}
        self.changes: list[dict[str, Any]] = []  # of hyperparameters, each time it was resumed
        state = None
        if processes.is_main():
            refuse_unwritable(path)
            if path.exists():
                with self._locked():
                    state = self._earlier_state(fixed, resume)
        self._state = processes.on_main(lambda: state)
        self.progress = Progress(**self._state["progress"]) if self._state else Progress()
        self.rows: list[dict[str, Any]] = self._state["rows"] if self._state else []
        self._seen = self._stamp()

    def _locked(self) -> contextlib.AbstractContextManager[Any]:
        refusal = f"another run writes to {self.path}: wait until it ends, stop it, or {_ELSEWHERE}"
        return locked(self.path / "run", wait_for=None, refusal=refusal)

    def _earlier_state(self, fixed: tuple[str, ...], resume: bool) -> dict[str, Any] | None:
        found = [file.name for sign in _SIGNS for file in sorted(self.path.glob(sign))]
        found = [name for name in found if name[0] != "."]  # a killed process was writing those
        others = [f for f in self.path.iterdir() if f.name[0] != "." and f.suffix not in _OUTPUT]
        if others and not found:
            raise FileExistsError(f"{self.path} holds other files and no run: {_ELSEWHERE}")
        script = self.config.get("script")
        if (other := self._earlier_config().get("script", script)) != script:
            raise ValueError(f"{self.path} holds a run of {other}, this is {script}: {_ELSEWHERE}")
        if found and not (resume or self.overwrite):
            run = f"{self.path} holds an earlier run ({', '.join(found)})"
            raise FileExistsError(f"{run}: continue it (resume=True, --resume), {_ANEW}")
        if not resume:
            return None
        if state := self._last_state():
            self._compare(state, fixed)
            return state
        if networks := ", ".join(n for n in found if n.endswith(".pth") and "state" not in n):
            raise ValueError(f"{self.path} holds {networks}, but no good state.pth: {_ANEW}")
        print(f"{self.path} holds no state.pth to resume: starting from the beginning")
        return None

    def _last_state(self) -> dict[str, Any] | None:
        """Return the newest state that is not damaged, None when there is none."""
        for path in filter(Path.exists, self.states):
            try:
                state = checkpoint.load(path)
            except ValueError as error:
                print(error)
                path.replace(path.with_name(f"damaged_{path.name}"))
                continue
            if state.get("version") != _VERSION:
                raise ValueError(f"{path} is the state of an earlier version: {_ANEW}")
            if path != self.states[0]:
                print(f"continuing from the last good checkpoint, {path}: {_place(state)}")
            return state
        return None

    def _compare(self, state: dict[str, Any], fixed: tuple[str, ...]) -> None:
        """Print which hyperparameters have changed since the state was written, or refuse it."""
        before = state["config"]
        changed = {k: [before[k], v] for k, v in self.config.items() if before.get(k, v) != v}
        changed = {k: changed[k] for k in sorted(changed) if k not in ("resume", "overwrite")}
        unlike = {k: f"{k} {old} -> {new}" for k, (old, new) in changed.items()}
        if refused := "; ".join(unlike[k] for k in unlike if k in (*fixed, "script")):
            anew = "take the earlier values, or another out_dir to start anew"
            raise ValueError(f"cannot resume {self.path} with {refused}: {anew}")
        self.changes = state["changes"]
        for text in unlike.values():
            print(f"resuming with {text}")
        if changed:
            self.changes.append({"at": state["progress"], "changed": changed})

    def _stamp(self) -> tuple[int, ...] | None:
        newest = self.states[0]
        return (newest.stat().st_mtime_ns, newest.stat().st_size) if newest.exists() else None

    def restore(self, parts: dict[str, Any], device: torch.device) -> None:
        """Set networks, optimisers, ... to what the state holds of them; keep them for `save`.

        Optimisers keep the hyperparameters that they were made with, but for the learning rate.
        """
        self._parts, self._device = parts, device
        if processes.rank():  # others draw other numbers
            torch.manual_seed(torch.initial_seed() + processes.rank())
        state, self._state = self._state, None  # (it takes as much memory as the networks)
        self._is_new = state is None
        for name, part in parts.items() if state else ():
            groups = getattr(part, "param_groups", [])
            made_with = [{k: g[k] for k in g if k not in ("params", "lr")} for g in groups]
            part.load_state_dict(state[name])
            for i, values in enumerate(made_with):
                part.param_groups[i] |= values
        if state and processes.rank() < len(state["random"]):
            random = state["random"][processes.rank()]
            torch.set_rng_state(random["cpu"])
            if "cuda" in random and device.type == "cuda":
                torch.cuda.set_rng_state(random["cuda"], device)

    def save(self) -> None:
        """Write state.pth; the one before it is kept until the next."""
        state = {name: part.state_dict() for name, part in self._parts.items()}
        state |= {"version": _VERSION, "progress": asdict(self.progress), "rows": self.rows}
        state |= {"config": self.config, "changes": self.changes}
        random = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self._device)
        state["random"] = processes.gather(random)
        if processes.is_main():
            checkpoint.save(self.states[0], state, previous=self.states[1])

    def write_networks(self, networks: dict[str, nn.Module]) -> None:
        """Write NAME.pth of each, a plain state_dict on the CPU; config.json has the names."""
        if not processes.is_main():
            return
        if new := [name for name in networks if name not in self.progress.networks]:
            self.progress.networks += new
            self._write_config()
        for name, network in networks.items():
            weights = {key: value.cpu() for key, value in network.state_dict().items()}
            checkpoint.save(self.path / f"{name}.pth", weights)  # (others may lack a GPU)

    def _write_config(self) -> None:
        more = {"changes": self.changes, "networks": self.progress.networks}
        content = json.dumps(self.config | more, indent=2) + "\n"
        with written_whole(self.path / _CONFIG) as temporary:
            temporary.write_text(content, encoding="utf-8")

    def _earlier_config(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError, TypeError):
            return dict(json.loads((self.path / _CONFIG).read_text(encoding="utf-8")))
        return {}

    def _delete_run(self) -> None:
        """Delete the files that a run has written, and nothing else that lies beside them."""
        with contextlib.suppress(OSError, KeyError):  # no config.json: no run
            networks = self._earlier_config()["networks"]
            names = [*_STATES, *(f"damaged_{state}" for state in _STATES), "log.csv", "curves.png"]
            for name in (*names, *(f"{network}.pth" for network in networks), _CONFIG):
                (self.path / name).unlink(missing_ok=True)
            for picture in (self.path / "samples").glob("*.png"):
                if re.fullmatch(r"([a-z]+_)?\d{4,}", picture.stem):
                    picture.unlink()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let the folder belong to this process; errors in the block name the last good state."""
        with self._locked() if processes.is_main() else contextlib.nullcontext():
            if processes.is_main():
                self._begin()
            if self._is_new:
                self.save()
            try:
                yield
            except _KINDS as error:
                raise self._explained(error) from error

    def _begin(self) -> None:
        if self._stamp() != self._seen:
            raise BlockingIOError(f"another run has written to {self.path} just now: run again")
        if self.overwrite:
            self._delete_run()
        for folder in (self.path, self.path / "samples"):
            remove_leftovers(folder, older_than=0)
        self._write_config()
        # Without an epoch that was logged but not saved when the run was killed: it comes again.
        log = self.path / "log.csv"
        write_log(log, self.rows) if self.rows else log.unlink(missing_ok=True)

    def _explained(self, error: Exception) -> Exception:
        kind = next(kind for kind in _KINDS if isinstance(error, kind))
        advice, message = self.again, str(error)
        if kind is FloatingPointError:
            advice = "resume with a lower learning rate"
        elif is_out_of_memory(error):
            lower = [f"{k} (now {self.config[k]})" for k in _TAKE_MEMORY if k in self.config]
            kind, message = MemoryError, message.partition("\n")[0]
            message = f"{self._device} has too little memory: lower {', '.join(lower)} ({message})"
        elif "DataLoader worker" in message:
            kind, message = ChildProcessError, "a process that cuts crops was killed"
            advice = f"resume with fewer workers (now {self.config['workers']})"
        good = "There is no good checkpoint"
        for path in self.states:
            with contextlib.suppress(ValueError):
                good = f"The last good checkpoint is {path}, {_place(checkpoint.load(path))}"
                break
        return kind(f"{message}. {good}: {advice}")


def _place(state: dict[str, Any]) -> str:
    place = {k: state["progress"][k] for k in ("stage", "epoch", "step")}
    return ", ".join(f"{k} {v}" for k, v in place.items() if v != "")
