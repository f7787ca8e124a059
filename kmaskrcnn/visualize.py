"""Pictures of detections and ground truth, and the curves of a training run.

    picture + Detections -> masks, outlines, boxes, skeletons -> name plates on top -> picture

Everything is drawn on a copy with OpenCV, in RGB, and scales with the picture.
"""

import csv
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kmaskrcnn.detections import Detections
from kmaskrcnn.geometry.masks import paste_windows
from kmaskrcnn.geometry.segmentations import rasterise_in_box

# Okabe and Ito, "Color universal design" (2008), without black; ordered so that neighbours differ.
PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (204, 121, 167),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
)
FONT = cv2.FONT_HERSHEY_SIMPLEX
MASK_OPACITY = 0.45
MANY = 20
LEAST_KEYPOINT = 0.05  # keypoints that score less are not drawn (Detectron2's bound)


def draw_detections(
    image,
    detections,
    *,
    min_score=0.5,
    show_boxes=True,
    show_masks=True,
    show_keypoints=True,
    show_labels=True,
    color_by="instance",
    threshold=0.5,
    scale=1,
):
    """Draw what was found: translucent masks with outlines, boxes, skeletons, names and scores.

    Args:
        image: `(H, W, 3)` uint8, RGB.
        detections: `Detections` of this picture.
        min_score: what scores less is not drawn.
        show_boxes, show_masks, show_keypoints, show_labels: what to draw of what there is; of
            keypoints those that score 0.05 or more.
        color_by: `"instance"` tells touching objects apart, `"class"` classes.
        threshold: a pixel belongs to a mask from this probability on.
        scale: enlarges the picture first, so that small objects and their names are legible.

    Returns:
        `(round(H * scale), round(W * scale), 3)` uint8, RGB; `image` stays as it is.

    Raises:
        ValueError: `image` is not such an array, has another size than the picture that the
            detections belong to, or `color_by` is unknown.
    """
    if color_by not in ("instance", "class"):
        raise ValueError(f"color_by: 'instance' or 'class' wanted, got {color_by!r}.")
    detections = detections.filter(min_score)
    names = _name_once(detections.names)
    texts = [f"{name} {score:.2f}".strip() for name, score in zip(names, detections.scores)]
    shown = {
        "boxes": show_boxes,
        "masks": show_masks,
        "keypoints": show_keypoints,
        "labels": show_labels,
    }
    return _draw(image, detections, texts, shown, color_by, threshold, scale)


def draw_ground_truth(
    image, record, class_names=(), *, keypoints=None, color_by="instance", scale=1
):
    """Draw a picture's ground truth as `draw_detections` draws detections; crowds say so.

    Args:
        image: `(H, W, 3)` uint8, RGB.
        record: the picture's record: `height`, `width` and `instances`, each with `box`, `label`,
            `is_crowd`, `segmentation` and `keypoints` (or None), as `data.records` reads them.
        class_names: names by label.
        keypoints: the dataset's `keypoints`, to draw those too.
        color_by, scale: as for `draw_detections`.

    Returns:
        `(round(H * scale), round(W * scale), 3)` uint8, RGB.
    """
    objects = record.instances
    truth = Detections(
        boxes=[instance.box for instance in objects],
        labels=[instance.label for instance in objects],
        scores=np.ones(len(objects)),
        image_size=(record.height, record.width),
        masks=[_frame(instance) for instance in objects],
        class_names=class_names,
        keypoints=None if keypoints is None else [_points(i, keypoints) for i in objects],
        keypoint_skeleton=() if keypoints is None else keypoints.skeleton,
    )
    texts = [
        f"{name} (crowd)".strip() if instance.is_crowd else name
        for name, instance in zip(_name_once(truth.names), objects)
    ]
    shown = {"boxes": True, "masks": True, "keypoints": True, "labels": True}
    return _draw(image, truth, texts, shown, color_by, 0.5, scale)


