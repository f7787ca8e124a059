"""kmaskrcnn: Mask R-CNN for Keras 3."""

from kmaskrcnn.version import __version__

__all__ = ["__version__"]
