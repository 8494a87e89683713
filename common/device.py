"""Where and in which precision to compute."""

from __future__ import annotations

import platform

import torch


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; for "cuda" without a GPU say so and return the CPU.

    Raises:
        ValueError: there is no device of this name.
    """
    try:
        device = torch.device(name)
        if device.type == "cuda" and not torch.cuda.is_available():
            print('device="cuda", but torch finds no GPU: going on with the CPU')
            return torch.device("cpu")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f'device is "{name}", expected "cuda", "cuda:1", "cpu", ...: {error}'
        ) from None
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # crops have one size: the fastest kernels are kept
    return device


def describe(device: torch.device) -> str:
    """Return the device's name for logs: "NVIDIA H100", "CPU (x86_64, 8 threads)"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type.upper()} ({platform.machine()}, {torch.get_num_threads()} threads)"


def autocast(device: torch.device) -> torch.autocast:
    """Return bfloat16 autocast on CUDA (it needs no loss scaling), and full precision elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def place(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Move `network` to `device`, in channels_last layout on CUDA."""
    layout = torch.channels_last if device.type == "cuda" else torch.preserve_format
    return network.to(device=device, memory_format=layout)
