"""SwinIR's network, under the key names of its published checkpoints.

Liang et al. 2021, "SwinIR: Image Restoration Using Swin Transformer", arXiv 2108.10257; attention
within shifted windows: Liu et al. 2021, "Swin Transformer", arXiv 2103.14030.
"""

import functools
from collections import Counter, OrderedDict
from typing import Literal

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

WINDOW = 8  # pixels, each way, of the windows that attention stays within
GRID = WINDOW  # LR pixels: parts begin where windows do, to be enlarged as in the whole image
MARGIN = 64  # LR pixels that a part of a photo sees beyond its own when it is enlarged by itself

Upsampler = Literal["pixelshuffle", "pixelshuffledirect", "nearest+conv"]
Weights = dict[str, torch.Tensor]
Size = tuple[int, int]
Windows = tuple[dict[tuple[int, int], torch.Tensor], torch.Tensor]

ROWS = 2
_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K's photos
_N_FEATURES = 64  # at HR's size
_SHIFT = WINDOW // 2
_OUTSIDE = -100.0  # added to what pixels of two parts of an image mean to each other
_conv = functools.partial(nn.Conv2d, kernel_size=3, padding=1)
_BUFFERS = "attn_mask", "relative_position_index"  # of published files: for the size trained on


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)
def _windows(height: int, width: int, device: torch.device) -> Windows:
    """Return how the pixels of an image are ordered, and where its shifted windows lie.

    Orders are ROWS, row by row, and window by window, without (0) and with shift (1); the pixels of
    order a, in order b, are those with the numbers [a, b]. A window lies 0 inside, 1 at the right
    edge, 2 at the lower edge, 3 in the corner.
    """
    pixels = torch.arange(height * width, device=device).view(height, width)
    rows, columns = height // WINDOW, width // WINDOW

    def ordered(image: torch.Tensor) -> torch.Tensor:
        return image.view(rows, WINDOW, columns, WINDOW).transpose(1, 2).flatten()

    shifted = pixels.roll((-_SHIFT, -_SHIFT), (0, 1))
    orders = {0: ordered(pixels), 1: ordered(shifted), ROWS: pixels.flatten()}
    numbers = {}
    for a, before in orders.items():
        place = torch.empty_like(before)
        place[before] = orders[ROWS]
        numbers |= {(a, b): place[after] for b, after in orders.items()}
    parts = torch.zeros(rows, columns, dtype=torch.long, device=device)
    parts[:, -1] += 1
    parts[-1] += 2
    return numbers, parts.flatten()


