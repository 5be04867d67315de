"""The page of a review: who may use it, and what its answers come to."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from dataclasses import replace
from http.cookiejar import CookieJar
from itertools import combinations

import pandas as pd
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.errors import ReviewError, RunError
from exreid.records import Result
from exreid.report.review_page import shown as page
from exreid.report.review_page import told
from exreid.report.review_server import HOST, Desk, application
from exreid.report.review_sources import read_review, with_photographs
from exreid.report.review_static import write_static_review
from exreid.report.reviewed import NameQuestion
from exreid.review.asking import Question
from exreid.review.decisions import HEADER, read_decisions
from exreid.storage.run_folder import RunFolder

ANIMAL = {f"v{number}": "ABCDE"[number % 5] for number in range(15)}
"""Of each visit; the probabilities below are wrong about some pairs."""


def _discovery(folder):
    """A finished discovery: a photograph for each visit, and one of two animals."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    for visit in ANIMAL:
        Image.new("RGB", (40, 30), (10 * int(visit[1:]), 90, 120)).save(photos / f"{visit}.jpg")
    config = load_config(ProbeConfig, None, [f"dataset.root={photos}"])
    table = "discoveries.csv"
    run = RunFolder(folder, "d", config, "cosine", results_table=table, kind="discover")
    paths = {visit: f"{visit}.jpg" for visit in ANIMAL} | {"v1": "v0.jpg"}
    rows = [
        {"image_id": f"{visit}#", "encounter": visit, "root": str(photos), "path": path}
        for visit, path in paths.items()
    ]
    frame = pd.DataFrame(rows).assign(visit=list(paths), date="2026-05-01", viewpoint="left")
    frame.to_parquet(run.path / "photos.parquet")
    animals = frame[["image_id", "encounter"]].assign(group=0)
    animals.to_parquet(run.path / "animals.parquet")
    pairs = []
    for number, (a, b) in enumerate(combinations(ANIMAL, 2)):
        right = 0.9 if number % 9 else 0.3
        probability = right if ANIMAL[a] == ANIMAL[b] else 0.05 + 0.5 * (number % 13 == 0)
        pairs.append((b, a, f"{b}#", f"{a}#", probability))
    names = ["first_encounter", "second_encounter", "first_id", "second_id", "probability"]
    pd.DataFrame(pairs, columns=names).to_parquet(run.path / "pairs.parquet")
    run.finish(Result("cosine", {}, {}, {}, {}))
    return run.path


@pytest.fixture
def run(tmp_path):
    return read_review(_discovery(tmp_path))


def _served(run, use, who="Ada"):
    """Let ``use`` talk to the page; it takes the client, the desk, and a function that posts."""

    async def talk():
        desk = Desk(run, who, run.folder)
        port = TestServer(application(desk, 0))  # only to have a free port
        await port.start_server()
        number = port.port
        await port.close()
        server = TestServer(application(desk, number), host=HOST, port=number)
        async with TestClient(server) as client:
            origin = {"Origin": f"http://{HOST}:{number}"}

            async def post(path, **content):
                response = await client.post(path, json=content, headers=origin)
                return await response.json()

            return await use(client, desk, post)

    return asyncio.run(talk())


async def _opened(client, desk):
    await client.get("/open", params={"token": desk.token})
    return await (await client.get("/question")).json()


def _truth(question):
    first, second = (side["photos"][0]["name"].rstrip("#") for side in question["sides"])
    return "same" if ANIMAL[first] == ANIMAL[second] else "different"


async def _answer_all(client, desk, post):
    shown, names = await _opened(client, desk), iter("PQRSTUVWXYZ")
    while shown["kind"] != "done":
        if shown["kind"] == "pair":
            shown = await post("/answer", number=shown["number"], verdict=_truth(shown), seconds=1)
        else:
            shown = await post("/answer", number=shown["number"], name=next(names), seconds=1)
    return shown


def test_true_answers_come_to_the_true_animals(run):
    shown = _served(run, _answer_all)
    assert "5 animals in 15 visits" in shown["told"][0]
    assert shown["called"] == list("PQRST")
    table = pd.read_parquet(run.folder / "reviewed.parquet")
    by_name = table.groupby("identity")["encounter"].agg(set)
    truth = pd.Series(ANIMAL)
    assert sorted(map(sorted, by_name)) == sorted(sorted(g.index) for _, g in truth.groupby(truth))
    assert {row.who for row in read_decisions(run.decisions).decisions} == {"Ada"}


def test_a_name_given_twice_is_asked_about(run):
    def rows():
        return [row.verdict for row in read_decisions(run.decisions).decisions]

    async def use(client, desk, post):
        shown = await _opened(client, desk)
        while shown["kind"] == "pair":
            shown = await post("/answer", number=shown["number"], verdict=_truth(shown), seconds=1)
        shown = await post("/answer", number=shown["number"], name="Zora", seconds=1)
        named, before = shown, rows()
        two = await post("/answer", number=shown["number"], name=" zora", seconds=1)
        assert (two["kind"], two["hint"]) == ("pair", "both called zora")
        assert two["undo"]
        shown = await post("/undo", number=two["number"])
        assert shown["photos"] == named["photos"]
        assert rows() == before
        two = await post("/answer", number=shown["number"], name="Zora", seconds=1)
        shown = await post("/answer", number=two["number"], verdict="different", seconds=1)
        assert rows() == [*before, "different"]
        assert shown["photos"] == named["photos"]

    _served(run, use)


