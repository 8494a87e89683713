"""A page in the browser: drop a photo, choose a checkpoint, see before and after.

    pip install "gradio>=6"
    python scripts/demo.py

Checkpoints are found in the repository (runs/ of each model), or in the folders and files that are
named. The page is on this machine only; --host 0.0.0.0 shows it to others in the network.

Results are deleted when their visitor makes others, leaves, or after an hour; all of them when the
page ends.
"""

import functools
import html
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import common  # noqa: F401, it says what is not installed

import tyro

from common.run.flags import command_line
from scripts.inference.models import Precision
from scripts.inference.pictures import example_photos
from scripts.inference.service import (
    Bounds,
    Service,
    Wish,
    find_checkpoints,
    first_choice,
    titles_of,
)
from scripts.inference.visits import Stopped

_MOST_SAMPLES = 8
_KEPT = 3600  # seconds, of photos and results
_CSS = """
.compared {position: relative}
.compared > .sides {position: absolute; inset: auto 8px 8px; z-index: 20; pointer-events: none}
.compared > .sides {width: auto !important}
.sides p {display: flex; justify-content: space-between; align-items: end; gap: 3rem}
.sides span {padding: 1px 6px; border-radius: 4px; font-size: var(--text-xs)}
.sides span {background: #000a; color: white; overflow-wrap: anywhere}
.samples .grid-wrap {max-height: none; padding-top: 2rem}
.status .translucent {background: var(--block-background-fill)}
.status .progress-text:has(+ .progress-level) {display: none}
input[role=combobox] {padding-right: 3rem !important; text-overflow: ellipsis}
"""


def demo(
    checkpoints: tyro.conf.Positional[tuple[Path, ...]] = (),  # files, folders; none: runs/ here
    *,
    host: str = "127.0.0.1",  # 0.0.0.0: for others in the network as well
    port: int = 7860,
    open_browser: bool = True,  # open the page
    megapixels: float = 16.0,  # of a photo, at most
    megapixels_made: float = 256.0,  # of all pictures made of it at a time, at most
    device: str = "auto",  # a GPU where there is one; or "cuda", "cuda:1", "cpu"
    precision: Precision = "auto",  # auto: bfloat16 where that is fast and costs little
) -> None:
    """Show the page until Ctrl-C.

    Raises:
        ValueError: a path is missing, or megapixels are not above 0.
        ImportError: gradio is not installed.
    """
    if megapixels <= 0 or megapixels_made <= 0:
        raise ValueError(
            f"megapixels {megapixels:g}, megapixels made {megapixels_made:g}: expected above 0"
        )
    found = find_checkpoints(checkpoints)
    # Loading a network silences this, but another thread's `catch_warnings` may undo that.
    warnings.filterwarnings("ignore", "for .* copying from a non-meta parameter")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the folder goes
    with tempfile.TemporaryDirectory(prefix="super_resolution_") as folder:
        served, examples = Path(folder, "served"), Path(folder, "examples")
        served.mkdir()
        examples.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(served)  # what lies there is shown without a copy
        bounds = Bounds(megapixels, megapixels_made)
        service = Service(found, device, served, bounds, precision)
        page, options = build(service, example_photos(examples))
        print(f"http://{host}:{port} (Ctrl-C ends it)")
        try:
            page.launch(server_name=host, server_port=port, inbrowser=open_browser, **options)
        finally:
            service.visits.end()


