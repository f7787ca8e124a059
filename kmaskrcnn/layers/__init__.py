"""The parts of Mask R-CNN as Keras layers, each serialisable and usable alone."""
