"""Files of weights from anywhere: what would fill the memory is refused before it does.

torch's `weights_only` sees to it that nothing in them is executed (of an old .tar file that is true
from torch 2.6 on; here it is refused with any). These checks see to it that a small file cannot ask
for much memory, or for a network that takes hours to build.
"""

import pickletools
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from common import checkpoint
from common.files import one_line

# What a pickle of tensors and plain values names. torch also allows what makes memory out of a
# number: bytearray, torch.Tensor, sparse tensors.
_ALLOWED_NAMES = re.compile(
    r"collections OrderedDict|_codecs encode|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (\w+Storage|Size|device|b?float\w*|u?int\d+|bool)|torch\.storage \w+Storage"
)

Weights = dict[str, torch.Tensor]

_MOST_TENSORS = 10_000  # of a network; a file that asks for more is taken for an attack
_MOST_SHARED = 8  # names for the same values, on average: a best network may be the newest as well


def load_foreign(path: str | Path) -> dict[str, Any]:
    """Load a file of weights as `checkpoint.load` does, unless it asks for more than it holds.

    Raises:
        ValueError: it does, or there is no such file, or it is damaged or no checkpoint; the
            message names it.
    """
    try:
        if Path(path).is_file():  # or `load` says what is wrong
            refuse_bombs(path)
    except Exception as error:  # damaged files raise many kinds
        reason = one_line(error) or type(error).__name__
        raise ValueError(f"{path} is damaged or no checkpoint of tensors: {reason}") from error
    content = checkpoint.load(path)
    try:
        refuse_declared_sizes(content, Path(path).stat().st_size)
    except ValueError as error:
        raise ValueError(f"{path} is damaged or no checkpoint of tensors: {error}") from None
    return content


def refuse_bombs(path: str | Path) -> None:
    """Look into a .pth file without loading it.

    Raises:
        ValueError, zipfile.BadZipFile: it is of a kind that runs code, would unpack to more than it
            holds, or is damaged.
    """
    path = Path(path)
    with path.open("rb") as stream:
        beginning = stream.read(4)
    is_zip = beginning == b"PK\3\4"  # as torch decides, whatever may follow
    if not beginning or (is_zip and not zipfile.is_zipfile(path)):
        raise ValueError(f"it is cut off, after {path.stat().st_size:,} bytes")
    if is_zip:
        with zipfile.ZipFile(path) as zipped:
            members = zipped.infolist()
            if any(member.filename.endswith("/constants.pkl") for member in members):
                raise ValueError("it is a TorchScript program, expected a state_dict")
            if (
                any(member.compress_type != zipfile.ZIP_STORED for member in members)
                or sum(member.file_size for member in members) > path.stat().st_size
            ):
                raise ValueError("it would unpack to more than it holds, as torch.save's never do")
            for member in members:
                if member.filename.endswith("/data.pkl"):
                    with zipped.open(member) as stream:
                        _refuse_other_names(stream, 1)
    elif tarfile.is_tarfile(path):
        raise ValueError("it is of torch's .tar format from before 2017, in which code can hide")
    else:
        with path.open("rb") as stream:
            _refuse_other_names(stream, 5)  # magic number, protocol, system, content, keys


def _refuse_other_names(stream: BinaryIO, n_pickles: int) -> None:
    for _ in range(n_pickles):
        for opcode, argument, _position in pickletools.genops(stream):
            if opcode.name == "STACK_GLOBAL" or (
                opcode.name in ("GLOBAL", "INST") and not _ALLOWED_NAMES.fullmatch(argument)
            ):
                raise ValueError(
                    f"it names {argument or 'functions'}, none of which was executed; expected "
                    "tensors and plain values"
                )


def refuse_declared_sizes(content: Any, n_bytes: int) -> None:
    """Check the tensors in what a file of `n_bytes` was loaded to.

    Raises:
        ValueError: one has no values of its own (sparse, on "meta"), or together they have many
            times what the file can hold: they share their values, or these were never in it.
    """
    declared = 0
    for tensor in _tensors(content):
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
            raise ValueError(f"it holds a tensor of layout {tensor.layout} on {tensor.device}")
        declared += tensor.numel() * tensor.element_size()
    if declared > _MOST_SHARED * n_bytes:
        raise ValueError(f"its tensors declare {declared} bytes, and the file has {n_bytes}")


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested dicts, lists and tuples, of each container once."""
    seen, waiting = set(), [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def build_checked(
    from_weights: Callable[[Weights], nn.Module | None], weights: Weights
) -> nn.Module | None:
    """Return what `from_weights` does, which builds a network and loads `weights` into it, or None.

    It is called twice: first on the device "meta", where shapes are compared but take no memory.

    Raises:
        ValueError: the network would be larger than its weights, or far too deep.
        RuntimeError, KeyError and others: whatever `from_weights` raises.
    """
    if len(weights) > _MOST_TENSORS:
        raise ValueError(f"it holds {len(weights)} tensors, expected {_MOST_TENSORS} at most")
    size = sum(tensor.numel() for tensor in weights.values())
    with torch.device("meta"), _NoLargerThan(size), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that nothing is copied
        network = from_weights(weights)
    if network is None:
        return None
    if not all(parameter.numel() for parameter in network.parameters()):
        raise ValueError("there are layers without values")
    return from_weights(weights)


class _NoLargerThan(TorchFunctionMode):
    """Stops the building of a network, on "meta", that takes many more values than its weights.

    Initial values are left out: on "meta" there are none, and torch imports much to make them.
    """

    def __init__(self, n_values: int):
        super().__init__()
        self.n_values = n_values
        self.left = 2 * n_values + 1000  # some are for initial values only

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        if name == "eye":
            return torch.empty(args[0], args[0])
        result = function(*args, **(kwargs or {}))
        if name in ("empty", "zeros", "ones", "full", "rand", "randn", "arange"):
            self.left -= max(1, result.numel())
            if self.left < 0:
                raise ValueError(f"it asks for a larger network than its {self.n_values} values")
        return result
