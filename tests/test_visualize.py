"""Drawn pictures: what is drawn where, what stays as it was, and that names can be read."""

import dataclasses
import itertools
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from kmaskrcnn.detections import Detections
from kmaskrcnn.visualize import (
    MASK_OPACITY,
    PALETTE,
    color,
    contact_sheet,
    draw_detections,
    draw_ground_truth,
    plot_history,
)


def make(boxes, size=(120, 160), scores=None, labels=None, names=("cat", "dog")):
    """Detections whose masks fill their boxes."""
    return Detections(
        boxes=boxes,
        labels=labels or [0] * len(boxes),
        scores=scores or [0.9] * len(boxes),
        image_size=size,
        masks=np.ones((len(boxes), 28, 28)),
        class_names=names,
    )


def grey(size=(120, 160), value=100):
    return np.full((*size, 3), value, np.uint8)


def pixels_of(image, rgb):
    return np.all(image == rgb, axis=-1)


def test_a_mask_is_blended_where_it_lies_and_nowhere_else():
    image = grey()
    drawn = draw_detections(image, make([[40, 30, 80, 70]]), show_labels=False, show_boxes=False)
    expected = np.rint(100 * (1 - MASK_OPACITY) + np.array(PALETTE[0]) * MASK_OPACITY)
    assert np.all(drawn[33:67, 43:77] == expected)
    np.testing.assert_array_equal(image, grey())
    drawn[29:71, 39:81] = 100
    np.testing.assert_array_equal(drawn, grey())


def test_each_part_can_be_left_out():
    found = make([[40, 30, 80, 70]])
    nothing = dict(show_boxes=False, show_masks=False, show_labels=False)
    np.testing.assert_array_equal(draw_detections(grey(), found, **nothing), grey())
    boxes = draw_detections(grey(), found, **nothing | {"show_boxes": True})
    assert pixels_of(boxes, PALETTE[0]).sum() == 4 * 39
    assert pixels_of(boxes, PALETTE[0])[30, 40] and pixels_of(boxes, PALETTE[0])[69, 79]
    labels = draw_detections(grey(), found, **nothing | {"show_labels": True})
    rows, columns = np.nonzero(pixels_of(labels, PALETTE[0]))
    assert rows.max() < 30 and columns.min() == 40


def test_nothing_found_and_low_scores_leave_the_picture_as_it_is():
    np.testing.assert_array_equal(draw_detections(grey(), make([])), grey())
    weak = make([[40, 30, 80, 70]], scores=[0.49])
    np.testing.assert_array_equal(draw_detections(grey(), weak), grey())
    assert np.any(draw_detections(grey(), weak, min_score=0.4) != 100)


@pytest.mark.parametrize("background", [0, 100, 255])
def test_a_plate_is_whole_and_in_the_picture_wherever_its_box_lies(background):
    only = dict(show_boxes=False, show_masks=False)

    def plate(box):
        drawn = draw_detections(grey(value=background), make([box]), **only)
        rows, columns = np.nonzero(np.any(drawn != background, axis=-1))
        return np.ptp(rows), np.ptp(columns), pixels_of(drawn, PALETTE[0]).sum()

    middle = plate([50, 50, 60, 60])
    for box in (
        [0, 0, 9, 9],
        [150, 0, 160, 9],
        [0, 110, 9, 120],
        [150, 110, 160, 120],
        [0, 0, 160, 120],
    ):
        assert plate(box) == middle


def test_plates_never_lie_on_each_other():
    """Twelve objects at one place: some names find their own, the others are left out."""
    drawn = draw_detections(
        grey(), make([[60, 50, 90, 70]] * 12), show_boxes=False, show_masks=False
    )
    alone = draw_detections(grey(), make([[60, 50, 90, 70]]), show_boxes=False, show_masks=False)
    height, width = (np.ptp(axis) + 1 for axis in np.nonzero(np.any(alone != 100, axis=-1)))
    areas = []
    for index in range(12):
        rows, columns = np.nonzero(pixels_of(drawn, color(index)))
        if len(rows):
            assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (height, width)
            areas.append(height * width)
    assert len(areas) >= 3 and np.any(drawn != 100, axis=-1).sum() == sum(areas)


