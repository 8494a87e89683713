"""Train a small ESRGAN on built-in photos and measure it on two that it never saw.

    bash scripts/quickstart.sh

Minutes on two cores. A run that was interrupted goes on; one that is complete is only measured
again. What is left out for speed, against `python ESRGAN/train_esrgan.py`: photos, blocks and
steps. Beside the results is what the repository's own `esrgan` makes of the same photos: the same
method with more photos and steps.
"""

import json
import sys
import time
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import common  # noqa: F401, it says what is not installed

import numpy as np
import torch
from PIL import Image, ImageDraw

from common import checkpoint
from common.data.pairs import list_pairs
from common.data.photos import read_image, to_tensor, to_uint8, write_image
from common.data.resize import imresize
from common.device import choose_device
from common.files import refuse_unwritable
from common.measure.metrics import psnr_ssim_y
from common.measure.validation import busiest_crop, enlarge, grid
from common.run.flags import command_line
from ESRGAN.model import GeneratorRRDB
from ESRGAN.train_esrgan import train_esrgan
from scripts.evidence.builtin_photos import builtin_photos
from scripts.inference.models import load_model
from scripts.inference.outputs import refuse_foreign_folder

ROOT = Path(__file__).resolve().parents[1]
NETWORK = {"n_blocks": 2, "n_features": 24, "growth": 12}
PSNR_STAGE = {
    "patch_size": 64,
    "batch_size": 8,
    "workers": 0,
    "learning_rate": 2e-3,  # ten times the published rate: a small network, few steps
    "nearest_start": True,  # or thirteen photos teach it wrong colours
    "milestones": (0.5, 0.75, 0.9),
}
GAN_STAGE = {  # a game that stays one in few steps, see ESRGAN/README.md
    "perceptual_network": "efficientnet_lite0",  # of a package, VGG19 is 548 MB
    "perceptual_weight": 0.1,
    "discriminator": "unet",
    "discriminator_features": 16,
    "gan_loss": "vanilla",
    "gan_weight": 0.1,
    "pixel_weight": 1.0,
}
FINE_TUNING = r"""python scripts/prepare_dataset.py PHOTOS OUT
    python ESRGAN/train_esrgan.py --start-from esrgan-psnr --no-rrdb-conv-last \
        --n-blocks 3 --n-features 32 --growth 32 --out-dir OUT/run \
        --hr-folder OUT/DIV2K_train_HR --lr-folder OUT/DIV2K_train_LR_bicubic/X4"""
Results = dict[str, np.ndarray]  # what made it: (H, W, 3) uint8


def quickstart(
    *,
    data_dir: Path = ROOT / "div2k" / "builtin",  # where the built-in photos are laid out
    out_dir: Path = ROOT / "ESRGAN" / "runs" / "quickstart",  # where the run is written
    n_epochs: int = 12,  # of the PSNR stage
    n_epochs_gan: int = 1,
    steps_per_epoch: int = 100,
    device: str = "cuda",  # without a GPU the CPU is taken
) -> Path:
    """Prepare the built-in photos, train both stages, measure; return the folder of the run.

    Raises:
        FileExistsError: `out_dir` holds files that are not of such a run.
    """
    refuse_unwritable(out_dir)
    refuse_foreign_folder(out_dir, "config.json")
    began = time.perf_counter()
    where = choose_device(device)
    lr_folder, hr_folder, valid_lr_folder, valid_hr_folder = builtin_photos(out=data_dir)

    train_esrgan(
        lr_folder=lr_folder,
        hr_folder=hr_folder,
        valid_lr_folder=valid_lr_folder,
        valid_hr_folder=valid_hr_folder,
        **NETWORK,
        **PSNR_STAGE,
        **GAN_STAGE,
        n_epochs=n_epochs,
        n_epochs_gan=n_epochs_gan,
        steps_per_epoch=steps_per_epoch,
        out_dir=out_dir,
        device=str(where),
        resume=True,  # where there is a run
    )

    networks = {
        "PSNR stage": _load(out_dir / "generator_psnr.pth", where),
        "GAN stage": _load(out_dir / "generator.pth", where),
        "shipped esrgan": load_model("esrgan", where, precision="full").network,
    }
    rows, scores = [], {}
    for lr_path, hr_path in list_pairs(valid_lr_folder, valid_hr_folder):
        lr, hr = read_image(lr_path), read_image(hr_path)
        results = {"bicubic": imresize(lr, 4)}
        for name, network in networks.items():
            results[name] = upscale(network, lr)
            if "stage" in name:
                write_image(
                    out_dir / f"{hr_path.stem}_{name[:4].strip().lower()}.png", results[name]
                )
        scores[hr_path.stem] = {
            name: psnr_ssim_y(to_tensor(sr), to_tensor(hr)) for name, sr in results.items()
        }
        rows += comparison_rows(hr_path.stem, lr, results, hr, scores[hr_path.stem])
    write_image(out_dir / "comparison.png", grid(rows))
    print(f"\n{table(scores)}\n")
    print(f"comparison picture: {out_dir / 'comparison.png'}")
    print(f"checkpoints:        {out_dir / 'generator_psnr.pth'} (PSNR stage)")
    print(f"                    {out_dir / 'generator.pth'} (GAN stage)")
    print(f"to train on your own photos from better weights than none:\n    {FINE_TUNING}")
    print(f"{time.perf_counter() - began:.0f} seconds")
    return out_dir


