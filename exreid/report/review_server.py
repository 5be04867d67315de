"""The page of a review, for one person on this machine.

It answers on 127.0.0.1 alone. The address that is opened has a token, which is good for one visit
and gives the browser a cookie; every other request needs that cookie, this machine's name as host,
and, to change something, this page as its origin. Each answer is on the disk before the next
question is sent.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import tempfile
import webbrowser
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from exreid.errors import ExreidError, ReviewError
from exreid.records import Json
from exreid.report.pictures import Picture, make_picture, picture_file
from exreid.report.review_page import Match, drawn_matches, shown
from exreid.report.reviewed import NameQuestion, ReviewedRun, one_line
from exreid.review.asking import Question
from exreid.review.decisions import ANSWERS
from exreid.review.state import State

HOST = "127.0.0.1"
MOST_BYTES = 16 * 1024
"""Of a request."""
COOKIE = "exreid_review_{port}"
"""A browser keeps one set of cookies for all ports: each review has its own."""
STATIC = Path(__file__).parent / "static"
FILES = {
    "report.css": "text/css",
    "review.css": "text/css",
    "theme.js": "text/javascript",
    "review.js": "text/javascript",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; script-src 'self'; "
    "style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Desk:
    """One person's review while the page is open."""

    run: ReviewedRun
    who: str
    pictures: Path
    """A folder for the photographs as the page shows them."""
    match: Match | None = None
    made: dict[int, Picture] = field(default_factory=dict)
    """By the row of a photograph: both sizes of it are made at once, and only once."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    state: State | None = None
    question: Question | NameQuestion | None = None
    doubled: tuple[str, Question] | None = None
    """The question that is shown, where a name was given to a second animal, and that name."""
    number: int = 0
    """Of the question that is shown: an answer says which one it is to."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    matching: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One pair at a time; answers do not wait for it."""

    def ask(self, doubled: tuple[str, Question] | None = None) -> None:
        """Read the answers, and take the next question: whether two animals of one name are one,
        where there are such."""
        self.state = self.run.state(self.state)
        self.doubled = doubled
        self.question = doubled[1] if doubled else self.run.question(self.state, self.who)
        self.number += 1
        if self.question is None or isinstance(self.question, NameQuestion):
            self.run.save(self.state)

    def shown(self) -> dict[str, Json]:
        """The question as the page takes it."""
        assert self.state is not None, "asked before"
        undo = any(row.who == self.who for row in self.state.decisions)
        more: dict[str, Json] = {"number": self.number, "matches": self.match is not None}
        if self.doubled is not None:
            more["hint"] = f"both called {self.doubled[0]}"
            undo = True
        return shown(self.run, self.state, self.question) | more | {"undo": undo}

    def answer(self, said: dict[str, Any]) -> tuple[str, Question] | None:
        """Save an answer or a name; ReviewError for anything else. Of a name that another animal
        has nothing is saved: returned are the name, and the question whether both are one."""
        assert self.state is not None, "asked before"
        seconds, question = said.get("seconds"), self.question
        spent = float(seconds) if isinstance(seconds, (int, float)) else 0.0
        if isinstance(question, Question) and said.get("verdict") in ANSWERS:
            self.run.answer(question, said["verdict"], who=self.who, seconds=spent)
        elif isinstance(question, NameQuestion) and isinstance(said.get("name"), str):
            name = one_line(said["name"][:100])
            pair = self.run.whether_one(self.state, question, name)
            if pair is not None:
                return name, pair
            self.run.name(self.state, question, name, who=self.who, seconds=spent)
        else:
            raise ReviewError("That is not an answer to this question.")
        return None


def application(desk: Desk, port: int) -> web.Application:
    """The pages of one review, to be served on this port."""
    origin, cookie = f"http://{HOST}:{port}", COOKIE.format(port=port)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.host != f"{HOST}:{port}":
            raise web.HTTPForbidden(text="This page answers on 127.0.0.1 alone.")
        if request.method != "GET" and request.headers.get("Origin") != origin:
            raise web.HTTPForbidden(text="Only the review's own page may change something.")
        own = request.cookies.get(cookie, "").encode()
        is_open = secrets.compare_digest(own, desk.cookie.encode())
        if request.path == "/open" and is_open:  # the printed address once more
            raise web.HTTPSeeOther("/")
        if request.path != "/open" and not is_open:
            raise web.HTTPForbidden(
                text="Open the address that exreid review has printed. It is good for one browser: "
                "for another one, stop the command and start it again."
            )
        try:
            response = await handler(request)
        except ExreidError as error:
            response = web.json_response({"error": str(error)}, status=400)
        response.headers.update(HEADERS)
        return response

    app = web.Application(middlewares=[guard], client_max_size=MOST_BYTES)
    app.add_routes(
        [
            web.get("/open", partial(_open, desk, cookie)),
            web.get("/", partial(_file, "review.html", "text/html")),
            *(web.get(f"/static/{name}", partial(_file, name, FILES[name])) for name in FILES),
            web.get("/question", partial(_question, desk)),
            web.get(r"/photo/{row:\d{1,9}}/{size:[pt]}", partial(_photo, desk)),
            web.get(r"/matches/{first:\d{1,9}}/{second:\d{1,9}}", partial(_matches, desk)),
            web.post("/answer", partial(_answer, desk)),
            web.post("/undo", partial(_undo, desk)),
        ]
    )
    return app


