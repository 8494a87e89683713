"""Load any checkpoint, ours or a published ESRGAN's, and enlarge images with it.

from scripts.inference import load_model

model = load_model("ESRGAN/runs/default/generator.pth")
sr = model.upscale(Image.open("photo.jpg"))
"""

import importlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from common.device import choose_device
from common.files import one_line
from scripts.inference import foreign as foreign_networks
from scripts.inference import named
from scripts.inference.bfloat16 import Precision, choose_precision, use_bfloat16
from scripts.inference.bicubic import Bicubic
from scripts.inference.ensemble import SelfEnsemble
from scripts.inference.images import AnyImage, in_form_of, to_batch
from scripts.inference.openvino_network import OpenVINONetwork
from scripts.inference.tiles import enlarge_in_bands
from scripts.inference.untrusted import build_checked
from scripts.inference.weights import describe_weights, load_weights, state_dicts

# The folders whose networks are known. Each has a model.py with
#   from_weights(weights): the network of a state_dict, sizes from its shapes; None: of another one;
#   MARGIN: LR pixels that a tile sees beyond its own, a multiple of GRID; a network's attribute
#     `margin` goes before it, where it depends on the network's size;
#   GRID: LR pixels that tiles begin at multiples of, to be enlarged as in the whole image.
# A network of many answers has `sample`, `noise` and `noise_of_part` besides, as SRVAE's has.
FAMILIES = {
    name: importlib.import_module(f"{name}.model")
    for name in ("ESRGAN", "EDSR", "SwinIR", "CycleGAN", "SRVAE", "CVAE")
}
GRID = math.lcm(*(family.GRID for family in FAMILIES.values()))  # 24: one --tile fits all
TILE = 264 // GRID * GRID  # LR pixels
Backend = Literal["torch", "openvino"]


