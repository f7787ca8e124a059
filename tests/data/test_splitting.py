"""Parts share no picture, lose none, and have their share of every class."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmaskrcnn.data.faults import DatasetError
from kmaskrcnn.data.splitting import choose_pictures, split_dataset


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.integers(1, 999), st.frozensets(st.sampled_from("abc"), max_size=3), min_size=5
    ),
    st.floats(0.2, 0.5),
    st.integers(0, 9),
)
def test_the_size_is_the_share(classes, share, seed):
    chosen = choose_pictures(classes, share, seed)
    assert chosen < set(classes) and len(chosen) == round(share * len(classes))
    assert chosen == choose_pictures(dict(reversed(classes.items())), share, seed)


def test_every_class_has_its_share():
    """Long-tailed classes, one to three a picture: each share is met within a picture or two."""
    generator = np.random.default_rng(0)
    weights = 0.5 ** np.arange(6)
    classes = {
        number: set(
            generator.choice(6, generator.integers(1, 4), False, weights / weights.sum()).tolist()
        )
        for number in range(500)
    }
    classes |= {number: set() for number in range(500, 540)}  # empty pictures
    chosen = choose_pictures(classes, 0.2, seed=1)
    total = Counter(name for names in classes.values() for name in names or {None})
    found = Counter(name for number in chosen for name in classes[number] or {None})
    assert len(chosen) == 108
    for name, count in total.items():
        assert abs(found[name] - 0.2 * count) <= max(2, 0.02 * count), (name, found[name], count)
    assert chosen != choose_pictures(classes, 0.2, seed=2)


def test_a_class_of_two_pictures_is_in_both_parts():
    classes = {1: {"rare"}, 2: {"rare"}, **{n: {"common"} for n in range(3, 13)}}
    for seed in range(10):
        assert len(choose_pictures(classes, 0.25, seed) & {1, 2}) == 1


def document():
    return {
        "info": {"year": 2026},
        "images": [{"id": n, "file_name": f"{n}.png", "note": n} for n in range(10)],
        "annotations": [
            {"id": n, "image_id": n // 2, "category_id": n % 3, "own": "kept"} for n in range(16)
        ],
        "categories": [{"id": n, "name": str(n)} for n in range(3)],
    }


def test_files(tmp_path):
    (tmp_path / "all.json").write_text(json.dumps(document()))
    paths = split_dataset(tmp_path / "all.json", tmp_path / "parts", validation=0.3, seed=4)
    parts = {name: json.loads(path.read_text()) for name, path in paths.items()}
    assert list(paths) == ["train", "validation"] and paths["train"].name == "train.json"
    assert [len(parts[name]["images"]) for name in paths] == [7, 3]
    for kind in ("images", "annotations"):
        entries = [entry for part in parts.values() for entry in part[kind]]
        assert sorted(entries, key=lambda entry: entry["id"]) == document()[kind]
    for part in parts.values():
        assert part["info"] == {"year": 2026} and part["categories"] == document()["categories"]
        ids = {image["id"] for image in part["images"]}
        assert {a["image_id"] for a in part["annotations"]} <= ids


def test_errors_are_clear(tmp_path):
    (tmp_path / "all.json").write_text(json.dumps(document()))
    for share in (0, 1, 0.01, -3):
        with pytest.raises(ValueError, match=f"a share of {share} of 10 pictures leaves a part"):
            split_dataset(tmp_path / "all.json", tmp_path, validation=share)
    broken = document()
    del broken["annotations"][3]["image_id"]
    (tmp_path / "all.json").write_text(json.dumps(broken))
    with pytest.raises(DatasetError, match="an entry lacks 'image_id'"):
        split_dataset(tmp_path / "all.json", tmp_path)
