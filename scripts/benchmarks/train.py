"""Training steps, ours and those of public toolkits, for scripts/benchmarks/benchmark.py."""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, RandomSampler

from common import checkpoint
from common.data.crops import DegradedCrops, PairedCrops, batches, to_device
from common.device import prepare_network
from common.run.recipes import update_ema
from ESRGAN.losses import relativistic_loss
from ESRGAN.model import Discriminator, GeneratorRRDB
from ESRGAN.vgg import VGG19Features
from scripts.benchmarks.data import DecodedCrops, Pairs

# Of the perceptual, the adversarial and the pixel loss, as train_esrgan.py has them.
_WEIGHTS = (1.0, 5e-3, 1e-2)
Step = Callable[[int], None]


def usual_psnr_step(
    pairs: Pairs, patch_size: int, batch_size: int, n_blocks: int, workers: int, device: str
) -> Step:
    """Return a step of spandrel's network in the plain loop: decode, step, average, item."""
    crops = DecodedCrops(pairs, patch_size)
    sampler = RandomSampler(crops, replacement=True, num_samples=2**40)
    stream = iter(DataLoader(crops, batch_size, sampler=sampler, num_workers=workers))
    return plain_psnr_step(stream, n_blocks, device)


def plain_psnr_step(
    stream: Iterator[Sequence[torch.Tensor]], n_blocks: int, device: str, compile: bool = False
) -> Step:
    """Return `usual_psnr_step` on the (LR, HR) batches of a stream, float32 in [0, 1]."""
    from spandrel.architectures.ESRGAN import ESRGAN as SpandrelRRDB

    generator = SpandrelRRDB(num_blocks=n_blocks).to(device)
    average = copy.deepcopy(generator).requires_grad_(False)
    optimizer = torch.optim.Adam(generator.parameters(), 2e-4, (0.9, 0.99))
    if compile:
        generator.compile()

    def step(k: int) -> None:
        lr, hr = (images.to(device) for images in next(stream))
        optimizer.zero_grad()
        loss = functional.l1_loss(generator(lr), hr)
        loss.backward()
        optimizer.step()
        _average_one_by_one(average, generator)
        loss.item()

    return step


def our_psnr_step(
    pairs: Pairs,
    patch_size: int,
    batch_size: int,
    n_blocks: int,
    workers: int,
    device: str,
    conv_last: bool = False,
    bfloat16: bool = False,
    checkpointing: bool = False,
    compile: bool = False,
    new_crops: bool = True,
    degraded: bool = False,
) -> Step:
    """Return a step of the PSNR stage as train_esrgan.py does it.

    Args:
        new_crops: else the first batch comes again and again: what is faster then is the wait.
        degraded: LR is made of HR, with `--degradation second_order`.
    """
    where = torch.device(device)
    crops = PairedCrops(pairs, patch_size, seed=0)
    move = to_device
    if degraded:
        crops = DegradedCrops([hr for _, hr in pairs], patch_size, seed=0)
        move = crops.to_device
    stream = batches(crops, 0, 1000, batch_size, workers)
    if not new_crops:
        stream = itertools.repeat(next(stream))
    generator = GeneratorRRDB(n_blocks, conv_last=conv_last)
    generator.checkpointing = checkpointing
    generator = prepare_network(generator, where, compile)
    average = copy.deepcopy(generator).requires_grad_(False)
    optimizer = torch.optim.Adam(generator.parameters(), 2e-4, (0.9, 0.99), fused=True)

    def step(k: int) -> None:
        lr, hr = move(next(stream), where)
        with torch.autocast(where.type, torch.bfloat16, enabled=bfloat16):
            loss = functional.l1_loss(generator(lr), hr)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update_ema(average, generator, 0.999, k)

    return step


