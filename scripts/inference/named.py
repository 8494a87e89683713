"""Checkpoints that are taken by their names: those in this repository, and published ones.

A published one is downloaded on first use, from its authors' address, into torch.hub's folder.
"""

import re
from pathlib import Path
from typing import NamedTuple

from common.download import fetch

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {path.stem: path for path in sorted(ROOT.glob("*/pretrained/*.pth"))}
DEFAULT = "real"


class Published(NamedTuple):
    url: str
    sha256: str  # of some its first 8 digits, as in its name
    size: str
    what: str
    whose: str  # authors and licence


_XINTAO = "https://github.com/xinntao/Real-ESRGAN/releases/download"
_SWINIR = "https://github.com/JingyunLiang/SwinIR/releases/download/v0.0"
_EDSR = "https://cv.snu.ac.kr/research/EDSR/models"
_WANG, _LIANG, _LIM = "Wang et al., BSD-3-Clause", "Liang et al., Apache-2.0", "Lim et al., MIT"
PUBLISHED = {
    "realesrgan-x4plus": Published(
        f"{_XINTAO}/v0.1.0/RealESRGAN_x4plus.pth",
        "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        "67 MB",
        "real photos, sharp",
        _WANG,
    ),
    "realesrnet-x4plus": Published(
        f"{_XINTAO}/v0.1.1/RealESRNet_x4plus.pth",
        "a820b9bde89a874d7599d545567308ce6c128fc8754a53208eda016d40aa81df",
        "67 MB",
        "real photos, smooth",
        _WANG,
    ),
    "realesrgan-x4plus-anime": Published(
        f"{_XINTAO}/v0.2.2.4/RealESRGAN_x4plus_anime_6B.pth",
        "f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da",
        "18 MB",
        "drawings",
        _WANG,
    ),
    "esrgan-published": Published(
        f"{_XINTAO}/v0.1.1/ESRGAN_SRx4_DF2KOST_official-ff704c30.pth",
        "ff704c30",
        "67 MB",
        "clean photos, sharp",
        "Wang et al., Apache-2.0",
    ),
    "edsr-published": Published(
        f"{_EDSR}/edsr_x4-4f62e9ef.pt", "4f62e9ef", "172 MB", "clean photos, faithful", _LIM
    ),
    "edsr-baseline-published": Published(
        f"{_EDSR}/edsr_baseline_x4-6b446fab.pt",
        "6b446fab",
        "6 MB",
        "clean photos, faithful",
        _LIM,
    ),
    "swinir-classical": Published(
        f"{_SWINIR}/001_classicalSR_DF2K_s64w8_SwinIR-M_x4.pth",
        "4e78e33f22c1aa8a773db0cf4a7381bae97c2362c717f155439ebc690cbd9215",
        "67 MB",
        "clean photos, faithful",
        _LIANG,
    ),
    "swinir-real-large": Published(
        f"{_SWINIR}/003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth",
        "99adfa91350a84c99e946c1eb3d8fce34bc28f57d807b09dc8fe40a316328c0a",
        "142 MB",
        "real photos, sharp",
        _LIANG,
    ),
}


def path_of(name: str) -> Path:
    """Return the file of that name, downloaded if need be.

    Raises:
        ValueError: there is no such checkpoint.
        ConnectionError: it cannot be downloaded.
    """
    if name in SHIPPED:
        return SHIPPED[name]
    if name not in PUBLISHED:
        raise ValueError(
            f"{name}: there is no such file, nor such a checkpoint: "
            f"{', '.join(['bicubic', *SHIPPED, *PUBLISHED])}"
        )
    url, sha256, size, _, whose = PUBLISHED[name]
    here = f"take one that is here: {', '.join(SHIPPED)}"
    return fetch(url, sha256, f"{name} ({whose}), {size}", here)


def what_for(path: Path) -> str:
    """Return what the card beside a checkpoint that comes along says it is for."""
    card = (path.parent / "README.md").read_text(encoding="utf-8")
    line = re.search(rf"^\| `{path.stem}` \| ([^|]*) \|", card, re.MULTILINE)
    return line[1] if line else ""


def listing() -> str:
    """Return a table of all names, what they are for, their size and where they are."""
    rows = [("bicubic", "interpolation, to compare with", "-", "-")]
    for name, path in SHIPPED.items():
        size = f"{path.stat().st_size / 1e6:.1f} MB"
        rows.append((name, what_for(path), size, path.relative_to(ROOT).as_posix()))
    for name, (url, _, size, what, whose) in PUBLISHED.items():
        rows.append((name, f"{what} ({whose})", size, url))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)
