"""Train every model in small, measure them all on photos they never saw, draw them side by side.

    python scripts/evidence/gallery.py

trains on the photos that come inside scikit-image's package; `--photos PHOTOS --test SET5/HR
SET14/HR` names folders of HR photos instead. A run that was interrupted is resumed, a complete one
is only measured again. The networks are smaller than the train scripts' defaults and so is the
number of steps: `scripts/evidence/methods.py` lists what differs.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import common  # noqa: F401, it says what is not installed


from common.device import choose_bfloat16, choose_device, describe
from common.run.flags import command_line
from scripts.compare import compare
from scripts.evaluate import evaluate
from scripts.evidence.builtin_photos import builtin_photos
from scripts.evidence.methods import METHODS
from scripts.evidence.runs import Run, choose_photos, prepare, refuse_other_settings, train_all

ROOT = Path(__file__).resolve().parents[2]


def gallery(
    *,
    photos: Path | None = None,  # folder of HR photos to train on; None: the built-in ones
    test: tuple[Path, ...] = (),  # folders of HR photos to measure on; none: two built-in ones
    share: float = 1.0,  # of the training steps; 0.01 is a try of minutes
    seed: int = 0,
    jobs: int = 1,  # runs at once, each on one processor; 1: in this process, on all of them
    out: Path = ROOT / "runs" / "gallery",
    device: str = "cuda",  # without a GPU the CPU is taken
    bfloat16: bool | None = None,  # autocast; None: if the device has instructions for it
) -> Path:
    """Train, measure and draw; return the folder with the checkpoints and results.

    Written there: a folder for each run, and for each test folder NAME.md, NAME.csv and NAME.json
    (evaluate.py) and NAME.png (compare.py).

    Raises:
        ValueError: `out` holds runs with other settings, or two test folders have one name.
        FileExistsError: `out` holds files of something else.
    """
    where = choose_device(device)
    bfloat16 = choose_bfloat16(where, bfloat16)
    if photos is None and not test:
        _, photos, _, valid = builtin_photos()
        tests = {"built_in": valid}
    else:
        photos, tests = choose_photos(photos, test)
    given = {"photos": str(photos), "test": [*map(str, tests.values())]}
    refuse_other_settings(out, {"share": share, "seed": seed, "bfloat16": bfloat16} | given)
    lr_folder, hr_folder, pairs = prepare(photos, tests, out / "data", "bicubic")
    runs = []
    for name, method in METHODS.items():
        steps = max(1, round(share * method.minutes["steps_per_epoch"]))
        settings = method.minutes | {"steps_per_epoch": steps, "workers": 0, "device": where.type}
        settings |= {"lr_folder": lr_folder, "hr_folder": hr_folder, "bfloat16": bfloat16}
        runs.append(Run(name, method.train, seed, settings, out / name))
    train_all(runs, jobs, describe(where, bfloat16))

    shown = {"bicubic": "bicubic"}  # captions and checkpoints
    for name, method in METHODS.items():
        shown |= {caption: str(out / name / file) for caption, file in method.checkpoints.items()}
    models = tuple(shown.values())
    for name, photos_of_test in pairs.items():
        lr_path, hr_path = photos_of_test[min(1, len(photos_of_test) - 1)]
        files = {kind: out / f"{name}.{kind}" for kind in ("csv", "json")}
        markdown = out / f"{name}.md"
        evaluate(
            models=models,
            hr=hr_path.parent,
            lr=lr_path.parent,
            **files,
            markdown=markdown,
            overwrite=True,
            device=where.type,
        )
        picture = out / f"{name}.png"
        compare(
            hr_path,
            models=models,
            names=tuple(shown),
            samples=1,
            n_crops=1,
            out=picture,
            overwrite=True,
            device=where.type,
        )
    print("; ".join(f"{run.title} {run.seconds:.0f} s" for run in runs))
    return out


if __name__ == "__main__":
    command_line(gallery)