def build(service: Service, examples: list[Path], kept: int = _KEPT) -> tuple[Any, dict[str, Any]]:
    """Return the page (a gradio.Blocks) and what `launch` needs for it.

    Args:
        examples: photos to be clicked.
        kept: seconds that photos and results are kept for, at most.
    Raises:
        ImportError: gradio is not installed, or an old one.
    """
    try:
        import gradio as gr

        if int(gr.__version__.split(".")[0]) < 6:
            raise ImportError(f"gradio {gr.__version__}")
    except ImportError as error:
        raise ImportError(f'the page needs gradio: pip install "gradio>=6" ({error})') from None

    @contextmanager
    def shown_errors(file: str | None = None) -> Iterator[None]:
        try:
            yield
        except Stopped:  # nobody waits for it
            raise gr.Error("Stopped", visible=False, print_exception=False) from None
        except (ValueError, OSError, MemoryError) as error:
            # The browser's copy lies in a folder that says nothing to the user.
            text = str(error).replace(file, Path(file).name) if file else str(error)
            raise gr.Error(text, duration=None, print_exception=False) from None

    def show_photo(file: str | None) -> Any:
        if not file:
            return gr.update(value=None, visible=False)
        with shown_errors(file):
            picture, (height, width) = service.look_at(Path(file))
        return gr.update(value=picture, label=f"Your photo, {width}x{height}", visible=True)

    def choose(checkpoint: str) -> tuple[Any, Any]:
        with shown_errors():
            shown = gr.update(visible=service.model(checkpoint).has_samples)
            return gr.update(info=service.good_for(checkpoint)), shown

    def run(
        file: str | None,
        checkpoint: str,
        compared: str,
        scale: float,
        n: float,
        temperature: float,
        seed: int | None,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008, gradio finds it there
    ) -> tuple[Any, ...]:
        with shown_errors(file):
            if not file:
                raise ValueError("Choose a photo first")
            wish = Wish(Path(file), checkpoint, compared, scale, int(n), temperature, seed or 0)
            done = functools.partial(progress, unit="pixels")
            made = service.make(request.session_hash, wish, done)
        gallery = [(str(path), f"sample {i}") for i, path in enumerate(made.shown_samples, 1)]
        label = f"Samples, seed {wish.seed}, temperature {temperature:g}"
        downloads = [str(path) for path in (*made.results, *made.samples)]
        other = titles[compared] if len(made.results) > 1 else None
        return (
            gr.update(visible=True),
            (str(made.before), str(made.after)),
            _sides(titles[checkpoint], other),
            made.text,
            gr.update(value=gallery, label=label, visible=bool(gallery)),
            gr.update(value=downloads, visible=True),
        )

    def stop(request: gr.Request) -> str:
        service.visits.stop(request.session_hash)
        return "Stopped."

    def leave(request: gr.Request) -> None:
        service.visits.leave(request.session_hash)

    titles = titles_of(service.checkpoints)
    names = [(title, path) for path, title in titles.items()]
    first, info, has_samples = first_choice(service.checkpoints), None, False
    with suppress(ValueError, OSError):  # what is wrong with it is said when it is used
        info, has_samples = service.good_for(first), service.model(first).has_samples
    cleared = (max(1, kept // 6), kept)
    with gr.Blocks(title="Super-resolution", analytics_enabled=False, delete_cache=cleared) as page:
        gr.Markdown("# Super-resolution\nChoose a photo and a checkpoint, and enlarge it.")
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                file = gr.File(label="Photo (PNG, JPEG, WebP, TIFF)", height=150)
                photo = gr.Image(
                    format="png",
                    height=200,
                    visible=False,
                    interactive=False,
                    buttons=["fullscreen"],
                )
                clicked = gr.Dataset(
                    label="Or click an example",
                    components=[gr.Image(visible=False)],
                    samples=[[str(path)] for path in examples],
                    visible=bool(examples),
                )
                checkpoint = gr.Dropdown(names, value=first, label="Checkpoint", info=info)
                compared = gr.Dropdown(
                    names, value="bicubic", label="Compare with", info="Shown on the left."
                )
                scale = gr.Slider(1, 8, value=4, step=0.5, label="Scale")
                with gr.Column(visible=has_samples) as drawing:
                    n = gr.Slider(0, _MOST_SAMPLES, value=4, step=1, label="Samples")
                    temperature = gr.Slider(0, 1.5, value=1.0, step=0.1, label="Temperature")
                    seed = gr.Number(value=0, precision=0, minimum=0, label="Seed")
                with gr.Row():
                    button = gr.Button("Enlarge", variant="primary")
                    cancel = gr.Button("Cancel")
            with gr.Column(scale=2, min_width=320):
                with gr.Column(visible=False, elem_classes="compared") as view:
                    slider = gr.ImageSlider(
                        label="Before and after",
                        show_label=False,
                        interactive=False,
                        buttons=["fullscreen"],
                    )
                    sides = gr.HTML(elem_classes="sides", padding=False)
                text = gr.Markdown(
                    "The enlarged photo comes here.",
                    container=True,
                    min_height=80,
                    elem_classes="status",
                )
                gallery = gr.Gallery(visible=False, columns=2, elem_classes="samples")
                files = gr.File(label="Download", visible=False, interactive=False)
        clicked.click(lambda sample: sample[0], clicked, file)
        file.change(show_photo, file, photo)
        checkpoint.change(choose, checkpoint, [checkpoint, drawing])
        inputs = [file, checkpoint, compared, scale, n, temperature, seed]
        outputs = [view, slider, sides, text, gallery, files]
        work = button.click(run, inputs, outputs, show_progress_on=text, api_name="enlarge")
        cancel.click(stop, None, text, queue=False, cancels=work, api_name="cancel")
        page.unload(leave)
    # Fonts of the system: gradio's own come from Google, and the page shall work without a network.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    theme.set(block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300")
    largest = int(8e6 * service.bounds.photo) + 2**20  # bytes: RGBA of 16 bits, and some more
    options = {"theme": theme, "css": _CSS, "max_file_size": largest, "share": False, "quiet": True}
    options["footer_links"] = []
    return page, options


def _sides(chosen: str, compared: str | None) -> str:
    """Return what stands above the slider: what is left, and what is right."""
    left, right = "Before: bicubic", f"After: {chosen}"
    if compared:
        left, right = f"Left: {compared}", f"Right: {chosen}"
    return f"<p><span>{html.escape(left)}</span><span>{html.escape(right)}</span></p>"


if __name__ == "__main__":
    command_line(demo)
