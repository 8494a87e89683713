"""`scripts/benchmarks/benchmark.py` measures both sides, and they do the same work."""

import copy
import json
import os
from functools import partial

import pytest
import torch
from torch.nn import functional

from common import checkpoint
from common.data.pairs import list_pairs
from common.device import choose_bfloat16
from ESRGAN.losses import relativistic_loss
from ESRGAN.model import Discriminator, GeneratorRRDB
from scripts.benchmarks import benchmark, swinir, upscale
from scripts.benchmarks.measuring import Side, measure, peak_memory
from scripts.benchmarks.memory import train_two_steps
from scripts.benchmarks.precision import psnr_and_seconds
from scripts.benchmarks.train import Adversaries
from scripts.evidence.methods import METHODS
from SRVAE.model import SRVAE
from SwinIR.model import SwinIR
from tests.conftest import PRELOADED

CPU = torch.device("cpu")


def written(folder, part):
    """Return the sides in a part's JSON file, which has a picture beside it."""
    assert (folder / f"{part}.png").stat().st_size > 1000
    content = json.loads((folder / f"{part}.json").read_text())
    assert {"command", "date", "machine", "torch", "threads", "load_average"} <= content.keys()
    return content["sides"]


def test_benchmark_of_the_data_measures_both_sides(tmp_path, capsys):
    ratios = benchmark.data(n_photos=1, rounds=1, out=tmp_path, peaks=False)
    out = capsys.readouterr().out
    assert "decoding per crop" in out and f"{ratios['pixel store']:.2f}" in out
    assert ratios["decoding per crop"] == 1 and ratios["pixel store"] > 10
    assert written(tmp_path, "data")["pixel store"]["ratio"] == ratios["pixel store"]
    with pytest.raises(ValueError, match="rounds is 0, expected 1 or more"):
        benchmark.data(rounds=0)


def test_benchmark_of_training_measures_both_stages(tmp_path, monkeypatch):
    pytest.importorskip("spandrel")
    small = partial(Discriminator, 32, 8)
    monkeypatch.setattr("scripts.benchmarks.train.Discriminator", lambda *sizes: small())
    settings = {"n_blocks": 2, "batch_size": 2, "n_photos": 1, "workers": 0, "rounds": 1}
    ratios = benchmark.train(**settings, patch_size=32, out=tmp_path, peaks=False)
    n = 1 + choose_bfloat16(CPU)  # precisions
    assert len(ratios) == 7 + 2 * n
    sides = list(written(tmp_path, "train_psnr").values())
    usual, ours, (same, checkpointing, larger) = sides[0], sides[n], sides[-3:]
    # Weights of a pixel's products: 239,616 in a dense block, 36,864 in a convolution of 64 to 64,
    # 1,728 of 3 to 64; 64 pixels an LR, two of them, forward, and backward twice as much.
    products = 2 * 3 * 239_616 + 1_728 + 36_864 + 4 * 36_864 + 16 * (2 * 36_864 + 1_728)
    assert usual["gflop"] == pytest.approx(3 * 2 * 2 * 64 * products / 1e9, rel=0.01)
    assert usual["gflop"] == ours["gflop"] == same["gflop"]
    assert ours["gflop"] < min(larger["gflop"], checkpointing["gflop"])
    assert 0 < ours["share_of_ceiling"] < 2
    usual, unfrozen, two_passes, *_, ours = written(tmp_path, "train_gan").values()
    assert min(usual["gflop"], unfrozen["gflop"]) > two_passes["gflop"] == ours["gflop"]


def paper_step(both, lr, hr):
    """Update as section 3.2 says: the generator, then the discriminator, each with its own loss."""
    optimizers = both.optimizer_g, both.optimizer_d
    sr = both.generator(lr)
    loss = functional.l1_loss(both.vgg(sr), both.vgg(hr))
    loss = loss + 5e-3 * relativistic_loss(both.discriminator(sr), both.discriminator(hr))
    loss = loss + 1e-2 * functional.l1_loss(sr, hr)
    loss.backward()
    optimizers[0].step()
    optimizers[1].zero_grad()
    relativistic_loss(both.discriminator(hr), both.discriminator(sr.detach())).backward()
    optimizers[1].step()


