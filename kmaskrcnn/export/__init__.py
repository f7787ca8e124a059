"""From a trained model to files that run without this package: SavedModel, ONNX, LiteRT."""
