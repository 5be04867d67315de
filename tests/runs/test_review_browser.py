"""A person reviews an identification in a real browser, by the keyboard; the gallery follows."""

import json
import re
import shutil
import signal
import subprocess
import sys

import pytest

from exreid.cli import main
from exreid.gallery.opening import open_gallery
from exreid.report.review_sources import read_review
from exreid.report.review_static import write_static_review
from exreid.review.decisions import read_decisions, standing
from tests.runs.conftest import STRANGER

SHOWN = (
    "const seen = (id) => !document.getElementById(id).hidden;"
    "return document.getElementById('answers').hidden ? null : {"
    "kind: ['pair', 'name', 'done'].find(seen),"
    "progress: document.getElementById('progress').textContent,"
    "titles: [...document.querySelectorAll('.view figcaption')].map((one) => one.title),"
    "sheet: document.getElementById('sheet').textContent, idle: !document.querySelector("
    "'[data-verdict]').disabled}"
)


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("selenium", reason="selenium is not installed (extra: test)")
    from benchmarks._browser import Browser

    started = Browser.start()
    if started is None:
        pytest.skip("no Chromium or Chrome with its chromedriver is installed")
    with started:
        yield started


@pytest.fixture
def world(identified, tmp_path):
    for name in ("g", "identifications"):
        shutil.copytree(identified / name, tmp_path / name)
    return tmp_path


class _Server:
    """`exreid review`, and its page in the browser."""

    def __init__(self, browser, folder):
        command = [sys.executable, "-m", "exreid.cli", "review", str(folder), "--no-browser"]
        self.process = subprocess.Popen(
            [*command, "--who", "Ada"], stdout=subprocess.PIPE, text=True
        )
        browser.driver.get(re.search(r"http\S+", self.process.stdout.readline())[0])

    def end(self, how):
        self.process.send_signal(how)
        self.process.communicate(timeout=60)


def _animal(title):
    return re.search(r"lynx_\d+", title)[0]


def _press(browser, key):
    from selenium.webdriver.common.keys import Keys

    before = browser.wait_for(SHOWN)
    focus = browser.driver.switch_to.active_element
    if before["kind"] == "name" and key == "z":  # there it is a letter of the name
        focus = browser.driver.find_element("id", "undo")
        key = "enter"
    focus.send_keys(Keys.ENTER if key == "enter" else key)
    script = f"const now = (() => {{{SHOWN}}})(), before = {json.dumps(before)};"
    changed = "Object.keys(now).some((name) => `${now[name]}` !== `${before[name]}`)"
    return browser.wait_for(f"{script} return now && now.idle && {changed} ? now : null")


def _answer(browser, most):
    """Answer truly by keys, so many times or until all is done; how often."""
    count = 0
    while count < most and (shown := browser.wait_for(SHOWN))["kind"] != "done":
        same = len({_animal(title) for title in shown["titles"]}) == 1
        _press(browser, "enter" if shown["kind"] == "name" else "1" if same else "2")
        count += 1
    return count


def _gallery_is_right(world):
    before = set(open_gallery(world / "g").table.rows["image_id"])
    file = world / "identifications" / "i" / "decisions.csv"
    assert main(["gallery", "apply", str(world / "g"), str(file), "ray.num_actors=0"]) == 0
    rows = open_gallery(world / "g").table.rows
    new = rows[~rows["image_id"].isin(before)]
    assert len(new) == (read_review(file.parent).photos["side"] == "query").sum()
    for image, name in zip(new["image_id"], new["identity"], strict=True):
        stranger = _animal(image) == STRANGER
        assert name.startswith("animal ") if stranger else name == _animal(image)


def test_answers_by_keyboard_survive_a_kill_and_come_into_the_gallery(browser, world):
    folder = world / "identifications" / "i"
    server = _Server(browser, folder)
    try:
        assert _answer(browser, 8) == 8
        for _ in range(2):
            _press(browser, "z")
        kept = standing(read_decisions(folder / "decisions.csv").decisions)
        assert len(kept) == 6
    finally:
        server.end(signal.SIGKILL)
    assert standing(read_decisions(folder / "decisions.csv").decisions) == kept
    server = _Server(browser, folder)
    try:
        assert 8 + _answer(browser, 100) >= 10
        assert browser.wait_for(SHOWN)["kind"] == "done"
    finally:
        server.end(signal.SIGINT)
    _gallery_is_right(world)


def _two_matches(first, second):
    return [(0.2, 0.3, 0.4, 0.5), (0.6, 0.7, 0.8, 0.9)]


def test_pages_without_a_server_give_the_same_gallery(browser, world, tmp_path):
    folder = world / "identifications" / "i"
    rounds = 0
    while rounds < 8:
        pages = tmp_path / f"pages{rounds}"
        count = write_static_review(
            read_review(folder), pages, who="Ada", most=50, match=_two_matches
        )
        if count == 0:
            break
        browser.open(pages / "index.html")
        if browser.wait_for(SHOWN)["kind"] == "pair":
            browser.driver.switch_to.active_element.send_keys("m")
            browser.wait_for("return document.querySelectorAll('.view circle').length === 4")
            assert browser.texts("#matches span") == ["2 matched keypoints"]
            browser.driver.switch_to.active_element.send_keys("h")
            browser.wait_for("return document.querySelectorAll('.heat circle').length === 4")
        answered = _answer(browser, 2)
        browser.open(pages / "index.html")  # closed and opened again: the answers are there
        progress = browser.wait_for(SHOWN)["progress"]
        assert progress.startswith(f"{answered} of ")
        _answer(browser, 100)
        text = browser.run("return window.offlineReview.file()")
        (tmp_path / f"{rounds}.csv").write_text(text)
        assert main(["review", "apply", str(folder), str(tmp_path / f"{rounds}.csv")]) == 0
        rounds += 1
    assert 0 < rounds < 8
    assert browser.console() == []
    _gallery_is_right(world)
