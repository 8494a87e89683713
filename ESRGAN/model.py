"""ESRGAN's networks, and the public key names of their checkpoints.

Wang et al. 2018, "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks",
arXiv 1809.00219, sections 3.1 and 3.2.
"""

import re

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint_sequential

MARGIN = 96  # LR pixels that a part of a photo sees beyond its own when it is enlarged by itself
GRID = 1  # LR pixels: parts may begin anywhere

Weights = dict[str, torch.Tensor]


class DenseBlock(nn.Module):
    """Five 3x3 convolutions, each seeing all that came before it; the result is added at 0.2."""

    def __init__(self, n_features: int = 64, growth: int = 32):
        super().__init__()
        for k in range(1, 5):
            width = n_features + (k - 1) * growth
            self.add_module(f"conv{k}", nn.Conv2d(width, growth, 3, 1, 1))
        self.conv5 = nn.Conv2d(n_features + 4 * growth, n_features, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(0.2, inplace=True)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data.mul_(0.1)
            nn.init.zeros_(conv.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.add(x, self.grow(x), alpha=0.2)

    def grow(self, x: torch.Tensor) -> torch.Tensor:
        x1 = self.lrelu(self.conv1(x))  # (N, growth, H, W)
        x2 = self.lrelu(self.conv2(torch.cat((x, x1), 1)))
        x3 = self.lrelu(self.conv3(torch.cat((x, x1, x2), 1)))
        x4 = self.lrelu(self.conv4(torch.cat((x, x1, x2, x3), 1)))
        return self.conv5(torch.cat((x, x1, x2, x3, x4), 1))  # (N, n_features, H, W)


class RRDB(nn.Module):
    """Residual in residual dense block: three dense blocks, added to the input at 0.2.

    `conv_last` is not in the published network. It starts as the identity kernel, so that published
    weights give the published output; `conv_last=False` leaves it out.
    """

    def __init__(self, n_features: int = 64, growth: int = 32, conv_last: bool = True):
        super().__init__()
        self.dense_blocks = nn.Sequential(*(DenseBlock(n_features, growth) for _ in range(3)))
        self.conv_last = nn.Conv2d(n_features, n_features, 3, 1, 1) if conv_last else nn.Identity()
        if conv_last:
            nn.init.dirac_(self.conv_last.weight)
            nn.init.zeros_(self.conv_last.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.add(x, self.conv_last(self.dense_blocks(x)), alpha=0.2)


class GeneratorRRDB(nn.Module):
    """The generator: features at LR's size through a chain of RRDBs, then enlarged twice by two.

    Takes LR (N, 3, H, W) in [0, 1] and gives SR (N, 3, 4H, 4W), not clamped. The defaults with
    `conv_last=False` are the published network of 16,697,987 parameters.

    Args:
        n_blocks: RRDBs in the body.
        n_features: channels between the blocks.
        growth: channels that each convolution inside a dense block adds.
        conv_last: whether each RRDB ends in a convolution of its own, see `RRDB`.
    Attributes:
        checkpointing: whether what is inside the RRDBs is computed again in the backward pass
            instead of kept: less memory, more time (Chen et al. 2016, arXiv 1604.06174).
    """

    def __init__(
        self,
        n_blocks: int = 23,
        n_features: int = 64,
        growth: int = 32,
        conv_last: bool = True,
    ):
        super().__init__()
        self.checkpointing = False
        self.conv_first = nn.Conv2d(3, n_features, 3, 1, 1)
        self.body = nn.Sequential(*(RRDB(n_features, growth, conv_last) for _ in range(n_blocks)))
        self.trunk_conv = nn.Conv2d(n_features, n_features, 3, 1, 1)
        self.upconv1 = nn.Conv2d(n_features, n_features, 3, 1, 1)
        self.upconv2 = nn.Conv2d(n_features, n_features, 3, 1, 1)
        self.HR_conv = nn.Conv2d(n_features, n_features, 3, 1, 1)
        self.conv_last = nn.Conv2d(n_features, 3, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(0.2, inplace=True)

    @property
    def margin(self) -> int:
        """LR pixels that a tile sees beyond its own, measured: tiles are within 0.1 of 255."""
        n_blocks = len(self.body)
        return 48 if n_blocks <= 4 else 72 if n_blocks <= 8 else MARGIN

    @torch.no_grad()
    def start_as_nearest(self) -> None:
        """Set the weights so that the network starts as nearest-neighbour enlargement, nearly.

        Three features carry the image from layer to layer, 0.1 above its values, as LeakyReLU bends
        what is below 0. So colours are right that a few photos do not teach.
        """
        for layer in (self.conv_first, self.upconv1, self.upconv2, self.HR_conv, self.conv_last):
            layer.weight[:3] = 0
            layer.weight[range(3), range(3), 1, 1] = 1
            layer.bias.zero_()
        self.conv_first.bias[:3] = 0.1
        self.conv_last.bias[:] = -0.1
        self.trunk_conv.weight.mul_(0.1)
        self.trunk_conv.bias.zero_()

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        x = self.conv_first(lr)  # (N, 64, H, W)
        x = x + self.trunk_conv(self._through_body(x))
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        x = self.lrelu(self.upconv1(x))  # (N, 64, 2H, 2W)
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        x = self.lrelu(self.upconv2(x))  # (N, 64, 4H, 4W)
        # Contiguous, (N, 3, 4H, 4W): what takes it works in its own layout, not in this network's.
        return self.conv_last(self.lrelu(self.HR_conv(x))).contiguous()

    def _through_body(self, x: torch.Tensor) -> torch.Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint_sequential(self.body, len(self.body), x, use_reentrant=False)
        return self.body(x)


class Discriminator(nn.Module):
    """The VGG-style discriminator: ten convolutions, every second of stride 2, two linear layers.

    Takes (N, 3, patch_size, patch_size) in [0, 1] and gives one logit each, (N, 1).

    Raises:
        ValueError: `patch_size` is no multiple of 32, which the five strides need.
    """

    def __init__(self, patch_size: int = 128, n_features: int = 64):
        super().__init__()
        if patch_size < 32 or patch_size % 32:
            raise ValueError(f"patch_size is {patch_size}, expected a multiple of 32")
        widths = [n_features * factor for factor in (1, 2, 4, 8, 8)]
        layers: list[nn.Module] = []
        n_in = 3
        for n_out in widths:
            layers.append(nn.Conv2d(n_in, n_out, 3, 1, 1, bias=n_in == 3))
            layers += [nn.BatchNorm2d(n_out)] if n_in != 3 else []
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            layers.append(nn.Conv2d(n_out, n_out, 4, 2, 1, bias=False))
            layers += [nn.BatchNorm2d(n_out), nn.LeakyReLU(0.2, inplace=True)]
            n_in = n_out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(widths[-1] * (patch_size // 32) ** 2, 100),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(100, 1),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.features(image)  # (N, 512, patch_size / 32, patch_size / 32)
        return self.classifier(x.flatten(1))  # (N, 1)


def interpolate(psnr: Weights, gan: Weights, alpha: float) -> Weights:
    """Return (1 - alpha) * psnr + alpha * gan, tensor by tensor (section 3.4).

    Args:
        psnr, gan: state_dicts of the same network after the two stages.
        alpha: 0 (faithful, smooth) to 1 (sharp, with invented detail).
    """
    return {name: torch.lerp(psnr[name], gan[name], alpha) for name in psnr}


# Public checkpoints name the parts outside the blocks in three ways.
_PUBLIC_NAMES = {
    "conv_first": ("model.0", "conv_first", "conv_first"),
    "trunk_conv": ("model.1.sub.{n_blocks}", "trunk_conv", "conv_body"),
    "upconv1": ("model.3", "upconv1", "conv_up1"),
    "upconv2": ("model.6", "upconv2", "conv_up2"),
    "HR_conv": ("model.8", "HRconv", "conv_hr"),
    "conv_last": ("model.10", "conv_last", "conv_last"),
}
_PUBLIC_BLOCK = re.compile(
    r"(?:model\.1\.sub|RRDB_trunk|body)\.(\d+)\.(?:RDB|rdb)([123])\.conv([1-5])(?:\.0)?\.(\w+)"
)


def load_published(state_dict: dict, conv_last: bool = True) -> GeneratorRRDB:
    """Build the generator from any public ESRGAN checkpoint, on the CPU.

    Three public sets of key names are known, also inside `params_ema`, `params` or `state_dict` and
    with `module.` or `generator.` before each name. Blocks and channels are found from the shapes.

    Args:
        state_dict: what `torch.load(path, weights_only=True)` gives.
        conv_last: whether the RRDBs get a `conv_last` (as the identity: the output is the same).
    Raises:
        ValueError: these are not the weights of a 4x RRDB network; the message says what is amiss.
    """
    weights = _with_our_names(state_dict)
    try:
        generator = GeneratorRRDB(*_sizes(weights), conv_last)
        generator.load_state_dict(weights | _identities(generator))
    except RuntimeError as error:
        raise ValueError(f"these weights do not fit a 4x RRDB network: {error}") from None
    return generator


def _with_our_names(state_dict: dict) -> Weights:
    """Return the weights of a public checkpoint under our names."""
    for wrapper in ("params_ema", "params", "state_dict"):
        if isinstance(state_dict.get(wrapper), dict):
            state_dict = state_dict[wrapper]
            break
    public = {
        re.sub(r"^(module\.|generator\.)+", "", key): weight
        for key, weight in state_dict.items()
        if isinstance(key, str) and isinstance(weight, torch.Tensor)
    }
    blocks = {int(match[1]) for match in map(_PUBLIC_BLOCK.fullmatch, public) if match}
    if not blocks:
        some = ", ".join(list(public)[:3])
        raise ValueError(f"these are not the weights of an RRDB network: found keys like {some}")
    n_blocks = len(blocks)
    if max(blocks) != n_blocks - 1:
        raise ValueError(f"found {n_blocks} blocks and one numbered {max(blocks)}")
    outside = {key.rpartition(".")[0] for key in public if not _PUBLIC_BLOCK.fullmatch(key)}
    scale = 2 ** (len(outside) - 4)  # besides first, trunk, HR and last: x2 each
    if scale in (1, 2, 8, 16):
        raise ValueError(f"an RRDB network that enlarges {scale} times, expected 4 times")
    ours = {
        public_name.format(n_blocks=n_blocks): our_name
        for our_name, public_names in _PUBLIC_NAMES.items()
        for public_name in public_names
    }

    def rename(key: str) -> str:
        if match := _PUBLIC_BLOCK.fullmatch(key):
            i, j, k, kind = match.groups()
            return f"body.{i}.dense_blocks.{int(j) - 1}.conv{k}.{kind}"
        part, _, kind = key.rpartition(".")
        return f"{ours[part]}.{kind}" if part in ours else key

    weights = {rename(key): weight for key, weight in public.items()}
    first = weights.get("conv_first.weight")
    dense = weights.get("body.0.dense_blocks.0.conv1.weight")
    if first is None or dense is None:
        raise ValueError("the first convolution or the first block is missing from these weights")
    if first.shape[1] != 3:
        raise ValueError(f"found {first.shape[1]} input channels, expected a 4x network on RGB, 3")
    if not (first.numel() and dense.numel()):
        raise ValueError("these weights do not fit a 4x RRDB network: layers without values")
    return weights


def _sizes(weights: Weights) -> tuple[int, int, int]:
    """Return blocks, features and growth of weights with our names."""
    n_blocks = sum(name.endswith(".dense_blocks.0.conv1.weight") for name in weights)
    growth = len(weights["body.0.dense_blocks.0.conv1.weight"])
    return n_blocks, len(weights["conv_first.weight"]), growth


def _identities(generator: GeneratorRRDB) -> Weights:
    """Return the weights with which the RRDBs' `conv_last` changes nothing."""
    weights = generator.state_dict()
    identities = {key: torch.zeros_like(weights[key]) for key in weights if _is_rrdb_conv_last(key)}
    for weight in identities.values():
        if weight.dim() == 4:
            nn.init.dirac_(weight)
    return identities


def from_weights(weights: dict) -> GeneratorRRDB | None:
    """Return the generator that a state_dict is of, ours or published; None: another network.

    Raises:
        KeyError, RuntimeError, ValueError: names or shapes do not fit.
    """
    if any(map(_PUBLIC_BLOCK.fullmatch, weights)):
        return load_published(weights, conv_last=False)
    if "body.0.dense_blocks.0.conv1.weight" not in weights:
        return None
    network = GeneratorRRDB(*_sizes(weights), "body.0.conv_last.weight" in weights)
    network.load_state_dict(weights)
    return network


def set_weights(generator: GeneratorRRDB, state_dict: dict) -> None:
    """Load a state_dict, ours or a published one, into `generator`.

    Raises:
        ValueError: it is of no RRDB network, of one of another size, or not finite.
    """
    if "body.0.dense_blocks.0.conv1.weight" not in state_dict:
        state_dict = _with_our_names(state_dict) | _identities(generator)
    try:
        generator.load_state_dict(state_dict)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(f"these weights are of a network of another size: {error}") from None
    if not all(weight.isfinite().all() for weight in generator.parameters()):
        raise ValueError("these weights are not finite: the training that made them has failed")


def to_published(generator: GeneratorRRDB) -> Weights:
    """Return the generator's weights under the public "new" key names, which other tools load.

    Some of them, spandrel among them, take a growth of 32 for granted.

    Raises:
        ValueError: the RRDBs' `conv_last`, which the published network lacks, was trained.
    """
    published, identities = {}, _identities(generator)
    for key, weight in generator.state_dict().items():
        if key in identities:
            if not torch.equal(weight, identities[key]):
                raise ValueError(
                    f"{key} has been trained and the published network has no place for it: train "
                    "with rrdb_conv_last=False to use the network in other tools"
                )
            continue
        if match := re.fullmatch(r"body\.(\d+)\.dense_blocks\.(\d)\.(conv\d\.\w+)", key):
            key = f"RRDB_trunk.{match[1]}.RDB{int(match[2]) + 1}.{match[3]}"
        else:
            part, _, kind = key.rpartition(".")
            key = f"{_PUBLIC_NAMES[part][1]}.{kind}"
        published[key] = weight.clone()
    return published


def _is_rrdb_conv_last(key: str) -> bool:
    return re.fullmatch(r"body\.\d+\.conv_last\.\w+", key) is not None