def test_nobody_else_gets_in(run):
    async def use(client, desk, post):
        own = {"Origin": f"http://{HOST}:{client.port}"}
        assert (await client.get("/question")).status == 403  # no cookie yet
        assert (await client.get("/open", params={"token": "guessed"})).status == 403
        token = desk.token
        await _opened(client, desk)
        assert (await client.get("/open", params={"token": token})).status == 200  # once more
        async with ClientSession() as other:  # another browser
            address = client.make_url("/open").with_query(token=token)
            assert (await other.get(address)).status == 403
        cookies = {cookie.key for cookie in client.session.cookie_jar}
        assert cookies == {f"exreid_review_{client.port}"}, "two reviews do not share one"
        assert (await client.get("/question", headers={"Host": "evil.example"})).status == 403
        wanted = {"number": 1, "verdict": "same"}
        for origin in ({}, {"Origin": "http://evil.example"}):
            assert (await client.post("/answer", json=wanted, headers=origin)).status == 403
        large = {"number": 1, "name": "x" * 20_000}
        assert (await client.post("/answer", json=large, headers=own)).status == 413
        assert (await client.get("/photo/0/p")).status == 200
        for place in ("/photo/99/p", "/photo/..%2f..%2fresult.json/p", "/static/../review.html"):
            assert (await client.get(place)).status == 404
        policy = (await client.get("/")).headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        return (await client.get("/question")).status

    assert _served(run, use) == 200
    assert read_decisions(run.decisions).decisions == ()


def test_a_key_that_is_pressed_twice_answers_once_and_an_undo_asks_again(run):
    async def use(client, desk, post):
        first = await _opened(client, desk)
        for _ in range(2):
            second = await post("/answer", number=first["number"], verdict="different", seconds=1)
        assert second["progress"][0].startswith("1 answer ")
        again = await post("/undo", number=second["number"])
        assert again["progress"][0].startswith("0 answers ")
        assert again["sides"] == first["sides"]
        wrong = await post("/answer", number=again["number"], verdict="perhaps", seconds=1)
        assert "not an answer" in wrong["error"]

    _served(run, use)
    assert [row.verdict for row in read_decisions(run.decisions).decisions] == ["different", "undo"]


def test_pages_without_a_server_have_the_matches_of_the_photographs_that_they_show_first(
    run, tmp_path
):
    def match(first, second):
        if first == 3 or second == 3:
            raise ReviewError("no keypoints")
        return [(first / 100, 0.25, second / 100, 1 / 3)] * 99

    count = write_static_review(run, tmp_path / "pages", who="Ada", most=10, match=match)
    text = (tmp_path / "pages" / "questions.js").read_text()
    questions = json.loads(text.removeprefix("window.REVIEW = ").removesuffix(";\n"))["questions"]
    assert len(questions) == count == 10
    for question in questions:
        rows = [side["photos"][0]["row"] for side in question["sides"]]
        drawn = {"count": 99, "matches": [[rows[0] / 100, 0.25, rows[1] / 100, 0.3333]] * 60}
        expected = {"error": "no keypoints"} if 3 in rows else drawn
        assert question["matched"] == {"rows": rows, **expected}
    write_static_review(run, tmp_path / "without", who="Ada", most=2)
    assert "matched" not in (tmp_path / "without" / "questions.js").read_text()


def test_matches_of_the_photographs_that_are_shown(run):
    async def use(client, desk, post):
        assert not (await _opened(client, desk))["matches"]
        assert (await client.get("/matches/0/1")).status == 404
        desk.match = lambda first, second: [(first / 10, 0.25, second / 10, 1 / 3)] * 99
        return await (await client.get("/matches/2/7")).json()

    assert _served(run, use) == {"count": 99, "matches": [[0.2, 0.25, 0.7, 0.3333]] * 60}


def test_animals_of_one_photograph_are_never_one(run):
    state = run.state()
    group_V, place = state.result.doubts.group_V, run.subject.place
    assert group_V[place["v0"]] != group_V[place["v1"]]


def test_answers_of_two_people_are_one_review(run, tmp_path, capsys):
    async def some(client, desk, post):
        shown = await _opened(client, desk)
        for _ in range(4):
            shown = await post("/answer", number=shown["number"], verdict=_truth(shown), seconds=1)

    _served(run, some)
    other = read_review(_discovery(tmp_path / "other"))
    _served(other, some, who="Bo")
    assert run.add(read_decisions(other.decisions).decisions) == 4
    assert run.add(read_decisions(other.decisions).decisions) == 0
    assert [row.who for row in run.state().decisions].count("Bo") == 4
    strange = tmp_path / "strange.csv"
    strange.write_text(re.sub(r"\bv(?=\d)", "x", other.decisions.read_text()))
    with pytest.raises(ReviewError, match="file of another review"):
        run.add(read_decisions(strange).decisions)


