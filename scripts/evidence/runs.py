"""What the scripts that train networks side by side, to measure them alike, have in common."""

import contextlib
import csv
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.data.pairs import Pairs, list_pairs
from common.data.photos import write_image
from common.data.workers import in_processes
from common.div2k import download_div2k
from common.files import written_whole
from common.progress import progress_bar
from common.run.log import write_log
from scripts.inference.outputs import refuse_foreign_folder
from scripts.prepare_dataset import prepare_dataset


class Run(NamedTuple):
    title: str  # of the network in the tables
    train: Callable[..., Path]  # the train function
    seed: int
    settings: dict[str, Any]  # its other arguments
    folder: Path

    @property
    def seconds(self) -> float:
        """How long the run took."""
        return float(last_row(self.folder)["seconds"])


def last_row(folder: Path) -> dict[str, str]:
    """Return the last row of the log of the run in `folder`."""
    with (folder / "log.csv").open(newline="") as file:
        *_, row = csv.DictReader(file)
    return row


def refuse_other_settings(out: Path, settings: dict[str, Any]) -> None:
    """Note the settings in `out`, or raise ValueError where others stand: runs would be mixed.

    Raises:
        FileExistsError: `out` holds files that are not of such runs.
    """
    file = out / "settings.json"
    refuse_foreign_folder(out, file.name)
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        named = {k: before.get(k) for k in settings}
        changed = [f"{k} {named[k]} -> {v}" for k, v in settings.items() if named[k] != v]
        if changed:
            raise ValueError(
                f"{out} holds runs with other settings ({'; '.join(changed)}): take another out "
                "(--out), or delete it"
            )
        return
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def choose_photos(photos: Path | None, tests: Sequence[Path]) -> tuple[Path, dict[str, Path]]:
    """Return the photos to train on and the test folders by name, `Set5` for `Set5/HR`.

    DIV2K's training and validation photos where None or none are given.

    Raises:
        ValueError: two test folders have one name.
    """
    photos = photos or download_div2k("div2k")[0]
    folders = tests or (download_div2k("div2k", split="valid")[0],)
    named = {f.parent.name if f.name.lower() == "hr" else f.name: f for f in folders}
    if len(named) < len(folders):
        raise ValueError(f"two test folders of one name: {', '.join(map(str, folders))}")
    return photos, named


def prepare(
    photos: Path, tests: dict[str, Path], data: Path, degradation: str
) -> tuple[Path, Path, dict[str, Pairs]]:
    """Make LR photos; return the training photos' LR and HR folder, and the test folders' pairs."""
    hr_folder, lr_folder = prepare_dataset(photos, data, degradation=degradation)
    pairs = {}
    for name, folder in tests.items():
        hr, lr = prepare_dataset(folder, data / name, split="valid", degradation=degradation)
        pairs[name] = list_pairs(lr, hr)
    return lr_folder, hr_folder, pairs


def run_folder(out: Path, title: str, seed: int) -> Path:
    """Return the folder of a network's run."""
    return out / f"{''.join(c if c.isalnum() else '_' for c in title)}_{seed}"


def write_results(out: Path, rows: list[dict[str, Any]], text: str, picture: np.ndarray) -> None:
    """Write evidence.csv, evidence.md and evidence.png, and print the text."""
    write_log(out / "evidence.csv", rows)
    with written_whole(out / "evidence.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_image(out / "evidence.png", picture)
    print(f"\n{text}\n{out / 'evidence.md'}\n{out / 'evidence.png'}")


def train_all(runs: list[Run], jobs: int, title: str) -> None:
    """Train what is not trained yet, `jobs` at once, each on one processor; 1: in this process."""
    try:
        with progress_bar(total=len(runs), desc=title, unit="run") as bar:
            for run in in_processes(_train, runs, 0 if jobs == 1 else jobs):
                bar.write(f"{run.title}, seed {run.seed}: {run.folder / 'output.txt'}")
                bar.update()
    except (KeyboardInterrupt, BrokenProcessPool):
        sys.exit("stopped: the same command continues where it left off")


def _train(run: Run) -> Run:
    run.folder.mkdir(parents=True, exist_ok=True)
    with (
        (run.folder / "output.txt").open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        try:
            run.train(**run.settings, seed=run.seed, out_dir=run.folder, resume=True)
        except SystemExit as stopped:  # by Ctrl-C, after saving
            if multiprocessing.parent_process():  # a worker would begin the next run
                os._exit(stopped.code)
            raise
    return run
