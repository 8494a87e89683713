"""Write a checkpoint in another format: safetensors, ONNX, .pth, or for other ESRGAN tools.

    python scripts/export.py ESRGAN/runs/default/generator.pth generator.safetensors
    python scripts/export.py ESRGAN/runs/default/generator.pth generator.onnx
    python scripts/export.py generator.pth for_comfyui.pth --published
    python scripts/export.py generator.pth half_as_large.pth --float16

An ONNX network takes "lr", float32 RGB (N, 3, H, W) in [0, 1] of any size, and gives "sr",
(N, 3, 4H, 4W) in [0, 1]; an SRVAE's gives the mean prediction. It is compared with the original on
a random image before it is kept, where onnxruntime is installed. ONNX needs `pip install onnx
onnxscript`, safetensors `pip install safetensors`.
"""

import contextlib
import io
import logging
import sys
import warnings
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import common  # noqa: F401, it says what is not installed

import torch
import tyro
from torch import nn

from common import checkpoint
from common.files import written_whole
from common.run.flags import command_line
from CVAE.model import CVAE
from ESRGAN.model import GeneratorRRDB, to_published
from scripts.inference.models import Model, load_model
from scripts.inference.outputs import refuse_to_replace
from SRVAE.model import SRVAE

_TOLERANCE = 1e-4  # of values in [0, 1], between torch and onnxruntime


def export(
    model: tyro.conf.Positional[Path],  # checkpoint
    out: tyro.conf.Positional[Path],  # .pth, .safetensors or .onnx
    *,
    published: bool = False,  # ESRGAN's public key names, as ComfyUI and spandrel load them
    float16: bool = False,  # weights of 16 bits, as the checkpoints that come along have them
    overwrite: bool = False,  # replace a file that is there already
) -> Path:
    """Write `out` and return it.

    Raises:
        ValueError: the checkpoint cannot be read, or `out` cannot hold this network.
        FileExistsError: `out` is there already.
        ImportError: a package for this format is missing.
    """
    writers = {".pth": checkpoint.save, ".safetensors": _save_safetensors, ".onnx": None}
    if out.suffix not in writers:
        raise ValueError(f"{out}: expected a name that ends in {', '.join(writers)}")
    if str(model) == "bicubic":
        raise ValueError("bicubic has no weights: name a checkpoint")
    refuse_to_replace([out], [model], overwrite)
    loaded = load_model(model, "cpu", precision="full")
    if out.suffix == ".onnx":
        if published or float16:
            flag = "--published" if published else "--float16"
            raise ValueError(f"{flag} is for .pth and .safetensors, not for ONNX: leave it out")
        _save_onnx(out, loaded)
    else:
        weights = loaded.network.state_dict()
        if published:
            if not isinstance(loaded.network, GeneratorRRDB):
                raise ValueError(f"{model} is of {loaded.name}: only ESRGAN has public key names")
            try:
                weights = to_published(loaded.network)
            except ValueError as error:
                raise ValueError(f"{error} (--no-rrdb-conv-last)") from None
        if float16:
            weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
        writers[out.suffix](out, weights)
    print(f"{out}: {loaded.name}, {out.stat().st_size / 1e6:.1f} MB")
    return out


def _save_safetensors(path: Path, weights: dict[str, torch.Tensor]) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError:
        raise ImportError(f"{path}: pip install safetensors to write it") from None
    weights = {name: weight.contiguous() for name, weight in weights.items()}
    with written_whole(path) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})


class _Exported(nn.Module):
    """A network with one answer in [0, 1]."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        if isinstance(self.network, SRVAE):
            mu, _, features = self.network.encode(lr)
            return self.network.finish(self.network.decode(mu, features), lr)
        return self.network(lr).clamp(0, 1)


def _save_onnx(path: Path, model: Model) -> None:
    """Write the network in ONNX, for images of any number and size."""
    if isinstance(model.network, CVAE):
        raise ValueError(
            "a CVAE enlarges photos in tiles of 32x32 that are put together in Python: there is no "
            "ONNX of it"
        )
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{path}: pip install onnx onnxscript ({error})") from None
    network = _Exported(model.network).eval()
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)  # (checked below at others)
    for name in ("torch.onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with (
        written_whole(path) as temporary,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        torch.inference_mode(),
    ):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (torch.rand(2, 3, 20, 28),),
            dynamo=True,
            input_names=["lr"],
            output_names=["sr"],
            dynamic_shapes={"lr": sizes},
            verbose=False,
        )
        program.save(temporary, external_data=False)
        _check_onnx(temporary, network)


def _check_onnx(path: Path, network: nn.Module) -> None:
    """Raise ValueError where onnxruntime gives another image than torch."""
    try:
        from onnxruntime import InferenceSession
    except ImportError:
        return
    lr = torch.rand(1, 3, 17, 24, generator=torch.Generator().manual_seed(0))
    (sr,) = InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"lr": lr.numpy()})
    difference = (network(lr) - torch.from_numpy(sr)).abs().max().item()
    if not difference < _TOLERANCE:
        raise ValueError(f"onnxruntime's image differs by {difference:.1e}: the file is not kept")


if __name__ == "__main__":
    command_line(export)