def test_photographs_that_have_moved_are_asked_for(run, tmp_path):
    photos = run.photos.assign(root=str(tmp_path / "gone"))
    gone = replace(run, photos=photos)
    with pytest.raises(ReviewError, match=r"were in .*gone, which is not there.*--root FOLDER"):
        with_photographs(gone, None, None)
    assert set(with_photographs(gone, str(tmp_path), None).photos["root"]) == {str(tmp_path)}
    with pytest.raises(ReviewError, match="--gallery is for identifications"):
        with_photographs(run, None, str(tmp_path))


def test_a_file_whose_last_line_is_cut_off_is_not_taken_in(run, tmp_path, capsys):
    before = read_decisions(run.decisions).decisions
    other = tmp_path / "bo.csv"
    other.write_text(f"{HEADER}v0,v1,same,,Bo,2026-05-01T12:00:00+00:0")
    assert main(["review", "apply", str(run.folder), str(other)]) != 0
    assert "its last line is cut off" in capsys.readouterr().err
    other.write_text(f"{HEADER}02:35:00,v1,same,,Bo,2026-05-01T12:00:00+00:00,1,0.5,queue,,\n")
    assert main(["review", "apply", str(run.folder), str(other)]) != 0
    error = "".join(capsys.readouterr().err.split("\n"))
    assert str(other) in error
    assert "did a spreadsheet change the name" in error
    assert read_decisions(run.decisions).decisions == before


def test_a_name_is_one_animals(run):
    state = run.state()
    group_V = state.result.doubts.group_V

    def question(group):
        visits = tuple(v for v, g in zip(run.subject.visits, group_V, strict=True) if g == group)
        return NameQuestion(visits[0], visits, "x", ())

    run.name(state, question(0), " Zora  the first ", who="Ada", seconds=1)
    with pytest.raises(ReviewError, match="Another animal is called Zora the first"):
        run.name(run.state(), question(1), "zora the first", who="Ada", seconds=1)
    with pytest.raises(ReviewError, match="Give the animal a name"):
        run.name(run.state(), question(1), "  ", who="Ada", seconds=1)
    assert run.names(run.state()).name_G[0] == "Zora the first"


def test_a_killed_server_has_lost_nothing(run):
    command = [sys.executable, "-m", "exreid.cli", "review", str(run.folder), "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http\S+", server.stdout.readline())[0]
        opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(CookieJar()), urllib.request.ProxyHandler({})
        )
        opener.open(address, timeout=60).read()
        base = address.split("/open")[0]
        for number in (1, 2):
            body = f'{{"number": {number}, "verdict": "can\'t tell", "seconds": 1}}'.encode()
            asked = urllib.request.Request(f"{base}/answer", body, {"Origin": base})
            opener.open(asked, timeout=60).read()
    finally:
        os.kill(server.pid, signal.SIGKILL)
        server.communicate()
    assert len(read_decisions(run.decisions).decisions) == 2


def test_what_is_no_discovery_is_refused(tmp_path, capsys):
    config = load_config(ProbeConfig, None, [])
    folder = RunFolder(tmp_path, "p", config, "cosine")
    folder.finish(Result("cosine", {}, {}, {}, {}))
    with pytest.raises(RunError, match="takes a completed run of exreid discover or identify"):
        read_review(folder.path)
    assert main(["review", str(tmp_path / "nothing")]) == 1
    assert "no result.json" in capsys.readouterr().err


def test_flanks_that_nobody_can_compare_are_not_called_done(tmp_path):
    folder = _discovery(tmp_path)
    photos = pd.read_parquet(folder / "photos.parquet")
    animal = photos["encounter"].map(ANIMAL)
    views = animal.map({"A": "left", "B": "right", "C": "left", "D": None, "E": "front"})
    photos.assign(viewpoint=views.astype(object)).to_parquet(folder / "photos.parquet")
    shown = _served(read_review(folder), _answer_all)
    assert shown["title"] == "Done, within each flank"
    assert "left flank alone: 2 animals, by the right alone: 1, by neither" in shown["told"][-1]
    assert "3 to 5 animals" in shown["told"][-1]
    photos.assign(viewpoint=None).to_parquet(folder / "photos.parquet")
    run = read_review(folder)
    assert "flank is known" in told(run, run.state())[-1]
    assert run.flank_V.max() == 0
    question = next(
        Question(a, b, "queue", 0.5, None)
        for a, b in combinations(sorted(ANIMAL), 2)
        if {ANIMAL[a], ANIMAL[b]} == {"A", "B"}
    )
    assert page(run, run.state(), question)["hint"] == ""
    photos.assign(viewpoint=views.astype(object)).to_parquet(folder / "photos.parquet")
    run = read_review(folder)
    assert page(run, run.state(), question)["hint"] == "one left, one right flank"
