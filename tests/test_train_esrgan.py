"""ESRGAN's training, at small widths on real photos."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from common import checkpoint
from common.data.crops import DegradedCrops
from common.data.photos import read_image
from common.run import training
from common.run.log import plot_curves
from common.run.recipes import learning_rate_at
from ESRGAN import train_esrgan as script
from ESRGAN.losses import color_loss, relativistic_loss, vanilla_losses
from ESRGAN.model import Discriminator, GeneratorRRDB, interpolate, load_published
from ESRGAN.real import UNetDiscriminator, sharpen
from ESRGAN.train_esrgan import train_esrgan
from scripts.inference.models import load_model
from scripts.inference.service import find_checkpoints
from tests.conftest import rows_of, same_weights, stop_in_step
from tests.test_esrgan_model import published_weights

SCRIPT = Path(script.__file__)
NETWORK = {"n_blocks": 1, "n_features": 8, "growth": 4}
SMALL = {
    **NETWORK,
    "discriminator_features": 4,
    "patch_size": 32,
    "batch_size": 2,
    "workers": 0,
    "perceptual_weight": 0.0,
    "n_epochs": 2,
    "n_epochs_gan": 2,
    "steps_per_epoch": 3,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory) -> Path:
    """A complete small run, with its curves."""
    out_dir = tmp_path_factory.mktemp("run") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "plot_curves", plot_curves)
        return train_esrgan(**dataset.folders(), **SMALL, out_dir=out_dir)


def test_relativistic_loss_is_cross_entropy_on_relative_logits():
    real, fake = torch.tensor([[2.0], [0.5], [-1.0]]), torch.tensor([[0.3], [1.0], [-2.0]])
    bce = functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(3, 1), torch.zeros(3, 1)
    for_discriminator = bce(real - fake.mean(), ones) + bce(fake - real.mean(), zeros)
    for_generator = bce(real - fake.mean(), zeros) + bce(fake - real.mean(), ones)
    torch.testing.assert_close(relativistic_loss(real, fake), for_discriminator / 2)
    torch.testing.assert_close(relativistic_loss(fake, real), for_generator / 2)
    fake[0] = 0.25  # all logits are numbers of bfloat16, too; their means are not
    half = relativistic_loss(real.bfloat16(), fake.bfloat16())
    assert torch.equal(half, relativistic_loss(real, fake))
    # Equal logits: the discriminator knows nothing, log 2 from each term.
    assert relativistic_loss(ones, ones).item() == pytest.approx(math.log(2))


def test_default_schedule_is_the_published_one():
    defaults = train_esrgan.__kwdefaults__
    steps = defaults["n_epochs"] * defaults["steps_per_epoch"]
    assert steps == 1_000_000
    rates = [
        learning_rate_at(step / steps, defaults["learning_rate"], defaults["milestones"])
        for step in (0, 199_999, 200_000, 400_000, 600_000, 999_999)
    ]
    assert rates == [2e-4, 2e-4, 1e-4, 0.5e-4, 0.25e-4, 0.125e-4]
    rates = [
        learning_rate_at(step / 400_000, defaults["learning_rate_gan"], defaults["milestones_gan"])
        for step in (0, 50_000, 100_000, 200_000, 300_000)
    ]
    assert rates == [1e-4, 0.5e-4, 0.25e-4, 0.125e-4, 0.0625e-4]


def test_run_writes_everything_it_promises(run):
    names = {path.name for path in run.iterdir() if path.suffix != ".lock"}
    assert names == {
        "config.json", "log.csv", "curves.png", "samples", "generator.pth", "generator_psnr.pth",
        "generator_best.pth", "discriminator.pth", "state.pth", "state_previous.pth",
    }  # fmt: skip
    for name in ("generator.pth", "generator_psnr.pth", "generator_best.pth"):
        weights = torch.load(run / name, weights_only=True)
        generator = GeneratorRRDB(**NETWORK)
        generator.load_state_dict(weights)
        assert torch.isfinite(generator(torch.rand(1, 3, 8, 8))).all()
    Discriminator(32, 4).load_state_dict(torch.load(run / "discriminator.pth", weights_only=True))
    assert read_image(run / "curves.png").shape[1] > 1000
    for path in find_checkpoints((run,)):  # what the page offers enlarges
        load_model(path, "cpu")
    config = json.loads((run / "config.json").read_text())
    assert config["n_blocks"] == 1 and config["seed"] == 0 and config["torch"] == torch.__version__


def test_log_has_one_row_an_epoch_with_both_stages(run):
    rows = rows_of(run)
    assert [(r["stage"], r["epoch"], r["step"]) for r in rows] == [
        ("psnr", "1", "3"), ("psnr", "2", "6"), ("gan", "1", "9"), ("gan", "2", "12")
    ]  # fmt: skip
    assert all(float(r["psnr_y"]) > 3 and -1 <= float(r["ssim_y"]) <= 1 for r in rows)
    assert [bool(r["loss_gan"]) for r in rows] == [False, False, True, True]
    # The schedule of each stage begins anew; the last step of the second epoch is at 5/6.
    assert [float(r["learning_rate"]) for r in rows] == pytest.approx(
        [2e-4 / 2, 2e-4 / 16, 1e-4 / 4, 1e-4 / 16]
    )


def test_sample_pictures_show_the_same_crops_each_time(run):
    pictures = [read_image(path) for path in sorted((run / "samples").iterdir())]
    assert len(pictures) == 4 and len({p.shape for p in pictures}) == 1
    different = (pictures[0] != pictures[3]).any(axis=2)
    columns = different.any(axis=0).nonzero()[0]
    width = different.shape[1]
    # LR | bicubic | SR | HR: nothing but the third column changes.
    assert columns.min() >= width // 2 - 4 and columns.max() <= 3 * width // 4 + 4


@pytest.mark.parametrize("stop_at", [2, 3, 7, 11])
def test_resumed_run_equals_unbroken_run(dataset, run, tmp_path, monkeypatch, stop_at):
    """A signal in the middle of an epoch, at its end, in either stage."""
    out_dir = tmp_path / "b"
    steps = stop_in_step(stop_at, monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        train_esrgan(**dataset.folders(), **SMALL, out_dir=out_dir)
    assert stopped.value.code == 128 + signal.SIGTERM and len(steps) == stop_at
    train_esrgan(**dataset.folders(), **SMALL | {"workers": 1}, out_dir=out_dir, resume=True)
    assert len(steps) == 12
    assert rows_of(out_dir) == rows_of(run)
    for name in ("generator.pth", "generator_psnr.pth", "generator_best.pth", "discriminator.pth"):
        assert same_weights(out_dir / name, run / name), name


def test_complete_run_has_nothing_left_to_do_and_can_be_made_longer(dataset, run, tmp_path, capsys):
    out_dir = tmp_path / "c"
    train_esrgan(**dataset.folders(), **SMALL | {"n_epochs_gan": 1}, out_dir=out_dir)
    before = (out_dir / "generator.pth").read_bytes()
    settings = dataset.folders() | SMALL | {"out_dir": out_dir, "resume": True}
    train_esrgan(**settings | {"n_epochs_gan": 1})
    assert (out_dir / "generator.pth").read_bytes() == before
    train_esrgan(**settings)
    assert "resuming with n_epochs_gan 1 -> 2" in capsys.readouterr().out
    assert len(rows_of(out_dir)) == 4


def test_earlier_run_is_never_overwritten_unasked(dataset, run, tmp_path):
    content = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(FileExistsError, match=r"--resume.*--out-dir.*--overwrite"):
        train_esrgan(**dataset.folders(), **SMALL, out_dir=run)
    with pytest.raises(ValueError, match="exclude each other"):
        train_esrgan(**dataset.folders(), **SMALL, out_dir=run, resume=True, overwrite=True)
    # A mistake in another argument does not delete the run, whatever was asked for.
    with pytest.raises(FileNotFoundError):
        train_esrgan(**SMALL, lr_folder="no", hr_folder="no", out_dir=run, overwrite=True)
    assert content == {path: path.read_bytes() for path in content}


def test_overwrite_deletes_the_earlier_run(dataset, tmp_path):
    settings = dataset.folders() | SMALL | {"out_dir": tmp_path / "d", "n_epochs": 1}
    train_esrgan(**settings | {"n_epochs_gan": 1})
    (tmp_path / "d" / "notes.txt").write_text("mine")
    train_esrgan(**settings | {"n_epochs_gan": 0, "overwrite": True})
    names = {path.name for path in (tmp_path / "d").iterdir()}
    assert "discriminator.pth" not in names and "notes.txt" in names
    assert len(rows_of(tmp_path / "d")) == 1


def test_other_network_sizes_cannot_resume_a_run(dataset, run):
    with pytest.raises(ValueError, match=r"cannot resume .* n_features 8 -> 16"):
        train_esrgan(**dataset.folders(), **SMALL | {"n_features": 16}, out_dir=run, resume=True)


def test_psnr_stage_ends_early_when_nothing_gets_better(dataset, tmp_path):
    settings = SMALL | {"learning_rate": 1e-30, "n_epochs": 50, "n_epochs_gan": 1, "patience": 2}
    train_esrgan(**dataset.folders(), **settings, out_dir=tmp_path / "e")
    assert [row["stage"] for row in rows_of(tmp_path / "e")] == ["psnr"] * 3 + ["gan"]


def test_alpha_interpolates_the_saved_generator(dataset, run, tmp_path):
    out_dir = train_esrgan(**dataset.folders(), **SMALL, alpha=0.25, out_dir=tmp_path / "f")
    psnr, gan = (checkpoint.load(run / f"{name}.pth") for name in ("generator_psnr", "generator"))
    expected = interpolate(psnr, gan, 0.25)
    mixed = checkpoint.load(out_dir / "generator.pth")
    assert all(torch.equal(mixed[key], expected[key]) for key in expected)
    assert not same_weights(run / "generator.pth", run / "generator_psnr.pth")


def test_training_lowers_the_loss(dataset, tmp_path):
    settings = SMALL | {"n_epochs": 4, "n_epochs_gan": 0, "steps_per_epoch": 15}
    run = train_esrgan(**dataset.folders(), **settings, learning_rate=2e-3, out_dir=tmp_path / "g")
    losses = [float(row["loss_pixel"]) for row in rows_of(run)]
    assert losses[-1] < 0.6 * losses[0]
    assert (run / "generator.pth").exists() and not (run / "discriminator.pth").exists()


def test_training_can_start_from_a_name_of_those_that_come_along(dataset, tmp_path):
    sizes = {"n_blocks": 3, "n_features": 32, "growth": 32, "rrdb_conv_last": False}
    few = {"n_epochs": 1, "n_epochs_gan": 0, "steps_per_epoch": 1, "learning_rate": 1e-30}
    settings = dataset.folders() | SMALL | sizes | few
    run = train_esrgan(**settings, start_from="esrgan-psnr", out_dir=tmp_path / "run")
    shipped = checkpoint.load(script.FOLDER / "pretrained" / "esrgan-psnr.pth")
    trained = checkpoint.load(run / "generator.pth")
    for key, weight in shipped.items():  # (a step of 1e-30 is seen where a weight is 0)
        torch.testing.assert_close(trained[key], weight.float(), rtol=0, atol=1e-20)


def test_training_can_start_from_published_weights(dataset, tmp_path):
    weights = published_weights()
    torch.save(weights, tmp_path / "published.pth")
    settings = SMALL | {"n_blocks": 2, "n_features": 16, "growth": 32, "n_epochs": 1}
    settings |= {"n_epochs_gan": 0, "learning_rate": 1e-30}
    settings["start_from"] = tmp_path / "published.pth"
    run = train_esrgan(**dataset.folders(), **settings, out_dir=tmp_path / "h")
    expected = load_published(weights).state_dict()
    trained = checkpoint.load(run / "generator.pth")
    for key in expected:  # (the average is rounded)
        torch.testing.assert_close(trained[key], expected[key])


def test_photos_are_held_out_when_there_are_no_validation_folders(dataset, tmp_path, capsys):
    settings = SMALL | {"n_epochs": 1, "n_epochs_gan": 0}
    own = {}
    for name, folder in (("lr", dataset.lr), ("hr", dataset.hr)):
        own[f"{name}_folder"] = tmp_path / name
        own[f"{name}_folder"].mkdir()
        for path in folder.iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    train_esrgan(**own, **settings, out_dir=tmp_path / "i")
    out = capsys.readouterr().out
    assert "the last 1 of 5 photos are held out" in out
    assert "4 photos to train on, 1 held out" in out


def test_perceptual_loss_is_used_with_local_weights(dataset, vgg_file, tmp_path):
    settings = SMALL | {"n_epochs": 1, "n_epochs_gan": 1, "perceptual_weight": 1.0}
    run = train_esrgan(
        **dataset.folders(), **settings, vgg_weights=vgg_file, out_dir=tmp_path / "j"
    )
    assert float(rows_of(run)[1]["loss_perceptual"]) > 0
    without = train_esrgan(
        **dataset.folders(), **settings | {"perceptual_weight": 0.0}, out_dir=tmp_path / "s"
    )
    # VGG19's own random beginning leaves the seed's weights alone.
    assert same_weights(run / "generator_psnr.pth", without / "generator_psnr.pth")


def test_non_finite_loss_stops_the_run(dataset, tmp_path):
    with pytest.raises(
        FloatingPointError, match=r"epoch 1/2.*loss_pixel.*nan.*lower learning rate"
    ):
        train_esrgan(**dataset.folders(), **SMALL, learning_rate=1e30, out_dir=tmp_path / "k")


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"lr_folder": "nowhere"}, FileNotFoundError, "nowhere: there is no such folder"),
        ({"hr_folder": None}, ValueError, "give both"),
        ({"patch_size": 40}, ValueError, "patch_size 40.*multiple of 32"),
        ({"patch_size": 96 * 2}, ValueError, "smaller than a crop of 192x192"),
        ({"seed": -1}, ValueError, "seed -1"),
        ({"batch_size": 0}, ValueError, "batch_size 0"),
        ({"batch_size": 1}, ValueError, "batch norm.*batch_size 2"),
        ({"device": "tpu9"}, ValueError, 'device is "tpu9", expected'),
        ({"start_from": "no.pth"}, ValueError, "no.pth: there is no such file"),
        ({"perceptual_weight": 1.0, "vgg_weights": "no.pth"}, ValueError, "no.pth: there is no"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(dataset, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        train_esrgan(**dataset.folders() | SMALL | {"out_dir": tmp_path / "l"} | change)
    assert not (tmp_path / "l").exists()


def test_swapped_folders_are_refused(dataset, tmp_path):
    folders = {"lr_folder": dataset.hr, "hr_folder": dataset.lr}
    with pytest.raises(ValueError, match=r"do not pair up|swapped"):
        train_esrgan(**folders, **SMALL, out_dir=tmp_path / "m")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_goes_on_with_the_cpu(dataset, tmp_path, capsys):
    settings = SMALL | {"n_epochs": 1, "n_epochs_gan": 0, "device": "cuda"}
    train_esrgan(**dataset.folders(), **settings, out_dir=tmp_path / "n")
    assert "finds no GPU: continuing with the CPU" in capsys.readouterr().out


def test_both_stages_train_in_bfloat16(dataset, vgg_file, tmp_path):
    settings = SMALL | {"perceptual_weight": 1.0, "vgg_weights": vgg_file}
    settings |= {"n_epochs": 1, "n_epochs_gan": 1}
    run, exact = (
        train_esrgan(**dataset.folders(), **settings, bfloat16=bf, out_dir=tmp_path / str(bf))
        for bf in (True, False)
    )
    assert checkpoint.load(run / "generator.pth")["conv_first.weight"].dtype == torch.float32
    losses = [[float(row["loss_pixel"]) for row in rows_of(r)] for r in (run, exact)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.03)


@pytest.mark.cuda
def test_both_stages_train_on_cuda(dataset, tmp_path):
    run = train_esrgan(**dataset.folders(), **SMALL | {"device": "cuda"}, out_dir=tmp_path / "o")
    assert len(rows_of(run)) == 4


@pytest.mark.cuda
def test_bfloat16_costs_no_quality(dataset, tmp_path):
    """1,200 steps of the quick start's network, from one seed."""
    settings = SMALL | {"n_blocks": 2, "n_features": 24, "growth": 12, "patch_size": 64}
    settings |= {"batch_size": 8, "n_epochs": 4, "n_epochs_gan": 0, "steps_per_epoch": 300}
    settings |= {"device": "cuda"}
    bfloat16, full = (
        train_esrgan(**dataset.folders(), **settings, bfloat16=bf, out_dir=tmp_path / str(bf))
        for bf in (True, False)
    )
    bfloat16, full = (float(rows_of(run)[-1]["psnr_y"]) for run in (bfloat16, full))
    assert bfloat16 == pytest.approx(full, abs=0.15)  # on an H200: 28.08 and 28.16 dB


