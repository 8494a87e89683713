"""The three CycleGANs' training, at small widths on real photos."""

import json
import re
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from common import checkpoint
from common.data.photos import read_image
from common.data.resize import resize
from common.device import choose_bfloat16
from common.run import training
from common.run.log import plot_curves
from CycleGAN.CycleGAN_w_v1 import CycleGAN as v1
from CycleGAN.CycleGAN_w_v2 import CycleGAN2 as v2
from CycleGAN.CycleGAN_w_v3 import CycleGAN5_2 as v3
from scripts.evidence.cyclegan import CHANGES
from scripts.inference.models import load_model
from scripts.inference.service import find_checkpoints
from tests.conftest import rows_of, run_script, same_weights, stop_in_step

VERSIONS = {"v1": v1, "v2": v2, "v3": v3}
NETWORKS = ("G_LR2HR", "F_HR2LR", "D_HR", "D_LR")
SMALL = {
    "n_features": 4,
    "lr_size": 24,
    "hr_size": 96,
    "batch_size": 2,
    "workers": 0,
    "n_epochs": 2,
    "steps_per_epoch": 3,
    "device": "cpu",
}


def train(version: str, dataset, out_dir: Path, **settings) -> Path:
    settings = dataset.folders() | SMALL | settings
    return VERSIONS[version].train_cyclegan_sr(**settings, out_dir=out_dir)


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory) -> dict[str, Path]:
    """A complete small run of each version, with its curves."""
    folder = tmp_path_factory.mktemp("cyclegan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "plot_curves", plot_curves)
        return {version: train(version, dataset, folder / version) for version in VERSIONS}


@pytest.mark.parametrize("version", VERSIONS)
def test_run_writes_everything_it_promises(runs, version):
    run = runs[version]
    assert {path.name for path in run.iterdir() if path.suffix != ".lock"} == {
        *(f"{name}.pth" for name in NETWORKS), "G_LR2HR_best.pth", "state.pth",
        "state_previous.pth", "config.json", "log.csv", "curves.png", "samples",
    }  # fmt: skip
    for name in ("G_LR2HR", "G_LR2HR_best"):
        G = VERSIONS[version].GeneratorSR(4)
        G.load_state_dict(torch.load(run / f"{name}.pth", weights_only=True))
        assert G(torch.rand(1, 3, 7, 9)).shape == (1, 3, 28, 36)
    rows = rows_of(run)
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "6")]
    losses = {name for name in rows[0] if name.startswith("loss_")}
    assert {"loss_gan_hr", "loss_gan_lr", "loss_discriminator_hr"} <= losses
    assert json.loads((run / "config.json").read_text())["n_features"] == 4
    pictures = [read_image(path) for path in sorted((run / "samples").iterdir())]
    assert len(pictures) == 2 and pictures[0].shape == pictures[1].shape
    assert read_image(run / "curves.png").shape[1] > 1000
    for path in find_checkpoints((run,)):  # what the page offers enlarges
        load_model(path, "cpu")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("stop_at", [2, 3])
