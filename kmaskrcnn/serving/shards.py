"""Many pictures on many workers: each shard is a file that is there whole or not at all.

    plan_shards -> detect_shard, anywhere, in any order, again after a kill -> merge_shards

Whoever runs the shards (Ray, Beam, a shell loop) needs to know nothing of what they hold: a finished shard is not run
again, and one that was killed leaves nothing behind that counts.
"""

import dataclasses
import json
import os
from pathlib import Path

from kmaskrcnn.serving.predictor import PICTURE_SUFFIXES, Predictor


@dataclasses.dataclass(frozen=True)
class Shard:
    """Some of the pictures.

    Args:
        path: of the json with its results.
        pictures: `((image_id, path), ...)`.
    """

    path: str
    pictures: tuple


def plan_shards(folder, output, shard_size=256):
    """Cut a folder of pictures into shards, the same ones each time.

    Args:
        folder: of pictures, looked through with all folders in it; ids count its files in the order of their paths.
        output: folder for the results, made if need be.
        shard_size: pictures a shard: what is lost when a worker is killed.

    Returns:
        List of `Shard`.

    Raises:
        ValueError: there are no pictures, or `output` holds shards of other pictures or another size.
    """
    folder, output = Path(folder), Path(output)
    paths = sorted(str(p) for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise ValueError(f"{folder}: no pictures in there, {', '.join(PICTURE_SUFFIXES)}")
    output.mkdir(parents=True, exist_ok=True)
    plan = {"shard_size": shard_size, "pictures": paths}
    written = output / "plan.json"
    if written.is_file() and json.loads(written.read_text()) != plan:
        raise ValueError(f"{written}: planned for other pictures or another shard_size")
    _write_whole(written, plan)
    numbered = list(enumerate(paths, start=1))
    return [
        Shard(str(output / f"shard-{start // shard_size:05d}.json"), tuple(numbered[start:end]))
        for start in range(0, len(paths), shard_size)
        for end in [start + shard_size]
    ]


def detect_shard(predictor, shard, batch_size=8):
    """Detect a shard's objects and write its file, unless it is there.

    Args:
        predictor: a `Predictor`, or what one can be made of, such as a SavedModel's path.
        shard: `Shard`.
        batch_size: pictures at once.

    Returns:
        How many pictures were looked at: 0 where the file was there.
    """
    if Path(shard.path).is_file():
        return 0
    predictor = predictor if isinstance(predictor, Predictor) else Predictor(predictor)
    category_ids = predictor.config.category_ids or None
    results, images = [], []
    paths = [path for _, path in shard.pictures]
    found = predictor.predict_many(paths, batch_size, on_error="skip")
    for (image_id, path), detections in zip(shard.pictures, found):
        image = {"id": image_id, "file_name": path, "error": detections is None}
        if detections is not None:
            height, width = detections.image_size
            image |= {"height": height, "width": width}
            results += detections.to_coco(image_id, category_ids)
        images.append(image)
    _write_whole(Path(shard.path), {"images": images, "results": results})
    return len(images)


def merge_shards(shards, path):
    """All results as one COCO json of results.

    Args:
        shards: what `plan_shards` gave.
        path: of the json to write.

    Returns:
        `(pictures, results, unreadable)`: how many of each there are, and the paths that could not be read.

    Raises:
        ValueError: naming the shards that are not there yet.
    """
    missing = [shard.path for shard in shards if not Path(shard.path).is_file()]
    if missing:
        raise ValueError(f"{len(missing)} shards are missing, {missing[0]} the first")
    images, results = [], []
    for shard in shards:
        content = json.loads(Path(shard.path).read_text())
        images += content["images"]
        results += content["results"]
    _write_whole(Path(path), results)
    return len(images), len(results), [i["file_name"] for i in images if i["error"]]


def _write_whole(path, content):
    """Write a json so that it is there whole or not at all, whoever else writes it at the same time."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    beside.write_text(json.dumps(content))
    beside.replace(path)
