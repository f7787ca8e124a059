"""What a server reads from a picture's header, and what it grants."""

import io

import pytest
from pictures import broken_files, encode, photo, sound_files
from PIL import Image

pytest.importorskip("orjson", reason="needs the extra [serve]: make test-optional")

from kmaskrcnn.serving.limits import Limits, Places, check_pixels, stored_size  # noqa: E402
from kmaskrcnn.serving.protocol import RequestError  # noqa: E402


@pytest.mark.parametrize("kind, data", sound_files().items())
def test_the_size_in_the_header(kind, data):
    assert stored_size(data) == Image.open(io.BytesIO(data)).size[::-1], kind


@pytest.mark.parametrize("kind, data", [(k, data) for k, (data, _) in broken_files().items()])
def test_a_broken_header_is_left_to_the_decoder(kind, data):
    height, width = stored_size(data)
    assert (height, width) in [(0, 0), (48, 64), (65536, 65536)], kind


def test_a_bomb_is_refused_by_its_header():
    bomb = broken_files()["png that claims 4 gigapixels"][0]
    assert "65536 x 65536 pixels, more than the limit of 1000000" in check_pixels(bomb, 10**6)
    for kind in ("PNG", "JPEG"):
        data = encode(photo(40, 50), kind)
        assert check_pixels(data, 2000) == ""
        assert "50 x 40 pixels" in check_pixels(data, 1999)


@pytest.mark.parametrize("name", ["max_body_bytes", "concurrency", "timeout", "max_batch"])
def test_limits_that_grant_nothing_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: a number above 0 wanted, got 0"):
        Limits(**{name: 0})
    assert Limits(batch_wait_ms=0).batch_wait_ms == 0


def test_places_are_given_back():
    places = Places(1)
    with pytest.raises(KeyError):
        with places.one():
            with pytest.raises(RequestError, match="queue is full: 1 requests") as error:
                with places.one():
                    pass
            raise KeyError
    assert error.value.status == 503 and places.taken == 0
