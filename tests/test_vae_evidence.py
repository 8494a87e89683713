"""The script that measures whether samples differ, and the one that draws them."""

import csv
import math
from pathlib import Path

import pytest
import torch
from torchvision.models import alexnet

from common import checkpoint
from common.data.pairs import list_pairs
from common.data.photos import read_image, to_tensor
from common.data.resize import resize
from common.measure.efficientnet import EfficientNetFeatures
from common.vae import deviations
from ESRGAN.model import GeneratorRRDB
from scripts import samples
from scripts.evidence import vae as vae_evidence
from scripts.evidence.sample_figures import (
    border_step,
    dispersion,
    feature_distances,
    grid_strength,
    noise_like,
)
from scripts.inference.lpips import load_lpips


def test_evidence_trains_and_measures_all_networks(large_dataset, tmp_path, capsys, monkeypatch):
    small = {"n_blocks": 1, "n_detail": 8, "feature_weight": 0.0}
    few = {
        name: (train, changes | {"valid_patches": 2} | (small if name == "SRVAE" else {}))
        for name, (train, changes) in vae_evidence.NETWORKS.items()
    }
    monkeypatch.setattr(vae_evidence, "NETWORKS", few)
    settings = {"photos": large_dataset.hr, "test": (large_dataset.valid_hr,), "seeds": (0,)}
    settings |= {"n_features": 4, "batch_size": 2, "n_epochs": 1, "steps_per_epoch": 2}
    settings |= {"n_valid": 1, "n_patches": 4, "n_samples": 3, "out": tmp_path, "device": "cpu"}
    vae_evidence.vae_evidence(**settings)
    with (tmp_path / "evidence.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    name = large_dataset.valid_hr.name
    assert [row["network"] for row in rows] == [
        "bicubic", "bicubic, projected", *3 * ["plain CVAE"], *3 * ["CVAE"],
        *3 * ["SRVAE"],
    ]  # fmt: skip
    assert [row["set"] for row in rows[2:5]] == ["training", "held out", name]
    for row in rows[2:]:
        assert float(row["kl"]) > 0 and (row["psnr_y"] != "") == (row["set"] == name)
        if row["set"] == name:
            figures = {k: float(row[k]) for k in ("psnr_y", "psnr_y_sample", "dispersion")}
            lost = figures["psnr_y"] - figures["psnr_y_sample"]
            assert 10 ** (lost / 10) - 1 == pytest.approx(figures["dispersion"] / 100, abs=0.01)
            assert 0 < float(row["features"]) < 2 and 0 < float(row["grid"]) < 100
    projected, ours = rows[1], rows[4]
    assert float(projected["psnr_y"]) > float(rows[0]["psnr_y"]) + 0.3
    assert float(ours["psnr_y"]) == pytest.approx(float(projected["psnr_y"]), abs=0.1)
    assert float(projected["lr_psnr_worst"]) > 45 > float(rows[0]["lr_psnr_worst"])
    text = (tmp_path / "evidence.md").read_text()
    assert text in capsys.readouterr().out and text.count("\n| SRVAE |") == 4
    # A row for each network: LR, bicubic, mean, four samples, deviation, HR of 128 pixels.
    assert read_image(tmp_path / "evidence.png").shape[1] > 9 * 128
    weights = (tmp_path / "SRVAE_0" / "srvae.pth").stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"other settings \(batch_size 2 -> 3\).*--out"):
        vae_evidence.vae_evidence(**settings | {"batch_size": 3})
    monkeypatch.setattr(vae_evidence, "latent_diagnostics", lambda *networks_and_patches: {})
    vae_evidence.vae_evidence(**settings)  # nothing is trained twice
    assert (tmp_path / "SRVAE_0" / "srvae.pth").stat().st_mtime_ns == weights
    settings |= {"runs": (tmp_path / "SRVAE_0",), "out": tmp_path / "measured"}
    vae_evidence.vae_evidence(**settings)  # of that run alone, the same
    with (tmp_path / "measured" / "evidence.csv").open(newline="") as file:
        again = {row["set"]: row for row in csv.DictReader(file) if row["network"] == "SRVAE_0"}
    assert again.keys() == {"training", "held out", name}
    assert again[name] == {k: rows[-1][k] for k in again[name]} | {"network": "SRVAE_0"}
    with pytest.raises(ValueError, match=r"expected the folder of a run"):
        vae_evidence.vae_evidence(**settings | {"runs": (tmp_path,)})


def test_runs_of_one_name_are_kept_apart():
    alike = Path("SRVAE", "runs", "default"), Path("CVAE", "runs", "default")
    assert vae_evidence.titles_of(alike) == {str(folder): folder for folder in alike}
    assert vae_evidence.titles_of(alike[:1]) == {"default": alike[0]}