def flags(settings: dict) -> list[str]:
    pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in settings.items()]
    return [word for pair in pairs for word in pair]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_script_runs_from_any_directory_and_leaves_cleanly(dataset, tmp_path, number):
    settings = dataset.folders() | SMALL | {"n_epochs": 10_000, "workers": 2}
    command = [sys.executable, str(SCRIPT), *flags(settings), "--out-dir", "run"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=os.name == "posix",
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "generator.pth").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    if os.name == "posix":  # as a terminal or a cluster sends it: to the workers too
        os.killpg(process.pid, number)
    else:
        process.terminate()
    out, _ = process.communicate(timeout=600)
    if os.name == "posix":
        assert process.returncode == 128 + number, out
        assert re.search(r"saved: continue with resume=True \(--resume\)", out)
    assert checkpoint.load(tmp_path / "run" / "state.pth")["progress"]["epoch"] >= 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_memory_stays_flat_over_two_hundred_steps(dataset, tmp_path, monkeypatch):
    megabytes = []

    def to_device(*args):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        megabytes.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
        return original(*args)

    original = training.to_device
    monkeypatch.setattr(training, "to_device", to_device)
    settings = SMALL | {"n_epochs": 2, "n_epochs_gan": 2, "steps_per_epoch": 65}
    train_esrgan(**dataset.folders(), **settings, out_dir=tmp_path / "p")
    psnr_stage, gan_stage = megabytes[:130], megabytes[130:]
    for stage in (psnr_stage, gan_stage):  # each stage has a step of its own kind
        assert max(stage[70:]) - max(stage[:70]) < 20
    assert len(megabytes) == 260


