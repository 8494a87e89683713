"""The CVAE's and the SRVAE's training, at small widths on real photos."""

import json
import re
import signal
from pathlib import Path

import pytest
import torch
from torch.distributions import Laplace

from common import checkpoint
from common.data.photos import read_image, write_image
from common.data.resize import imresize, project
from common.device import choose_bfloat16
from common.run import training
from common.run.log import plot_curves
from CVAE import train_cvae as cvae
from CVAE.model import CVAE
from scripts.inference.models import load_model
from scripts.inference.service import find_checkpoints
from SRVAE import train_srvae as srvae
from SRVAE.model import SRVAE
from tests.conftest import rows_of, run_script, same_weights, stop_in_step

SCRIPTS = {"cvae": cvae, "srvae": srvae}
TRAIN = {"cvae": cvae.train_cvae, "srvae": srvae.train_srvae}
SIZES = {"cvae": {"n_features": 4, "n_latent": 16}, "srvae": {"n_features": 6, "n_latent": 2}}
SIZES["srvae"] |= {"n_blocks": 2, "n_detail": 8, "feature_weight": 0.0}
NETWORKS = {"cvae": lambda: CVAE(4, 16), "srvae": lambda: SRVAE(6, 2, 2, 8)}
SMALL = {
    "batch_size": 2,
    "workers": 0,
    "n_valid": 1,
    "valid_patches": 2,
    "n_epochs": 2,
    "steps_per_epoch": 3,
    "device": "cpu",
}
LOGGED = {  # what the log shall tell of z
    "loss_reconstruction", "loss_kl", "kl", "active_units", "sigma_ratio", "psnr_q",
    "psnr_mean", "psnr_sample", "psnr_other", "std_high", "std_low", "lr_psnr", "lr_psnr_worst",
}  # fmt: skip


def train(name: str, dataset, out_dir: Path, **settings) -> Path:
    return TRAIN[name](**dataset.folders() | SMALL | SIZES[name] | settings, out_dir=out_dir)


@pytest.fixture(scope="module")
def runs(large_dataset, tmp_path_factory) -> dict[str, Path]:
    """A complete small run of each, with its curves."""
    folder = tmp_path_factory.mktemp("vae")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "plot_curves", plot_curves)
        return {name: train(name, large_dataset, folder / name) for name in TRAIN}


@pytest.mark.parametrize("name", TRAIN)
def test_run_writes_everything_it_promises(runs, name):
    run = runs[name]
    assert {path.name for path in run.iterdir() if path.suffix != ".lock"} == {
        f"{name}.pth", f"{name}_best.pth", "recognition.pth", "state.pth", "state_previous.pth",
        "config.json", "log.csv", "curves.png", "samples",
    }  # fmt: skip
    for file in (f"{name}.pth", f"{name}_best.pth"):
        network = NETWORKS[name]()
        network.load_state_dict(torch.load(run / file, weights_only=True))
        assert network.sample(torch.rand(1, 3, 7, 9)).shape == (1, 1, 3, 28, 36)
    rows = rows_of(run)
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "6")]
    assert rows[0].keys() >= LOGGED and all(rows[1][column] for column in LOGGED)
    assert json.loads((run / "config.json").read_text())["n_features"] == SIZES[name]["n_features"]
    # LR, bicubic, SR, two samples, HR of a photo of 128 pixels.
    pictures = [read_image(path) for path in sorted((run / "samples").iterdir())]
    assert len(pictures) == 2 and pictures[0].shape == pictures[1].shape
    assert pictures[0].shape[1] > 6 * 128
    assert read_image(run / "curves.png").shape[0] > 1500  # five rows of plots
    for path in find_checkpoints((run,)):  # what the page offers enlarges
        load_model(path, "cpu")


