"""A page in the browser: drop a photo, choose a checkpoint, see before and after.

    pip install "gradio>=6"
    python scripts/demo.py

Checkpoints are found in the repository (runs/ of each model), or in the folders and files that are
named. The page is on this machine only; --host 0.0.0.0 shows it to others in the network.
"""

import functools
import sys
import tempfile
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import common  # noqa: F401, it says what is not installed

import pyvips
import tyro

from common.device import choose_device, describe
from common.run.flags import command_line
from scripts.inference.models import Model, load_model
from scripts.inference.photos import Photo, convert, open_photo, resample
from scripts.upscale import Job, Settings, enlarge

ROOT = Path(__file__).resolve().parents[1]
_SUFFIXES = {".pth", ".safetensors"}
# What the train scripts write besides the networks that enlarge.
_OTHERS = {
    "state",
    "state_previous",
    "damaged_state",
    "damaged_state_previous",
    "discriminator",
    "recognition",
    "F_HR2LR",
    "D_HR",
    "D_LR",
}
_SHOWN = 1600  # pixels, at most, of a picture on the page; the download has all
_MOST_SAMPLES = 8


def demo(
    checkpoints: tyro.conf.Positional[tuple[Path, ...]] = (),  # files, folders; none: runs/ here
    *,
    host: str = "127.0.0.1",  # 0.0.0.0: for others in the network as well
    port: int = 7860,
    open_browser: bool = True,  # open the page
    device: str = "auto",  # a GPU where there is one; or "cuda", "cuda:1", "cpu"
) -> None:
    """Show the page until Ctrl-C.

    Raises:
        ValueError: a path is missing.
        ImportError: gradio is not installed.
    """
    page, options = build(find_checkpoints(checkpoints), device)
    print(f"http://{host}:{port} (Ctrl-C ends it)")
    page.launch(server_name=host, server_port=port, inbrowser=open_browser, **options)


def find_checkpoints(paths: tuple[Path, ...]) -> list[str]:
    """Return "bicubic" and the checkpoints in files and folders; none named: in the repository.

    Raises:
        ValueError: a path is missing.
    """
    found: list[Path] = []
    for path in paths or (ROOT,):
        if not path.exists():
            raise ValueError(f"{path}: there is no such file or folder")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inside:
            below = file.relative_to(path).parts
            hidden = any(part.startswith(".") for part in below)
            if file.suffix in _SUFFIXES and file.stem not in _OTHERS and not hidden:
                found.append(file)
    return ["bicubic", *map(str, found)]


@functools.lru_cache(maxsize=2)
def _load(checkpoint: str, written: float, device: str) -> Model:
    return load_model(checkpoint, device)


