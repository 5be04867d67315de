"""Matching over actors: tiles are sent, a few at a time, and evidence comes back.

Ray's own restarts are not used: an actor that waits for a place in a cluster that has lost a
machine would keep its tiles for ever. Here tiles go to actors that are up; those of a lost actor
go to the others, and a new actor is started in its place. Machines that join are used at once: as
long as tiles wait, actors are added wherever resources are free.

Letters: P pairs.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from exreid.distributed.head_watch import kill_actor
from exreid.distributed.match_actor import MatchActor
from exreid.distributed.metrics import count_lost
from exreid.distributed.placement import Placement
from exreid.errors import ExreidError, MatchingError
from exreid.matching.tiles import Answer, Ask, FeaturesOf, PairMatcher, Tile

log = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Tiles with an actor at a time: the one that it works on, and the next."""
ATTEMPTS = 3
"""Times that a tile is tried before it is given up."""
NO_ACTOR_S = 300.0
"""Seconds without a single actor that is up before the matching is given up."""
TOLD_EVERY_S = 30.0
MOST_ACTORS = 1024
GROW_EVERY_S = 5.0
"""Seconds between two checks for free resources in the cluster."""
START_FAILURES = 3
"""Beyond one for each actor of a pool: then none is started any more in place of those."""


@dataclass
class MatchReport:
    """Failed tiles, lost actors, and the actors' times."""

    failed: list[tuple[Tile, str]] = field(default_factory=list)
    """Tiles that were given up, and why."""
    actors_lost: int = 0
    busy_s: float = 0.0
    """Seconds that actors' matchers were at work."""
    available_s: float = 0.0
    """Seconds that actors were up while there was work."""

    @property
    def wait_share(self) -> float:
        """Share of their time that the actors waited."""
        return 1.0 - self.busy_s / self.available_s if self.available_s else 0.0


@dataclass
class _Worker:
    handle: ActorHandle
    up_since_s: float | None = None
    tiles: deque[ray.ObjectRef] = field(default_factory=deque)
    """References of the results that are due, the oldest first."""