def test_many_objects_of_one_class_are_named_once():
    boxes = [[x, y, x + 9, y + 9] for x in range(5, 600, 60) for y in range(30, 400, 100)]
    only = dict(show_boxes=False, show_masks=False)

    def width(index, count):
        drawn = draw_detections(grey((400, 600)), make(boxes[:count], (400, 600)), **only)
        return np.ptp(np.nonzero(pixels_of(drawn, color(index)))[1])

    assert width(0, 21) == width(0, 20) == width(1, 20) > 1.5 * width(1, 21)


def test_colors_by_instance_and_by_class():
    found = make([[10, 60, 40, 90], [60, 60, 90, 90], [110, 60, 140, 90]], labels=[1, 0, 1])
    shown = dict(show_labels=False, show_masks=False)
    instances = draw_detections(grey(), found, **shown)
    classes = draw_detections(grey(), found, color_by="class", **shown)
    assert [tuple(instances[60, x].tolist()) for x in (20, 70, 120)] == list(PALETTE[:3])
    assert [tuple(classes[60, x].tolist()) for x in (20, 70, 120)] == [
        PALETTE[1],
        PALETTE[0],
        PALETTE[1],
    ]


def luminance(rgb):
    """WCAG 2's relative luminance."""
    channel = np.array(rgb) / 255
    linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("label", range(21))
def test_names_can_be_read_on_every_color(label):
    found = make([[20, 60, 150, 110]], labels=[label], names=["label"] * 21)
    only = dict(show_boxes=False, show_masks=False, color_by="class")
    drawn = draw_detections(grey(value=128), found, **only)
    values = [luminance(rgb) for rgb in drawn[np.any(drawn != 128, axis=-1)]]
    plate = luminance(color(label))
    best = max((max(v, plate) + 0.05) / (min(v, plate) + 0.05) for v in values)
    # Level AA of WCAG 2 asks for 4.5.
    assert best >= 4.5


def test_colors_are_distinct_for_colour_blind_eyes():
    assert len({color(index) for index in range(21)}) == 21 and color(21) == color(0)
    # Machado et al. (2009), severity 1: protanopia, deuteranopia, tritanopia.
    for matrix in (
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    ):
        seen = np.array(PALETTE) @ np.transpose(matrix)
        apart = [np.abs(one - two).max() for one, two in itertools.combinations(seen, 2)]
        assert min(apart) > 30


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.3, 1, 2.5]), st.integers(0, 5))
def test_any_size_can_be_drawn(height, width, scale, count):
    generator = np.random.default_rng(count)
    corners = generator.uniform(0, 1, (count, 2, 2)) * [width, height]
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).tolist()
    found = make(boxes, (height, width))
    drawn = draw_detections(grey((height, width)), found, scale=scale)
    expected = (max(1, round(height * scale)), max(1, round(width * scale)), 3)
    assert drawn.shape == expected and drawn.dtype == np.uint8


