"""What a server calls: pictures in, objects in the pictures' own pixels out, all of it one TensorFlow graph.

B pictures, H and W their height and width, C channels, D most detections of a picture, M mask size, P kinds of
keypoints, N objects found.
docs/serving.md says what each signature takes and gives.
"""

import json

import tensorflow as tf

from kmaskrcnn.config import to_dict
from kmaskrcnn.export.decode import decode_picture
from kmaskrcnn.export.pasting import paste_masks
from kmaskrcnn.export.resizing import network_size, pad_to_multiple, resize_pixels

EMPTY = "the picture has no pixels"
DECODERS = 4  # threads; the network takes a hundred times as long as a decoder


class Signatures:
    """The serving functions of one model.

    Args:
        model: a `MaskRCNN`.
        max_pixels: larger encoded pictures are refused.
        config: what `metadata` gives, where it is not the model's own: a model is changed for export.
    """

    def __init__(self, model, max_pixels, config=None):
        self.config, self.described = model.config, config or model.config
        self.max_pixels, self.graph = max_pixels, model.predict_graph
        # A function of its own, so that the signatures share one copy of the network.
        self.detect = tf.function(self._detect, input_signature=self._network_inputs())

    def functions(self):
        """`{name: tf.function}`, each with its input signature."""
        channels = self.config.in_channels
        images = tf.TensorSpec((None, None, None, channels), tf.uint8, name="images")
        image = tf.TensorSpec((None, None, channels), tf.uint8, name="image")
        functions = {
            "serving_default": (self.predict_images, images),
            "predict_single": (self.predict_single, image),
            "metadata": (self.metadata,),
        }
        if channels == 3:  # what a JPEG or PNG can be decoded to
            many = tf.TensorSpec((None,), tf.string, name="encoded")
            one = tf.TensorSpec((), tf.string, name="encoded")
            functions["predict_jpeg"] = self.predict_jpeg, many
            functions["predict_single_jpeg"] = self.predict_single_jpeg, one
        return {
            name: tf.function(function, input_signature=inputs)
            for name, (function, *inputs) in functions.items()
        }

    # -- the signatures -----------------------------------------------------------------------------------------------

    def predict_images(self, images):
        """`(B, H, W, C)` uint8, pictures of one size."""
        shape = tf.shape(images)
        batch, size = shape[0], shape[1:3]

        def detect():
            network, sizes = self._to_network(images)
            return self._in_pixels(self.detect(network, sizes), sizes, size[None])

        found = tf.cond(tf.size(images) > 0, detect, lambda: self._nothing(batch))
        error = tf.where(tf.reduce_prod(size) > 0, "", EMPTY)
        found["image_sizes"] = tf.tile(size[None], (batch, 1))
        return {**found, "errors": tf.fill([batch], error)}

    def predict_jpeg(self, encoded):
        """`(B,)` strings, JPEG or PNG files of any sizes; a bad one spoils no other."""
        batch = tf.size(encoded)
        found, sizes, errors = tf.cond(
            batch > 0,
            lambda: self._detect_loaded(self._load_all(encoded)),
            lambda: (self._nothing(0), tf.zeros((0, 2), tf.int32), tf.zeros((0,), tf.string)),
        )
        return {**found, "image_sizes": sizes, "errors": errors}

    def predict_single(self, image):
        """`(H, W, C)` uint8: lists as long as there are objects, masks in the picture."""
        return self._first(self.predict_images(image[None]))

    def predict_single_jpeg(self, encoded):
        """The same of one JPEG or PNG file, `()` string."""
        return self._first(self.predict_jpeg(encoded[None]))

    def metadata(self):
        """The class names by label, and the model's configuration as json."""
        return {
            "class_names": tf.constant(self.config.class_names),
            "config": tf.constant(json.dumps(to_dict(self.described))),
        }

    # -- their parts --------------------------------------------------------------------------------------------------

    def _network_inputs(self):
        shape = (None, None, None, self.config.in_channels)
        return [tf.TensorSpec(shape, tf.float32), tf.TensorSpec((None, 2), tf.int32)]

    def _detect(self, network, sizes):
        return self.graph({"images": network, "image_sizes": sizes}, training=False)

    def _to_network(self, pictures):
        """Pictures of one size, resized and padded, and the `(B, 2)` sizes they have within the padding."""
        shape, config = tf.shape(pictures), self.config
        size = network_size(shape[1:3], config.min_size, config.max_size, config.resize_rule)
        network = resize_pixels(pictures, size, config.resize_rule)
        network = pad_to_multiple(network, config.size_divisor)
        return network, tf.tile(size[None], (shape[0], 1))

    def _in_pixels(self, found, network_sizes, sizes):
        """Boxes `(B, D, 4)` and keypoints `(B, D, P, 3)` of the network image, in the pictures' pixels."""
        scale = tf.cast(sizes, tf.float32) / tf.cast(network_sizes, tf.float32)  # (B, 2) y, x
        scale, corner = scale[:, None, ::-1], tf.cast(sizes, tf.float32)[:, None, ::-1]
        boxes = found["boxes"] * tf.tile(scale, (1, 1, 2))
        moved = {"boxes": tf.clip_by_value(boxes, 0.0, tf.tile(corner, (1, 1, 2)))}
        if "keypoints" in found:
            points, scores = found["keypoints"][..., :2], found["keypoints"][..., 2:]
            moved["keypoints"] = tf.concat([points * scale[:, None], scores], axis=-1)
        return {**found, **moved}

    def _load_all(self, encoded):
        """Decode and resize in parallel, then pad to one size."""
        loaded = tf.data.Dataset.from_tensor_slices(encoded)
        loaded = loaded.map(self._load, num_parallel_calls=DECODERS, deterministic=True)
        return loaded.padded_batch(tf.size(encoded, tf.int64)).get_single_element()

    def _load(self, data):
        picture, error = decode_picture(data, self.max_pixels)

        def to_network():
            network, sizes = self._to_network(picture[None])
            return network[0], sizes[0]

        def nothing():
            return tf.zeros((0, 0, 3)), tf.zeros((2,), tf.int32)

        network, resized = tf.cond(tf.size(picture) > 0, to_network, nothing)
        return network, tf.shape(network)[:2], resized, tf.shape(picture)[:2], error

    def _detect_loaded(self, loaded):
        """One batch where all pictures are padded to one size, else one by one.

        Padded further than it would be alone, a picture's border would look different to the network.
        """
        network, padded, network_sizes, sizes, errors = loaded

        def one(item):
            image, size, resized = item
            image = image[None, : size[0], : size[1]]
            found = tf.cond(
                size[0] > 0,
                lambda: self.detect(image, resized[None]),
                lambda: self._nothing(1),
            )
            return {name: values[0] for name, values in found.items()}

        found = tf.cond(
            tf.reduce_all(padded == padded[:1]) & (padded[0, 0] > 0),
            lambda: self.detect(network, network_sizes),
            lambda: tf.map_fn(
                one, (network, padded, network_sizes), fn_output_signature=self._specs()
            ),
        )
        # Where there is no picture, 1 spares a division by zero.
        return self._in_pixels(found, tf.maximum(network_sizes, 1), sizes), sizes, errors

    def _specs(self):
        outputs = self.detect.get_concrete_function().structured_outputs
        return {name: tf.TensorSpec(x.shape[1:], x.dtype) for name, x in outputs.items()}

    def _nothing(self, batch):
        """Detections of pictures without objects."""
        return {
            name: tf.fill([batch, *spec.shape], tf.cast(-1 if name == "labels" else 0, spec.dtype))
            for name, spec in self._specs().items()
        }

    def _first(self, found):
        count = found["num_detections"][0]
        size = found["image_sizes"][0]
        names = [name for name in ("boxes", "labels", "scores", "keypoints") if name in found]
        lists = {name: found[name][0, :count] for name in names}
        if "masks" in found:
            lists["masks"] = paste_masks(
                found["masks"][0, :count], lists["boxes"], size, rule=self.config.paste_rule
            )
        return {**lists, "image_size": size, "error": found["errors"][0]}
