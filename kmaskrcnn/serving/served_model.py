"""A SavedModel as a server holds it: a name, a version, and signatures that take and give NumPy arrays."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from tensorflow.core.protobuf import saved_model_pb2

GRAPH_FILE = "saved_model.pb"
NEEDED = {"serving_default", "metadata"}


def find_version(path):
    """The folder of one version of a model, whose layout is TensorFlow Serving's: `NAME/VERSION/saved_model.pb`.

    Args:
        path: the folder of a SavedModel, or one with numbered folders of which the highest counts.

    Returns:
        `(folder, name, version)`: a `Path`, what its parent (or, without a version, itself) is called, and an int, 1
        where the folder has no number.

    Raises:
        ValueError: there is no SavedModel; the error names the path.
    """
    folder = Path(path).resolve()
    numbered = [child for child in folder.glob("*") if child.name.isdecimal()]
    if not (folder / GRAPH_FILE).is_file() and numbered:
        folder = max(numbered, key=lambda child: int(child.name))
    if not (folder / GRAPH_FILE).is_file():
        raise ValueError(
            f"{path}: no SavedModel, there is no {GRAPH_FILE} in this folder; `kmaskrcnn export` writes one"
        )
    if folder.name.isdecimal():
        return folder, folder.parent.name, int(folder.name)
    return folder, folder.name, 1


class ServedModel:
    """A SavedModel that `export_saved_model` wrote.

    Args:
        path: see `find_version`.
        name: by which clients ask for it; by default the folder's.

    Attributes:
        folder, name, version: see `find_version`.
        config: dict of the model's configuration.
        inputs: `{signature: {input: tf.TensorSpec}}`.

    Raises:
        ValueError: the folder holds no SavedModel of this package.
    """

    def __init__(self, path, name=None):
        self.folder, found_name, self.version = find_version(path)
        self.name = name or found_name
        self.signatures = tf.saved_model.load(str(self.folder)).signatures
        missing = NEEDED - set(self.signatures)
        if missing:
            raise ValueError(f"{path}: not exported by kmaskrcnn, it lacks {sorted(missing)}")
        self.inputs = {
            signature: dict(function.structured_input_signature[1])
            for signature, function in self.signatures.items()
        }
        self.config = json.loads(self.run("metadata", {})["config"].item())

    def run(self, signature, inputs):
        """Call a signature.

        Args:
            signature: its name.
            inputs: dict of arrays, see docs/serving.md.

        Returns:
            Dict of arrays; strings are bytes in arrays of objects.
        """
        inputs = {
            name: tf.constant(values, self.inputs[signature][name].dtype)
            for name, values in inputs.items()
        }
        outputs = self.signatures[signature](**inputs)
        return {name: np.asarray(x.numpy(), x.dtype.as_numpy_dtype) for name, x in outputs.items()}

    def signature_definitions(self):
        """`{signature: dict}`: names, dtypes and shapes as TensorFlow's `SignatureDef` writes them in json."""
        graph = saved_model_pb2.SavedModel.FromString((self.folder / GRAPH_FILE).read_bytes())
        return {
            name: MessageToDict(
                definition,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
            for name, definition in graph.meta_graphs[0].signature_def.items()
        }
