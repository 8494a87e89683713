"""Where and in which precision to compute."""

import ctypes
import os
import platform
import sys
import warnings

import torch

from common import processes


def choose_device(name: str, deterministic: bool = False) -> torch.device:
    """Return the device called `name`; "auto" is a GPU, or the CPU, as "cuda" then with a word.

    A process that `torchrun` started gets the GPU of its number, and joins the others. With
    `deterministic` a GPU gives the same bits each time. On a CPU the process keeps the memory that
    is freed. Raises `ValueError` for an unknown name.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        device = torch.device(name)
        if name == "cuda" and processes.count() > 1 and torch.cuda.is_available():
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        if device.type == "cuda" and not torch.cuda.is_available():
            print(f'device="{name}", but torch finds no GPU: continuing with the CPU')
            device = torch.device("cpu")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("Expected one of")[0] or "no such kind"  # (a list of twenty)
        raise ValueError(f'device is "{name}", expected auto, cuda, cuda:1, cpu: {why}') from None
    if device.type == "cuda":
        # Crops have one size: the fastest kernels are kept, but not the same ones each time.
        torch.backends.cudnn.benchmark = not deterministic
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(deterministic)
    if device.type == "cpu":
        keep_freed_memory()
    if processes.count() > 1 and not torch.distributed.is_initialized():
        processes.join(device)
    return device


def keep_freed_memory(most: int = 2**31 - 1) -> None:
    """Let glibc keep up to `most` bytes of freed memory for what is allocated next.

    It gives large pieces back at once, and each step asks for the same ones again: then the kernel
    has to clear every page anew, which is a fifth of a CVAE's step.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3  # of malloc.h
        for option in (m_trim_threshold, m_mmap_threshold):
            libc.mallopt(option, most)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether it says so: on CUDA by its kind, on the CPU and elsewhere by its words."""
    words = ("out of memory", "not enough memory", "can't allocate memory")
    is_kind = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
    return is_kind or any(word in str(error).lower() for word in words)


def describe(device: torch.device, bfloat16: bool = False) -> str:
    """Return the device's name for logs: "NVIDIA H100 in bfloat16", "CPU (x86_64, 8 threads)"."""
    name = f"{device.type.upper()} ({platform.machine()}, {torch.get_num_threads()} threads)"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else name
    return f"{name} in bfloat16" if bfloat16 else name


def choose_bfloat16(device: torch.device, wanted: bool | None = None) -> bool:
    """Return `wanted`, or for None whether `device` has instructions for it, and so is faster.

    NVIDIA's GPUs have since Ampere (on older ones, a T4 for one, torch imitates it slowly), some
    x86 CPUs by AVX-512 or AMX. An older torch cannot tell about CPUs: then they have none.
    """
    if wanted is not None:
        return wanted
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return False


def prepare_network(
    network: torch.nn.Module,
    device: torch.device,
    compile: bool = False,
    cpu_layout: torch.memory_format = torch.channels_last,
) -> torch.nn.Module:
    """Move `network` to `device`, in channels_last layout, in which convolutions are faster.

    Images need not be in it: a layer's result is in the layout of its weights. On CPUs another
    layout can be chosen. `compile` compiles it at the first call; copies of it are not compiled.
    """
    processes.share_batch_norm(network)
    layout = torch.channels_last if device.type == "cuda" else cpu_layout
    network = network.to(device=device, memory_format=layout)
    if compile:  # what is cached follows from its arguments alone, so it may be traced as well
        warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
        network.compile()
    return network


def record_passes(network: torch.nn.Module, example: torch.Tensor, bfloat16: bool) -> None:
    """Let passes with gradients of inputs like `example` be replayed as CUDA graphs, in place.

    A small network's kernels end sooner than Python starts the next ones: replayed, all of a pass
    start at once, with the same results. Between two calls there must be a backward pass, and the
    output is overwritten by the next. Other inputs, and those without gradients, go as before.
    """
    forward = network.forward
    warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")  # (it is the capture's)
    with torch.autocast("cuda", torch.bfloat16, bfloat16, cache_enabled=False):
        torch.cuda.make_graphed_callables(network, (example,))
    replay = network.forward

    def forward_or_replay(x: torch.Tensor) -> torch.Tensor:
        same = torch.is_grad_enabled() and x.shape == example.shape
        return replay(x) if same else forward(x)

    network.forward = forward_or_replay
