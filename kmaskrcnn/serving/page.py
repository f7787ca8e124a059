"""`kmaskrcnn app`: a page in the browser to try a model on pictures.

    picture -> detect, once -> Detections -> threshold and classes -> drawn picture, COCO json

Nothing leaves the machine: no telemetry, no fonts or scripts of others.
"""

import json
import os
import tempfile
import uuid
from collections import Counter
from pathlib import Path

import gradio as gr

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


class Page:
    """What the page does; the methods are called with what its elements hold.

    Args:
        predictor: a `Predictor`.
    """

    def __init__(self, predictor):
        self.predictor = predictor
        self.folder = tempfile.TemporaryDirectory(prefix="kmaskrcnn_")

    def detect(self, picture):
        """The `Detections` of a picture, `(H, W, 3)` uint8 RGB; None where there is no picture."""
        if picture is None:
            return None
        try:
            return self.predictor(picture)
        except ValueError as error:
            raise gr.Error(str(error)) from error

    def show(self, picture, detections, min_score, names):
        """The drawn picture, enlarged if it is small, a line about it, and the path of its COCO json.

        Args:
            picture: as for `detect`.
            detections: what that gave.
            min_score: what scores less is left out.
            names: of the classes to show; none for all.
        """
        if picture is None or detections is None:
            return None, "", None
        chosen = detections.filter(min_score, names=names or None)
        counts = Counter(chosen.names).most_common()
        line = ", ".join(f"{count} {name}" for name, count in counts) or "nothing found"
        scale = max(1, SHOWN / max(picture.shape[:2]))
        drawn = draw_detections(picture, chosen, min_score=0.0, scale=scale)
        return drawn, line, self._write(chosen)

    def _write(self, detections):
        # A folder each, so that every download has the same name.
        path = Path(self.folder.name, uuid.uuid4().hex, "detections.json")
        path.parent.mkdir()
        category_ids = self.predictor.config.category_ids or None
        path.write_text(json.dumps(detections.to_coco(1, category_ids)))
        return str(path)

    def blocks(self):
        """The page's elements, a `gradio.Blocks`."""
        with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
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
            inputs, outputs = [picture, found, score, classes], [drawn, line, download]
            picture.change(self.detect, picture, found).then(self.show, inputs, outputs)
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
