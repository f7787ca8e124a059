"""What the documentation names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("docs/*.md")) + [ROOT / "README.md", ROOT / "benchmarks/RESULTS.md"]


def test_every_pain_has_its_row():
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs/pains.md").read_text(), flags=re.M)
    assert rows == [str(number) for number in range(1, 31)]


def test_slow_tests_are_called_slow():
    rows = re.findall(
        r"`(tests/[\w/]+\.py)::(test_\w+)`( \(slow\))?", (ROOT / "docs/pains.md").read_text()
    )
    wrong = []
    for path, name, slow in rows:
        decorators = (ROOT / path).read_text().partition(f"\ndef {name}(")[0].rpartition("\n\n")[2]
        if bool(slow) != ("pytest.mark.slow" in decorators):
            wrong.append(f"{path}::{name}")
    assert len(rows) >= 30 and not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tests_that_are_named_exist(page):
    named = re.findall(r"(tests/[\w/]+\.py)::(test_\w+)", page.read_text())
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file() or f"def {name}(" not in (ROOT / path).read_text()
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[\w-]*)?\)", page.read_text())
    local = [link for link in links if "://" not in link]
    assert not [link for link in local if not (page.parent / link).exists()]