def test_resumed_run_equals_unbroken_run(dataset, runs, tmp_path, monkeypatch, version, stop_at):
    """A signal in the middle of an epoch and at its end; then with another number of workers."""
    steps = stop_in_step(stop_at, monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        train(version, dataset, tmp_path)
    assert stopped.value.code == 128 + signal.SIGTERM and len(steps) == stop_at
    train(version, dataset, tmp_path, workers=1, resume=True)
    assert len(steps) == 6 and rows_of(tmp_path) == rows_of(runs[version])
    for name in (*NETWORKS, "G_LR2HR_best"):
        assert same_weights(tmp_path / f"{name}.pth", runs[version] / f"{name}.pth"), name
    states = [checkpoint.load(folder / "state.pth") for folder in (tmp_path, runs[version])]
    for name in ("optimizer_g", "optimizer_d"):
        moments = [state[name]["state"][0]["exp_avg"] for state in states]
        assert torch.equal(*moments)


def test_pools_are_resumed(dataset, tmp_path, monkeypatch):
    """Pools of two images, so that earlier fakes do come back."""
    whole = train("v2", dataset, tmp_path / "a", pool_size=2)
    stop_in_step(4, monkeypatch)
    with pytest.raises(SystemExit):
        train("v2", dataset, tmp_path / "c", pool_size=2)
    kept = checkpoint.load(tmp_path / "c" / "state.pth")["pool_hr"]["images"]
    assert len(kept) == 2 and kept[0].shape == (3, 96, 96)
    train("v2", dataset, tmp_path / "c", pool_size=2, resume=True)
    for name in NETWORKS:
        assert same_weights(tmp_path / "c" / f"{name}.pth", whole / f"{name}.pth"), name


def test_second_version_without_its_changes_is_the_first(dataset, runs, tmp_path):
    off = {name: value for change in CHANGES["v2"].values() for name, value in change.items()}
    run = train("v2", dataset, tmp_path, **off)
    for name in NETWORKS:
        assert same_weights(run / f"{name}.pth", runs["v1"] / f"{name}.pth"), name


@pytest.mark.parametrize("change", CHANGES["v2"])
def test_each_change_of_the_second_version_changes_the_result(dataset, runs, tmp_path, change):
    run = train("v2", dataset, tmp_path, **CHANGES["v2"][change])
    assert not same_weights(run / "G_LR2HR.pth", runs["v2"] / "G_LR2HR.pth")


def test_first_versions_defaults_are_the_specified_ones():
    defaults = v1.train_cyclegan_sr.__kwdefaults__
    expected = {"batch_size": 4, "n_epochs": 10, "lambda_cycle": 10.0, "lambda_identity": 0.0}
    expected |= {"lr_size": 64, "hr_size": 256, "learning_rate": 2e-4, "betas": (0.5, 0.999)}
    expected |= {"steps_per_epoch": None, "n_features": 64, "device": "cuda"}
    assert {name: defaults[name] for name in expected} == expected


def test_first_versions_step_is_the_specified_one(dataset, tmp_path):
    """One step written out anew: losses, their order, Adam on both sides."""
    settings = {"n_epochs": 1, "steps_per_epoch": 1, "lambda_identity": 0.5, "bfloat16": False}
    run = train("v1", dataset, tmp_path, **settings)
    pairs = v1.unpaired_photos(*dataset.folders().values(), 10)[:2]
    lr, hr = (x.float() / 255 for x in v1.UnpairedPhotos(*pairs, 24, 96, seed=0)[0, range(2)])
    torch.manual_seed(0)
    G, F = v1.start_normal(v1.GeneratorSR(4)), v1.start_normal(v1.GeneratorDown(4))
    D_HR, D_LR = v1.start_normal(v1.Discriminator(4)), v1.start_normal(v1.Discriminator(4))
    mse, l1 = nn.MSELoss(), nn.L1Loss()

    def adam(*networks):
        parameters = [p for network in networks for p in network.parameters()]
        return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999))

    optimizer_g, optimizer_hr, optimizer_lr = adam(G, F), adam(D_HR), adam(D_LR)
    fake_b = G(lr)
    recov_a = F(fake_b)
    fake_a = F(hr)
    recov_b = G(fake_a)
    on_b, on_a = D_HR(fake_b), D_LR(fake_a)
    loss = mse(on_b, torch.ones_like(on_b)) + mse(on_a, torch.ones_like(on_a))
    loss = loss + 10 * (l1(recov_a, lr) + l1(recov_b, hr))
    loss = loss + 0.5 * (l1(F(resize(lr, 4)), lr) + l1(resize(fake_b, 1 / 4), lr))
    loss.backward()
    optimizer_g.step()
    for D, optimizer, real, fake in (
        (D_HR, optimizer_hr, hr, fake_b),
        (D_LR, optimizer_lr, lr, fake_a),
    ):
        optimizer.zero_grad()
        on_real, on_fake = D(real), D(fake.detach())
        loss = mse(on_real, torch.ones_like(on_real)) + mse(on_fake, torch.zeros_like(on_fake))
        (loss / 2).backward()
        optimizer.step()
    for name, network in zip(NETWORKS, (G, F, D_HR, D_LR), strict=True):
        trained = checkpoint.load(run / f"{name}.pth")
        for key, weight in network.state_dict().items():
            # Adam's first step is the gradient's sign: where that is rounding, it may differ.
            wrong = (trained[key] - weight).abs() > 1e-6
            assert wrong.float().mean() < 0.01, (name, key)


def test_least_squares_by_hand():
    scores = torch.tensor([[1.0, 0.5], [0.0, 2.0]])
    assert v1.least_squares(scores, 1).item() == pytest.approx((0 + 0.25 + 1 + 1) / 4)
    assert v1.least_squares(scores, 0).item() == pytest.approx((1 + 0.25 + 0 + 4) / 4)