def test_compiled_networks_train_like_others(dataset, run, tmp_path, monkeypatch):
    """Traced by torch.compile, and computed as before: no C++ compiler is needed."""
    compiled = []

    def compile_(network):
        compiled.append(type(network).__name__)
        original(network, backend="eager")

    original = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    settings = SMALL | {"compile": True, "gradient_checkpointing": True}
    train_esrgan(**dataset.folders(), **settings, out_dir=tmp_path / "t")
    assert compiled == ["GeneratorRRDB", "Discriminator"]
    for name in ("generator.pth", "discriminator.pth"):
        ours, expected = (checkpoint.load(folder / name) for folder in (tmp_path / "t", run))
        for key in expected:
            torch.testing.assert_close(ours[key], expected[key], rtol=1e-3, atol=1e-4)


def test_unet_discriminator_is_the_published_one():
    network = UNetDiscriminator()
    assert sum(p.numel() for p in network.parameters()) == 4_376_897  # of the authors' code
    assert network(torch.rand(1, 3, 16, 24)).shape == (1, 1, 16, 24)
    # spectral norm: the largest singular value of each weight, as a matrix, is 1
    small = UNetDiscriminator(4)
    for _ in range(50):  # of the power iteration
        small(torch.rand(1, 3, 16, 16))
    for layer in (small.conv1, small.conv5, small.conv8):
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert largest.item() == pytest.approx(1, abs=0.02) and layer.bias is None


