"""A network that OpenVINO computes on the CPU: `load_model(backend="openvino")`.

It was chosen among three. torch.compile gained less and needs a C++ compiler; ncnn gained a little
more, but needs a converter of its own and files on the disk. OpenVINO converts the network in
memory, once for images of every size.
"""

import contextlib
import functools
import io
import logging
import warnings

import torch
from torch import nn


class OpenVINONetwork(nn.Module):
    """A network of one answer, converted: LR (N, 3, H, W) to SR (N, 3, 4H, 4W), of any size.

    Conversion takes some seconds, once for each process.

    Args:
        network: in eval mode, on the CPU.
        bfloat16: let OpenVINO compute all in it, on CPUs that have it.
    Raises:
        ValueError: OpenVINO is not installed.
    """

    def __init__(self, network: nn.Module, bfloat16: bool = False):
        super().__init__()
        try:
            import openvino
        except ImportError:
            raise ValueError(
                "OpenVINO is not installed: pip install openvino, or leave backend out"
            ) from None
        if hasattr(network, "margin"):
            self.margin = network.margin
        network = network.to(memory_format=torch.contiguous_format)
        # Traced at one size; sizes and their products stay open.
        example = torch.rand(1, 3, 32, 40)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            torch.inference_mode(),
        ):
            warnings.simplefilter("ignore")
            logging.getLogger("openvino").setLevel(logging.ERROR)
            model = openvino.convert_model(network, example_input=example)
        model.reshape({0: openvino.PartialShape([-1, 3, -1, -1])})
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self.compiled = _core().compile_model(model, "CPU", options)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        (sr,) = self.compiled(lr.contiguous().numpy()).to_tuple()
        return torch.from_numpy(sr)


@functools.cache
def _core():
    """Return OpenVINO's core, one for the process.

    Each sets the stack that signals are handled on: when one of two goes, the next Ctrl-C crashes.
    """
    import openvino

    return openvino.Core()