async def _open(desk: Desk, cookie: str, request: web.Request) -> web.StreamResponse:
    given, desk_token = request.query.get("token", ""), desk.token
    if not desk_token or not secrets.compare_digest(given.encode(), desk_token.encode()):
        raise web.HTTPForbidden(
            text="This address is not the one that exreid review has printed, or another browser "
            "has opened it. Stop the command and start it again."
        )
    desk.token = ""
    response = web.Response(status=303, headers={"Location": "/"})
    response.set_cookie(cookie, desk.cookie, httponly=True, samesite="Strict")
    return response


async def _file(name: str, kind: str, request: web.Request) -> web.StreamResponse:
    folder = STATIC if name in FILES else STATIC.parent / "templates"
    return web.Response(body=(folder / name).read_bytes(), content_type=kind, charset="utf-8")


async def _question(desk: Desk, request: web.Request) -> web.StreamResponse:
    async with desk.lock:
        if desk.state is None:
            await asyncio.to_thread(desk.ask)
        return web.json_response(desk.shown())


async def _answer(desk: Desk, request: web.Request) -> web.StreamResponse:
    said = await _body(request)
    async with desk.lock:
        if said.get("number") == desk.number:  # else a second press of the key: it changes nothing
            doubled = await asyncio.to_thread(desk.answer, said)
            await asyncio.to_thread(desk.ask, doubled)
        return web.json_response(desk.shown())


async def _undo(desk: Desk, request: web.Request) -> web.StreamResponse:
    said = await _body(request)
    async with desk.lock:
        if said.get("number") == desk.number and desk.state is not None:
            if desk.doubled is None:  # else nothing was saved: back to the name
                await asyncio.to_thread(desk.run.undo, desk.state, desk.who)
            await asyncio.to_thread(desk.ask)
        return web.json_response(desk.shown())


async def _photo(desk: Desk, request: web.Request) -> web.StreamResponse:
    row, size = int(request.match_info["row"]), request.match_info["size"]
    if row >= len(desk.run.photos):
        raise web.HTTPNotFound
    if row not in desk.made:
        wanted = desk.run.wanted(row)
        desk.made[row] = await asyncio.to_thread(make_picture, wanted, desk.pictures)
    picture = desk.made[row]
    if not picture.key:
        raise web.HTTPNotFound(text=picture.error or "There is no picture of it.")
    data = (desk.pictures / picture_file(picture.key, size)).read_bytes()
    return web.Response(body=data, content_type="image/jpeg")


async def _matches(desk: Desk, request: web.Request) -> web.StreamResponse:
    rows = [int(request.match_info[name]) for name in ("first", "second")]
    if desk.match is None or max(rows) >= len(desk.run.photos):
        raise web.HTTPNotFound
    async with desk.matching:
        found = await asyncio.to_thread(desk.match, *rows)
    return web.json_response(drawn_matches(found))


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        content = await request.json()
    except ValueError as error:
        raise ReviewError("The request is not JSON.") from error
    if not isinstance(content, dict):
        raise ReviewError("The request is not a JSON object.")
    return content


def serve(
    run: ReviewedRun,
    who: str,
    *,
    port: int,
    browser: bool,
    on_open: Callable[[str], object],
    match: Match | None = None,
) -> State:
    """Serve the review until the process is interrupted; the state at its end. ``port`` 0: any that
    is free; ReviewError for one that is taken. ``on_open`` is told the address, which is opened in
    the ``browser``."""
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise ReviewError(f"--port {port}: {error.strerror}. Name another port.") from error
    with listening, tempfile.TemporaryDirectory(prefix="exreid-review-") as pictures:
        desk = Desk(run, who, Path(pictures), match)
        desk.ask()
        with suppress(KeyboardInterrupt):
            asyncio.run(_serve(desk, listening, browser=browser, on_open=on_open))
    state = run.state()
    run.save(state)
    return state


async def _serve(
    desk: Desk, listening: socket.socket, *, browser: bool, on_open: Callable[[str], object]
) -> None:
    port = listening.getsockname()[1]
    runner = web.AppRunner(application(desk, port), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        address = f"http://{HOST}:{port}/open?token={desk.token}"
        on_open(address)
        if browser:
            await asyncio.to_thread(webbrowser.open, address)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