class Model:
    """A network that enlarges images four times, of any size: large ones in tiles.

    Attributes:
        name: the folder that the network comes from, as "ESRGAN", or "bicubic".
        network: the module, in eval mode on `device`.
        device: where it computes.
        has_samples: whether it has many answers to one image.
        tile: LR pixels, each way, of tiles; an image no larger is enlarged as a whole.
        margin: LR pixels that a tile sees beyond its own.
        precision: "bfloat16" rounds what large products take and give: within 0.25/255 of "full" in
            the mean. "half" is float16 where torch's autocast has it, for GPUs: within 1/255 in
            99.9% of values. A tile where float16 overflows is computed in full.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        device: torch.device,
        precision: Precision = "full",
    ):
        # Convolutions are faster in this layout.
        network = network.to(device, memory_format=torch.channels_last).eval()
        self.name, self.network, self.device = name, network, device
        self.precision = choose_precision(precision, name in FAMILIES, device)
        if self.precision == "bfloat16":
            use_bfloat16(network)
        self.has_samples = hasattr(network, "sample")
        self.tile = TILE if device.type == "cpu" else 2 * TILE
        self.margin = getattr(network, "margin", FAMILIES.get(name, Bicubic).MARGIN)

    def upscale(self, image: AnyImage) -> AnyImage:
        """Return `image` four times as large, of the same kind as it was given.

        The mean prediction of a CVAE and an SRVAE; of the others, the one there is.

        Args:
            image: a PIL image (the result is RGB); an array (H, W, 3), uint8, uint16 or float in
                [0, 1]; a tensor (3, H, W) or (N, 3, H, W), float in [0, 1].
        Raises:
            ValueError: it is none of these.
        """
        return self._enlarge(image, 1, 0.0, None)[0]

    def sample(
        self, image: AnyImage, n: int = 1, temperature: float = 1.0, seed: int | None = None
    ) -> list[AnyImage]:
        """Return `n` different versions of `image`, four times as large; of a CVAE or an SRVAE.

        Args:
            image: as `upscale` takes it.
            temperature: of z's standard deviation; 0 gives the mean prediction.
            seed: the same seed gives the same versions.
        Raises:
            ValueError: the network has one answer only, or an argument is out of range.
        """
        if not self.has_samples:
            raise ValueError(f"a {self.name} has one answer to an image: `upscale` gives it")
        return self._enlarge(image, n, temperature, seed)

    def _enlarge(
        self, image: AnyImage, n: int, temperature: float, seed: int | None
    ) -> list[AnyImage]:
        lr = to_batch(image)

        def read(top: int, bottom: int, left: int, right: int) -> torch.Tensor:
            return lr[..., top:bottom, left:right]

        bands = list(self.bands(read, lr.shape, n, temperature, seed))
        return [in_form_of(image, sr) for sr in torch.cat(bands, -2)]

    @torch.inference_mode()
    def bands(
        self,
        read: Callable[[int, int, int, int], torch.Tensor],
        shape: tuple[int, ...],
        n: int = 1,
        temperature: float = 0.0,
        seed: int | None = None,
        done: Callable[[int], None] = lambda pixels: None,
    ) -> Iterator[torch.Tensor]:
        """Yield rows of SR (n, N, 3, rows, 4W) in [0, 1] from top to bottom, on `device`.

        For photos that are too large to be held in memory; `upscale` and `sample` are made of it.

        Args:
            read: (top, bottom, left, right) to that part of LR, (N, 3, h, w) in [0, 1].
            shape: of LR, (N, 3, H, W).
            n, temperature, seed: as `sample` takes them; networks of one answer give that once.
            done: is told of the LR pixels of each tile that is done.
        """
        network = self.network
        noise = network.noise(shape, n, temperature, seed) if self.has_samples else None

        def answers(lr: torch.Tensor, top: int, left: int) -> torch.Tensor:
            """Return SR (n, N, 3, 4h, 4w): for each of the noises, or the one there is."""
            if noise is None:
                return network(lr)[None]
            return network.sample(lr, noise=network.noise_of_part(noise, (top, left), lr.shape[2:]))

        def enlarge(lr: torch.Tensor, top: int, left: int) -> torch.Tensor:
            lr = lr.to(self.device, memory_format=torch.channels_last)
            if self.precision == "half":
                with torch.autocast(self.device.type, torch.float16):
                    sr = answers(lr, top, left).float()
                if sr.isfinite().all():
                    return sr.clamp(0, 1)
            return answers(lr, top, left).clamp(0, 1)

        size, tile, margin = shape[2:], self.tile, self.margin
        yield from enlarge_in_bands(enlarge, read, size, tile, margin, GRID, done)


def load_model(
    path: str | Path,
    device: str | torch.device = "auto",
    *,
    precision: Precision = "auto",
    backend: Backend = "torch",
    self_ensemble: bool = False,
) -> Model:
    """Return the model in a file of weights; network and sizes are found from its tensors.

    Known are the networks that the training scripts write, public 4x checkpoints of ESRGAN (three
    sets of key names), EDSR and SwinIR, and where the package spandrel is installed about 40 other
    kinds. Nothing in the file is executed.

    Args:
        path: .pth or .safetensors, or a name (scripts/inference/named.py has them); "bicubic" is
            interpolation, to compare with.
        device: "auto" is a GPU where there is one, or the CPU.
        precision: "auto" is bfloat16 where the device has instructions for it and this kind of
            network loses little, else full. See `Model`.
        backend: "openvino" computes on the CPU, faster and with the same result, networks of one
            answer (ESRGAN, CycleGAN); it is a package of its own. It rounds more in "bfloat16", so
            "auto" is full.
        self_ensemble: the mean over flips and quarter turns, of networks of one answer: a little
            nearer to HR, in eight times the time.
    Raises:
        ConnectionError: a published checkpoint cannot be downloaded.
        ValueError: the file is missing, damaged, or holds no such network; the message says what it
            holds instead. Or precision and backend are none that go together with it.
    """
    if precision not in get_args(Precision) or backend not in get_args(Backend):
        raise ValueError(
            f'precision is "{precision}", backend "{backend}": expected one of '
            f"{', '.join(get_args(Precision))}, and one of {', '.join(get_args(Backend))}"
        )
    if backend == "openvino" and precision == "half":
        raise ValueError('backend "openvino" has no half precision: leave precision out')
    where = choose_device("cpu" if backend == "openvino" else str(device))
    torch.backends.cudnn.benchmark = False  # photos have many sizes: searching takes longer
    if str(path) == "bicubic":
        return Model("bicubic", Bicubic(), where, precision)
    path = Path(path)
    if not path.exists() and not path.suffix:  # a name
        path = named.path_of(str(path))
    name, network = _recognise(path, load_weights(path))
    if precision == "bfloat16" and name not in FAMILIES:
        raise ValueError(f"{path} is of {name}, which has no bfloat16: leave precision out")
    if hasattr(network, "sample") and (backend == "openvino" or self_ensemble):
        what = "self_ensemble" if self_ensemble else "backend"
        raise ValueError(f"{path} is of {name}, which has many answers: leave {what} out")
    if backend == "openvino":
        precision = "full" if precision == "auto" else precision
        network = OpenVINONetwork(network.eval(), precision == "bfloat16")
    if self_ensemble:
        network = SelfEnsemble(network)
    return Model(name, network, where, precision)


def _recognise(path: Path, content: dict) -> tuple[str, nn.Module]:
    """Return name and network of the only state_dict in a file that is of a known network."""
    if "config" in content and ("progress" in content or "at" in content):
        raise ValueError(
            f"{path} is what a run resumes from: take one of the .pth files beside it, as "
            "generator.pth, edsr.pth, swinir.pth, G_LR2HR.pth, cvae.pth or srvae.pth"
        )
    found, errors, others = {}, [], []
    for place, weights in state_dicts(content).items():
        others.append(f"found weights {describe_weights(weights)}, known are {', '.join(FAMILIES)}")
        try:
            for name, family in FAMILIES.items():
                if (network := build_checked(family.from_weights, weights)) is not None:
                    found[place] = name, network
        except (KeyError, RuntimeError, ValueError, AttributeError, TypeError, IndexError) as error:
            errors.append(str(error))
    if "params_ema" in found:  # an average of `params`, and what is meant to be used
        found.pop("params", None)
    if len(found) > 1:
        raise ValueError(f"{path} holds several networks: save one of {', '.join(found)} by itself")
    if not found and not errors:
        try:
            if foreign := foreign_networks.first_known(state_dicts(content).values()):
                found[""] = foreign
        except ValueError as error:
            errors.append(str(error))
    if not found:
        keys = ", ".join(map(str, list(content)[:3])) or "nothing"
        reason = [*errors, *(other + foreign_networks.HINT for other in others)]
        reason = [*reason, f"found {keys}"][0]
        raise ValueError(f"{path} holds no network that enlarges images: {one_line(reason)}")
    ((name, network),) = found.values()
    tensors = (value for value in network.state_dict().values() if torch.is_tensor(value))
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise ValueError(f"{path} holds weights that are not finite: its training has failed")
    return name, network