def _load(path: Path, device: torch.device) -> GeneratorRRDB:
    config = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
    generator = GeneratorRRDB(config["n_blocks"], config["n_features"], config["growth"])
    generator.load_state_dict(checkpoint.load(path))
    return generator.to(device).eval()


@torch.inference_mode()
def upscale(network: GeneratorRRDB, lr: np.ndarray) -> np.ndarray:
    """Enlarge (h, w, 3) uint8 to (4h, 4w, 3) uint8."""
    device = next(network.parameters()).device
    return to_uint8(network(to_tensor(lr).to(device)))


def comparison_rows(
    name: str, lr: np.ndarray, results: Results, hr: np.ndarray, scores: dict, size: int = 280
) -> list[list[tuple[str, np.ndarray]]]:
    """Return two rows for `grid`: LR | each result | HR whole, and a crop of each, enlarged.

    Args:
        scores: (PSNR-Y, SSIM-Y) of each result.
        size: width of a picture in pixels.
    """
    crop = 72
    top, left = (4 * place for place in busiest_crop(lr, crop // 4))
    captions = {
        kind: f"{kind}  {psnr:.2f} dB / {ssim:.4f}" for kind, (psnr, ssim) in scores.items()
    }
    pictures = {f"{name}: LR": enlarge(lr, hr.shape[:2]), **results, "HR": hr}
    whole, zoomed = [], []
    for kind, pixels in pictures.items():
        photo = Image.fromarray(pixels)
        frame = (left, top, left + crop, top + crop)
        zoomed.append(("", enlarge(np.asarray(photo.crop(frame)), (size, size))))
        ImageDraw.Draw(photo).rectangle(frame, outline="red", width=3)
        height = round(size * hr.shape[0] / hr.shape[1])
        photo = photo.resize((size, height), Image.Resampling.LANCZOS)
        whole.append((captions.get(kind, kind), np.asarray(photo)))
    return [whole, zoomed]


def table(scores: dict[str, dict[str, tuple[float, float]]]) -> str:
    """Return PSNR-Y / SSIM-Y of each photo (row) by each method (column), their means last."""
    methods = list(next(iter(scores.values())))
    means = {m: tuple(np.mean([row[m] for row in scores.values()], axis=0)) for m in methods}
    lines = ["PSNR-Y dB / SSIM-Y".ljust(20) + "".join(method.rjust(18) for method in methods)]
    for photo, row in (scores | {"mean": means}).items():
        figures = (f"{row[m][0]:.2f} / {row[m][1]:.4f}".rjust(18) for m in methods)
        lines.append(photo.ljust(20) + "".join(figures))
    return "\n".join(lines)


if __name__ == "__main__":
    command_line(quickstart)
