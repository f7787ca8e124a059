"""MaskRCNN as a Keras model: fit, evaluate, predict, save, load; and what it does with odd batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import batch, tiny_config, tiny_model

from kmaskrcnn.layers.backbones import freeze_backbone
from kmaskrcnn.model import MaskRCNN

LOSSES = ("rpn_class_loss", "rpn_box_loss", "box_class_loss", "box_loss", "mask_loss")


def dataset(*batches):
    signature = tf.nest.map_structure(
        lambda x: tf.TensorSpec(
            [None] * x.ndim if x.ndim != 4 else [None, None, None, x.shape[3]], x.dtype
        ),
        batches[0],
    )
    return tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_fit_evaluate_predict_save_load(tmp_path):
    rng = np.random.default_rng(0)
    model = tiny_model()
    model.compile(optimizer=keras.optimizers.SGD(1e-3, momentum=0.9))
    data = dataset(batch(rng), batch(rng, (1, 3), (128, 64)))
    history = model.fit(data, epochs=2, validation_data=data, verbose=0).history
    assert {*LOSSES, "loss"} <= set(history) and {f"val_{name}" for name in LOSSES} <= set(history)
    assert all(np.isfinite(values).all() for values in history.values())
    parts = sum(history[name][-1] for name in LOSSES)
    assert history["loss"][-1] == pytest.approx(parts, rel=1e-3)
    losses = model.evaluate(data, verbose=0, return_dict=True)
    assert set(losses) == {*LOSSES, "loss"}
    before = model.predict(data, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, MaskRCNN) and loaded.config == model.config
    after = loaded.predict(data, verbose=0)
    assert before["masks"].shape == (4, 10, 28, 28)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    loaded.fit(data, epochs=1, verbose=0)  # compiled as it was saved


def test_a_training_step_is_traced_once(monkeypatch):
    """TensorFlow traces twice what makes variables at its first call, which doubles the wait for the first step."""
    traced, step = [], MaskRCNN.train_step

    def counting(model, *args):
        traced.append(model)
        return step(model, *args)

    monkeypatch.setattr(MaskRCNN, "train_step", counting)
    model = tiny_model()
    model.compile(optimizer=keras.optimizers.AdamW(1e-3))
    rng = np.random.default_rng(0)
    model.fit(dataset(batch(rng), batch(rng, (1, 3), (128, 64))), epochs=2, verbose=0)
    assert len(traced) == 1


def test_one_variable_has_one_owner(model):
    paths = [v.path for v in model.trainable_variables]
    assert len(paths) == len(set(paths))
    assert len({id(v) for v in model.trainable_variables}) == len(paths)


def test_detections_keep_the_contract(model):
    inputs, _ = batch(np.random.default_rng(1))
    out = model.predict_on_batch(inputs)
    for i, (height, width) in enumerate(inputs["image_sizes"]):
        count = out["num_detections"][i]
        assert (
            count > 0
            and (out["labels"][i, :count] >= 0).all()
            and (out["labels"][i, count:] == -1).all()
        )
        assert (np.diff(out["scores"][i, :count]) <= 0).all()
        boxes = out["boxes"][i]
        assert (
            (boxes >= 0).all()
            and (boxes[:, [0, 2]] <= width).all()
            and (boxes[:, [1, 3]] <= height).all()
        )
        assert not boxes[count:].any() and not out["masks"][i, count:].any()
        assert (out["masks"][i, :count] > 0).all() and (out["masks"][i, :count] < 1).all()


def test_images_alone_are_enough(model):
    inputs, _ = batch(np.random.default_rng(1))
    inputs["image_sizes"] = np.array([[64, 96], [64, 96]], "int32")
    with_sizes = model.predict_on_batch(inputs)
    alone = model.predict_on_batch(inputs["images"])
    for name in alone:
        # Traced with other shapes known beforehand: coordinates up to 96 round differently in float32.
        np.testing.assert_allclose(alone[name], with_sizes[name], rtol=1e-6, atol=1e-5)


def test_odd_sizes_pass(model):
    images = np.random.default_rng(0).integers(0, 255, (1, 75, 101, 3)).astype("uint8")
    assert model.predict_on_batch(images)["boxes"].shape == (1, 10, 4)


def test_pixels_in_the_padding_and_padded_ground_truth_change_no_loss(model):
    rng = np.random.default_rng(2)
    inputs, targets = batch(rng)
    plain = values(model, inputs, targets)
    scribbled = inputs["images"].copy()
    scribbled[1, 54:], scribbled[1, :, 76:] = 255, 17
    more = {
        "boxes": np.pad(targets["boxes"], [[0, 0], [0, 5], [0, 0]]),
        "labels": np.pad(targets["labels"], [[0, 0], [0, 5]], constant_values=-1),
        "is_crowd": np.pad(targets["is_crowd"], [[0, 0], [0, 5]]),
        "masks": np.pad(targets["masks"], [[0, 0], [0, 5], [0, 0], [0, 0]]),
    }
    padded = values(model, {**inputs, "images": scribbled}, more)
    for name in plain:
        assert padded[name] == pytest.approx(plain[name], rel=1e-6), name


def test_a_wider_canvas_changes_no_loss_and_no_detection(model):
    inputs, targets = batch(np.random.default_rng(2))
    wider = {**inputs, "images": np.pad(inputs["images"], [[0, 0], [0, 70], [0, 128], [0, 0]])}
    plain, other = values(model, inputs, targets), values(model, wider, targets)
    for name in plain:
        assert other[name] == pytest.approx(plain[name], rel=1e-6), name
    plain, other = model.predict_on_batch(inputs), model.predict_on_batch(wider)
    assert plain["num_detections"].min() > 0
    for name in plain:
        np.testing.assert_allclose(other[name], plain[name], rtol=1e-6, atol=1e-6)


def values(model, inputs, targets):
    """The losses of one batch, with the same random draws each time."""
    for layer in (model.rpn_targets, model.box_branch.targets):
        layer.seed_generator.state.assign([0, 7])
    outputs = model({**inputs, **targets}, training=False)
    return {name: float(value) for name, value in model.loss_values(outputs).items()}


@pytest.mark.parametrize("objects, crowd", [((0, 0), False), ((0, 2), False), ((1, 1), True)])
def test_pictures_without_objects_or_with_crowds_alone_train(objects, crowd):
    rng = np.random.default_rng(3)
    model = tiny_model()
    model.compile(optimizer=keras.optimizers.SGD(1e-2))
    inputs, targets = batch(rng, objects, crowd=crowd)
    for _ in range(2):
        losses = model.train_on_batch(inputs, targets, return_dict=True)
        assert all(np.isfinite(value) for value in losses.values()), losses
    assert all(np.isfinite(v.numpy()).all() for v in model.trainable_variables)
    if objects == (0, 0) or crowd:
        assert losses["mask_loss"] == 0 and losses["box_loss"] == 0 and losses["rpn_class_loss"] > 0


def test_without_masks_it_is_faster_rcnn(tmp_path):
    rng = np.random.default_rng(4)
    model = tiny_model(with_mask=False)
    model.compile(optimizer=keras.optimizers.SGD(1e-3))
    inputs, targets = batch(rng, masks=False)
    losses = model.train_on_batch(inputs, targets, return_dict=True)
    assert "mask_loss" not in losses and np.isfinite(losses["loss"])
    assert "masks" not in model.predict_on_batch(inputs)
    model.save(tmp_path / "model.keras")
    assert not keras.saving.load_model(tmp_path / "model.keras").config.with_mask


def test_mixed_bfloat16_learns_with_float32_boxes():
    rng = np.random.default_rng(5)
    model = MaskRCNN(tiny_config(), dtype="mixed_bfloat16")
    assert (
        model.backbone.layers[1].compute_dtype == model.box_branch.head.compute_dtype == "bfloat16"
    )
    assert keras.config.dtype_policy().name == "float32"
    model.compile(optimizer=keras.optimizers.SGD(1e-3))
    inputs, targets = batch(rng)
    first = model.train_on_batch(inputs, targets, return_dict=True)["loss"]
    for _ in range(8):
        last = model.train_on_batch(inputs, targets, return_dict=True)["loss"]
    assert last < first
    assert model.predict_on_batch(inputs)["boxes"].dtype == "float32"
    assert all(v.dtype == "float32" for v in model.trainable_variables)


def test_accumulated_gradients_change_weights_every_second_step():
    rng = np.random.default_rng(6)
    model = tiny_model()
    model.compile(optimizer=keras.optimizers.SGD(1e-2, gradient_accumulation_steps=2))
    kernel = model.rpn_head.convs[0].kernel
    seen = [kernel.numpy()]
    for _ in range(4):
        model.train_on_batch(*batch(rng))
        seen.append(kernel.numpy())
    changed = [not np.array_equal(a, b) for a, b in zip(seen, seen[1:])]
    assert changed == [False, True, False, True]


def test_portable_and_kernel_paths_detect_the_same(model):
    portable = tiny_model(portable=True)
    portable.set_weights(model.get_weights())
    # Multiples of 64: the portable one keeps canvases as they are.
    inputs, _ = batch(np.random.default_rng(7), size=(64, 128))
    one, other = model.predict_on_batch(inputs), portable.predict_on_batch(inputs)
    np.testing.assert_array_equal(one["labels"], other["labels"])
    np.testing.assert_allclose(one["boxes"], other["boxes"], atol=1e-3)
    np.testing.assert_allclose(one["masks"], other["masks"], atol=1e-4)


def test_xla_trains_and_predicts_the_portable_model():
    rng = np.random.default_rng(8)
    model = tiny_model(portable=True)
    inputs, targets = batch(rng)
    model.compile(optimizer=keras.optimizers.SGD(1e-3), jit_compile=True)
    assert model.jit_compile
    assert np.isfinite(model.train_on_batch(inputs, targets, return_dict=True)["loss"])
    compiled = model.predict_on_batch(inputs)
    model.compile(optimizer=keras.optimizers.SGD(1e-3), jit_compile=False)
    plain = model.predict_on_batch(inputs)
    np.testing.assert_array_equal(compiled["labels"], plain["labels"])
    # XLA adds up in another order. Coordinates near 90 are 7.6e-6 apart in float32; of four seeds none differed by
    # more than that, and another CPU's vectors may add a dozen such steps.
    np.testing.assert_allclose(compiled["boxes"], plain["boxes"], rtol=0, atol=1e-4)


def test_a_backbone_of_ones_own(tmp_path):
    from kmaskrcnn.layers.backbones import application_backbone

    endpoints = {
        "C2": "block_3_expand_relu",
        "C3": "block_6_expand_relu",
        "C4": "block_13_expand_relu",
    }
    own = application_backbone(
        keras.applications.MobileNetV2, {**endpoints, "C5": "out_relu"}, alpha=0.35
    )
    model = MaskRCNN(tiny_config(), backbone=own)
    inputs, _ = batch(np.random.default_rng(9))
    before = model.predict_on_batch(inputs)
    model.save(tmp_path / "model.keras")
    after = keras.saving.load_model(tmp_path / "model.keras").predict_on_batch(inputs)
    np.testing.assert_array_equal(before["boxes"], after["boxes"])


def test_frozen_stages_stay_frozen_when_loaded(tmp_path):
    model = MaskRCNN(tiny_config())
    freeze_backbone(model.backbone, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    paths = [v.path.split("/")[1:] for v in model.trainable_variables]
    assert [v.path.split("/")[1:] for v in loaded.trainable_variables] == paths
    assert len(paths) < len(MaskRCNN(tiny_config()).trainable_variables)


def test_missing_ground_truth_is_named(model):
    inputs, targets = batch(np.random.default_rng(0))
    del targets["masks"]
    with pytest.raises(Exception, match=r"inputs: \['masks'\] missing"):
        model({**inputs, **targets})


def test_learning_from_images_alone_is_refused():
    model = tiny_model()
    model.compile(optimizer="sgd")
    inputs, _ = batch(np.random.default_rng(0))
    with pytest.raises(Exception, match="yields inputs alone"):
        model.fit(tf.data.Dataset.from_tensors((inputs,)), verbose=0)


def test_a_class_that_the_model_does_not_have_is_refused():
    model = tiny_model()
    model.compile(optimizer="sgd")
    inputs, targets = batch(np.random.default_rng(0))
    targets["labels"][0, 0] = 3
    with pytest.raises(tf.errors.InvalidArgumentError, match="labels: accepted are 0 ... 2"):
        model.fit(tf.data.Dataset.from_tensors((inputs, targets)), verbose=0)
