"""`kmaskrcnn app`: a page in the browser to try a model on pictures.

    picture -> detect, once -> Detections -> threshold and classes -> drawn picture, COCO json

Nothing leaves the machine: no telemetry, no fonts or scripts of others.
"""

import dataclasses
import json
import os
import tempfile
from collections import Counter
from pathlib import Path

import gradio as gr
import numpy as np

from kmaskrcnn.detections import Detections
from kmaskrcnn.serving.predictor import Predictor
from kmaskrcnn.visualize import draw_detections

TITLE = "Find objects"
SYSTEM_FONTS = {
    "font": ["system-ui", "sans-serif"],
    "font_mono": ["ui-monospace", "monospace"],
}
SHOWN = 960  # pixels of the drawn picture's long side, at least: names on smaller ones could not be read
# Without the button that shares a picture on a site of others.
IMAGE = {"type": "numpy", "height": 480, "buttons": ["download", "fullscreen"]}
# Seconds: how often what Gradio keeps of pictures and downloads is looked through, and the age from which it goes.
CACHE = (600, 3600)


@dataclasses.dataclass(frozen=True)
class Found:
    """What the page of one visitor holds: a picture with its own objects, so that no other's are drawn on it.

    Args:
        folder: of its download, `str`; the file in it is written anew.
        picture: `(H, W, 3)` uint8 RGB, or None.
        detections: its `Detections`, or None.
    """

    folder: str
    picture: np.ndarray | None = None
    detections: Detections | None = None


class Page:
    """What the page does; the methods are called with what its elements hold.

    Args:
        predictor: a `Predictor`.
    """

    def __init__(self, predictor):
        self.predictor = predictor
        self.folder = tempfile.TemporaryDirectory(prefix="kmaskrcnn_")

    def detect(self, picture, before=None):
        """What is found in a picture.

        Args:
            picture: `(H, W, 3)` uint8 RGB, or None where there is none.
            before: the `Found` of the picture before, or None.

        Returns:
            `Found`.

        Raises:
            gradio.Error: the array is no picture.
        """
        folder = before.folder if before else tempfile.mkdtemp(dir=self.folder.name)
        if picture is None:
            return Found(folder)
        try:
            return Found(folder, picture, self.predictor(picture))
        except ValueError as error:
            raise gr.Error(str(error)) from error

    def show(self, found, min_score, names):
        """The drawn picture, enlarged if it is small, a line about it, and the path of its COCO json.

        Args:
            found: what `detect` gave, or None.
            min_score: what scores less is left out.
            names: of the classes to show; none for all.
        """
        if found is None or found.picture is None:
            return None, "", None
        chosen = found.detections.filter(min_score, names=names or None)
        counts = Counter(chosen.names).most_common()
        line = ", ".join(f"{count} {name}" for name, count in counts) or "nothing found"
        scale = max(1, SHOWN / max(found.picture.shape[:2]))
        drawn = draw_detections(found.picture, chosen, min_score=0.0, scale=scale)
        return drawn, line, self._write(chosen, found.folder)

    def _write(self, detections, folder):
        path = Path(folder, "detections.json")
        category_ids = self.predictor.config.category_ids or None
        path.write_text(json.dumps(detections.to_coco(1, category_ids)))
        return str(path)

    def blocks(self):
        """The page's elements, a `gradio.Blocks`."""
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=CACHE) as blocks:
            found = gr.State()
            with gr.Row():
                picture = gr.Image(sources=["upload", "clipboard"], label="Picture", **IMAGE)
                with gr.Column():
                    drawn = gr.Image(label="Found", interactive=False, format="png", **IMAGE)
                    line = gr.Markdown(elem_id="line")
            with gr.Row():
                score = gr.Slider(0, 1, 0.5, step=0.01, label="Least score", elem_id="score")
                classes = gr.Dropdown(
                    list(self.predictor.config.class_names),
                    multiselect=True,
                    label="Classes (none: all)",
                    elem_id="classes",
                )
                download = gr.DownloadButton("COCO json", elem_id="download")
            inputs, outputs = [found, score, classes], [drawn, line, download]
            # The results of the picture before go first: where a new one is refused, none stand beside it.
            cleared = picture.change(lambda: (None, "", None), None, outputs)
            detected = cleared.then(self.detect, [picture, found], found)
            detected.success(self.show, inputs, outputs)
            score.change(self.show, inputs, outputs, show_progress="hidden")
            classes.change(self.show, inputs, outputs, show_progress="hidden")
        return blocks


def run_page(model, host="127.0.0.1", port=7860, wait=True):
    """Show the page until Ctrl-C.

    Args:
        model: what `Predictor` takes.
        host: address to listen on; the default is reached from this machine alone.
        port: to listen on; None takes a free one from 7860 on.
        wait: False returns once the page can be reached; close it with `.close()`.

    Returns:
        The `gradio.Blocks`.
    """
    # Gradio asks for it in more places than the elements' `analytics_enabled`.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    blocks = Page(Predictor(model)).blocks()
    blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        footer_links=[],
        theme=gr.themes.Default(**SYSTEM_FONTS),
        prevent_thread_lock=not wait,
    )
    return blocks