class ActorPool:
    """Actors with a few tiles each; tiles of lost actors are tried again elsewhere."""

    def __init__(
        self,
        make_matcher: Callable[[], PairMatcher],
        features: tuple[FeaturesOf, FeaturesOf],
        placement: Placement,
        report: MatchReport,
    ) -> None:
        self.placement, self.report = placement, report
        # Put once, whatever the number of actors and of their successors.
        self.arguments = [ray.put(value) for value in (make_matcher, *features)]
        self.workers: dict[ray.ObjectRef, _Worker] = {}
        """By the reference that is waited for: of `ready`, then of each tile."""
        self.all: list[_Worker] = []
        self.attempts: dict[int, int] = {}
        self.due: dict[ray.ObjectRef, Tile] = {}
        self.again: deque[Tile] = deque()
        self.start_failures = 0
        self.grown_s = time.monotonic()
        self.handed_out = False
        self.actor_class = ray.remote(
            num_cpus=placement.cpus,
            num_gpus=placement.gpus or None,
            max_restarts=0,
            max_concurrency=IN_FLIGHT if placement.gpus else 1,
        )(MatchActor)
        for _ in range(placement.actors):
            self._start()

    def _start(self) -> None:
        worker = _Worker(self.actor_class.remote(*self.arguments, self.placement.threads))
        self.all.append(worker)
        self.workers[worker.handle.ready.remote()] = worker

    def run(self, tiles: Iterator[Tile], ask: Ask[Answer]) -> Iterator[tuple[Tile, Answer]]:
        """Finished tiles as they come; the report lists those given up."""
        waiting = iter(tiles)
        self.attempts.clear()
        while True:
            self._grow()
            self._hand_out(waiting, ask)
            if not self.due and not self.again and self._up():
                return
            yield from self._take(self._next_result())

    def _next_result(self) -> ray.ObjectRef:
        start_s = told_s = time.monotonic()
        deadline_s = start_s + NO_ACTOR_S
        while True:
            done, _ = ray.wait(list(self.workers), num_returns=1, timeout=5.0)
            if done:
                return done[0]
            self._grow()
            if not self._up() and time.monotonic() - told_s > TOLD_EVERY_S:
                told_s = time.monotonic()
                log.warning(
                    "Waiting for a matching actor to come up: %.0f of at most %g s.",
                    *(told_s - start_s, NO_ACTOR_S),
                )
            if not self._up() and time.monotonic() > deadline_s:
                raise MatchingError(
                    f"no matching actor came up in {NO_ACTOR_S:g} s: each wants "
                    f"{self.placement.cpus:g} CPUs and {self.placement.gpus:g} GPUs, and the "
                    f"cluster has {ray.available_resources()} free. Tiles finished so far are kept."
                )

    def _grow(self) -> None:
        """Add actors where a machine has joined, while there are tiles for them."""
        most = self.placement.most or MOST_ACTORS
        due = time.monotonic() - self.grown_s >= GROW_EVERY_S and not self._starts_fail()
        if not due or self.handed_out or len(self._up()) < len(self.all) or len(self.all) >= most:
            return
        self.grown_s = time.monotonic()
        free = ray.available_resources()
        wants = {"CPU": self.placement.cpus, "GPU": self.placement.gpus}
        fit = min(int(free.get(name, 0.0) / each) for name, each in wants.items() if each)
        for _ in range(min(fit, most - len(self.all))):
            self._start()

    def _up(self) -> list[_Worker]:
        return [worker for worker in self.all if worker.up_since_s is not None]

    def _hand_out(self, waiting: Iterator[Tile], ask: Ask[Answer]) -> None:
        """Fill up the actors that are up, the emptiest first."""
        while True:
            free = [worker for worker in self._up() if len(worker.tiles) < IN_FLIGHT]
            tile = self.again.popleft() if free and self.again else None
            if tile is None and free:
                tile = next(waiting, None)
                self.handed_out = tile is None
            if tile is None:
                return
            worker = min(free, key=lambda worker: len(worker.tiles))
            reference = worker.handle.run.remote(ask, tile.query_M, tile.gallery_M, tile.pair_P2)
            worker.tiles.append(reference)
            self.workers[reference], self.due[reference] = worker, tile

    def _take(self, reference: ray.ObjectRef) -> Iterator[tuple[Tile, Any]]:
        worker = self.workers.pop(reference)
        tile = self.due.pop(reference, None)
        try:
            value = ray.get(reference)
        except RayTaskError as error:
            if tile is None:
                raise self._not_built(error) from error
            worker.tiles.remove(reference)
            self._failed(tile, reason_of(error))
            return
        except RayError as error:
            self._lost(worker, tile, reason_of(error))
            return
        if tile is None:
            worker.up_since_s = time.perf_counter()
            return
        worker.tiles.remove(reference)
        answer, busy_s = value
        self.report.busy_s += busy_s
        yield tile, answer

    def _failed(self, tile: Tile, reason: str) -> None:
        """Try the tile again, unless it was tried often enough."""
        self.attempts[tile.number] = self.attempts.get(tile.number, 0) + 1
        count_lost("tile")
        if self.attempts[tile.number] < ATTEMPTS:
            self.again.append(tile)
        else:
            self.report.failed.append((tile, reason))

    def _lost(self, worker: _Worker, tile: Tile | None, reason: str) -> None:
        """An actor is gone: its tiles go to others, and a new actor is started.

        The oldest of its tiles is the one that it was working on, and may have ended it: only that
        one counts as tried.
        """
        self.report.actors_lost += 1
        count_lost("actor")
        if worker.up_since_s is None:
            self.start_failures += 1
        else:
            self.report.available_s += time.perf_counter() - worker.up_since_s
        self.all.remove(worker)
        for place, reference in enumerate(worker.tiles):
            self.workers.pop(reference, None)
            own = self.due.pop(reference, tile)
            assert own is not None
            if place == 0:
                self._failed(own, reason)
            else:
                self.again.append(own)
        if worker.up_since_s is not None or not self._starts_fail():
            self._start()
        elif not self.all:
            raise MatchingError(
                f"matching actors do not start: {reason} The tiles finished so far are kept: run "
                "the same command again once this is mended."
            )

    def _starts_fail(self) -> bool:
        """Whether so many actors did not start that those that are up go on alone."""
        return self.start_failures > self.placement.actors + START_FAILURES

    def _not_built(self, error: RayTaskError) -> ExreidError:
        cause = error.cause
        if isinstance(cause, ExreidError):
            return cause
        return MatchingError(f"the matcher cannot be built: {type(cause).__name__}: {cause}")

    def wake(self, report: MatchReport) -> None:
        """Use the pool again after `rest`, with a new report."""
        self.report, now_s = report, time.perf_counter()
        for worker in self._up():
            worker.up_since_s = now_s

    def rest(self) -> None:
        """Nothing is due; the actors stay up."""
        now_s = time.perf_counter()
        self.report.available_s += sum(now_s - (w.up_since_s or now_s) for w in self._up())

    def stop(self) -> None:
        """End the actors."""
        for worker in self.all:
            kill_actor(worker.handle)


def match_over_actors(
    tiles: Iterator[Tile],
    make_matcher: Callable[[], PairMatcher],
    ask: Ask[Answer],
    *,
    queries: FeaturesOf,
    gallery: FeaturesOf,
    placement: Placement,
    report: MatchReport,
    keep: list[ActorPool] | None = None,
) -> Iterator[tuple[Tile, Answer]]:
    """Each tile with the matcher's answer, in the order in which they finish.

    ``make_matcher`` builds the matcher inside each actor. ``queries`` and ``gallery`` are called in
    the actors too: features do not pass through the driver, but are read from the cache, which
    every machine sees. ``report`` is updated during the work. ``keep`` has the pool of the last
    call with this matcher and these features, if any, and gets it back, so that many small calls
    start actors once. The caller stops the pool that is left in it.
    """
    pool = keep.pop() if keep else ActorPool(make_matcher, (queries, gallery), placement, report)
    pool.wake(report)
    finished = False
    try:
        yield from pool.run(tiles, ask)
        finished = True
    finally:
        pool.rest()
        if finished and keep is not None:
            keep.append(pool)
        else:
            pool.stop()


def reason_of(error: BaseException) -> str:
    """The last line of an error's text, which names what happened."""
    cause = getattr(error, "cause", None)
    lines = str(cause or error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip() if cause else lines[0].strip()
