"""Frames of a video file, in RGB, in and out."""

import contextlib
from pathlib import Path

import cv2

CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mov": "mp4v", ".mkv": "mp4v"}
FALLBACK_RATE = 25.0  # frames a second, where a file does not say


def read_frames(path):
    """The frames of a video.

    Args:
        path: of any file that OpenCV can read.

    Yields:
        `(H, W, 3)` uint8, RGB.

    Raises:
        ValueError: the file is missing, or no video that OpenCV can read.
    """
    with _opened(path) as video:
        found = False
        while (read := video.read())[0]:
            found = True
            yield cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
    if not found:
        raise ValueError(f"{path}: the video has no frame that can be read")


def frame_rate(path):
    """Frames a second; raises as `read_frames`."""
    with _opened(path) as video:
        rate = video.get(cv2.CAP_PROP_FPS)
    return rate if rate > 0 else FALLBACK_RATE


class VideoFile:
    """Writes frames as a video; a context manager that ends the file.

    Args:
        path: ends in one of `CODECS`.
        rate: frames a second.

    Raises:
        ValueError: on another ending.
        OSError: the file cannot be written.
    """

    def __init__(self, path, rate):
        if Path(path).suffix.lower() not in CODECS:
            raise ValueError(f"{path}: the ending of a video is one of {', '.join(CODECS)}")
        self.path, self.rate, self.writer = Path(path), rate, None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.writer is not None:
            self.writer.release()

    def write(self, frame):
        """Add one frame, `(H, W, 3)` uint8 RGB; all have one size."""
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
            size = frame.shape[1], frame.shape[0]
            self.writer = cv2.VideoWriter(str(self.path), code, self.rate, size)
            if not self.writer.isOpened():
                raise OSError(f"{self.path}: the video could not be written")
        self.writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))


@contextlib.contextmanager
def _opened(path):
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise ValueError(f"{path}: no video that OpenCV can read")
        yield video
    finally:
        video.release()
