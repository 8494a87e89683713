"""The tables of `evaluate` against scikit-image, by the protocol, and its pairing of photos."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import scripts.evaluate as script
from common import checkpoint
from common.data.photos import read_image, to_tensor, write_image
from common.data.resize import imresize
from common.run.flags import command_line
from ESRGAN.model import GeneratorRRDB
from scripts.evaluate import evaluate
from scripts.inference.figures import diversity_score, local_l1, sharpness, table, titles
from scripts.inference.models import load_model
from scripts.inference.niqe import niqe
from SRVAE.model import SRVAE
from tests.conftest import SKIMAGE_DATA

CPU = {"device": "cpu", "n_samples": 0}


def luma(pixels: np.ndarray) -> np.ndarray:
    """MATLAB's rgb2ycbcr on 8-bit images, whole numbers."""
    y = 16 + pixels.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255
    return np.round(y)


def test_figures_are_scikit_images(dataset, tmp_path):
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "a.pth", GeneratorRRDB(1, 8, 4).state_dict())
    models = (str(tmp_path / "a.pth"), "bicubic")
    files = {kind: tmp_path / f"table.{kind}" for kind in ("csv", "json", "markdown")}
    results = evaluate(models=models, hr=dataset.valid_hr, lr=dataset.valid_lr, **files, **CPU)
    assert [result["model"] for result in results] == list(models)
    for result in results:
        network = load_model(result["model"], "cpu")
        assert [row["image"] for row in result["images"]] == ["0000", "0001"]
        for row in result["images"]:
            hr = read_image(dataset.valid_hr / f"{row['image']}.png")
            lr = read_image(dataset.valid_lr / f"{row['image']}x4.png")
            sr = network.upscale(lr)
            a, b = (luma(x)[4:-4, 4:-4] for x in (sr, hr))
            assert row["psnr_y"] == pytest.approx(
                peak_signal_noise_ratio(b, a, data_range=255), abs=1e-6
            )
            similar = structural_similarity(
                b, a, data_range=255, gaussian_weights=True, sigma=1.5,
                use_sample_covariance=False, full=True,
            )[1]  # fmt: skip
            assert row["ssim_y"] == pytest.approx(similar[5:-5, 5:-5].mean(), abs=1e-6)
            assert row["psnr_rgb"] == pytest.approx(
                peak_signal_noise_ratio(hr[4:-4, 4:-4], sr[4:-4, 4:-4]), abs=1e-5
            )
            assert row["lr_psnr"] == pytest.approx(
                peak_signal_noise_ratio(lr, imresize(sr, 1 / 4)), abs=1e-5
            )
            assert row["seconds_per_megapixel"] > 0
        for name in ("psnr_y", "ssim_y", "psnr_rgb", "lr_psnr", "sharpness"):
            mean = np.mean([row[name] for row in result["images"]])
            assert result[name] == pytest.approx(mean)
    assert json.loads(files["json"].read_text()) == results
    with files["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and float(rows[0]["psnr_y"]) == results[0]["images"][0]["psnr_y"]
    text = files["markdown"].read_text()
    assert f"{results[1]['psnr_y']:.2f}" in text and "| bicubic" in text
    assert "LPIPS is left out" in text or "lpips" in results[0]


def test_photos_in_a_batch_are_measured_as_one_by_one(tmp_path, dataset):
    hr = read_image(next(dataset.valid_hr.iterdir()))
    for i in range(3):
        write_image(tmp_path / f"{i}.png", hr[:64, i : 64 + i])
    both = [
        evaluate(models=("bicubic",), hr=tmp_path, batch_pixels=n, **CPU)[0]["images"]
        for n in (1, 10**6)
    ]
    for one, many in zip(*both, strict=True):
        for name in ("image", "psnr_y", "ssim_y", "lr_psnr", "sharpness"):
            assert one[name] == pytest.approx(many[name]), name


def test_hr_is_cut_to_a_multiple_of_four_and_lr_is_made(tmp_path, dataset):
    hr = read_image(next(dataset.valid_hr.iterdir()))[:47, :62]
    write_image(tmp_path / "hr" / "a.png", hr)
    write_image(tmp_path / "lr" / "ax4.png", imresize(hr[:44, :60], 1 / 4))
    made = evaluate(models=("bicubic",), hr=tmp_path / "hr", **CPU)
    given = evaluate(models=("bicubic",), hr=tmp_path / "hr", lr=tmp_path / "lr", **CPU)
    assert made[0]["psnr_y"] == given[0]["psnr_y"]


@pytest.mark.parametrize(
    "hr_name, lr_name",
    [
        ("0001", "0001x4"),
        ("img_001", "img_001"),
        ("img_001_SRF_4_HR", "img_001_SRF_4_LR"),
        ("baby_HR_x4", "baby_LRBI_x4"),
    ],
)
def test_names_of_benchmark_sets_pair_up(hr_name, lr_name, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    write_image(tmp_path / "hr" / f"{hr_name}.png", pixels)
    write_image(tmp_path / "lr" / f"{lr_name}.png", imresize(pixels, 1 / 4))
    (result,) = evaluate(models=("bicubic",), hr=tmp_path / "hr", lr=tmp_path / "lr", **CPU)
    assert len(result["images"]) == 1


def test_photos_that_do_not_pair_up_are_listed(dataset, tmp_path):
    lr = tmp_path / "lr"
    shutil.copytree(dataset.valid_lr, lr)
    (lr / "0001x4.png").rename(lr / "otherx4.png")
    with pytest.raises(ValueError, match=r"otherx4\.png\).*0001\.png\)"):
        evaluate(models=("bicubic",), hr=dataset.valid_hr, lr=lr, **CPU)
    with pytest.raises(ValueError, match=r"a quarter of .* folders swapped"):
        evaluate(models=("bicubic",), hr=dataset.valid_hr, lr=dataset.valid_hr, **CPU)
    write_image(tmp_path / "small" / "a.png", np.zeros((16, 40, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a\.png is 40x16, expected 20x20"):
        evaluate(models=("bicubic",), hr=tmp_path / "small", **CPU)


def test_diversity_is_of_models_with_samples(dataset, tmp_path):
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "srvae.pth", SRVAE(6, 2, 1).state_dict())
    models = (str(tmp_path / "srvae.pth"), "bicubic")
    results = evaluate(models=models, hr=dataset.valid_hr, n_samples=2, device="cpu")
    assert results[0]["diversity"] > 0 and "diversity" not in results[1]
    assert table(results).splitlines()[3].rstrip("| ").split("|")[-3].strip() == "-"


def test_diversity_by_hand():
    # Distances of two samples at two places: the best of both is 1 and 1, the better sample's 2.
    distances = torch.tensor([[[1.0, 3.0]], [[4.0, 1.0]]])
    assert diversity_score(distances) == pytest.approx(100 * (2 - 1) / 2)
    assert diversity_score(distances[:1].expand(3, 1, 2)) == 0
    a, b = torch.zeros(1, 3, 16, 17), torch.ones(1, 3, 16, 17)
    b[..., 16] = 0
    assert local_l1(a, b).flatten().tolist() == pytest.approx([1, 15 / 16])


def test_sharpness_of_hr_is_one_and_of_a_plain_image_zero(dataset):
    hr = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert sharpness(hr, hr).tolist() == [1, 1]
    assert sharpness(torch.full_like(hr, 0.3), hr).max() < 1e-9


def test_equal_images_have_100_db_and_no_sharpness(tmp_path):
    write_image(tmp_path / "hr" / "a.png", np.full((32, 32, 3), 100, np.uint8))
    path = tmp_path / "a.json"
    (flat,) = evaluate(models=("bicubic",), hr=tmp_path / "hr", json=path, **CPU)
    assert flat["psnr_y"] == json.loads(path.read_text())[0]["psnr_y"] == 100
    assert "sharpness" not in flat and "sharpness" not in flat["images"][0]
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    write_image(tmp_path / "hr" / "b.png", photo)
    (both,) = evaluate(models=("bicubic",), hr=tmp_path / "hr", csv=tmp_path / "a.csv", **CPU)
    assert both["sharpness"] == both["images"][1]["sharpness"] > 0
    rows = list(csv.DictReader((tmp_path / "a.csv").open(newline="")))
    assert rows[0]["sharpness"] == "" and float(rows[1]["sharpness"]) == both["sharpness"]


def test_photos_whose_names_differ_in_their_ending_alone_are_told_apart(tmp_path):
    for name in ("a.png", "a.bmp"):
        write_image(tmp_path / "hr" / name, np.full((32, 32, 3), 100, np.uint8))
    (result,) = evaluate(models=("bicubic",), hr=tmp_path / "hr", **CPU)
    assert [row["image"] for row in result["images"]] == ["a.bmp", "a.png"]


def test_titles_are_as_short_as_they_may_be():
    assert titles(["bicubic", "runs/a/cvae.pth"]) == ["bicubic", "cvae"]
    assert titles(["a/G.pth", "b/G.pth", "bicubic"]) == ["a/G", "b/G", "bicubic"]


def test_without_hr_there_are_the_figures_that_need_none(tmp_path, capsys):
    coffee = read_image(SKIMAGE_DATA / "coffee.png")
    write_image(tmp_path / "lr" / "large.png", coffee[:60, :80])
    write_image(tmp_path / "lr" / "small.png", coffee[:1, :1])
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "srvae.pth", SRVAE(6, 2, 1).state_dict())
    models = ("bicubic", str(tmp_path / "srvae.pth"))
    text = tmp_path / "table.md"
    results = evaluate(models=models, lr=tmp_path / "lr", markdown=text, device="cpu")
    for result in results:
        large, small = result["images"]
        sr = load_model(result["model"], "cpu").upscale(coffee[:60, :80])
        assert large["niqe"] == result["niqe"] == niqe(to_tensor(sr[4:-4, 4:-4])).item()
        assert set(large) - set(small) == {"niqe"} and set(large) <= {
            "image", "lr_psnr", "niqe", "seconds_per_megapixel", "peak_memory_mb",
        }  # fmt: skip
    sr = load_model("bicubic", "cpu").upscale(coffee[:60, :80])
    lr_psnr = peak_signal_noise_ratio(coffee[:60, :80], imresize(sr, 1 / 4))
    assert results[0]["images"][0]["lr_psnr"] == pytest.approx(lr_psnr, abs=1e-5)
    said = text.read_text()
    assert said in capsys.readouterr().out
    assert "NIQE: lower is better; 1 of 2 photos have none: it takes SR with two blocks" in said
    assert not any(word in said for word in ("PSNR-Y", "LPIPS", "diversity", "of HR"))


def test_niqe_of_hr_stands_under_the_table(tmp_path):
    coffee = read_image(SKIMAGE_DATA / "coffee.png")[:300, :401]
    chelsea = read_image(SKIMAGE_DATA / "chelsea.png")[:200, :300]
    small = coffee[:60, :80]
    for name, pixels in (("coffee", coffee), ("chelsea", chelsea), ("small", small)):
        write_image(tmp_path / "hr" / f"{name}.png", pixels)
    text = tmp_path / "table.md"
    (result,) = evaluate(models=("bicubic",), hr=tmp_path / "hr", markdown=text, **CPU)
    of_hr = [niqe(to_tensor(x[4:-4, 4:-4])) for x in (coffee[:, :400], chelsea)]
    note = f"NIQE: lower is better; of HR {np.mean(of_hr):.2f}; 1 of 3 photos have none"
    assert note in text.read_text() and f"{result['niqe']:.2f}" in text.read_text()
    assert [row["image"] for row in result["images"] if "niqe" in row] == ["chelsea", "coffee"]
    assert result["niqe"] > np.mean(of_hr)


def test_unreadable_photos_are_named_before_any_work(dataset, tmp_path, monkeypatch):
    for name in ("hr", "lr"):
        shutil.copytree(getattr(dataset, f"valid_{name}"), tmp_path / name)
    for file in (tmp_path / "hr/0001.png", tmp_path / "lr/0000x4.png"):
        file.write_bytes(file.read_bytes()[: -3000 if file.parent.name == "hr" else -300])
    monkeypatch.setattr(script, "_measure", None)
    with pytest.raises(
        ValueError, match=r"0000x4\.png: cannot be read.*; .*0001\.png: cannot be r"
    ):
        evaluate(models=("bicubic",), hr=tmp_path / "hr", lr=tmp_path / "lr", **CPU)


def test_small_hr_is_named_with_its_size(tmp_path):
    write_image(tmp_path / "hr" / "dot.png", np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(ValueError, match=r"dot\.png is 1x1, expected 20x20 or more"):
        evaluate(models=("bicubic",), hr=tmp_path / "hr", **CPU)


def test_file_in_a_folders_place_is_called_a_file(dataset):
    file = next(dataset.valid_hr.iterdir())
    for folders in ({"hr": file}, {"lr": file}, {"hr": dataset.valid_hr, "lr": file}):
        with pytest.raises(NotADirectoryError, match=f"{file.name} is a file, expected a folder"):
            evaluate(models=("bicubic",), **folders, **CPU)


@pytest.mark.parametrize("kind", ["csv", "json", "markdown"])
def test_result_that_cannot_be_written_is_refused_before_any_work(
    kind, dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(script, "load_model", None)
    (tmp_path / "file").write_text("mine")
    out = {kind: tmp_path / "file" / "folder" / "table"}
    with pytest.raises(NotADirectoryError, match="file is no folder: choose another"):
        evaluate(models=("bicubic",), hr=dataset.valid_hr, **out, **CPU)


def test_models_have_a_short_flag(dataset, monkeypatch, capsys):
    flags = ["-m", "bicubic", "--hr", str(dataset.valid_hr), "--n-samples", "0"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *flags, "--device", "cpu"])
    (result,) = command_line(evaluate)
    assert result["model"] == "bicubic" and "| bicubic" in capsys.readouterr().out


def test_bad_arguments_are_refused(dataset):
    with pytest.raises(ValueError, match="0 models"):
        evaluate(models=(), hr=dataset.valid_hr, **CPU)
    with pytest.raises(ValueError, match=r"expected a folder of HR photos \(--hr\), or of LR"):
        evaluate(models=("bicubic",), **CPU)
    with pytest.raises(ValueError, match="2 samples or more"):
        evaluate(models=("bicubic",), hr=dataset.valid_hr, n_samples=1, device="cpu")


def test_lpips_is_measured_where_it_can_be_had(dataset, tmp_path, monkeypatch):
    def stand_in(device, spatial=False):
        if spatial:
            return lambda a, b: (a - b).abs().mean(1, keepdim=True), ""
        return lambda a, b: (a - b).abs().mean().item(), ""

    monkeypatch.setattr(script, "load_lpips", stand_in)
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "srvae.pth", SRVAE(6, 2, 1).state_dict())
    models = ("bicubic", str(tmp_path / "srvae.pth"))
    text = tmp_path / "table.md"
    results = evaluate(models=models, hr=dataset.valid_hr, n_samples=2, markdown=text, device="cpu")
    row = results[0]["images"][0]
    hr = read_image(dataset.valid_hr / f"{row['image']}.png").astype(float)
    sr = load_model("bicubic", "cpu").upscale(imresize(hr.astype(np.uint8), 1 / 4))
    assert row["lpips"] == pytest.approx(np.abs(sr - hr).mean() / 255, rel=1e-4)
    assert results[1]["diversity_lpips"] > 0 and "left out" not in text.read_text()


def test_titles_differ_where_names_differ_in_their_ending_alone():
    assert titles(["a/G.pth", "a/G.safetensors"]) == ["G.pth", "G.safetensors"]
