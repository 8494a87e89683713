"""The script that measures the three CycleGANs against each other, and LPIPS."""

import csv

import numpy as np
import pytest
import torch
from torchvision.models import alexnet

from common.data.pairs import list_pairs
from common.data.photos import read_image
from scripts.evidence import cyclegan as script
from scripts.inference.lpips import load_lpips


def test_evidence_trains_and_measures_all_versions_on_both_tracks(dataset, tmp_path, capsys):
    settings = {"photos": dataset.hr, "test": (dataset.valid_hr,), "seeds": (0,)}
    settings |= {"n_features": 4, "lr_size": 24, "batch_size": 2, "n_epochs": 1}
    settings |= {"steps_per_epoch": 2, "out": tmp_path, "device": "cpu"}
    script.cyclegan_evidence(**settings)
    with (tmp_path / "evidence.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    networks = ["bicubic", "v1", "v2", "v3"]
    assert [row["network"] for row in rows] == 2 * networks
    assert [row["track"] for row in rows] == 4 * ["bicubic"] + 4 * ["realistic"]
    bicubic = rows[0]
    assert float(bicubic["correlation"]) == pytest.approx(1) and bicubic["seconds"] == ""
    assert 0 < float(bicubic["sharpness"]) < 0.7
    # Two steps leave versions 2 and 3 near bicubic, back-projection apart; version 1 is nowhere.
    by = {(row["network"], row["track"]): float(row["psnr_y"]) for row in rows}
    assert by["v1", "bicubic"] < by["bicubic", "bicubic"] - 3
    assert abs(by["v2", "bicubic"] - by["bicubic", "bicubic"]) < 0.3
    assert float(rows[3]["lr_psnr"]) > float(bicubic["lr_psnr"]) + 3
    text = (tmp_path / "evidence.md").read_text()
    assert text in capsys.readouterr().out and text.count("| bicubic | ") == 3
    # A photo of each track, six pictures of 96 pixels or more.
    assert read_image(tmp_path / "evidence.png").shape[1] > 6 * 96
    weights = (tmp_path / "bicubic" / "v3_0" / "G_LR2HR.pth").stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"other settings \(batch_size 2 -> 3\).*--out"):
        script.cyclegan_evidence(**settings | {"batch_size": 3})
    script.cyclegan_evidence(**settings)  # nothing is trained twice
    assert (tmp_path / "bicubic" / "v3_0" / "G_LR2HR.pth").stat().st_mtime_ns == weights


def test_ablation_adds_the_changes_one_at_a_time():
    plan = script._plan("bicubic", (5, 6), ("v2", "v3"))
    titles = [title for title, *_ in plan]
    changes = [f"+ {title}" for version in ("v2", "v3") for title in script.CHANGES[version]]
    assert titles == [
        "v1", "v1", *changes[:6], "v2", "v2", *changes[7:11], "v3", "v3", *script.TRIED
    ]  # fmt: skip
    for version, last in (("v2", 6), ("v3", 4)):
        steps = [settings for title, v, _, settings in plan if v == version and "+" in title]
        assert len(steps) == last
        for n, settings in enumerate(steps, 1):  # what comes later is off, what came before is not
            off = [set(change) for change in script.CHANGES[version].values()]
            assert set(settings) == set().union(*off[n:])
        defaults = script.SCRIPTS[version].train_cyclegan_sr.__kwdefaults__
        for change in script.CHANGES[version].values():
            assert all(defaults[name] != value for name, value in change.items())
    # What a track leaves out anyway is no step of its own.
    titles = [title for title, *_ in script._plan("realistic", (0,), ("v2", "v3"))]
    assert not any("back-projection" in title or "LR consistency" in title for title in titles)
    titles = [title for title, *_ in script._plan("bicubic", (0,), ("v2",))]
    assert titles == ["v1", *changes[:6], "v2", "v3"]


class Inverted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def forward(self, lr):
        return 1 - torch.nn.functional.interpolate(lr, scale_factor=4, mode="bicubic")


def test_inverted_colours_and_lost_detail_show_in_the_figures(dataset):
    tests = {"a": list_pairs(dataset.valid_lr, dataset.valid_hr)}
    (row,) = script._measure(Inverted(), tests, None)
    assert row["correlation"] < -0.95 and row["test"] == "a" and "lpips" not in row


def test_image_of_one_value_correlates_with_nothing():
    photo = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert script._correlation(np.full_like(photo, 7), photo) == 0
    assert script._correlation(photo, photo) == pytest.approx(1)


def test_table_has_means_over_seeds_and_a_dash_for_what_is_missing():
    row = {"network": "v1", "track": "bicubic", "test": "Set5", "ssim_y": 0.5, "lr_psnr": 40.0}
    row |= {"sharpness": 1.0, "correlation": 0.9, "seconds": 10.0}
    rows = [row | {"seed": i, "psnr_y": psnr} for i, psnr in enumerate((20.0, 22.0, 27.0))]
    line = "| v1 | Set5 | 23.00 (20.00 to 27.00) | 0.5000 | 40.0 | 1.00 | 0.90 | - | 10 |"
    assert line in script.table(rows, "bicubic").splitlines()


def test_lpips_is_left_out_where_its_weights_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    distance, why = load_lpips(torch.device("cpu"))
    assert distance is None and "alexnet" in why and str(tmp_path) in why


def test_lpips_is_zero_for_equal_images_and_grows_with_noise(tmp_path, monkeypatch):
    """With random weights of the same network: its real ones cannot be had without a network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.manual_seed(0)
    (tmp_path / "checkpoints").mkdir()
    torch.save(alexnet().state_dict(), tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth")
    distance, why = load_lpips(torch.device("cpu"))
    image = torch.rand(1, 3, 64, 64)
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (1, 3, 64, 64))).float()
    distances = [distance(image, (image + s * noise).clamp(0, 1)) for s in (0, 0.02, 0.2)]
    assert why == "" and distances[0] == 0 and 0 < distances[1] < distances[2]