class _Permute(torch.autograd.Function):
    """Takes pixels (N, L, C) in another order; the gradient is taken back, not summed up."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, order: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(back)
        return x.index_select(1, order)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient.index_select(1, ctx.saved_tensors[0]), None, None


class WindowAttention(nn.Module):
    """Attention of the pixels in a window to each other, with a bias for each relative position."""

    def __init__(self, dim: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * WINDOW - 1) ** 2, n_heads)
        )
        place = torch.arange(WINDOW)
        across = place[:, None] - place + WINDOW - 1  # (8, 8), 0 to 14
        index = (2 * WINDOW - 1) * across[:, None, :, None] + across[None, :, None]
        self.register_buffer("relative_position_index", index.reshape(WINDOW**2, WINDOW**2))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return (N, L, C) for pixels in the order of windows.

        Args:
            mask: (windows of an image, 64, 64), added before the softmax.
        """
        n_images, n_pixels, dim = x.shape
        qkv = self.qkv(x).view(-1, WINDOW**2, 3, self.n_heads, dim // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous()  # (N windows, heads, 64, C / heads)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(1, WINDOW**2, WINDOW**2, -1).permute(0, 3, 1, 2)  # (1, heads, 64, 64)
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(n_images, 1, 1, 1)
        x = _attention(q, k, v, bias.to(q.dtype))
        return self.proj(x.transpose(1, 2).reshape(n_images, n_pixels, dim))


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    if bias.requires_grad and bias.device.type == "cpu":
        # There torch has no fast form with a gradient for the bias: this is twice as fast.
        weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias
        return weights.softmax(-1).to(v.dtype) @ v
    return functional.scaled_dot_product_attention(q, k, v, bias)


class Block(nn.Module):
    """Attention within windows, shifted or not, and a small network for each pixel."""

    def __init__(self, dim: int, n_heads: int, shift: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, n_heads)
        fc1, fc2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.mlp = nn.Sequential(OrderedDict(fc1=fc1, act=nn.GELU(), fc2=fc2))
        self.shift = shift
        if shift:
            self.register_buffer("attn_mask", _masks())

    def forward(self, x: torch.Tensor, windows: Windows) -> torch.Tensor:
        # (exp(-100) is a denormal number, with which CPUs are ten times slower; exp(-1000) is 0.)
        mask = 10 * self.attn_mask[windows[1]] if self.shift else None
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


def _masks() -> torch.Tensor:
    """Return the masks of an image of 2x2 windows, (4, 64, 64), one of each kind there is.

    A shifted window at an edge holds pixels from the other side of the image: they are kept apart.
    """
    sides = torch.zeros(2 * WINDOW, dtype=torch.long)
    sides[-WINDOW:], sides[-_SHIFT:] = 1, 2
    part = 3 * sides[:, None] + sides
    part = part.view(2, WINDOW, 2, WINDOW).transpose(1, 2).reshape(4, 1, WINDOW**2)
    return (part != part.transpose(1, 2)) * _OUTSIDE


class Group(nn.Module):
    """Residual Swin Transformer block (RSTB): blocks and a convolution, added to the input."""

    def __init__(self, dim: int, n_blocks: int, n_heads: int, three: bool):
        super().__init__()
        blocks = [Block(dim, n_heads, j % 2) for j in range(n_blocks)]
        self.residual_group = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
        self.conv = _convolutions(dim, three)

    def forward(
        self, x: torch.Tensor, windows: Windows, size: Size, checkpointing: bool
    ) -> torch.Tensor:
        """Take and return pixels (N, H W, C), row by row."""
        y, order = x, ROWS
        for block in self.residual_group["blocks"]:
            y, order = _reorder(y, windows, order, block.shift), block.shift
            if checkpointing and torch.is_grad_enabled():
                y = checkpoint(block, y, windows, use_reentrant=False)
            else:
                y = block(y, windows)
        y = _reorder(y, windows, order, ROWS)
        return x + _as_pixels(self.conv(_as_image(y, size)))


def _reorder(x: torch.Tensor, windows: Windows, a: int, b: int) -> torch.Tensor:
    if torch.is_grad_enabled():
        return _Permute.apply(x, windows[0][a, b], windows[0][b, a])
    return x.index_select(1, windows[0][a, b])


def _as_image(x: torch.Tensor, size: Size) -> torch.Tensor:
    """Return (N, C, H, W) in channels_last, which is how pixels (N, H W, C) lie in memory."""
    return x.view(x.shape[0], *size, -1).permute(0, 3, 1, 2)


def _as_pixels(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1])


def _convolutions(dim: int, three: bool) -> nn.Module:
    if not three:
        return _conv(dim, dim)
    narrow = dim // 4
    middle = nn.LeakyReLU(0.2), nn.Conv2d(narrow, narrow, 1), nn.LeakyReLU(0.2)
    return nn.Sequential(_conv(dim, narrow), *middle, _conv(narrow, dim))


