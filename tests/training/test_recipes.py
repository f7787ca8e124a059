"""The recipes in `configs/` say what their headers say."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from kmaskrcnn.config import load_yaml
from kmaskrcnn.training.optimizers import make_optimizer
from kmaskrcnn.weights.architectures import find_architecture, make_config
from kmaskrcnn.weights.presets import PRESETS

CONFIGS = Path(__file__).parents[2] / "configs"
COCO_PICTURES = 118_287


@pytest.mark.parametrize("name, updates", [("1x", 90_000), ("3x", 270_000)])
def test_the_published_schedule_of_coco(name, updates):
    """16 pictures an update at 0.02, a warm-up of 1,000 updates, a tenth after 2/3, a hundredth after 8/9."""
    recipe = load_yaml(CONFIGS / f"coco_r50_fpn_{name}.yaml")
    batch = recipe.data.batch_size * recipe.training.gradient_accumulation_steps
    assert batch == 16 and (recipe.model.min_size, recipe.model.max_size) == (800, 1333)
    batches = COCO_PICTURES // recipe.data.batch_size
    rate = make_optimizer(recipe, SimpleNamespace(weights=[]), batches)._learning_rate
    done = recipe.training.epochs * COCO_PICTURES / batch
    assert done == pytest.approx(updates, rel=0.02)
    expected = {0: 0.00002, 500: 0.01, 1000: 0.02, 0.66 * done: 0.02, 0.67 * done: 0.002}
    expected |= {0.88 * done: 0.002, 0.89 * done: 0.0002}
    for update, value in expected.items():
        # Keras asks by batches, of which eight make an update.
        assert float(rate(8 * update)) == pytest.approx(value, rel=1e-3), update


@pytest.mark.parametrize("name", ["finetune_heads", "finetune_all"])
def test_fine_tuning_assumes_what_the_published_weights_assume(name):
    """All that differs are norms that stand still, with the same weights."""
    recipe = load_yaml(CONFIGS / f"{name}.yaml")
    first = load_yaml(CONFIGS / "finetune_heads.yaml")
    published = make_config(find_architecture(PRESETS[first.training.initial_weights].architecture))
    ours, theirs = dataclasses.asdict(recipe.model), dataclasses.asdict(published)
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing == {"class_names", "norm", "fpn_norm", "head_norm"}
    assert recipe.training.trainable_stages == (0 if name == "finetune_heads" else 3)


def test_lvis_keeps_what_its_rules_count():
    model = load_yaml(CONFIGS / "lvis_r50_fpn.yaml").model
    assert (model.max_detections, model.score_threshold) == (300, 0.0001)