def test_stored_image_is_rounded_and_lets_gradients_pass():
    image = torch.tensor([-0.1, 0.1, 0.5, 1.2]).view(1, 1, 2, 2).requires_grad_()
    stored = v2.as_stored(image, 0.0)
    assert (stored * 255).flatten().tolist() == pytest.approx([0, 26, 128, 255], abs=1e-4)
    (stored * torch.tensor([1.0, 2, 3, 4]).view(1, 1, 2, 2)).sum().backward()
    assert image.grad.flatten().tolist() == [1, 2, 3, 4]
    torch.manual_seed(0)
    gray = torch.full((1, 3, 200, 200), 0.5)
    noise = v2.as_stored(gray, 2 / 255) - gray
    # Rounding adds 1/12 of a step's square to the noise's variance.
    assert (noise.std() * 255).item() == pytest.approx((4 + 1 / 12) ** 0.5, rel=0.02)


def test_third_versions_stored_image_is_rounded():
    image = torch.tensor([-0.1, 0.1, 0.5, 1.2])
    assert (v3.as_stored(image) * 255).tolist() == pytest.approx([0, 26, 128, 255], abs=1e-4)


def test_high_frequencies_are_what_scaling_down_loses():
    flat = torch.rand(2, 3, 1, 1).expand(2, 3, 32, 32)
    for factor in (2, 4):
        seen = v3.high_frequencies(flat, factor)
        torch.testing.assert_close(seen, torch.full_like(seen, 0.5), atol=1e-5, rtol=0)
    checkerboard = torch.arange(32).add(torch.arange(32)[:, None]).remainder(2).float()
    seen = v3.high_frequencies(checkerboard.expand(1, 3, 32, 32), 2)  # its mean, 0.5, is low
    torch.testing.assert_close(seen[..., 8:-8, 8:-8], checkerboard[8:-8, 8:-8].expand(1, 3, 16, 16))


def test_relativistic_loss_by_hand():
    real, fake = torch.tensor([[2.0], [0.0]]), torch.tensor([[1.0], [-1.0]])
    # Means 1 and 0. Real above 0 by 2 and 0, wanted 1; fake above 1 by 0 and -2, wanted -1.
    loss = v3.discriminator_loss(real, fake, relativistic=True).item()
    assert loss == pytest.approx(((1 + 1) / 2 + (1 + 1) / 2) / 2)
    loss = v3.discriminator_loss(real, fake).item()
    assert loss == pytest.approx(((1 + 1) / 2 + (1 + 1) / 2) / 2)
    far = v3.discriminator_loss(real + 9, fake + 9, relativistic=True).item()
    assert far == pytest.approx(1)  # the level does not matter

    def D(scores):
        return scores

    # A generator wants it the other way round: fake above real by 1.
    for_generator = v3.generator_loss(D, fake, real, relativistic=True).item()
    assert for_generator == pytest.approx(((0 - 1) ** 2 + (-2 - 1) ** 2 + 3**2 + 1**2) / 4)
    assert v3.generator_loss(D, fake, real).item() == pytest.approx((0 + 4) / 2)


def test_gradient_penalty_by_hand():
    class Sum(nn.Module):
        def forward(self, x):  # its gradient is 3 in each of 2 * 2 * 2 values
            return 3 * x.sum((1, 2, 3), keepdim=True)

    assert v3.gradient_penalty(Sum(), torch.rand(5, 2, 2, 2)).item() == pytest.approx(8 * 9 / 2)


SWITCHES = [
    {"back_projections": 0},
    {"noise_channel": False},
    {"high_frequencies_only": False},
    {"relativistic": True},
    {"r1_weight": 1.0, "r1_every": 2},
    {"lambda_consistency": 0.0},
    {"lambda_low": 0.0},
    {"low_factor": 4},
    {"lambda_identity": 1.0},
]


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_each_switch_of_the_third_version_changes_the_result(dataset, runs, tmp_path, switch):
    run = train("v3", dataset, tmp_path, **switch)
    name = "D_LR.pth" if "r1_weight" in switch else "F_HR2LR.pth"
    name = "G_LR2HR.pth" if {"back_projections", "lambda_consistency"} & set(switch) else name
    assert not same_weights(run / name, runs["v3"] / name)