def build(checkpoints: list[str], device: str) -> tuple[Any, dict[str, Any]]:
    """Return the page (a gradio.Blocks) and what `launch` needs for it.

    Raises:
        ImportError: gradio is not installed, or an old one.
    """
    try:
        import gradio as gr

        if int(gr.__version__.split(".")[0]) < 6:
            raise ImportError(f"gradio {gr.__version__}")
    except ImportError as error:
        raise ImportError(f'the page needs gradio: pip install "gradio>=6" ({error})') from None
    where = choose_device(device)
    results = tempfile.TemporaryDirectory(prefix="super_resolution_")  # goes when the page does

    def model_of(checkpoint: str) -> Model:
        if checkpoint not in checkpoints:  # the page's users choose among them, no other files
            raise gr.Error("this checkpoint is not among those found", duration=None)
        written = 0.0 if checkpoint == "bicubic" else Path(checkpoint).stat().st_mtime
        return _load(checkpoint, written, str(where))

    def has_samples(checkpoint: str) -> tuple[Any, Any]:
        try:
            shown = model_of(checkpoint).has_samples
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), duration=None) from None
        return gr.update(visible=shown), gr.update(visible=shown)

    def run(
        file: str | None,
        checkpoint: str,
        scale: float,
        n: float,
        temperature: float,
        progress: Any = gr.Progress(),  # noqa: B008, gradio finds it there
    ) -> tuple[Any, Any, Any, str]:
        if not file:
            raise gr.Error("Choose a photo first", duration=None)
        folder = Path(tempfile.mkdtemp(dir=results.name))
        photo = Path(file)
        try:
            opened = open_photo(photo)
            height, width = opened.size
            model = model_of(checkpoint)
            seen = 0

            def done(pixels: int) -> None:
                nonlocal seen
                seen += pixels
                progress((min(seen, height * width), height * width), unit="pixels")

            progress((0, height * width), unit="pixels")
            result = folder / f"{photo.stem}_x{scale:g}.png"
            plain = Settings(scale, 0, 0.0, 0, 95, False)
            enlarge(model, Job(photo, [result]), plain, done)
            files = [result]
            versions = []
            if n and model.has_samples:
                seen = 0
                versions = [folder / f"{photo.stem}_sample_{i}.png" for i in range(1, int(n) + 1)]
                drawn = Settings(scale, int(n), temperature, 0, 95, False)
                enlarge(model, Job(photo, versions), drawn, done)
                files += versions
        except (ValueError, OSError, MemoryError) as error:
            # The browser's copy lies in a folder that says nothing to the user.
            raise gr.Error(str(error).replace(str(photo), photo.name), duration=None) from None
        after = _preview(result, folder / "after.png")
        before = _enlarged_preview(opened, after, folder / "before.png")
        gallery = [
            (str(_preview(path, folder / f"shown_{i}.png")), f"sample {i}")
            for i, path in enumerate(versions, 1)
        ]
        shown = pyvips.Image.new_from_file(str(result))
        text = (
            f"{width}x{height} to {shown.width}x{shown.height}, {model.name} on {describe(where)}"
        )
        return (
            (str(before), str(after)),
            gr.update(value=gallery, visible=bool(gallery)),
            gr.update(value=[str(path) for path in files], visible=True),
            text,
        )

    with gr.Blocks(
        title="Super-resolution", analytics_enabled=False, delete_cache=(600, 3600)
    ) as page:
        gr.Markdown("# Super-resolution\nDrop a photo, choose a checkpoint, enlarge.")
        with gr.Row():
            with gr.Column(scale=1):
                file = gr.File(label="Photo (PNG, JPEG, WebP, TIFF)", file_count="single")
                names = [(_title(c), c) for c in checkpoints]
                checkpoint = gr.Dropdown(names, value=checkpoints[-1], label="Checkpoint")
                scale = gr.Slider(1, 8, value=4, step=0.5, label="Scale")
                shown = _load_quietly(model_of, checkpoints[-1])
                n = gr.Slider(0, _MOST_SAMPLES, value=4, step=1, label="Samples", visible=shown)
                temperature = gr.Slider(
                    0, 1.5, value=1.0, step=0.1, label="Temperature", visible=shown
                )
                button = gr.Button("Enlarge", variant="primary")
            with gr.Column(scale=2):
                slider = gr.ImageSlider(label="Bicubic and enlarged", interactive=False)
                text = gr.Markdown()
                gallery = gr.Gallery(label="Samples", visible=False, columns=4, height="auto")
                files = gr.File(label="Download", visible=False, interactive=False)
        checkpoint.change(has_samples, checkpoint, [n, temperature])
        inputs = [file, checkpoint, scale, n, temperature]
        button.click(run, inputs, [slider, gallery, files, text])
    # Fonts of the system: gradio's own come from Google, and the page shall work without a network.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return page, {"theme": theme, "share": False, "quiet": True}


def _load_quietly(model_of: Any, checkpoint: str) -> bool:
    """Return whether the first checkpoint has samples; what is wrong with it is said when used."""
    try:
        return model_of(checkpoint).has_samples
    except (ValueError, OSError):
        return False


def _title(checkpoint: str) -> str:
    path = Path(checkpoint)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else checkpoint


def _preview(source: Path, target: Path) -> Path:
    """Write a picture of at most `_SHOWN` pixels a side, 8 bits, and return its path."""
    image = pyvips.Image.thumbnail(str(source), _SHOWN, height=_SHOWN, size="down")
    image.write_to_file(str(target))
    return target


def _enlarged_preview(photo: Photo, like: Path, target: Path) -> Path:
    """Write the photo, enlarged by bicubic to the size of the picture `like`; return its path."""
    size = pyvips.Image.new_from_file(str(like))
    image = resample(photo.colour, size.height, size.width)
    convert(image, photo.colour.format, "uchar").write_to_file(str(target))
    return target


if __name__ == "__main__":
    command_line(demo)
