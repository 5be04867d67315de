"""What Ray's workers warn of is told by the driver, once."""

import logging
import sys

import numpy as np

from exreid.config.probe import RayConfig
from exreid.distributed.placement import Placement
from exreid.distributed.session import ray_session
from exreid.matching.tiles import plan_tiles, score_tile
from tests.matching.fakes import EqualDescriptors, random_features

FEATURES = random_features(6, seed=0)
PAIRS = np.arange(6).repeat(6), np.tile(np.arange(6), 6)


class Halving(EqualDescriptors):
    def score(self, queries, gallery, pair_P2):
        logging.getLogger("exreid.matching.lightglue").warning("batches of %d are halved.", 8)
        return super().score(queries, gallery, pair_P2)


def test_what_every_actor_warns_of_is_told_once_in_each_session(local_ray, caplog):
    import ray.cloudpickle

    import tests.matching.fakes
    from exreid.distributed.match import MatchReport, match_over_actors

    for module in (sys.modules[__name__], tests.matching.fakes):
        ray.cloudpickle.register_pickle_by_value(module)
    for _ in range(2):
        caplog.clear()
        with ray_session(RayConfig()):
            matched = match_over_actors(
                plan_tiles(*PAIRS, pairs_per_tile=6),
                Halving,
                score_tile,
                queries=FEATURES.take,
                gallery=FEATURES.take,
                placement=Placement(2, 0.5, 0.0),
                report=MatchReport(),
            )
            assert len(list(matched)) == 6
        [told] = caplog.records
        assert (told.name, told.levelno) == ("exreid.matching.lightglue", logging.WARNING)
        assert told.getMessage() == "batches of 8 are halved."