class SwinIR(nn.Module):
    """LR (N, 3, H, W) in [0, 1] to SR (N, 3, 4H, 4W), not clamped, of any size.

    The defaults are the lightweight network (929,628 parameters); classical: depths (6,) * 6, dim
    180, "pixelshuffle" (11,900,199); real-world, medium: the same with "nearest+conv"; large:
    depths (6,) * 9, dim 240, 8 heads, "nearest+conv", three convolutions.

    Args:
        depths: blocks of each group.
        dim: channels.
        n_heads: parts that attention splits them in.
        upsampler: the end: two shuffles, one, or nearest-neighbour enlargement with convolutions.
        three_convolutions: a bottleneck of three convolutions after each group instead of one.
    Attributes:
        checkpointing: whether what is inside the blocks is computed again in the backward pass
            instead of kept.
    """

    def __init__(
        self,
        depths: tuple[int, ...] = (6, 6, 6, 6),
        dim: int = 60,
        n_heads: int = 6,
        upsampler: Upsampler = "pixelshuffledirect",
        three_convolutions: bool = False,
    ):
        super().__init__()
        self.upsampler, self.checkpointing = upsampler, False
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.conv_first = _conv(3, dim)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(dim)})
        groups = (Group(dim, n, n_heads, three_convolutions) for n in depths)
        self.layers = nn.ModuleList(groups)
        self.norm = nn.LayerNorm(dim)
        self.conv_after_body = _convolutions(dim, three_convolutions)
        if upsampler == "pixelshuffledirect":
            self.upsample = nn.Sequential(_conv(dim, 48), nn.PixelShuffle(4))
        else:
            n = _N_FEATURES
            self.conv_before_upsample = nn.Sequential(_conv(dim, n), nn.LeakyReLU(0.01))
            if upsampler == "pixelshuffle":
                twice = _conv(n, 4 * n), nn.PixelShuffle(2), _conv(n, 4 * n), nn.PixelShuffle(2)
                self.upsample = nn.Sequential(*twice)
            else:
                self.conv_up1, self.conv_up2, self.conv_hr = (_conv(n, n) for _ in range(3))
            self.conv_last = _conv(n, 3)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        height, width = lr.shape[2:]
        x = self.conv_first(_padded(lr) - self.mean)  # (N, C, H', W'), multiples of 8
        x = x + self.conv_after_body(self._through_groups(x))
        if self.upsampler == "pixelshuffledirect":
            sr = self.upsample(x)
        elif self.upsampler == "pixelshuffle":
            sr = self.conv_last(self.upsample(self.conv_before_upsample(x)))
        else:
            x = self.conv_before_upsample(x)
            for conv in (self.conv_up1, self.conv_up2):
                x = functional.interpolate(x, scale_factor=2, mode="nearest")
                x = functional.leaky_relu(conv(x), 0.2)
            sr = self.conv_last(functional.leaky_relu(self.conv_hr(x), 0.2))
        return sr[..., : 4 * height, : 4 * width] + self.mean

    def _through_groups(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[2:]
        # (What is exported is for any size, and nothing is kept.)
        find = _windows.__wrapped__ if torch.compiler.is_exporting() else _windows
        windows = find(*size, x.device)
        x = self.patch_embed["norm"](_as_pixels(x))
        for group in self.layers:
            x = group(x, windows, size, self.checkpointing)
        return _as_image(self.norm(x), size)


def _padded(lr: torch.Tensor) -> torch.Tensor:
    """Continue LR to the right and below to a multiple of the window, mirrored at its edge."""
    for dim in (2, 3):
        n = lr.shape[dim]
        place = torch.arange((n + WINDOW - 1) // WINDOW * WINDOW, device=lr.device)
        place = place % torch.full_like(place, 2 * n - 2).clamp(min=1)
        lr = lr.index_select(dim, torch.minimum(place, (2 * n - 2 - place).abs()))
    return lr


def from_weights(weights: Weights) -> SwinIR | None:
    """Return the network that a state_dict is of, ours or published; None: another network.

    Raises:
        KeyError, RuntimeError, ValueError: names or shapes do not fit a 4x SwinIR on RGB.
    """
    first = "layers.0.residual_group.blocks.0.attn.relative_position_bias_table"
    if first not in weights or "conv_first.weight" not in weights:
        return None
    weights = {k: weight for k, weight in weights.items() if not k.endswith(_BUFFERS)}
    if "conv_last.weight" not in weights:
        upsampler, fits = "pixelshuffledirect", len(weights["upsample.0.weight"]) == 48
    elif "conv_up1.weight" in weights:
        upsampler, fits = "nearest+conv", "conv_up2.weight" in weights
    else:
        upsampler, fits = "pixelshuffle", "upsample.2.weight" in weights
    dim, n_channels = weights["conv_first.weight"].shape[:2]
    n_biases, n_heads = weights[first].shape
    if not fits or n_channels != 3 or n_biases != (2 * WINDOW - 1) ** 2:
        raise ValueError("a SwinIR for another scale, other channels or another window than 8")
    blocks = Counter(k.split(".")[1] for k in weights if k.endswith(".norm1.weight"))
    depths = tuple(blocks[str(i)] for i in range(len(blocks)))
    network = SwinIR(depths, dim, n_heads, upsampler, "conv_after_body.0.weight" in weights)
    buffers = {k: v for k, v in network.state_dict().items() if k.endswith(_BUFFERS)}
    network.load_state_dict(buffers | weights)
    return network
