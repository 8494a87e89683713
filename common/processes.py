"""Training as several processes, one a GPU, on one machine or more: `torchrun` starts them.

Each computes the gradients of its own crops; `average_gradients` makes them the gradients of all.
What looks at a whole batch (means in losses, batch norm) looks at all processes' batches: N
processes take the steps of one with a batch N times as large. The first alone writes and prints.
"""

import atexit
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed, nn


def rank() -> int:
    """Return this process's number, 0 for the first or only one."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Return whether this process writes, measures and prints."""
    return rank() == 0


def count() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(device: torch.device) -> None:
    """Find the other processes that `torchrun` has started; all but the first fall silent."""
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(distributed.destroy_process_group)
    if rank():
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 (until the process ends)


def on_main(function: Callable, *arguments: Any) -> Any:
    """Call `function` in the first process alone, and return its result in all of them."""
    if count() == 1:
        return function(*arguments)
    results = [function(*arguments) if is_main() else None]
    distributed.broadcast_object_list(results)
    return results[0]


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, in their order."""
    values = [value] * count()
    if count() > 1:
        distributed.all_gather_object(values, value)
    return values


def mean_across_processes(value: torch.Tensor) -> torch.Tensor:
    """Return the mean of `value` over the processes, number by number; gradients pass."""
    return _SumAcrossProcesses.apply(value) / count() if count() > 1 else value


def batch_mean(values: torch.Tensor) -> torch.Tensor:
    """Return the mean over the whole batch, of which each process has a part; gradients pass."""
    return mean_across_processes(values.mean())


class _SumAcrossProcesses(torch.autograd.Function):
    """The sum over the processes; what depends on it in any of them sends a gradient back."""

    @staticmethod
    def forward(context: Any, value: torch.Tensor) -> torch.Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _SumAcrossProcesses.forward(context, gradient)


@torch.no_grad()
def average_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Replace the gradient of each weight by its mean over the processes."""
    if count() == 1:
        return
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(together)
    parts = together.div_(count()).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


class BatchNormAcrossProcesses(nn.BatchNorm2d):
    """Batch norm by the mean and variance of all processes' batches, on CPUs as well as GPUs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        dims, x32 = (0, 2, 3), x.float()
        mean = mean_across_processes(x32.mean(dims))
        variance = mean_across_processes((x32 - mean[:, None, None]).square().mean(dims))
        with torch.no_grad():
            n = x.numel() // x.shape[1] * count()
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (x32 * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


def share_batch_norm(network: nn.Module) -> None:
    """Let the network's batch norms look at all processes' batches, where there are several."""
    for layer in network.modules():
        if count() > 1 and type(layer) is nn.BatchNorm2d:
            layer.__class__ = BatchNormAcrossProcesses