def test_vanilla_losses_are_binary_cross_entropy():
    real, fake = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    bce = functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones_like(real), torch.zeros_like(real)
    for_generator, for_discriminator = vanilla_losses(real, fake)
    torch.testing.assert_close(for_generator, bce(fake, ones))
    torch.testing.assert_close(for_discriminator, bce(real, ones) + bce(fake, zeros))


def test_sharpened_target_is_unsharp_masking_written_out_with_scipy():
    image = torch.rand(1, 3, 60, 70).round()  # squares of black and white, as a hard case

    def blur(x):
        return ndimage.gaussian_filter(x, 8.0, mode="mirror", radius=25)

    for channel, sharpened in zip(image[0].numpy(), sharpen(image)[0], strict=True):
        lost = channel - blur(channel)
        mask = blur((abs(lost) > 10 / 255).astype(float))
        raised = (channel + 0.5 * lost).clip(0, 1)
        expected = mask * raised + (1 - mask) * channel
        np.testing.assert_allclose(sharpened, expected, atol=1e-5)
    flat = torch.full((1, 3, 60, 60), 0.4)
    torch.testing.assert_close(sharpen(flat), flat)


def test_color_loss_sees_a_shift_and_no_detail():
    lr = torch.rand(1, 3, 16, 16)
    sr = functional.interpolate(lr, scale_factor=4, mode="nearest")
    assert color_loss(sr, lr).item() == pytest.approx(0, abs=1e-6)
    assert color_loss(sr + 0.02, lr).item() == pytest.approx(0.02, abs=1e-6)
    pattern = torch.tensor([0.1, -0.1]).repeat(32)  # a grid, whose mean is 0
    assert color_loss(sr + pattern, lr).item() == pytest.approx(0, abs=1e-6)


def test_real_recipe_trains_on_hr_alone_and_resumes_to_the_bit(
    large_dataset, tmp_path, monkeypatch
):
    settings = SMALL | {"degradation": "second_order", "discriminator": "unet"}
    settings |= {"gan_loss": "vanilla", "sharpen_targets": True, "color_weight": 1.0}
    settings |= {"n_epochs": 1, "n_epochs_gan": 1, "patch_size": 32}
    settings |= {"hr_folder": large_dataset.hr, "valid_hr_folder": large_dataset.valid_hr}
    train_esrgan(**settings, out_dir=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_in_step(5, patch, DegradedCrops)
        train_esrgan(**settings, out_dir=tmp_path / "half")
    train_esrgan(**settings | {"workers": 1}, out_dir=tmp_path / "half", resume=True)
    for name in ("generator.pth", "discriminator.pth"):
        assert same_weights(tmp_path / "whole" / name, tmp_path / "half" / name)
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "half")
    assert "loss_color" in rows_of(tmp_path / "half")[0]
