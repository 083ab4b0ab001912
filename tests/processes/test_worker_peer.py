"""A worker that was taken over, as peer of the control half (attack table L03): the server lives, and leaks nothing."""
from __future__ import annotations

import os
import signal

import pytest

from nfssvc_shim.flags import Nfssvc
from nfssvc_shim.records import Address, Cred, GetfhArgs, pack_getfh_args

from .conftest import wait_until

GETFH = pack_getfh_args(GetfhArgs(1, b"", Address.of("127.0.0.1", 700), Cred(0, 0)))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def with_worker(nfsd) -> dict | None:
    status = nfsd.status()
    return status if status["slots"] else None


@pytest.mark.parametrize("how", ["junk", "pickle", "version", "long", "memfd", "descriptors"])
def test_worker_that_breaks_the_protocol_is_replaced_and_nothing_leaks(start, how):
    nfsd = start("-n", "1", behaviour=how)
    before = nfsd.status()
    count = descriptors(before["control"])
    assert nfsd.call(Nfssvc.GETFH, GETFH), "the next worker answers it"
    after = wait_until(lambda: with_worker(nfsd), "no worker")
    assert (after["pid"], after["control"]) == (before["pid"], before["control"])
    assert after["slots"][0]["pid"] != before["slots"][0]["pid"]
    wait_until(lambda: descriptors(after["control"]) <= count, "descriptors are left")


def test_descriptors_on_a_workers_answers_are_closed_and_not_passed_on(start):
    """Only FHOPEN is answered with one."""
    nfsd = start("-n", "2", behaviour="generous")
    control = nfsd.status()["control"]
    channel = nfsd.connect()
    assert channel.call(Nfssvc.GETFH, GETFH)[1] == []
    count = descriptors(control)
    for _ in range(20):
        assert channel.call(Nfssvc.GETFH, GETFH)[1] == []
        channel.call(Nfssvc.VERBOSE, b"\0\0\0\0")
        with nfsd.tcp() as sock:
            nfsd.ask(sock)
    wait_until(lambda: descriptors(control) <= count, "descriptors are left")
    channel.close()
    nfsd.signal(signal.SIGTERM)
    assert nfsd.wait() == 0
