"""The exposition, read by a Prometheus parser."""
from __future__ import annotations

import threading
import urllib.request

import pytest

from nfsstat import prom, stats
from nfssvc_shim.flags import Nfssvc
from tests.nfssvc_shim.callserver import CallServer

from .conftest import Run

parser = pytest.importorskip("prometheus_client.parser")


def samples(text: str) -> dict[str, float]:
    return {f"{sample.name}{sorted(sample.labels.items())}": sample.value
            for family in parser.text_string_to_metric_families(text) for sample in family.samples}


def test_exposition_has_counters_histogram_and_version(server: CallServer, nfsstat: Run) -> None:
    found = samples(nfsstat("prom").stdout)
    assert found["nfsd_up[]"] == 1
    assert found["nfsd_info[('version', '0.1.0')]"] == 1
    assert found["nfsd_requests_total[('procedure', 'getattr')]"] == 101
    assert found["nfsd_request_duration_seconds_count[('procedure', 'getattr')]"] == 100
    assert found["nfsd_request_duration_seconds_sum[('procedure', 'getattr')]"] == pytest.approx(0.015)
    assert found["nfsd_request_duration_seconds_bucket[('le', '4.096e-06'), ('procedure', 'getattr')]"] == 90
    assert found["nfsd_export_bytes_total[('direction', 'write'), ('export', '/export/2')]"] == 200


def test_no_server_is_nfsd_up_0(nfsstat: Run) -> None:
    ran = nfsstat("prom")
    assert samples(ran.stdout) == {"nfsd_up[]": 0}
    assert ran.returncode == 0


def test_export_labels_are_bounded_and_the_rest_is_summed() -> None:
    exports = [stats.ExportStat(f"/{i}", i, 0, 0) for i in range(prom.MAX_EXPORTS + 3)]
    requests = next(iter(prom.export_metrics(exports)))
    assert len(requests.samples) == prom.MAX_EXPORTS + 1
    assert requests.samples[-1].labels == {"export": prom.OTHER}
    assert requests.samples[-1].value == 0 + 1 + 2


def test_listener_answers_a_scrape(server: CallServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NFSSVC_SOCKET", str(server.path))
    listener = prom.make_listener("127.0.0.1", 0)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{listener.server_port}/metrics", timeout=10) as reply:
            assert samples(reply.read().decode())["nfsd_up[]"] == 1
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
    assert server.seen[0].flag == Nfssvc.SRVSTATS