def contact_sheet(images, columns=4, gap=8):
    """Lay pictures out in rows, each in the middle of a cell as large as the largest of them.

    Args:
        images: list of `(H, W, 3)` uint8, RGB; sizes may differ.
        columns: pictures in a row.
        gap: pixels between cells and around them.

    Returns:
        `(H', W', 3)` uint8, RGB.

    Raises:
        ValueError: there are no pictures.
    """
    if not images:
        raise ValueError("images: at least one wanted.")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, width = np.max([image.shape[:2] for image in images], axis=0) + gap
    sheet = np.full((rows * height + gap, columns * width + gap, 3), 245, np.uint8)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        top = gap + row * height + (height - gap - image.shape[0]) // 2
        left = gap + column * width + (width - gap - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def plot_history(history, path):
    """Plot a training run: losses on one axis, AP on another.

    Args:
        history: `{name: values by epoch}` as in `keras.callbacks.History.history`, or the path of
            the csv that `keras.callbacks.CSVLogger` writes.
        path: the picture to write; its ending decides the format.

    Raises:
        ValueError: there are neither losses nor AP in `history`.
    """
    history = history if isinstance(history, dict) else _read_csv(history)
    losses = {name: values for name, values in history.items() if name.endswith("loss")}
    scores = {name: values for name, values in history.items() if name.endswith(("_AP", "_AP50"))}
    panels = [(t, c) for t, c in (("loss", losses), ("AP", scores)) if c]
    if not panels:
        raise ValueError(
            f"history: names that end in loss, AP or AP50 wanted, got {list(history)}."
        )
    figure = Figure(figsize=(6 * len(panels), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        _plot_curves(axes, title, curves)
    figure.savefig(path, dpi=120)


def color(index):
    """The RGB color of an instance or a class: 7 that colour-blind eyes tell apart, then shades.

    Args:
        index: int from 0; colors repeat after 21.

    Returns:
        Three ints, 0 ... 255.
    """
    base = np.array(PALETTE[index % len(PALETTE)])
    shade = index // len(PALETTE) % 3
    mixed = (base, 0.5 * base + 127, 0.6 * base)[shade]
    return tuple(int(value) for value in mixed)


def _frame(instance):
    if instance.segmentation is None:
        return np.zeros((112, 112))
    return rasterise_in_box(instance.segmentation, instance.box, 112)


def _points(instance, keypoints):
    """An object's keypoints in continuous pixels; COCO counts a pixel's centre as its number."""
    if instance.keypoints is None:
        return np.zeros((len(keypoints.names), 3))
    return np.array(instance.keypoints) + [0.5, 0.5, 0]


def _name_once(names):
    """Among many objects of one class, the name would hide more than it tells: only the first."""
    if len(names) <= MANY or len(set(names)) > 1:
        return names
    return [names[0], *[""] * (len(names) - 1)]


def _draw(image, detections, texts, shown, color_by, threshold, scale):
    _check_image(image, detections)
    size = [max(1, round(side * scale)) for side in image.shape[:2]]
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    canvas = image.copy() if scale == 1 else cv2.resize(image, size[::-1], interpolation=method)
    enlarged = np.array(size[::-1]) / image.shape[1::-1]
    boxes = detections.boxes * np.tile(enlarged, 2)
    keys = detections.labels if color_by == "class" else range(len(detections))
    colors = [color(int(key)) for key in keys]
    line = max(1, round(max(size) / 400))
    # What counts a pixel's centre as its number lacks half a pixel.
    short = 0.5 if detections.keypoint_rule == "torchvision" else 0.0
    # The best lies on top.
    for index in reversed(range(len(detections))):
        if shown["masks"] and detections.masks is not None:
            (mask,) = paste_windows(
                detections.masks[[index]], boxes[[index]], size, threshold, detections.paste_rule
            )
            _draw_mask(canvas, *mask, colors[index], max(1, line // 2))
        if shown["boxes"]:
            _draw_box(canvas, boxes[index], colors[index], line)
        if shown["keypoints"] and detections.keypoints is not None:
            points = (detections.keypoints[index] + [short, short, 0]) * [*enlarged, 1]
            _draw_skeleton(canvas, points, detections.keypoint_skeleton, colors[index], line)
    if shown["labels"]:
        _draw_labels(canvas, boxes, texts, colors)
    return canvas


def _check_image(image, detections):
    if getattr(image, "dtype", None) != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        given = f"{getattr(image, 'dtype', type(image))} {getattr(image, 'shape', '')}"
        raise ValueError(f"image: (H, W, 3) uint8 wanted, got {given}.")
    if image.shape[:2] != detections.image_size:
        raise ValueError(
            f"image: {image.shape[:2]} is not the size of the detections' picture, "
            f"{detections.image_size}."
        )


def _draw_mask(canvas, window, top, left, rgb, line):
    part = canvas[top : top + window.shape[0], left : left + window.shape[1]]
    blend = (1 - MASK_OPACITY) * part[window] + MASK_OPACITY * np.array(rgb)
    part[window] = np.rint(blend).astype(np.uint8)
    outlines, _ = cv2.findContours(
        window.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(left, top)
    )
    cv2.drawContours(canvas, outlines, -1, rgb, line, cv2.LINE_AA)


def _draw_box(canvas, box, rgb, line):
    x1, y1, x2, y2 = (int(value) for value in np.rint(box))
    cv2.rectangle(canvas, (x1, y1), (max(x1, x2 - 1), max(y1, y2 - 1)), rgb, line)


def _draw_skeleton(canvas, points, skeleton, rgb, line):
    """Lines with a dark rim, so that they show on their own mask, and dots where they end."""
    # Continuous pixels: OpenCV's centre of pixel i is i. It takes 4 bits of fraction.
    places = np.rint((points[:, :2] - 0.5) * 16).astype(int)
    seen = points[:, 2] >= LEAST_KEYPOINT
    ends = [(a, b) for a, b in skeleton if seen[a] and seen[b]]
    for tint, width in (((0, 0, 0), 3 * line), (rgb, line)):
        for a, b in ends:
            cv2.line(canvas, places[a].tolist(), places[b].tolist(), tint, width, cv2.LINE_AA, 4)
    for tint, radius in (((0, 0, 0), 3 * line), ((255, 255, 255), 2 * line)):
        for place in places[seen].tolist():
            cv2.circle(canvas, place, radius * 16, tint, cv2.FILLED, cv2.LINE_AA, 4)


def _draw_labels(canvas, boxes, texts, colors):
    """Plates with names, the best first; what finds no free place is left out.

    Of two plates on top of each other neither can be read.
    """
    font_scale = max(0.35, max(canvas.shape) / 1600)
    stroke = max(1, round(font_scale * 1.2))
    taken = np.zeros(canvas.shape[:2], bool)
    for box, text, rgb in zip(boxes, texts, colors):
        if not text:
            continue
        (width, height), below = cv2.getTextSize(text, FONT, font_scale, stroke)
        pad = max(2, height // 4)
        size = width + 2 * pad, height + below + 2 * pad
        place = _find_place(box, size, taken)
        if place is None:
            continue
        left, top = place
        taken[top : top + size[1], left : left + size[0]] = True
        cv2.rectangle(canvas, (left, top), (left + size[0] - 1, top + size[1] - 1), rgb, cv2.FILLED)
        # Rec. 601 luma; from 100 on black is the better ink on every color of the palette.
        ink = (0, 0, 0) if np.dot(rgb, (0.299, 0.587, 0.114)) > 100 else (255, 255, 255)
        origin = left + pad, top + pad + height
        cv2.putText(canvas, text, origin, FONT, font_scale, ink, stroke, cv2.LINE_AA)


def _find_place(box, size, taken):
    """A plate's `(left, top)`: above the box, in its upper edge, below it, or in its lower edge."""
    x1, y1, x2, y2 = (int(value) for value in np.rint(box))
    width, height = size
    for top in (y1 - height, y1, y2, y2 - height):
        for left in (x1, x2 - width):
            # A picture smaller than the plate keeps the name's beginning.
            left = max(0, min(left, taken.shape[1] - width))
            top = max(0, min(top, taken.shape[0] - height))
            if not taken[top : top + height, left : left + width].any():
                return left, top
    return None


def _read_csv(path):
    with open(Path(path), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    # CSVLogger writes NA for what an epoch did not have.
    number = {"NA": np.nan, "": np.nan}
    names = rows[0] if rows else ()
    return {name: [float(number.get(row[name], row[name])) for row in rows] for name in names}


def _plot_curves(axes, title, curves):
    """Curves by epoch; what belongs together shares a color, the second of it is dashed."""
    families = list(dict.fromkeys(_family(name) for name in curves))
    for name, values in curves.items():
        family = _family(name)
        total = family == "loss"
        axes.plot(
            range(1, len(values) + 1),
            values,
            color="black" if total else np.array(color(families.index(family))) / 255,
            linestyle=(
                "--" if name.startswith("val_") and title == "loss" or "box_AP" in name else "-"
            ),
            linewidth=2.2 if total else 1.4,
            marker="o" if len(values) < 20 else None,
            markersize=3,
            label=name,
        )
    axes.set(xlabel="epoch", title=title, ylim=(0, None if title == "loss" else 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _family(name):
    """A loss with its validation; the AP of boxes with that of masks."""
    return name.removeprefix("val_").removeprefix("box_AP").removeprefix("mask_AP")