def test_scale_moves_boxes_with_the_picture():
    found = make([[40, 30, 80, 70]])
    only = dict(show_masks=False, show_labels=False)
    drawn = draw_detections(grey(), found, scale=3, **only)
    rows, columns = np.nonzero(pixels_of(drawn, PALETTE[0]))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (90, 209, 120, 239)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((120, 160), np.uint8), r"image: .*\(120, 160\)"),
        (np.zeros((120, 160, 3), np.float32), "image: .*float32"),
        (np.zeros((160, 120, 3), np.uint8), r"image: \(160, 120\) is not the size"),
        ([[1, 2]], "image: .*list"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        draw_detections(image, make([[1, 2, 3, 4]]))
    with pytest.raises(ValueError, match="color_by"):
        draw_detections(grey(), make([]), color_by="score")


def test_ground_truth_is_drawn_as_detections_are():
    def instance(segmentation, **changes):
        values = {"box": (20, 50, 60, 90), "label": 1, "is_crowd": False} | changes
        return SimpleNamespace(segmentation=segmentation, **values)

    def draw(*objects):
        record = SimpleNamespace(height=120, width=160, instances=objects)
        return draw_ground_truth(grey(), record, ("cat", "dog"))

    triangle = draw(instance([[20, 50, 60, 50, 20, 90]]))
    assert tuple(triangle[60, 30]) != (100, 100, 100) and tuple(triangle[80, 50]) == (100,) * 3
    without = draw(instance(None))
    np.testing.assert_array_equal(without[52:88, 22:58], 100)
    plates = [
        pixels_of(draw(instance(None, is_crowd=crowd)), PALETTE[0])[:50].sum() for crowd in (0, 1)
    ]
    assert plates[1] > 1.5 * plates[0]
    np.testing.assert_array_equal(draw(), grey())


def test_contact_sheet_puts_pictures_into_rows():
    images = [grey((10, 20), 1), grey((30, 10), 2), grey((30, 20), 3)]
    sheet = contact_sheet(images, columns=2, gap=4)
    assert sheet.shape == (4 + 2 * 34, 4 + 2 * 24, 3)
    np.testing.assert_array_equal(sheet[14:24, 4:24], images[0])
    np.testing.assert_array_equal(sheet[4:34, 33:43], images[1])
    np.testing.assert_array_equal(sheet[38:68, 4:24], images[2])
    counts = [(sheet == value).sum() for value in (1, 2, 3)]
    assert counts == [image.size for image in images]
    with pytest.raises(ValueError, match="images"):
        contact_sheet([])


HISTORY = {
    "loss": [3.0, 2.0, 1.0],
    "val_loss": [3.5, 2.5, 2.0],
    "mask_loss": [1.0, 0.5, 0.25],
    "val_box_AP": [0.1, 0.2, 0.3],
    "val_mask_AP50": [0.2, 0.4, 0.6],
    "learning_rate": [0.1, 0.1, 0.01],
}


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, which are saved all the same."""
    saved, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda figure, *args, **kw: saved.append(figure) or save(figure, *args, **kw),
    )
    return saved


@pytest.mark.parametrize("as_csv", [False, True])
def test_history_has_losses_on_one_axis_and_ap_on_another(as_csv, tmp_path, figures):
    source = HISTORY
    if as_csv:
        source = tmp_path / "history.csv"
        rows = [",".join(["epoch", *HISTORY])]
        rows += [",".join(map(str, row)) for row in zip(range(3), *HISTORY.values())]
        source.write_text("\n".join(rows))
    plot_history(source, tmp_path / "curve.png")
    assert cv2.imread(str(tmp_path / "curve.png")).shape[2] == 3
    losses, scores = figures[0].axes
    for axes, names in ((losses, list(HISTORY)[:3]), (scores, list(HISTORY)[3:5])):
        assert [line.get_label() for line in axes.lines] == names
        for line, name in zip(axes.lines, names):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
            np.testing.assert_array_equal(line.get_ydata(), HISTORY[name])
    assert losses.lines[0].get_color() == losses.lines[1].get_color()
    assert losses.lines[0].get_linestyle() != losses.lines[1].get_linestyle()


def test_history_with_gaps_or_without_ap(tmp_path, figures):
    (tmp_path / "history.csv").write_text("epoch,loss,val_loss\n0,2.0,NA\n1,1.0,1.5\n")
    plot_history(tmp_path / "history.csv", tmp_path / "curve.png")
    assert len(figures[0].axes) == 1
    np.testing.assert_array_equal(figures[0].axes[0].lines[1].get_ydata(), [np.nan, 1.5])
    with pytest.raises(ValueError, match="history: .*accuracy"):
        plot_history({"accuracy": [1]}, tmp_path / "curve.png")


def pose(points, scores=(0.9,), skeleton=((0, 1),)):
    return Detections(
        boxes=[[10, 10, 110, 90]],
        labels=[0],
        scores=scores,
        image_size=(120, 160),
        keypoints=[points],
        keypoint_skeleton=skeleton,
    )


ONLY_POINTS = dict(show_boxes=False, show_labels=False)


def test_a_skeleton_joins_its_points_where_they_are():
    drawn = draw_detections(grey(), pose([[20.5, 40.5, 0.9], [80.5, 40.5, 0.8]]), **ONLY_POINTS)
    white = pixels_of(drawn, (255, 255, 255))
    assert white[40, 20] and white[40, 80]
    # Smoothed against its dark rim, a line of one pixel keeps nine tenths of its color.
    np.testing.assert_allclose(drawn[40, 30:70], np.tile(PALETTE[0], (40, 1)), atol=25)
    rows, columns = np.nonzero(np.any(drawn != 100, axis=-1))
    assert (rows.min() + rows.max()) / 2 == 40 and (columns.min() + columns.max()) / 2 == 50
    larger = draw_detections(
        grey(), pose([[20.5, 40.5, 0.9], [80.5, 40.5, 0.8]]), scale=2, **ONLY_POINTS
    )
    assert pixels_of(larger, (255, 255, 255))[80, 40]


@pytest.mark.parametrize("scale", [1, 3])
def test_keypoints_that_count_pixels_by_their_centres_are_drawn_there(scale):
    """torchvision's (20, 40) is the centre of column 20 and row 40, (20.5, 40.5) of continuous pixels."""
    points = np.array([[20.0, 40.0, 0.9], [80.0, 60.0, 0.8]])
    counted = dataclasses.replace(pose(points), keypoint_rule="torchvision")
    drawn = draw_detections(grey(), counted, scale=scale, **ONLY_POINTS)
    wanted = draw_detections(grey(), pose(points + [0.5, 0.5, 0]), scale=scale, **ONLY_POINTS)
    np.testing.assert_array_equal(drawn, wanted)
    if scale == 1:
        assert pixels_of(drawn, (255, 255, 255))[[40, 60], [20, 80]].all()


@pytest.mark.parametrize("rule", ["half_pixel", "torchvision", "matterport"])
def test_masks_are_drawn_by_their_own_paste_rule(rule, monkeypatch):
    monkeypatch.setattr(cv2, "drawContours", lambda *_: None)  # outlines blur where a mask ends
    found = dataclasses.replace(make([[40.4, 30.4, 80.6, 70.3]]), paste_rule=rule)
    drawn = draw_detections(grey(), found, show_labels=False, show_boxes=False)
    np.testing.assert_array_equal(np.any(drawn != 100, axis=-1), found.full_masks()[0])


def test_points_that_are_not_seen_are_not_drawn():
    hidden = draw_detections(grey(), pose([[20, 40, 0.9], [80, 40, 0.01]]), **ONLY_POINTS)
    white = pixels_of(hidden, (255, 255, 255))
    assert white[38:42, 18:22].any() and not white[:, 40:].any()
    assert (hidden[:, 40:] == 100).all()
    off = draw_detections(
        grey(), pose([[20, 40, 1], [80, 40, 1]]), show_keypoints=False, **ONLY_POINTS
    )
    np.testing.assert_array_equal(off, grey())


def test_ground_truth_with_its_skeleton():
    instance = SimpleNamespace(
        box=(10, 10, 110, 90),
        label=0,
        is_crowd=False,
        segmentation=None,
        keypoints=((20, 40, 2), (80, 40, 1)),
    )
    plain = SimpleNamespace(**{**vars(instance), "keypoints": None})
    record = SimpleNamespace(height=120, width=160, instances=[instance, plain])
    names = SimpleNamespace(names=("a", "b"), skeleton=((0, 1),))
    drawn = draw_ground_truth(grey(), record, ("cat",), keypoints=names)
    white = pixels_of(drawn, (255, 255, 255))
    assert white[40, 20] and white[40, 80]
    without = draw_ground_truth(grey(), record, ("cat",))
    assert not pixels_of(without, (255, 255, 255))[40, 20]
