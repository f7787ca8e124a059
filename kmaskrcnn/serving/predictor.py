"""Pictures in, objects out: whatever a user holds, detected and put back into its own pixels."""

import itertools
import logging
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from kmaskrcnn.data.pictures import decode_picture, read_picture
from kmaskrcnn.detections import Detections
from kmaskrcnn.serving.augmented import augment
from kmaskrcnn.serving.loading import open_detector
from kmaskrcnn.serving.tiling import merge_tiles, tile_windows
from kmaskrcnn.serving.video import VideoFile, frame_rate, read_frames
from kmaskrcnn.visualize import draw_detections

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

logger = logging.getLogger(__name__)


class Predictor:
    """Finds the objects in one picture after another.

    Args:
        model: a `MaskRCNN`; the path of a `.keras` file, of a SavedModel's folder, of an exported `.onnx` file,
            or of a preset's folder or file; or the name of a preset, such as `"maskrcnn_resnet50_fpn_v2_coco"`.
        tta: a `TestTimeAugmentation`, to look at each picture in several views; not with a SavedModel or ONNX file.

    Raises:
        ValueError: the path holds no such model; the error names it.
        ImportError: for an `.onnx` file, onnxruntime is not installed.

    Example:
        ```python
        predict = Predictor("model.keras")
        detections = predict("street.jpg")
        print(detections.names, detections.scores)
        for path, detections in predict.predict_folder("pictures/"):
            print(path.name, len(detections))
        ```
    """

    def __init__(self, model, tta=None):
        self.detector = open_detector(model)
        if tta is not None:
            self.detector = augment(self.detector, tta)
        self.config = self.detector.config

    def __call__(self, picture) -> Detections:
        """Detect the objects of one picture.

        Args:
            picture: path of a picture file, its encoded bytes, a Pillow image, or its pixels `(H, W, C)` uint8 or float
                (a SavedModel: uint8), RGB 0-255.

        Returns:
            `Detections` in the picture's own pixels.

        Raises:
            ValueError: if the file cannot be read, or the array is no picture; it says why.
        """
        return self.detector.detect([self.pixels(picture)])[0]

    def predict_many(self, pictures, batch_size=8, on_error="raise"):
        """Detect the objects of many pictures; only `batch_size` of them are in memory at once.

        Args:
            pictures: an iterable of what `__call__` takes.
            batch_size: pictures that are read before the network runs; those of one size run together.
            on_error: `"raise"`, or `"skip"` to log a picture that cannot be read and yield None for it.

        Yields:
            `Detections` of each picture, in order.

        Raises:
            ValueError: on another `on_error`, or as `__call__`.
        """
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error: got {on_error!r}, accepted are 'raise' and 'skip'")
        pictures = iter(pictures)
        while batch := list(itertools.islice(pictures, batch_size)):
            read = [self._pixels_or_none(picture, on_error) for picture in batch]
            found = iter(self.detector.detect([pixels for pixels in read if pixels is not None]))
            for pixels in read:
                yield None if pixels is None else next(found)

    def predict_folder(self, folder, batch_size=8, on_error="raise"):
        """Detect the objects of every picture file in a folder, in the order of their names.

        Args:
            folder: its path; files of other kinds than `PICTURE_SUFFIXES` are left alone.
            batch_size, on_error: as for `predict_many`.

        Yields:
            `(path, Detections)`.
        """
        paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
        yield from zip(paths, self.predict_many(paths, batch_size, on_error))

    def predict_video(self, path, output=None, batch_size=4, min_score=0.5):
        """Detect the objects of every frame of a video; only `batch_size` frames are in memory at once.

        Args:
            path: of any file that OpenCV can read.
            output: path of a video to write with the objects drawn into the frames, `.mp4` or `.avi`; it is whole once
                all frames were taken.
            batch_size: frames that the network sees at once.
            min_score: what scores less is not drawn.

        Yields:
            `Detections` of each frame, in order.

        Raises:
            ValueError: the file is missing or no video, or `output` is this file or has another ending.
            OSError: `output` cannot be written.
        """
        if output is None:
            yield from self.predict_many(read_frames(path), batch_size)
            return
        if Path(output).resolve() == Path(path).resolve():
            raise ValueError(f"output: {output} is the video that is read; give another path")
        frames, kept = itertools.tee(read_frames(path))
        found = self.predict_many(frames, batch_size)
        with VideoFile(output, frame_rate(path)) as video:
            for frame, detections in zip(kept, found):
                video.write(draw_detections(frame, detections, min_score=min_score))
                yield detections

    def predict_tiled(self, picture, tile_size=None, overlap=0.25, batch_size=4) -> Detections:
        """Detect small objects in a large picture: tile by tile, by default at the picture's own resolution.

        Args:
            picture: as for `__call__`. A NumPy memory map works too: only tiles are read from it.
            tile_size: height and width of a tile in pixels. The network sees every tile as a picture, resized to the
                configuration's `min_size`, which is the default: larger tiles are shrunk, smaller ones enlarged.
            overlap: of neighbours, a share of `tile_size`; an object smaller than it is whole in one of them.
            batch_size: tiles at once.

        Returns:
            `Detections` in the picture's own pixels; what two tiles found of one object is merged, see `merge_tiles`.
        """
        pixels = self.pixels(picture)
        tile_size = self.config.min_size if tile_size is None else tile_size
        windows = tile_windows(pixels.shape[:2], tile_size, overlap)
        tiles = (np.ascontiguousarray(pixels[rows, columns]) for rows, columns in windows)
        found = list(self.predict_many(tiles, batch_size))
        return merge_tiles(found, windows, pixels.shape[:2], self.config.nms_threshold)

    def pixels(self, picture):
        """The pixels `(H, W, C)` of what `__call__` takes."""
        if isinstance(picture, (str, Path)):
            try:
                return self._checked(read_picture(picture))
            except ValueError as error:
                raise ValueError(f"{picture}: {error}") from error
        if isinstance(picture, (bytes, bytearray, memoryview)):
            return self._checked(decode_picture(bytes(picture)))
        if isinstance(picture, Image.Image):
            return self._checked(_pillow_pixels(picture))
        return self._checked(np.asanyarray(picture))

    def _checked(self, pixels):
        channels = self.config.in_channels
        if pixels.ndim != 3 or pixels.shape[2] != channels or 0 in pixels.shape:
            raise ValueError(f"picture: got shape {pixels.shape}, accepted is (H, W, {channels})")
        return pixels

    def _pixels_or_none(self, picture, on_error):
        try:
            return self.pixels(picture)
        except ValueError as error:
            if on_error == "raise":
                raise
            logger.warning("left out: %s", error)
            return None


def _pillow_pixels(image):
    """As OpenCV reads the same file: upright, RGB, of 16 bits the upper 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        gray = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))