@pytest.mark.parametrize("form", ["usual_step", "unfrozen_step", "our_step"])
def test_gan_steps_of_every_form_have_one_result(form, vgg_file):
    torch.manual_seed(0)
    both = Adversaries(GeneratorRRDB(1, 8, 4), 32, vgg_file, CPU, fast=True, n_features=4)
    for network in (both.generator, both.discriminator, both.vgg):
        network.double()
    expected = copy.deepcopy(both)
    lr, hr = (torch.rand(3, 3, n, n, dtype=torch.float64) for n in (8, 32))
    before = [p.clone() for p in both.generator.parameters()]
    paper_step(expected, lr, hr)
    getattr(both, form)(lr, hr)
    for name in ("generator", "discriminator"):
        found, wanted = (dict(getattr(x, name).named_parameters()) for x in (both, expected))
        for key in found:
            torch.testing.assert_close(found[key], wanted[key], rtol=0, atol=1e-9)
    after = both.generator.parameters()
    assert all((p - q).abs().max() > 5e-5 for p, q in zip(before, after, strict=True))


def test_our_gan_step_passes_each_image_through_the_discriminator_once(vgg_file):
    both = Adversaries(GeneratorRRDB(1, 8, 4), 32, vgg_file, CPU, fast=False, n_features=4)
    seen = []
    both.discriminator.register_forward_hook(lambda module, args, result: seen.append(args[0]))
    lr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32)
    both.our_step(lr, hr)
    assert len(seen) == 2 and seen[0] is hr
    both.usual_step(lr, hr)
    assert len(seen) == 2 + 5


def test_benchmark_of_upscaling_compares_equal_results(tmp_path, monkeypatch):
    pytest.importorskip("spandrel")
    monkeypatch.setattr(upscale, "choose_bfloat16", lambda device: True)
    small = {"SwinIR": partial(SwinIR, (2,), 12, 2), "SRVAE": partial(SRVAE, 6, 2, 1)}
    monkeypatch.setattr(upscale, "NETWORKS", small)
    networks = {"ESRGAN": "", "SwinIR": "_swinir", "SRVAE": "_srvae"}
    options = {"networks": tuple(networks), "n_blocks": 1, "size": 24, "rounds": 1}
    ratios = benchmark.upscale(**options, out=tmp_path, peaks=False)
    sides = {}
    for kind, ending in networks.items():
        found = written(tmp_path, f"upscale{ending}")
        full, low = (found[f"{kind}: ours, {p}"] for p in ("full precision", "bfloat16"))
        assert full["difference"] < 1e-5 < low["difference"]
        assert max(full["difference"], low["difference"]) < 0.05
        sides |= found
    assert sides.keys() == ratios.keys() and "ESRGAN: spandrel" in ratios
    assert all(side["first_use_s"] > 0 and side["gflop"] > 0 for side in sides.values())
    with pytest.raises(
        ValueError, match=r"networks holds \['RCAN'\], expected some of ESRGAN, EDSR"
    ):
        benchmark.upscale(networks=("RCAN",))


def test_benchmark_of_swinir_compares_equal_networks(tmp_path, monkeypatch):
    monkeypatch.setitem(swinir.KINDS, "lightweight", ((2,), 12, "pixelshuffledirect"))
    sizes = {"batch_size": 1, "patch_size": 32, "size": 16, "rounds": 1}
    ratios = benchmark.swinir(**sizes, out=tmp_path, peaks=False)
    n = 1 + choose_bfloat16(CPU)  # precisions
    assert len(ratios) == 2 * (1 + 2 * n)
    steps, images = (written(tmp_path, f"swinir_{part}") for part in ("step", "upscale"))
    full = images["enlarging: SwinIR, full precision"]
    assert full["difference"] < 1e-5 < images["enlarging: EDSR, full precision"]["difference"]
    assert all(side["gflop"] > 0 for side in (*steps.values(), *images.values()))


