"""AP of a model on a dataset: ground truth as detections, pictures left out, keypoints, time and memory."""

import functools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kmaskrcnn.average_precision import evaluate_results
from kmaskrcnn.data.records import load_coco
from kmaskrcnn.detections import Detections
from kmaskrcnn.evaluation import CocoEvaluator, evaluate_model, evaluate_pictures, format_table
from kmaskrcnn.geometry.segmentations import rasterise_in_box

MINI = Path(__file__).parents[2] / "shared" / "data" / "coco_mini"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def mini():
    if not MINI.is_dir():
        pytest.skip(f"the reference data are not in {MINI}")
    json_path = MINI / "annotations" / "instances_train2017.json"
    return load_coco(json_path, MINI / "train2017", check_images=False)


def test_ground_truth_as_detections_is_perfect(mini):
    """Every object and crowd of coco_mini, with its full mask, in the json's own category ids."""
    ground_truth = json.loads(Path(mini.json_path).read_text())
    results = [
        {**annotation, "score": 1.0}
        for annotation in ground_truth["annotations"]
        if not annotation["iscrowd"]
    ]
    for task in ("box", "mask"):
        metrics = evaluate_results(ground_truth, results, task)
        np.testing.assert_allclose(
            [value for key, value in metrics.items() if key.startswith("AP")], 1, atol=1e-9
        )


def as_detections(image, class_names, to_frame):
    """A picture's ground truth as detections, masks in box frames."""
    objects = [instance for instance in image.instances if not instance.is_crowd]
    return Detections(
        boxes=[instance.box for instance in objects],
        labels=[instance.label for instance in objects],
        scores=np.ones(len(objects)),
        image_size=(image.height, image.width),
        masks=[to_frame(instance) for instance in objects],
        class_names=class_names,
    )


def shares(instance):
    """A 28 x 28 mask as the share of each cell: the best that a mask head could say."""
    frame = rasterise_in_box(instance.segmentation, instance.box, 112)
    return frame.reshape(28, 4, 28, 4).mean((1, 3))


@pytest.mark.parametrize(
    ("to_frame", "least"),
    [
        # Nothing is lost with 112 x 112 but the outline's pixels of small objects.
        (lambda i: rasterise_in_box(i.segmentation, i.box, 112), {"AP": 0.995, "APs": 0.992}),
        # Shares of 28 x 28 lose what is thinner than a cell.
        (shares, {"AP": 0.99, "APs": 0.99, "APm": 0.99, "APl": 0.99}),
        # 28 x 28 of 0 and 1, as the mask loss asks for, lose up to half a cell along the outline.
        (lambda i: shares(i) >= 0.5, {"AP": 0.945, "APs": 0.945, "APm": 0.95, "APl": 0.955}),
    ],
    ids=["112", "28 shares", "28 binary"],
)
def test_what_the_way_through_box_frames_keeps(mini, to_frame, least):
    evaluator = CocoEvaluator(mini)
    for image in mini.images:
        evaluator.add(image.image_id, as_detections(image, mini.class_names, to_frame))
    metrics = evaluator.summarise()
    assert metrics["box"]["AP"] == pytest.approx(1)
    assert metrics["mask"]["AP50"] == pytest.approx(1)
    for name, value in least.items():
        assert value <= metrics["mask"][name] < 1, name


def square_records(count=3):
    """Pictures of 100 x 200 with one square each, labels 0, 1, 0 ..."""
    return SimpleNamespace(
        images=[
            SimpleNamespace(
                image_id=10 + index,
                height=100,
                width=200,
                instances=(
                    SimpleNamespace(
                        annotation_id=index,
                        box=(20.0, 10.0, 60.0, 50.0),
                        label=index % 2,
                        is_crowd=False,
                        segmentation=[[20, 10, 60, 10, 60, 50, 20, 50]],
                        area=1600.0,
                    ),
                ),
            )
            for index in range(count)
        ],
        class_names=("even", "odd"),
    )


