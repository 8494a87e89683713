"""Read files of weights, from training here or from elsewhere: .pth and .safetensors."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from scripts.inference.untrusted import load_foreign

# What is known by its keys alone: the first that matches one of them.
_OTHERS = {
    r".*\.overlap_attn\..*": "HAT",
    r".*\.attn_atd\..*": "ATD",
    r"layers\.0\.swin1\..*": "DRCT",
    r".*\.channel_interaction\..*": "DAT",
    r"layers\.\d+\.blocks\.\d+\.gamma": "RGT",
    r"norm_start\.weight": "GRL",
    r"patch_embed\.proj\.weight": "Swin2SR",
    r".*\.residual_group\.blocks\..*": "SwinIR",
    r"block_1\.c1_r\..*": "SPAN",
    r"residual_layer\.0\..*": "OmniSR",
    r"feats\.1\.lk\..*": "PLKSR",
    r"feats\.0\.safm\..*": "SAFMN",
    r"unet1\..*": "Real-CUGAN",
    r"body\.0\.body\.0\.body\.0\.weight": "RCAN",
    r"body\.0\.body\.0\.weight": "EDSR",
    r"body\.0\.weight": "Real-ESRGAN Compact (SRVGGNet)",
    r".*weight_orig": "a discriminator with spectral norm",
    r"features\.\d+\.weight": "a discriminator, a VGG or another classifier",
}


def describe_weights(weights: Iterable[str]) -> str:
    """Return in words what network a state_dict's keys are of: its name, or some of the keys."""
    keys = list(weights)
    for pattern, name in _OTHERS.items():
        if any(re.fullmatch(pattern, key) for key in keys):
            return f"of {name}"
    return f"with keys like {', '.join(keys[:3])}"


def load_weights(path: Path) -> dict:
    """Return what a file holds: a state_dict, or one with others in it.

    Raises:
        ValueError: it is missing, damaged, or asks for more memory than it holds.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        return load_foreign(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        size = f"{path.stat().st_size:,} bytes"
        raise ValueError(
            f"{path} is damaged or no file of safetensors ({size}): {error}"
        ) from error


def state_dicts(content: dict) -> dict[str, dict[str, torch.Tensor]]:
    """Return the state_dicts in a file, by the key that each lies under; "" is the file itself.

    Names are freed of what wrappers (DataParallel, torch.compile, Lightning) put before them, and
    profilers' counts are left out.
    """
    places = {"": content} | {str(k): v for k, v in content.items() if isinstance(v, dict)}
    found, seen = {}, set()
    for place, names in places.items():
        if id(names) in seen:  # a small file could hold one of them under many keys
            continue
        seen.add(id(names))
        weights = {
            re.sub(r"^(module\.|_orig_mod\.|generator\.)+", "", name): value
            for name, value in names.items()
            if isinstance(name, str) and torch.is_tensor(value)
        }
        counts = ("total_ops", "total_params")
        weights = {name: weights[name] for name in weights if not name.endswith(counts)}
        if weights:
            found[place] = weights
    return found