def test_noise_has_the_samples_strength_outside_of_lrs_reach(small_cvae, large_dataset):
    lr = to_tensor(read_image(sorted(large_dataset.lr.iterdir())[0]))
    mean, drawn = small_cvae.sample(lr, temperature=0)[0], small_cvae.sample(lr, 4, seed=0)
    noise = noise_like(deviations(drawn)[0], 4, mean, lr, small_cvae)
    assert deviations(noise)[0] == pytest.approx(deviations(drawn)[0], rel=0.1)
    assert all((resize(x, 1 / 4) - lr).abs().max() < 2 / 255 for x in noise)


def test_step_at_tile_borders_shows_seams(small_cvae):
    torch.manual_seed(0)
    lr = torch.nn.functional.interpolate(torch.rand(1, 3, 20, 20), size=100, mode="bicubic")
    lr = lr.clamp(0, 1)
    assert border_step(small_cvae, lr) == pytest.approx(1, abs=0.03)
    assert abs(border_step(small_cvae, lr, overlap=0) - 1) > 0.06


def test_dispersion_is_whole_where_a_sample_has_twice_the_error():
    assert dispersion(30, 30) == 0
    assert dispersion(30, 30 - 10 * math.log10(2)) == pytest.approx(100)
    assert dispersion(30, 30 - 10 * math.log10(1.2)) == pytest.approx(20)


def test_grid_is_seen_in_the_deviation_and_noise_has_none():
    torch.manual_seed(0)
    noise = torch.randn(10, 1, 3, 256, 320)
    assert grid_strength(noise) == pytest.approx(1, abs=0.3)
    wave = 1 + 0.5 * torch.cos(torch.arange(320) * math.pi / 2)  # of 4 pixels
    assert grid_strength(noise * wave) > 20
    other = 1 + 0.5 * torch.cos(torch.arange(320) * math.pi / 3)  # of 6
    assert grid_strength(noise * other) < 2


def test_map_of_feature_distances_has_the_loss_as_its_mean(large_dataset):
    hr = to_tensor(read_image(sorted(large_dataset.hr.iterdir())[0]))[..., :128, :128]
    images = torch.stack([hr[0], (hr[0] + 0.1).clamp(0, 1)])
    network = EfficientNetFeatures()
    same, other = feature_distances(network, images, hr)
    assert same.shape == (64, 64) and same.max() < 1e-6
    assert other.mean().item() == pytest.approx(network.distance(images[1:], hr).item(), rel=1e-4)


def test_picture_of_samples(small_cvae, large_dataset, tmp_path, capsys):
    checkpoint.save(tmp_path / "cvae.pth", small_cvae.state_dict())
    photos = tuple(sorted(large_dataset.valid_hr.iterdir()))
    settings = {"model": tmp_path / "cvae.pth", "n": 2, "crop": 64, "out": tmp_path / "s.png"}
    samples.samples(photos, **settings)
    picture = read_image(tmp_path / "s.png")
    # LR, bicubic, mean, two samples, deviation, HR of two photos; and gaps.
    assert 7 * 64 < picture.shape[1] < 8 * 75 and picture.shape[0] > 2 * 64
    assert str(tmp_path / "s.png") in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="--overwrite"):
        samples.samples(photos, **settings)
    settings |= {"out": tmp_path / "t.png"}
    for change in ({"n": 0}, {"crop": 30}):
        with pytest.raises(ValueError, match="expected one photo or more"):
            samples.samples(photos, **settings | change)
    checkpoint.save(tmp_path / "g.pth", GeneratorRRDB(1, 8, 4).state_dict())
    with pytest.raises(ValueError, match="is of ESRGAN, which has one answer"):
        samples.samples(photos, **settings | {"model": tmp_path / "g.pth"})
    (tmp_path / "no.png").write_text("no photo")
    with pytest.raises(ValueError, match=r"no\.png: cannot be read"):
        samples.samples((tmp_path / "no.png",), **settings)
    assert not (tmp_path / "t.png").exists()


def test_spatial_lpips_has_the_whole_distance_as_its_mean(tmp_path, monkeypatch, large_dataset):
    """With random weights of the same network: its real ones cannot be had without a network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.manual_seed(0)
    (tmp_path / "checkpoints").mkdir()
    torch.save(alexnet().state_dict(), tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth")
    device = torch.device("cpu")
    whole, spatial = (load_lpips(device, spatial)[0] for spatial in (False, True))
    pairs = list_pairs(large_dataset.valid_lr, large_dataset.valid_hr)
    hr = to_tensor(read_image(pairs[0][1]))[..., :128, :128]
    other = (hr + 0.1 * torch.randn(hr.shape)).clamp(0, 1)
    with torch.inference_mode():
        distances = spatial(other, hr)
    assert distances.shape == (1, 1, 128, 128)
    # The maps of the layers are enlarged to the image's size, which nearly keeps their means.
    assert distances.mean().item() == pytest.approx(whole(other, hr), rel=0.1)
    assert spatial(hr, hr).abs().max() < 1e-6
