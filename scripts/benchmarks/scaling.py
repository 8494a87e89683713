"""A training step on one process and on several, for scripts/benchmarks/benchmark.py."""

import os
import socket
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from torch.nn import functional

from common.data.crops import to_device
from common.device import choose_bfloat16, choose_device, prepare_network
from common.processes import average_gradients
from ESRGAN.model import GeneratorRRDB


def seconds_of_steps(
    n_processes: int, n_threads: int, settings: dict[str, int], device: str
) -> tuple[list[float], list[float]]:
    """Return the seconds of each step of a PSNR-stage step that `n_processes` make together.

    And those of averaging the gradients alone, on links that nothing else uses.

    Each has a batch of its own, on a GPU of its own (NCCL) or on `n_threads` of the CPU (gloo), and
    all average their gradients, as the training scripts do it.

    Args:
        settings: n_blocks, batch_size, patch_size, steps.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = (n_processes, port, n_threads, settings, device, folder)
        torch.multiprocessing.spawn(_train, arguments, nprocs=n_processes)
        return tuple(torch.load(Path(folder) / "seconds.pth", weights_only=True))


def _train(
    rank: int,
    n_processes: int,
    port: int,
    n_threads: int,
    settings: dict[str, int],
    device: str,
    folder: str,
) -> None:
    """Do what a process that torchrun started does."""
    torch.set_num_threads(n_threads)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n_processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    where = choose_device(device)  # and join the others

    def wait_for_all() -> None:
        if where.type == "cuda":
            torch.cuda.synchronize()
        if n_processes > 1:
            torch.distributed.barrier()

    torch.manual_seed(0)
    generator = prepare_network(GeneratorRRDB(settings["n_blocks"]), where)
    optimizer = torch.optim.Adam(generator.parameters(), 2e-4, fused=True)
    size, batch = settings["patch_size"], settings["batch_size"]
    images = [torch.randint(256, (batch, 3, n, n), dtype=torch.uint8) for n in (size // 4, size)]
    lr, hr = to_device(images, where)
    seconds = []
    for _ in range(settings["steps"] + 2):
        wait_for_all()
        began = time.perf_counter()
        with torch.autocast(where.type, torch.bfloat16, enabled=choose_bfloat16(where)):
            loss = functional.l1_loss(generator(lr), hr)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(optimizer)
        optimizer.step()
        wait_for_all()
        seconds.append(time.perf_counter() - began)
    exchanges = []
    for _ in range(settings["steps"] + 1):
        wait_for_all()
        began = time.perf_counter()
        average_gradients(optimizer)
        wait_for_all()
        exchanges.append(time.perf_counter() - began)
    if rank == 0:
        torch.save([seconds[2:], exchanges[1:]], Path(folder) / "seconds.pth")


def efficiencies(
    measured: dict[int, tuple[list[float], list[float]]], batch_size: int
) -> dict[str, dict]:
    """Return a row for each number of processes: images/s, ratio and efficiency over one's.

    Args:
        measured: for each number, what `seconds_of_steps` returned.
    """
    rows = {}
    alone = statistics.median(measured[1][0])
    for n, (times, exchanges) in measured.items():
        median = statistics.median(times)
        rows[f"{n} process" + "es" * (n > 1)] = {
            "seconds": median,
            "per_second": n * batch_size / median,
            "ratio": n * alone / median,
            "efficiency": alone / median,
            "exchange_s": statistics.median(exchanges),
            "all_seconds": times,
        }
    return rows
