"""Videos: their frames come back, every frame is detected as a picture is, and what is none is named."""

import numpy as np
import pytest
from pictures import photo

from kmaskrcnn.serving.predictor import Predictor
from kmaskrcnn.serving.video import VideoFile, frame_rate, read_frames

FRAMES = [photo(48, 64, seed) for seed in range(5)]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "in.avi"
    with VideoFile(path, 12) as file:
        for frame in FRAMES:
            file.write(frame)
    return path


@pytest.fixture(scope="module")
def predict(served_model):
    return Predictor(served_model)


def test_frames_come_back_in_order(video):
    frames = list(read_frames(video))
    assert len(frames) == 5 and frame_rate(video) == 12
    for frame, wanted in zip(frames, FRAMES):
        # The codec loses a little, and less than half of what another frame or swapped colours differ by.
        assert np.abs(frame.astype(int) - wanted).mean() < 12
        assert np.abs(frame[..., ::-1].astype(int) - wanted).mean() > 24


@pytest.mark.parametrize("ending", [".mp4", ".avi"])
def test_every_frame_is_detected_and_drawn(predict, video, tmp_path, ending):
    output = tmp_path / "new" / f"out{ending}"
    found = list(predict.predict_video(video, output, batch_size=2, min_score=0.0))
    assert len(found) == 5
    for detections, frame in zip(found, read_frames(video)):
        assert len(detections) > 0
        np.testing.assert_allclose(detections.boxes, predict(frame).boxes, atol=1e-3)
    drawn = list(read_frames(output))
    assert len(drawn) == 5 and frame_rate(output) == 12
    assert np.abs(drawn[0].astype(int) - FRAMES[0]).mean() > 24  # something was drawn
    assert len(list(predict.predict_video(video))) == 5


def test_what_is_no_video_is_named(predict, video, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    for path, word in (("absent.mp4", "no such file"), ("text.mp4", "no video")):
        with pytest.raises(ValueError, match=f"{path}: {word}"):
            next(predict.predict_video(tmp_path / path))
    with pytest.raises(ValueError, match="out.txt: the ending of a video is one of .mp4"):
        next(predict.predict_video(video, tmp_path / "out.txt"))


def test_the_video_that_is_read_is_not_written_over(predict, video, tmp_path):
    copy, link = tmp_path / "copy.avi", tmp_path / "link.avi"
    copy.write_bytes(video.read_bytes())
    link.symlink_to(copy)
    for output in (copy, str(tmp_path / ".." / tmp_path.name / "copy.avi"), link):
        with pytest.raises(ValueError, match="output: .* is the video that is read"):
            next(predict.predict_video(copy, output))
    assert copy.read_bytes() == video.read_bytes()