def test_benchmark_of_scaling_runs_processes_together(tmp_path, monkeypatch):
    if os.name == "posix":  # (started anew, each would import torch)
        fork = partial(torch.multiprocessing.start_processes, start_method="forkserver")
        torch.multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
        monkeypatch.setattr(torch.multiprocessing, "spawn", fork)
    settings = {"n_blocks": 1, "batch_size": 1, "patch_size": 32, "steps": 1}
    ratios = benchmark.scaling(most=2, **settings, out=tmp_path)
    assert ratios["1 process"] == 1 and ratios["2 processes"] > 0
    one, two = written(tmp_path, "scaling").values()
    assert two["efficiency"] == pytest.approx(one["seconds"] / two["seconds"])
    with pytest.raises(ValueError, match="most is 1000"):
        benchmark.scaling(most=1000)


def _keep(megabytes):
    kept = torch.ones(megabytes, 1000, 250)
    return lambda k: kept.sum()


def test_peak_memory_is_of_a_process_of_its_own():
    mine = torch.ones(1000, 1000, 500)  # 2 GB
    peak = peak_memory(partial(_keep, 400), CPU)
    assert peak is None or 400 < peak < 1500 < mine.nbytes / 1e6


def test_ratio_and_ceiling_are_of_medians(tmp_path, monkeypatch, capsys):
    times = iter([4.0, 1.0, 9.0, 3.0, 5.0, 1.0])  # of two sides in turn, three rounds
    monkeypatch.setattr("scripts.benchmarks.measuring._time", lambda *arguments: next(times))
    sides = [Side(name, lambda: lambda k: None, images=2) for name in ("a", "b")]
    options = {"unit": "images", "rounds": 3, "out": tmp_path, "device": CPU, "peaks": False}
    assert measure("part", sides, **options) == {"a": 1, "b": 5}
    assert written(tmp_path, "part")["b"]["per_second"] == 2
    assert "5.00" in capsys.readouterr().out


def test_benchmark_of_the_tiles_measures_every_model(capsys):
    differences = benchmark.tiles(models=("bicubic",), tile=120, device="cpu")
    assert len(differences["bicubic"]) == 4 and max(differences["bicubic"]) < 0.01
    assert "bicubic" in capsys.readouterr().out


def test_benchmark_of_rounding_compares_bfloat16_with_full_precision(dataset, tmp_path, capsys):
    torch.manual_seed(0)
    path = tmp_path / "a.pth"
    checkpoint.save(path, GeneratorRRDB(1, 8, 4).state_dict())
    folders = {"lr": dataset.valid_lr, "hr": dataset.valid_hr}
    rows = benchmark.rounding(models=("bicubic", str(path)), **folders, size=24)
    assert rows["bicubic"]["mean"] == rows["bicubic"]["gain_db"] == 0
    row = rows[str(path)]
    assert 0 < row["mean"] <= row["worst_photo"] < 0.25 and abs(row["gain_db"]) < 0.01
    assert "gain, dB" in capsys.readouterr().out


def test_benchmark_of_memory_trains_each_script(dataset, tmp_path, monkeypatch):
    name = "ESRGAN, GAN stage"
    pairs = list_pairs(dataset.lr, dataset.hr)
    monkeypatch.setattr(benchmark, "large_photos", lambda folder, n_photos: pairs[:n_photos])
    small = {"n_blocks": 1, "n_features": 8, "growth": 4, "batch_size": 2, "patch_size": 32}
    monkeypatch.setattr(benchmark, "train_two_steps", partial(train_two_steps, **small))
    peaks = benchmark.memory(scripts=(name,), out=tmp_path, device="cpu")
    assert peaks[name] is None or 200 < peaks[name] < 3000
    assert written(tmp_path, "memory")[name]["peak_memory_mb"] == peaks[name]
    with pytest.raises(ValueError, match=r"scripts holds \['ESRGAN'\], expected some of"):
        benchmark.memory(scripts=("ESRGAN",), out=tmp_path)


