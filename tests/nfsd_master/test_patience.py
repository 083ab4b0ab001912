"""The clock that stands still while its owner does not run: nfsd_master/patience.py."""
from __future__ import annotations

import math
import time

from nfsd_master.patience import Patience
from tests.tools.servers import wait_until


def passed(seconds: float) -> None:
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, deadline_s=60, what="time")


def test_of_a_gap_only_the_longest_wait_counts() -> None:
    clock = Patience(0.01)
    before = clock.now()
    passed(0.2)
    assert math.isclose(clock.now() - before, 0.01, abs_tol=1e-6)


def test_who_asks_often_enough_has_the_time_that_passes() -> None:
    clock = Patience(3600.0)
    begun, before = time.monotonic(), clock.now()
    passed(0.05)
    after, ended = clock.now(), time.monotonic()
    assert 0.05 <= after - before <= ended - begun