class Adversaries:
    """A generator, a discriminator, VGG19 and the optimisers of both, and how a step is made.

    Args:
        generator: on the CPU, as it comes.
        vgg_weights: as `VGG19Features` takes them.
        fast: channels_last as `place` has it, and fused Adam; else as toolkits do.
        bfloat16: of `our_step`.
    """

    def __init__(
        self,
        generator: nn.Module,
        patch_size: int,
        vgg_weights: Path,
        device: torch.device,
        fast: bool,
        bfloat16: bool = False,
        n_features: int = 64,
    ):
        def put(network: nn.Module, **layout: torch.memory_format) -> nn.Module:
            return prepare_network(network, device, **layout) if fast else network.to(device)

        def adam(network: nn.Module) -> torch.optim.Adam:
            return torch.optim.Adam(network.parameters(), 1e-4, (0.9, 0.99), fused=fast)

        self.generator = put(generator)
        discriminator = Discriminator(patch_size, n_features)
        self.discriminator = put(discriminator, cpu_layout=torch.contiguous_format)
        self.vgg = put(VGG19Features(vgg_weights))
        self.optimizer_g, self.optimizer_d = adam(self.generator), adam(self.discriminator)
        self.precision = torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)

    def usual_step(self, lr: torch.Tensor, hr: torch.Tensor) -> None:
        """Update both with five passes through the discriminator, as BasicSR does.

        Two in the generator's turn, three in its own, where real and fake are learned from one
        after the other. A gradient of both terms' means is taken, so that the result is our_step's.
        """
        generator, discriminator, vgg = self.generator, self.discriminator, self.vgg
        discriminator.requires_grad_(False)
        self.optimizer_g.zero_grad()
        sr = generator(lr)
        pixel = functional.l1_loss(sr, hr)
        perceptual = functional.l1_loss(vgg(sr), vgg(hr).detach())
        real, fake = discriminator(hr).detach(), discriminator(sr)
        losses = perceptual, relativistic_loss(fake, real), pixel
        loss = sum(weight * value for weight, value in zip(_WEIGHTS, losses, strict=True))
        loss.backward()
        self.optimizer_g.step()

        discriminator.requires_grad_(True)
        self.optimizer_d.zero_grad()
        fake = discriminator(sr).detach()
        real = discriminator(hr)
        loss_real = relativistic_loss(real, fake)
        loss_real.backward()
        fake = discriminator(sr.detach())
        relativistic_loss(real.detach(), fake).backward()
        self.optimizer_d.step()
        for value in (*losses, loss_real):
            value.item()

    def unfrozen_step(self, lr: torch.Tensor, hr: torch.Tensor) -> None:
        """Update both as PyTorch-GAN does: four passes, and gradients that nobody asks for.

        Neither VGG19's nor, in the generator's turn, the discriminator's weights are kept out of
        the graph.
        """
        generator, discriminator, vgg = self.generator, self.discriminator, self.vgg
        vgg.requires_grad_(True).zero_grad()
        self.optimizer_g.zero_grad()
        sr = generator(lr)
        perceptual = functional.l1_loss(vgg(sr), vgg(hr).detach())
        gan = relativistic_loss(discriminator(sr), discriminator(hr).detach())
        losses = perceptual, gan, functional.l1_loss(sr, hr)
        loss = sum(weight * value for weight, value in zip(_WEIGHTS, losses, strict=True))
        loss.backward()
        self.optimizer_g.step()

        self.optimizer_d.zero_grad()
        loss_d = relativistic_loss(discriminator(hr), discriminator(sr.detach()))
        loss_d.backward()
        self.optimizer_d.step()
        for value in (*losses, loss_d):
            value.item()

    def our_step(self, lr: torch.Tensor, hr: torch.Tensor) -> None:
        """Update both with two passes through the discriminator, which both turns share.

        The discriminator is the same in both turns, so its logits are too. Real and fake are not
        one batch: batch norm would mix their statistics.
        """
        generator, discriminator, vgg = self.generator, self.discriminator, self.vgg
        with self.precision:
            sr = generator(lr)
            image = sr.detach().requires_grad_()  # where the losses' gradients meet
            with torch.no_grad():
                real_features = vgg(hr)
            real, fake = discriminator(hr), discriminator(image)
            perceptual = functional.l1_loss(vgg(image), real_features)
            gan = relativistic_loss(fake, real.detach())
            losses = perceptual, gan, functional.l1_loss(image, hr)
            loss = sum(weight * value for weight, value in zip(_WEIGHTS, losses, strict=True))
            loss_d = relativistic_loss(real, fake)
        loss.backward(inputs=[image], retain_graph=True)
        self.optimizer_g.zero_grad()
        sr.backward(image.grad)
        self.optimizer_g.step()
        self.optimizer_d.zero_grad()
        loss_d.backward(inputs=list(discriminator.parameters()))
        self.optimizer_d.step()


def gan_step(
    form: str,
    network: str,
    fast: bool,
    bfloat16: bool,
    patch_size: int,
    batch_size: int,
    n_blocks: int,
    vgg_weights: Path,
    device: str,
) -> Step:
    """Return a step of the GAN stage on images in memory.

    Args:
        form: "usual", "unfrozen" or "our", of `Adversaries`.
        network: "spandrel" or "ours".
    """
    where = torch.device(device)
    if network == "spandrel":
        from spandrel.architectures.ESRGAN import ESRGAN as SpandrelRRDB

        generator: nn.Module = SpandrelRRDB(num_blocks=n_blocks)
    else:
        generator = GeneratorRRDB(n_blocks, conv_last=False)
    both = Adversaries(generator, patch_size, vgg_weights, where, fast, bfloat16)
    sizes = (patch_size // 4, patch_size)
    lr, hr = (torch.randint(256, (batch_size, 3, n, n), dtype=torch.uint8) for n in sizes)
    update = getattr(both, f"{form}_step")

    def step(k: int) -> None:
        if fast:
            update(*to_device((lr, hr), where))
        else:
            update(lr.to(where) / 255, hr.to(where) / 255)

    return step


def random_vgg(folder: Path) -> Path:
    """Write VGG19's features with random weights, which take as long as the real ones."""
    from torchvision.models.vgg import cfgs, make_layers

    weights = make_layers(cfgs["E"]).state_dict()
    path = folder / "vgg19.pth"
    checkpoint.save(path, {f"features.{name}": weight for name, weight in weights.items()})
    return path


def _average_one_by_one(average: nn.Module, network: nn.Module) -> None:
    with torch.no_grad():
        for mean, value in zip(average.parameters(), network.parameters(), strict=True):
            mean.mul_(0.999).add_(value, alpha=0.001)
