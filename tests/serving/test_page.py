"""`kmaskrcnn app`: what the page shows, and that a browser on it asks nobody else."""

import contextlib
import json
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from pictures import photo

pytest.importorskip("gradio", reason="needs the extra [app]: make test-optional")

from kmaskrcnn.serving.page import Page, gr, run_page  # noqa: E402
from kmaskrcnn.serving.predictor import Predictor  # noqa: E402

PICTURE = photo(64, 96)
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,1000"
).split()
NETWORK = {
    "http",
    "https",
    "ws",
    "wss",
}  # others are the browser's own pages and the page's own data


@pytest.fixture(scope="module")
def page(served_model):
    return Page(Predictor(served_model))


def test_threshold_and_classes_choose_what_is_shown(page):
    found = page.detect(PICTURE)
    objects = found.detections
    assert len(objects) > 1
    drawn, line, path = page.show(found, 0.0, [])
    plain = page.show(found, 1.0, [])[0]
    assert drawn.shape == plain.shape == (640, 960, 3) and (drawn != plain).any()
    assert sum(int(part.split()[0]) for part in line.split(", ")) == len(objects)
    page.show(found, 0.0, [])
    results = json.loads(open(path).read())
    assert len(results) == len(objects) and {"bbox", "score", "segmentation"} <= set(results[0])
    name = objects.names[0]
    least = float(np.sort(objects.scores)[-2])
    for min_score, names, wanted in (
        (least, [], 2),
        (0.0, [name], objects.names.count(name)),
        (1.0, [], 0),
    ):
        chosen = page.show(found, min_score, names)
        assert len(json.loads(open(chosen[2]).read())) == wanted
    assert page.show(found, 1.0, [])[1] == "nothing found"
    small = cv2.resize(plain, (96, 64), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(small - PICTURE).mean() < 2  # nothing is drawn
    for nothing in (None, page.detect(None), page.detect(None, found)):
        assert page.show(nothing, 0.5, []) == (None, "", None)


def test_a_picture_keeps_its_own_objects_and_leaves_one_file(page):
    """A smaller one comes while the first is shown; each visitor has one download at a time."""
    files = set(Path(page.folder.name).rglob("*.json"))
    first = page.detect(PICTURE)
    second = page.detect(photo(40, 48), first)
    for found, shape in ((first, (640, 960, 3)), (second, (800, 960, 3)), (first, (640, 960, 3))):
        for score in (0.0, 0.1, 0.2):
            assert page.show(found, score, [])[0].shape == shape
    assert len(set(Path(page.folder.name).rglob("*.json")) - files) == 1
    page.show(page.detect(PICTURE), 0.0, [])  # another visitor
    assert len(set(Path(page.folder.name).rglob("*.json")) - files) == 2


def test_what_gradio_keeps_is_deleted(page):
    frequency, age = page.blocks().delete_cache
    assert 0 < frequency <= age <= 3600


def test_what_cannot_be_a_picture_is_an_error_on_the_page(page):
    with pytest.raises(gr.Error, match="got shape"):
        page.detect(np.zeros((5, 5), "uint8"))


@contextlib.contextmanager
def browser(folder):
    """A headless Chromium that logs its requests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def requested(driver):
    """The hosts of all requests that went to the network."""
    hosts = set()
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        url = {
            "Network.requestWillBeSent": lambda: message["params"]["request"]["url"],
            "Network.webSocketCreated": lambda: message["params"]["url"],
        }.get(message["method"], str)()
        parts = urlsplit(url)
        if parts.scheme in NETWORK:
            hosts.add(parts.hostname)
    return hosts


def eventually(get, wanted=bool, seconds=90):
    """What `get` gives once it is as wanted."""
    end = time.monotonic() + seconds
    while not wanted(value := get()):
        assert time.monotonic() < end, value
        time.sleep(0.2)
    return value


@pytest.mark.slow
@pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromedriver")
def test_in_a_browser_it_works_and_asks_nobody_else(served_folder, tmp_path):
    cv2.imwrite(str(tmp_path / "picture.png"), PICTURE[..., ::-1])
    blocks = run_page(served_folder, port=None, wait=False)
    try:
        with browser(tmp_path) as driver:
            use_the_page(driver, blocks.local_url, tmp_path)
            hosts = requested(driver)
    finally:
        blocks.close()
    assert hosts == {"127.0.0.1"}


def use_the_page(driver, url, folder):
    """Give it a picture, lower the threshold, choose a class, download the json."""

    def find(selector):
        return driver.find_elements("css selector", selector)

    def line():
        found = find("#line")
        return found[0].text.strip() if found else ""

    driver.get(url)
    (upload,) = eventually(lambda: find("input[type=file]"))
    upload.send_keys(str(folder / "picture.png"))
    eventually(line, lambda text: text == "nothing found")  # an untrained model is sure of nothing
    (score,) = find("#score input[type=number]")
    score.send_keys("\b" * 4 + "0\n")
    everything = eventually(line, lambda text: text.split(" ")[0].isdecimal())
    counts = dict(reversed(part.split(" ")) for part in everything.split(", "))
    name = min(counts)
    (classes,) = find("#classes input")
    classes.send_keys(name + "\n")
    eventually(line, lambda text: text == f"{counts[name]} {name}")
    find("#download a, a#download, #download")[0].click()
    (file,) = eventually(lambda: list(folder.glob("detections*.json")))
    assert len(json.loads(file.read_text())) == int(counts[name])
    driver.save_screenshot(str(folder / "page.png"))