@pytest.mark.parametrize("name", TRAIN)
@pytest.mark.parametrize("stop_at", [2, 3])
def test_resumed_run_equals_unbroken_run(large_dataset, runs, tmp_path, monkeypatch, name, stop_at):
    """A signal in the middle of an epoch and at its end; then with another number of workers."""
    steps = stop_in_step(stop_at, monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        train(name, large_dataset, tmp_path)
    assert stopped.value.code == 128 + signal.SIGTERM and len(steps) == stop_at
    train(name, large_dataset, tmp_path, workers=1, resume=True)
    assert len(steps) == 6 and rows_of(tmp_path) == rows_of(runs[name])
    for file in (f"{name}.pth", f"{name}_best.pth", "recognition.pth"):
        assert same_weights(tmp_path / file, runs[name] / file), file
    states = [checkpoint.load(folder / "state.pth") for folder in (tmp_path, runs[name])]
    moments = [state["optimizer"]["state"][0]["exp_avg"] for state in states]
    assert torch.equal(*moments)


def test_a_step_of_the_cvae_is_the_specified_one(large_dataset, tmp_path):
    """One step written out anew: L1 after projection, both halves of the KL term, Adam."""
    warm_up = (0.0, 0.0)
    run = train(
        "cvae", large_dataset, tmp_path, n_epochs=1, steps_per_epoch=1, warm_up=warm_up,
        kl_weight=1e-3, free_nats=0.2, decay_from=1.0, bfloat16=False,
    )  # fmt: skip
    folders = large_dataset.folders().values()
    settings = {"n_valid": 1, "valid_crop": 1024, "valid_patches": 2, "seed": 0}
    crops, _, _ = cvae.crops_and_validation(*folders, **settings)
    lr, hr = (x.float() / 255 for x in crops[0, range(2)])
    torch.manual_seed(0)
    both = (CVAE(4, 16), cvae.Recognition(4, 16))
    model, recognition = (n.to(memory_format=torch.channels_last) for n in both)
    parameters = [*model.parameters(), *recognition.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=4e-4, betas=(0.9, 0.99))
    mu_p, logvar_p, skips = model.encode(lr)
    mu_q, logvar_q = recognition(hr, lr)
    z = mu_q + (logvar_q / 2).exp() * torch.randn(2, 16)
    sr = project(model.decode(z, skips), lr, 2)

    def kl(mu_q, logvar_q, mu_p, logvar_p):  # of each number, mean over the batch
        ratio = (logvar_q - logvar_p).exp() + (mu_q - mu_p) ** 2 / logvar_p.exp()
        return (0.5 * (ratio - 1 + logvar_p - logvar_q)).mean(0)

    of_q = kl(mu_q, logvar_q, mu_p.detach(), logvar_p.detach()).clamp(min=0.2).sum()
    of_p = kl(mu_q.detach(), logvar_q.detach(), mu_p, logvar_p).sum()
    ((sr - hr).abs().mean() + 1e-3 * (of_q + 4 * of_p)).backward()
    optimizer.step()
    state = checkpoint.load(run / "state.pth")
    for name, network in (("model", model), ("posterior", recognition)):
        for key, weight in network.state_dict().items():
            # Adam's first step is the gradient's sign: where that is rounding, it may differ.
            wrong = (state[name][key] - weight).abs() > 1e-6
            bias_before_norm = key.endswith(".0.bias")  # has no gradient but rounding
            assert wrong.float().mean() < 0.02 or bias_before_norm, key


def test_calibrated_likelihood_is_the_most_likely_laplace_distribution():
    errors = torch.tensor([0.1, -0.2, 0.05, 0.3])
    b = errors.abs().mean()
    nll = srvae.laplace_nll(b)
    assert nll.item() == pytest.approx(-Laplace(0.0, b).log_prob(errors).mean().item())
    for other in (0.9 * b, 1.1 * b):
        assert nll < -Laplace(0.0, other).log_prob(errors).mean()


def test_weight_of_the_kl_term_grows(large_dataset, tmp_path):
    run = train("cvae", large_dataset, tmp_path, n_epochs=5, steps_per_epoch=2)
    weights = [float(row["kl_weight"]) / 7e-7 for row in rows_of(run)]
    # The last step of each epoch, 1, 3, 5, 7, 9 of 10: from 0 at 3 to 1 at 6.
    assert weights == pytest.approx([0, 0, 2 / 3, 1, 1])


def test_without_recognition_the_encoder_is_held_to_the_normal_distribution(
    large_dataset, tmp_path
):
    settings = {"recognition": False, "warm_up": (0.0, 0.0), "learning_rate": 3e-3}
    settings |= {"n_epochs": 1, "steps_per_epoch": 30, "valid_patches": 2}
    kls = []
    for weight in (0.0, 1.0):
        run = train("cvae", large_dataset, tmp_path / str(weight), kl_weight=weight, **settings)
        assert not (run / "recognition.pth").exists()
        (row,) = rows_of(run)
        assert row.keys() >= LOGGED and "loss_kl_q" not in row
        kls.append(float(row["loss_kl"]))
    assert kls[1] < 0.5 * kls[0]


def test_reconstruction_can_be_the_squared_error(large_dataset, runs, tmp_path):
    run = train("cvae", large_dataset, tmp_path, reconstruction="mse")
    losses = [float(rows_of(r)[0]["loss_reconstruction"]) for r in (run, runs["cvae"])]
    assert losses[0] < 0.5 * losses[1]


@pytest.mark.parametrize("name", TRAIN)
def test_training_lowers_the_loss(large_dataset, tmp_path, name):
    """The CVAE starts from gray where it is not projected, the SRVAE from bicubic."""
    n_features, steps, share = (8, 20, 0.9) if name == "cvae" else (16, 60, 0.995)
    settings = {"n_features": n_features, "steps_per_epoch": steps, "projections": 0}
    run = train(name, large_dataset, tmp_path, **settings, learning_rate=3e-3, valid_patches=2)
    before, after = (float(row["loss_reconstruction"]) for row in rows_of(run))
    assert after < share * before


@pytest.mark.parametrize("name", TRAIN)
def test_lr_that_is_not_bicubic_is_not_projected_onto(large_dataset, tmp_path, name):
    run = train(name, large_dataset, tmp_path, projections=0)
    assert "unprojected" in checkpoint.load(run / f"{name}.pth")
    assert float(rows_of(run)[-1]["lr_psnr_worst"]) < 45


def test_srvae_trains_on_patches_of_any_size(dataset, tmp_path):
    run = train("srvae", dataset, tmp_path, patch_size=48)
    assert len(rows_of(run)) == 2


@pytest.mark.parametrize("name", TRAIN)
def test_trains_in_bfloat16(large_dataset, runs, tmp_path, name):
    other = not choose_bfloat16(torch.device("cpu"))  # than that of `runs`
    run, exact = runs[name], train(name, large_dataset, tmp_path, bfloat16=other)
    if other:
        run, exact = exact, run
    weights = checkpoint.load(run / f"{name}.pth").values()
    assert {weight.dtype for weight in weights} <= {torch.float32, torch.int64}
    losses = [float(rows_of(r)[-1]["loss_reconstruction"]) for r in (run, exact)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.cuda
@pytest.mark.parametrize("name", TRAIN)
def test_trains_on_cuda(large_dataset, tmp_path, name):
    assert len(rows_of(train(name, large_dataset, tmp_path, device="cuda"))) == 2


BAD = [
    ({"lr_folder": "nowhere"}, FileNotFoundError, "nowhere: there is no such folder"),
    ({"hr_folder": None}, ValueError, "give both"),
    ({"seed": -1}, ValueError, "seed -1"),
    ({"batch_size": 0}, ValueError, "batch_size 0"),
    ({"valid_patches": 1}, ValueError, "valid_patches 1: expected .* valid_patches 2 or more"),
    ({"device": "tpu9"}, ValueError, 'device is "tpu9", expected'),
]
BAD = [(name, *case) for name in TRAIN for case in BAD] + [
    ("cvae", {"patch_size": 64}, ValueError, "patch_size 64.* expected patch_size 128.*32x32"),
    ("cvae", {"n_latent": 20}, ValueError, "n_latent 20.* multiple of 16"),
    ("cvae", {"reconstruction": "l3"}, ValueError, 'is "l3", expected "l1" or "mse"'),
    ("srvae", {"patch_size": 42}, ValueError, "patch_size 42.* multiple of 4, 16 or more"),
    ("srvae", {"patch_size": 12}, ValueError, "patch_size 12.* multiple of 4, 16 or more"),
    ("srvae", {"n_latent": 0}, ValueError, "n_latent 0"),
]


@pytest.mark.parametrize("name, change, error, message", BAD)
def test_bad_input_is_refused_before_anything_is_written(
    large_dataset, tmp_path, name, change, error, message
):
    with pytest.raises(error, match=message):
        train(name, large_dataset, tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", TRAIN)
def test_lr_and_hr_that_do_not_belong_together_are_refused(large_dataset, tmp_path, name):
    with pytest.raises(ValueError, match="are the two folders swapped"):
        folders = {"lr_folder": large_dataset.hr, "hr_folder": large_dataset.lr}
        train(name, large_dataset, tmp_path / "a", **folders)
    for lr in large_dataset.lr.iterdir():
        write_image(tmp_path / "other" / f"b{lr.name}", read_image(lr))
    with pytest.raises(ValueError, match="do not pair up"):
        train(name, large_dataset, tmp_path / "a", lr_folder=tmp_path / "other")
    for lr in large_dataset.lr.iterdir():
        write_image(tmp_path / "twice" / lr.name, imresize(read_image(lr), 2))
    with pytest.raises(ValueError, match="4 times the size"):
        train(name, large_dataset, tmp_path / "a", lr_folder=tmp_path / "twice")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", TRAIN)
def test_photos_smaller_than_a_patch_are_named(dataset, tmp_path, name):
    with pytest.raises(ValueError, match=r"0000.* is .*smaller than a patch of 128x128"):
        train(name, dataset, tmp_path / "a")


@pytest.mark.parametrize("name", TRAIN)
def test_earlier_run_is_never_overwritten_unasked(large_dataset, runs, name):
    with pytest.raises(FileExistsError, match=r"--resume.*--out-dir.*--overwrite"):
        train(name, large_dataset, runs[name])
    with pytest.raises(ValueError, match=r"cannot resume .* n_features \d -> 8"):
        train(name, large_dataset, runs[name], n_features=8, resume=True)


@pytest.mark.parametrize("name", TRAIN)
def test_run_ends_early_when_nothing_gets_better(large_dataset, tmp_path, name):
    run = train(name, large_dataset, tmp_path, learning_rate=1e-30, n_epochs=50, patience=2)
    assert len(rows_of(run)) < 12


@pytest.mark.parametrize("name", TRAIN)
def test_script_trains_with_flags(large_dataset, tmp_path, monkeypatch, capsys, name):
    settings = large_dataset.folders() | SMALL | SIZES[name]
    settings |= {"n_epochs": 1, "out_dir": tmp_path / "run"}
    run_script(SCRIPTS[name].__file__, settings, monkeypatch)
    assert "complete" in capsys.readouterr().out and (tmp_path / "run" / f"{name}.pth").exists()


@pytest.mark.parametrize("name", TRAIN)
def test_docstring_names_flags_that_exist(name):
    doc = SCRIPTS[name].__doc__
    names = {flag.replace("-", "_") for flag in re.findall(r" --(?:no-)?([\w-]+)", doc)}
    assert {"lr_folder", "hr_folder"} <= names <= set(TRAIN[name].__kwdefaults__)


def test_checkpoint_of_the_cvae_holds_the_specified_parts_and_no_others(runs):
    parts = {key.split(".")[0] for key in checkpoint.load(runs["cvae"] / "cvae.pth")}
    convolutions = {"enc_conv1", "enc_conv2", "enc_conv3", "enc_conv4"}
    convolutions |= {"dec_conv1", "dec_conv2", "dec_conv3", "upsample1", "upsample2", "final_conv"}
    assert parts == convolutions | {"fc_mu", "fc_logvar", "decoder_input"}
