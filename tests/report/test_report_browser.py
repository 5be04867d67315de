"""The report's pages in a real browser, opened from disk and clicked through."""

import json

import pytest

from benchmarks._made_run import MadeRun, make_run
from exreid.runs.report import write_report
from tests.report.test_report import HOSTILE

MADE = MadeRun(60, 80, 12, names=HOSTILE, photo_wh_px=(160, 120), kept_matches=2, shortlist=6)


@pytest.fixture(scope="module")
def browser():
    selenium = pytest.importorskip("selenium", reason="selenium is not installed (extra: test)")
    assert selenium
    from benchmarks._browser import Browser

    started = Browser.start()
    if started is None:
        pytest.skip("no Chromium or Chrome with its chromedriver is installed")
    with started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    run, _ = make_run(tmp_path_factory.mktemp("browser"), MADE)
    return write_report(run, workers=1).parent


def _quiet(browser):
    """Nothing went wrong, no text ran as a script, and nothing was asked of a network."""
    assert browser.console() == []
    asked = [
        json.loads(line["message"])["message"] for line in browser.driver.get_log("performance")
    ]
    urls = [
        one["params"]["request"]["url"]
        for one in asked
        if one["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in urls if url.startswith(("http", "ws"))] == []
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width_px", [390, 1280])
def test_every_page_opens_without_a_word_in_the_console(browser, pages, width_px):
    for page in ("index.html", "queries.html", "trust.html", "run.html"):
        browser.open(pages / page, width_px=width_px)
        browser.wait("h1")
        broken = "return [...document.images].filter(i => i.complete && !i.naturalWidth).length"
        assert browser.run(broken) == 0
        _quiet(browser)


def test_finding_filtering_and_turning_pages(browser, pages):
    browser.open(pages / "queries.html")
    browser.wait("#grid li")
    assert browser.texts("#found") == ["60 photographs"]
    assert len(browser.texts("#grid li")) == 48
    browser.run("document.querySelector('#pager button:nth-last-child(2)').click()")
    browser.wait_for("return document.querySelectorAll('#grid li').length === 12")
    outcome = browser.run("return exreid.index.outcome")
    for code, name in enumerate(("right", "wrong", "new")):
        browser.run(f"document.querySelector('#outcomes [data-value={name}]').click()")
        count = outcome.count(code)
        browser.wait_for(
            f"return document.querySelectorAll('#grid li').length === {min(count, 48)}"
        )
        assert browser.texts("#found") == [f"{count} of 60 photographs"]
        assert f"outcome={name}" in browser.driver.current_url
        browser.run(f"document.querySelector('#outcomes [data-value={name}]').click()")
    for name in HOSTILE[:6]:
        animals = browser.run("return exreid.index.id.map((_, i) => exreid.animal('truth', i))")
        browser.run(
            "const find = document.getElementById('find'); find.value = arguments[0];"
            "find.dispatchEvent(new Event('input'))".replace("arguments[0]", json.dumps(name))
        )
        shown = browser.run("return exreid.shown")
        assert {i for i, animal in enumerate(animals) if animal == name} <= set(shown)
    browser.run("document.getElementById('clear').click()")
    browser.wait_for("return document.getElementById('found').textContent === '60 photographs'")
    _quiet(browser)


def test_one_photograph_with_keys_and_toggles(browser, pages):
    browser.open(pages / "queries.html")
    browser.wait("#grid li")
    browser.run("document.querySelector('#grid a').click()")
    browser.wait("#detail .viewer svg image")
    first = browser.run("return document.title")
    lines = "return document.querySelectorAll('#detail .viewer .lines line').length"
    assert browser.run(lines) > 0
    press = "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '%s', bubbles: true}))"
    browser.run(press % "m")
    assert browser.run(lines) == 0
    assert browser.run("return document.querySelectorAll('.viewer image.heat').length") == 0
    browser.run("document.getElementById('toggle-heat').click()")
    assert browser.run("return document.querySelectorAll('.viewer image.heat').length") == 2
    assert browser.run("return document.activeElement.id") == "toggle-heat"
    before = browser.texts(".viewer .captions")
    browser.run(
        "[...document.querySelectorAll('.animal')][1].querySelector('.thumbs button').click()"
    )
    assert browser.texts(".viewer .captions") != before
    assert (
        browser.run("return document.querySelectorAll('[aria-pressed=true][data-photo]').length")
        == 1
    )
    browser.run(press % "ArrowRight")
    browser.wait_for(f"return document.title !== {json.dumps(first)} || exreid.shown.length < 2")
    browser.run("history.back()")
    browser.wait_for(f"return document.title === {json.dumps(first)}")
    _quiet(browser)
    browser.run(press % "Escape")
    browser.wait_for("return !document.getElementById('list').hidden")
    assert browser.run("return document.getElementById('detail').hidden")


def test_an_address_of_a_photograph_and_one_of_none(browser, pages):
    browser.open(pages / "index.html")
    browser.run("document.querySelector('.cards a').click()")
    browser.wait("#detail h1")
    browser.open(pages / "queries.html", "#photo=nothing%3Cb%3E")
    browser.wait("#grid li")
    assert "no photograph nothing<b> in this report" in browser.texts("#found")[0]
    browser.open(pages / "index.html")
    browser.run("document.getElementById('theme').click()")
    theme = browser.run("return document.documentElement.dataset.theme")
    browser.open(pages / "trust.html")
    assert browser.run("return document.documentElement.dataset.theme") == theme
    _quiet(browser)
