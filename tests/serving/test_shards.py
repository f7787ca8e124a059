"""Shards of a folder: run in any order, again after a kill, and every picture counts once."""

import json
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest

from kmaskrcnn.config import MaskRCNNConfig
from kmaskrcnn.data.pictures import write_picture
from kmaskrcnn.detections import Detections
from kmaskrcnn.serving.predictor import Predictor
from kmaskrcnn.serving.shards import detect_shard, merge_shards, plan_shards


class BrightestPixel:
    """A detector that finds one object, as wide and high as the picture's first pixel is red."""

    config = MaskRCNNConfig(class_names=("a",), category_ids=(17,), with_mask=False)

    def detect(self, pictures):
        return [
            Detections([[0.0, 0, p[0, 0, 0], p[0, 0, 0]]], [0], [0.5], p.shape[:2])
            for p in pictures
        ]


class Failing(BrightestPixel):
    """Dies as a killed worker does, in the midst of a shard."""

    def detect(self, pictures):
        os.kill(os.getpid(), signal.SIGKILL)


def predictor_of(detector):
    predictor = Predictor.__new__(Predictor)
    predictor.detector, predictor.config = detector, detector.config
    return predictor


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for i in range(7):
        picture = np.full((20, 30, 3), 10 + i, np.uint8)
        write_picture(folder / ("more" if i > 4 else "") / f"{i}.png", picture)
    (folder / "3.png").write_bytes(b"no picture")
    return folder


def test_every_picture_counts_once(pictures, tmp_path):
    shards = plan_shards(pictures, tmp_path / "out", shard_size=3)
    assert [len(shard.pictures) for shard in shards] == [3, 3, 1]
    with pytest.raises(ValueError, match="3 shards are missing, .*shard-00000.json"):
        merge_shards(shards, tmp_path / "all.json")
    for shard in reversed(shards):
        assert detect_shard(predictor_of(BrightestPixel()), shard) == len(shard.pictures)
        assert detect_shard(predictor_of(BrightestPixel()), shard) == 0  # it is there
    count, found, unreadable = merge_shards(shards, tmp_path / "all.json")
    assert (count, found, unreadable) == (7, 6, [str(pictures / "3.png")])
    results = json.loads((tmp_path / "all.json").read_text())
    # ids count the paths in their order: 0.png ... 4.png, more/5.png, more/6.png
    assert {r["image_id"]: r["bbox"][2] for r in results} == {
        1: 10,
        2: 11,
        3: 12,
        5: 14,
        6: 15,
        7: 16,
    }
    assert {r["category_id"] for r in results} == {17}


def test_a_killed_worker_leaves_nothing_that_counts(pictures, tmp_path):
    shards = plan_shards(pictures, tmp_path / "out", shard_size=4)
    worker = multiprocessing.get_context("fork").Process(
        target=detect_shard, args=(predictor_of(Failing()), shards[0])
    )
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert detect_shard(predictor_of(BrightestPixel()), shards[0]) == 4


def test_another_plan_is_refused(pictures, tmp_path):
    first = plan_shards(pictures, tmp_path / "out", shard_size=3)
    assert plan_shards(pictures, tmp_path / "out", shard_size=3) == first
    with pytest.raises(ValueError, match="plan.json: planned for other"):
        plan_shards(pictures, tmp_path / "out", shard_size=4)
    shutil.rmtree(pictures)
    pictures.mkdir()
    with pytest.raises(ValueError, match="no pictures in there"):
        plan_shards(pictures, tmp_path / "new")