class FakeModel:
    """Finds each square in a network image of half the size; knows the pictures by their order."""

    def __init__(self, with_mask=True):
        self.with_mask = with_mask
        self.next = 0

    def predict_on_batch(self, inputs):
        count = len(inputs["images"])
        labels = np.full((count, 5), -1, np.int32)
        labels[:, 0] = np.arange(self.next, self.next + count) % 2
        self.next += count
        outputs = {
            "boxes": np.tile(np.float32([10, 5, 30, 25]), (count, 5, 1)),
            "labels": labels,
            "scores": np.full((count, 5), 0.5, np.float32),
            "masks": np.ones((count, 5, 28, 28), np.float32),
            "num_detections": np.ones(count, np.int32),
        }
        return outputs if self.with_mask else {k: v for k, v in outputs.items() if k != "masks"}


def batches(image_ids):
    for start in range(0, len(image_ids), 2):
        ids = np.array(image_ids[start : start + 2])
        inputs = {
            "images": np.zeros((len(ids), 64, 128, 3), np.uint8),
            "image_sizes": np.tile([50, 100], (len(ids), 1)),
        }
        yield inputs, {"image_ids": ids, "original_sizes": np.tile([100, 200], (len(ids), 1))}


def test_evaluate_model():
    metrics = evaluate_model(FakeModel(), batches([10, 11, 12]), square_records(), progress=False)
    assert list(metrics) == ["box", "mask"]
    for task in metrics:
        assert metrics[task]["AP"] == pytest.approx(1)
        assert metrics[task]["per_class"] == pytest.approx({"even": 1, "odd": 1})
    without = evaluate_model(FakeModel(False), batches([10, 11, 12]), square_records(), False)
    assert list(without) == ["box"]


def test_evaluate_pictures():
    """A detector that knows the square; then one that sees a mask nowhere; then one of other classes."""

    def find(picture, masks=np.ones((1, 28, 28)), class_names=("even", "odd")):
        label = [int(picture[0, 0, 0])]
        box = [[20, 10, 60, 50]]
        return Detections(box, label, [0.5], (100, 200), masks, class_names=class_names)

    def pictures():
        return ((10 + i, np.full((100, 200, 3), i % 2, np.uint8)) for i in range(3))

    find.config = {"of": "another package"}
    metrics = evaluate_pictures(find, pictures(), square_records(), progress=False)
    assert metrics["box"]["AP"] == metrics["mask"]["AP"] == pytest.approx(1.0)
    without = functools.partial(find, masks=None)
    assert set(evaluate_pictures(without, pictures(), square_records(), False)) == {"box"}
    others = functools.partial(find, class_names=("a", "b"))
    with pytest.raises(ValueError, match="classes .* are not the model's"):
        evaluate_pictures(others, pictures(), square_records(), False)


@pytest.mark.parametrize("boxes_alone", [1, 3])
def test_objects_without_masks_leave_the_ap_of_boxes(boxes_alone, caplog):
    records = square_records()
    for image in records.images[:boxes_alone]:
        image.instances[0].segmentation = None
    metrics = evaluate_model(FakeModel(), batches([10, 11, 12]), records, progress=False)
    assert list(metrics) == ["box"] and metrics["box"]["AP"] == pytest.approx(1)
    assert caplog.text.count(f"{boxes_alone} of 3 objects have no mask: boxes alone") == 1


def never(*_):
    """A model, or what finds objects in a picture, that must not be asked."""
    raise AssertionError


@pytest.mark.parametrize("names", [("tail", "head"), ("head",), ("head", "tail", "paw")])
def test_other_keypoints_are_named_before_the_first_picture(names):
    config = SimpleNamespace(
        class_names=("even", "odd"),
        with_keypoints=True,
        keypoint_names=("head", "tail"),
        keypoint_sigmas=None,
        paste_rule="half_pixel",
    )
    records = square_records()
    records.keypoints = SimpleNamespace(names=names, skeleton=())
    model = SimpleNamespace(predict_on_batch=never, config=config)
    with pytest.raises(
        ValueError, match=r"records: keypoints .* not the model's \('head', 'tail'\)"
    ):
        evaluate_model(model, batches([10]), records, progress=False)
    predict = functools.partial(never)
    predict.config = config
    with pytest.raises(ValueError, match="records: keypoints"):
        evaluate_pictures(predict, [(10, None)], records, progress=False)
    records.keypoints = SimpleNamespace(names=["head", "tail"], skeleton=())
    for evaluate in (
        lambda: evaluate_model(model, batches([10]), records, progress=False),
        lambda: evaluate_pictures(predict, [(10, None)], records, progress=False),
    ):
        with pytest.raises(AssertionError):
            evaluate()