def test_benchmark_of_the_allocator_times_steps_of_a_script(dataset, tmp_path, monkeypatch):
    pairs = list_pairs(dataset.lr, dataset.hr)
    monkeypatch.setattr(benchmark, "large_photos", lambda folder, n_photos: pairs[:n_photos])
    edsr = METHODS["edsr"]
    small = partial(edsr.train, n_blocks=1, n_features=8, batch_size=2, patch_size=32)
    monkeypatch.setitem(benchmark.METHODS, "edsr", edsr._replace(train=small))
    ratios = benchmark.allocator(scripts=("edsr",), rounds=1, out=tmp_path)
    sides = written(tmp_path, "allocator")
    assert ratios["EDSR, given back"] == 1 and ratios["EDSR, kept"] > 0
    seconds = [sides[f"EDSR, {side}"]["seconds"] for side in ("given back", "kept")]
    assert ratios["EDSR, kept"] == pytest.approx(seconds[0] / seconds[1])
    with pytest.raises(ValueError, match=r"'vdsr'.*expected some of cyclegan_v1"):
        benchmark.allocator(scripts=("vdsr",))


def test_benchmark_of_precision_trains_in_both_from_one_seed(tmp_path, monkeypatch, capsys):
    seen = []

    def psnr_and_seconds(folders, seed, bfloat16, sizes, device):
        seen.append((seed, bfloat16))
        return {0: 28.0, 1: 28.5, 2: 27.0}[seed] + bfloat16 * (0.1 * seed - 0.2), 4.0 - bfloat16

    monkeypatch.setattr(benchmark, "builtin_photos", lambda out: [out] * 4)
    monkeypatch.setattr(benchmark, "psnr_and_seconds", psnr_and_seconds)
    reached = benchmark.precision(seeds=(0, 1, 2), n_epochs=2, steps_per_epoch=6, out=tmp_path)
    assert seen == [(seed, bfloat16) for seed in range(3) for bfloat16 in (False, True)]
    assert reached == pytest.approx({"full precision": 83.5 / 3, "bfloat16": 83.5 / 3 - 0.1})
    full, half = written(tmp_path, "precision").values()
    assert full["per_second"] == 3 and half["ratio"] == pytest.approx(4 / 3)
    # Differences are -0.2, -0.1 and 0: their mean's standard error is 0.1 / sqrt(3).
    shown = capsys.readouterr().out
    assert "bfloat16_over_full_db: -0.1\n" in shown and "standard_error_db: 0.05774\n" in shown
    with pytest.raises(ValueError, match="seeds"):
        benchmark.precision(seeds=())


def test_a_run_of_the_precision_benchmark_trains(dataset):
    sizes = {"n_epochs": 1, "steps_per_epoch": 2}
    full, half = (
        psnr_and_seconds(dataset.folders(), 0, bfloat16, sizes, "cpu") for bfloat16 in (False, True)
    )
    assert full[0] != half[0] and full[0] == pytest.approx(half[0], abs=1)
    assert min(full[1], half[1]) > 0


def test_benchmark_of_degradation_compares_both_steps(tmp_path):
    ratios = benchmark.degradation(
        n_blocks=1, batch_size=1, patch_size=32, n_photos=1, workers=0, rounds=1, out=tmp_path
    )
    assert ratios.keys() == {"LR of HR by second_order", "LR photos"}
    assert (tmp_path / "degradation.json").exists()