def test_cycle_holds_f_fixed_in_the_third_version(dataset, tmp_path):
    """Without its own losses F gets no gradient: neither the cycle nor G's losses reach it."""
    off = {"lambda_gan_lr": 0.0, "lambda_low": 0.0}
    run = train("v3", dataset, tmp_path, **off)
    torch.manual_seed(0)
    v3.GeneratorSR(4)
    start = v3.GeneratorDown(4, noise_channel=True).state_dict()
    trained = checkpoint.load(run / "F_HR2LR.pth")
    assert all(torch.equal(trained[key], start[key]) for key in start)


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_train_in_bfloat16(dataset, runs, tmp_path, version):
    other = not choose_bfloat16(torch.device("cpu"))  # than that of `runs`
    run, exact = runs[version], train(version, dataset, tmp_path, bfloat16=other)
    if other:
        run, exact = exact, run
    assert checkpoint.load(run / "F_HR2LR.pth")["out_conv.weight"].dtype == torch.float32
    losses = [float(rows_of(r)[-1]["loss_cycle_hr"]) for r in (run, exact)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.cuda
@pytest.mark.parametrize("version", VERSIONS)
def test_versions_train_on_cuda(dataset, tmp_path, version):
    assert len(rows_of(train(version, dataset, tmp_path, device="cuda"))) == 2


def test_rate_falls_linearly_in_the_second_half(dataset, tmp_path):
    run = train("v2", dataset, tmp_path, n_epochs=4, steps_per_epoch=2)
    rates = [float(row["learning_rate"]) / 2e-4 for row in rows_of(run)]
    # The last step of each epoch: 1, 3, 5, 7 of 8.
    assert rates == pytest.approx([1, 1, 6 / 8, 2 / 8])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"lr_folder": "nowhere"}, FileNotFoundError, "nowhere: there is no such folder"),
        ({"hr_folder": None}, ValueError, "give both"),
        ({"hr_size": 128}, ValueError, "hr_size 128.* expected .*4 times"),
        ({"seed": -1}, ValueError, "seed -1"),
        ({"batch_size": 0}, ValueError, "batch_size 0"),
        ({"steps_per_epoch": 0}, ValueError, "steps_per_epoch 0"),
        ({"device": "tpu9"}, ValueError, 'device is "tpu9", expected'),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    dataset, tmp_path, version, change, error, message
):
    with pytest.raises(error, match=message):
        train(version, dataset, tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_swapped_folders_are_refused(dataset, tmp_path, version):
    with pytest.raises(ValueError, match="swapped"):
        train(version, dataset, tmp_path / "a", lr_folder=dataset.hr, hr_folder=dataset.lr)


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_photos_smaller_than_a_crop_are_named(dataset, tmp_path, version):
    with pytest.raises(ValueError, match=r"x4\.png .*smaller than a crop of 32x32"):
        train(version, dataset, tmp_path / "a", lr_size=32, hr_size=128)


@pytest.mark.parametrize("version", VERSIONS)
def test_earlier_run_is_never_overwritten_unasked(dataset, runs, version):
    with pytest.raises(FileExistsError, match=r"--resume.*--out-dir.*--overwrite"):
        train(version, dataset, runs[version])
    with pytest.raises(ValueError, match=r"cannot resume .* n_features 4 -> 8"):
        train(version, dataset, runs[version], n_features=8, resume=True)


def test_run_ends_early_when_nothing_gets_better(dataset, tmp_path):
    run = train("v2", dataset, tmp_path, learning_rate=1e-30, n_epochs=50, patience=2)
    assert len(rows_of(run)) == 3


def test_default_epoch_goes_through_the_photos_once(dataset, tmp_path):
    run = train("v1", dataset, tmp_path, n_epochs=1, steps_per_epoch=None)
    assert rows_of(run)[0]["step"] == "2"  # 5 photos, 2 a step


@pytest.mark.parametrize("version", VERSIONS)
def test_script_trains_with_flags(dataset, tmp_path, monkeypatch, capsys, version):
    settings = dataset.folders() | SMALL | {"n_epochs": 1, "out_dir": tmp_path / "run"}
    run_script(VERSIONS[version].__file__, settings, monkeypatch)
    assert "complete" in capsys.readouterr().out and (tmp_path / "run" / "G_LR2HR.pth").exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_docstring_names_flags_that_exist(version):
    script = VERSIONS[version]
    names = {flag.replace("-", "_") for flag in re.findall(r" --(?:no-)?([\w-]+)", script.__doc__)}
    assert {"lr_folder", "hr_folder"} <= names <= set(script.train_cyclegan_sr.__kwdefaults__)