def test_evaluate_model_without_image_sizes_takes_the_whole_image():
    data = [
        ({"images": np.zeros((len(inputs["images"]), 50, 100, 3))}, targets)
        for inputs, targets in batches([10, 11, 12])
    ]
    metrics = evaluate_model(FakeModel(), data, square_records(), progress=False)
    assert metrics["box"]["AP"] == pytest.approx(1)


def test_pictures_left_out_count_as_empty(caplog):
    metrics = evaluate_model(FakeModel(), batches([10, 11]), square_records(), progress=False)
    assert metrics["box"]["per_class"]["even"] == pytest.approx(51 / 101)
    assert "1 of 3 pictures were not evaluated" in caplog.text


@pytest.mark.parametrize(
    ("image_ids", "message"),
    [([10, 10], "picture 10 was added before"), ([10, 99], "picture 99 is not among")],
)
def test_pictures_twice_or_unknown_are_refused(image_ids, message):
    with pytest.raises(ValueError, match=message):
        evaluate_model(FakeModel(), batches(image_ids), square_records(), progress=False)


def test_format_table():
    metrics = {
        "box": {"AP": 0.50461, "AP50": 0.7, "per_class": {"cat": 0.25, "dog": None}},
        "mask": {"AP": 0.3, "AP50": None, "per_class": {"cat": 1.0, "dog": None}},
    }
    assert format_table(metrics, per_class=True).splitlines() == [
        "         AP   AP50",
        "box   0.505  0.700",
        "mask  0.300      -",
        "",
        "      box AP  mask AP",
        "cat    0.250    1.000",
        "dog        -        -",
    ]
    assert "cat" not in format_table(metrics)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [80, 1])
def test_5000_pictures_of_36_objects(classes):
    """At most 60 seconds from detections to both tables, and 2 GB for the whole process.

    Seconds of CPU time: what else the machine does is not counted.
    """
    command = [sys.executable, BENCHMARKS / "evaluation.py", "--classes", str(classes)]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    assert 0.5 < report["mask_ap"] < 1 and 0.5 < report["box_ap"] < 1
    assert report["cpu_seconds"] <= 60
    assert report["peak_gb"] < 2


def posed(points, sigmas=None):
    """Keypoint metrics of one object of 100 x 100 with two keypoints, found with `points`."""
    instance = SimpleNamespace(
        annotation_id=1,
        box=(0, 0, 100, 100),
        label=0,
        is_crowd=False,
        segmentation=None,
        area=10_000.0,
        keypoints=((20, 20, 2), (70, 70, 1)),
    )
    image = SimpleNamespace(image_id=1, height=100, width=100, instances=[instance])
    names = SimpleNamespace(names=("head", "tail"), skeleton=())
    dataset = SimpleNamespace(images=[image], class_names=("cat",), keypoints=names)
    evaluator = CocoEvaluator(dataset, with_mask=False, with_keypoints=True, sigmas=sigmas)
    found = Detections([[0, 0, 100, 100]], [0], [0.9], (100, 100), keypoints=[points])
    evaluator.add(1, found)
    return evaluator.summarise()["keypoint"]


def test_keypoints_of_ones_own_are_measured_with_sigmas():
    """OKS of two keypoints that are d pixels off: exp(-d^2 / (8 * sigma^2 * area))."""
    exact = [[20.5, 20.5, 0.5], [70.5, 70.5, 0.5]]  # a pixel's centre
    assert posed(exact)["AP"] == pytest.approx(1.0)
    # With 0.05 and an area of 10^4, 10 pixels give exp(-0.5) = 0.61: right up to 0.60, 3 of 10 thresholds
    moved = [[30.5, 20.5, 0.5], [70.5, 80.5, 0.5]]
    assert posed(moved)["AP"] == pytest.approx(0.3)
    assert posed(moved, sigmas=[0.2, 0.2])["AP"] == pytest.approx(1.0)  # exp(-1 / 32) = 0.97
    assert posed(moved, sigmas=[0.01, 0.01])["AP"] == 0.0
