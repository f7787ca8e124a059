"""What is in a dataset and what is wrong with it, before a training run is paid for."""

from collections import Counter
from dataclasses import asdict, dataclass, replace

import numpy as np

from kmaskrcnn.config import MaskRCNNConfig
from kmaskrcnn.data.advice import training_advice
from kmaskrcnn.data.formats import load_dataset

SMALL_AREA, MEDIUM_AREA = 32**2, 96**2  # COCO's limits, square pixels


@dataclass(frozen=True)
class Spread:
    """How numbers spread: all floats, 0 where there are none."""

    minimum: float
    median: float
    mean: float
    maximum: float

    @classmethod
    def of(cls, values):
        """The spread of a sequence of numbers."""
        values = np.asarray(values, dtype=np.float64)
        if not values.size:
            return cls(0.0, 0.0, 0.0, 0.0)
        measures = (np.min, np.median, np.mean, np.max)
        return cls(*(float(measure(values)) for measure in measures))

    def __str__(self):
        return (
            f"{self.minimum:.4g} to {self.maximum:.4g}, "
            f"median {self.median:.4g}, mean {self.mean:.4g}"
        )


@dataclass(frozen=True)
class DatasetReport:
    """What `inspect_dataset` found; all counts are of the sound items.

    Args:
        json_path: str.
        num_images: int.
        num_objects: int, crowds included.
        num_crowds: int.
        num_without_mask: int, objects without a segmentation.
        empty_images: tuple of int, ids of the pictures without objects.
        objects_per_class: dict, class name -> number of objects.
        heights: `Spread`, pixels.
        widths: `Spread`, pixels.
        aspect_ratios: `Spread`, width / height of the pictures.
        objects_per_image: `Spread`.
        object_sides: `Spread`, square roots of the boxes' areas, pixels.
        object_aspect_ratios: `Spread`, width / height of the boxes.
        objects_by_size: dict, `small` (area under 32 x 32), `medium` (under 96 x 96), `large`.
        faults: tuple of `Fault`.
        advice: tuple of str, see `training_advice`.
    """

    json_path: str
    num_images: int
    num_objects: int
    num_crowds: int
    num_without_mask: int
    empty_images: tuple
    objects_per_class: dict
    heights: Spread
    widths: Spread
    aspect_ratios: Spread
    objects_per_image: Spread
    object_sides: Spread
    object_aspect_ratios: Spread
    objects_by_size: dict
    faults: tuple
    advice: tuple = ()

    def to_dict(self):
        """The report in values that json can hold."""
        return asdict(self)

    def to_text(self):
        """The report as lines for a terminal."""
        sizes = ", ".join(f"{name} {count}" for name, count in self.objects_by_size.items())
        lines = [
            f"dataset            {self.json_path}",
            f"pictures           {self.num_images}, {len(self.empty_images)} without objects",
            f"  height           {self.heights}",
            f"  width            {self.widths}",
            f"  width / height   {self.aspect_ratios}",
            f"objects            {self.num_objects}, {self.num_crowds} crowds, "
            f"{self.num_without_mask} without a mask",
            f"  per picture      {self.objects_per_image}",
            f"  by area          {sizes}",
            f"  side in pixels   {self.object_sides}",
            f"  width / height   {self.object_aspect_ratios}",
            f"classes            {len(self.objects_per_class)}",
            *self._class_lines(),
            f"warnings           {len(self.advice)}",
            *(f"  {sentence}" for sentence in self.advice),
            f"faults             {len(self.faults)}",
            *(f"  {kind}: {count}" for kind, count in _kinds(self.faults).most_common()),
            *(f"    {fault}" for fault in self.faults),
        ]
        return "\n".join(lines)

    def _class_lines(self):
        longest = max((len(name) for name in self.objects_per_class), default=0)
        most_first = sorted(self.objects_per_class.items(), key=lambda item: -item[1])
        return [f"  {name:{longest}}  {count}" for name, count in most_first]


def _kinds(faults):
    return Counter(fault.kind for fault in faults)


def inspect_dataset(
    json_path,
    image_dir=None,
    *,
    format="auto",
    check_images=True,
    config: MaskRCNNConfig | None = None,
):
    """Counts a dataset's pictures, classes and objects and lists every fault.

    Args:
        json_path: path of the json, or of whatever else holds the annotations.
        image_dir, format: as for `load_dataset`.
        check_images: as `load_coco`; `"decode"` also finds damage inside a file.
        config: the model that shall learn from it, for more advice.

    Returns:
        `DatasetReport`.

    Raises:
        DatasetError: if the json or the folder itself cannot be read.

    Example:
        >>> print(inspect_dataset("train.json", "images/").to_text())
    """
    options = {"on_error": "skip", "check_images": check_images}
    records = load_dataset(json_path, image_dir, format=format, **options)
    images = records.images
    objects = [instance for record in images for instance in record.instances]
    box_sizes = np.array([instance.box for instance in objects]).reshape(-1, 4)
    box_sizes = box_sizes[:, 2:] - box_sizes[:, :2]
    return DatasetReport(
        json_path=records.json_path,
        num_images=len(images),
        num_objects=len(objects),
        num_crowds=sum(instance.is_crowd for instance in objects),
        num_without_mask=sum(instance.segmentation is None for instance in objects),
        empty_images=tuple(record.image_id for record in images if not record.instances),
        objects_per_class=_count_classes(records.class_names, objects),
        heights=Spread.of([record.height for record in images]),
        widths=Spread.of([record.width for record in images]),
        aspect_ratios=Spread.of([record.width / record.height for record in images]),
        objects_per_image=Spread.of([len(record.instances) for record in images]),
        object_sides=Spread.of(np.sqrt(box_sizes.prod(axis=1))),
        object_aspect_ratios=Spread.of(box_sizes[:, 0] / box_sizes[:, 1]),
        objects_by_size=_count_sizes(objects),
        faults=records.faults,
        advice=tuple(training_advice(records, None, _with_classes(config, records))),
    )


def _with_classes(config, records):
    """A recipe's classes are those of its data."""
    return config and replace(config, class_names=records.class_names, category_ids=())


def _count_classes(class_names, objects):
    counts = Counter(class_names[instance.label] for instance in objects)
    return {name: counts[name] for name in class_names}


def _count_sizes(objects):
    areas = np.array([instance.area for instance in objects])
    return {
        "small": int((areas < SMALL_AREA).sum()),
        "medium": int(((areas >= SMALL_AREA) & (areas < MEDIUM_AREA)).sum()),
        "large": int((areas >= MEDIUM_AREA).sum()),
    }
