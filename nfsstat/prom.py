"""nfsstat prom and nfsstat serve: the counters for Prometheus.

Names begin with nfsd_.  No label without a bound: procedures and errors are fixed, workers at most 64, exports at most
MAX_EXPORTS (the busiest; the rest is one series), users are only counted.  Uses prometheus-client (extra `prometheus`).
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from nfssvc_shim import state

from .names import ERRORS, PROCEDURES
from .stats import ExportStat, Server, allowed, fetch_exports, fetch_server, fetch_status, fetch_user_count

MAX_EXPORTS = 256        # series of each export metric; a table may have 16,384
FIRST_BUCKET = 10        # 1 to 2 us: no call is faster; 2^36 ns is more than a minute
LAST_BUCKET = 36
OTHER = "(other)"
_CACHE = (("inprogress", state.C_INPROG_HITS), ("idempotent", state.C_IDEM_HITS), ("nonidempotent", state.C_NONIDEM_HITS),
          ("miss", state.C_MISSES))


class NfsdCollector(Collector):
    """Asks the server at each scrape; nfsd_up is 0, and nothing else there, when none answers.

    Exports are shown to those who may see them.
    """

    def collect(self) -> Iterator[Metric]:
        try:
            server, users = fetch_server(), fetch_user_count()
            version = str(fetch_status().get("version", ""))
            exports = allowed(fetch_exports)
        except OSError:
            yield GaugeMetricFamily("nfsd_up", "Whether the server answers its call socket.", value=0)
            return
        yield GaugeMetricFamily("nfsd_up", "Whether the server answers its call socket.", value=1)
        info = InfoMetricFamily("nfsd", "What runs.")
        info.add_metric([], {"version": version})
        yield info
        yield GaugeMetricFamily("nfsd_active_users", "Pairs of user and client address seen lately.", value=users)
        yield from server_metrics(server)
        yield from worker_metrics(server)
        if exports is not None:
            yield from export_metrics(exports)


def server_metrics(server: Server) -> Iterator[Metric]:
    c, w = server.counters, server.words
    yield _labelled("nfsd_requests", "NFS calls answered.", "procedure", zip(PROCEDURES, c[:state.N_PROCS3], strict=True))
    yield _labelled("nfsd_replies", "Replies by NFS status.", "status",
                    zip(ERRORS, c[state.C_ERRS:state.C_ERRS_UNKNOWN + 1], strict=True))
    yield _labelled("nfsd_reply_cache", "Lookups in the duplicate request cache.", "result", ((n, c[i]) for n, i in _CACHE))
    yield _labelled("nfsd_bytes", "Bytes of file data.", "direction",
                    (("read", w[state.S_READ_BYTES]), ("write", w[state.S_WRITE_BYTES])))
    yield _labelled("nfsd_packets", "Calls received.", "transport",
                    (("udp", w[state.S_PACKETS_UDP]), ("tcp", w[state.S_PACKETS_TCP])))
    yield CounterMetricFamily("nfsd_rpc_errors", "Replies that carried an NFS error.", value=c[state.C_RPC_ERRS])
    yield CounterMetricFamily("nfsd_faults", "Faults of the server.", value=c[state.C_SRV_ERRS])
    yield CounterMetricFamily("nfsd_bad_calls", "RPC calls that were malformed or not let in.", value=w[state.S_BADCALLS])
    yield latency_metric(server)


def _labelled(name: str, text: str, label: str, values: Iterable[tuple[str, int]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in values:
        family.add_metric([value], count)
    return family


def latency_metric(server: Server) -> Metric:
    family = HistogramMetricFamily("nfsd_request_duration_seconds", "From receive to reply.", labels=["procedure"])
    for number, name in enumerate(PROCEDURES):
        histogram = server.histogram(number)
        if any(histogram):
            total_ns = server.words[state.S_TIME_PROC + number]
            family.add_metric([name], buckets=_buckets(histogram), sum_value=total_ns / 1e9)
    return family


def _buckets(histogram: Sequence[int]) -> list[tuple[str, float]]:
    """Cumulative, at powers of two; what is above the last bound counts in +Inf."""
    edges = [(f"{(1 << (i + 1)) / 1e9:.9g}", float(sum(histogram[:i + 1]))) for i in range(FIRST_BUCKET, LAST_BUCKET)]
    return [*edges, ("+Inf", float(sum(histogram)))]


def worker_metrics(server: Server) -> Iterator[Metric]:
    connections = GaugeMetricFamily("nfsd_connections", "Open TCP connections.", labels=["worker"])
    restarts = CounterMetricFamily("nfsd_worker_restarts", "Times a worker was replaced.", labels=["worker"])
    mistakes = CounterMetricFamily("nfsd_exceptions", "Tracebacks in the log.", labels=["worker"])
    for slot in server.slots:
        connections.add_metric([str(slot.slot)], slot.connections)
        restarts.add_metric([str(slot.slot)], max(0, slot.incarnation - 1))
        mistakes.add_metric([str(slot.slot)], slot.words[state.S_EXCEPTIONS])
    yield from (connections, restarts, mistakes)


def export_metrics(exports: Sequence[ExportStat]) -> Iterator[Metric]:
    busiest = sorted(exports, key=lambda e: e.requests, reverse=True)
    shown, rest = busiest[:MAX_EXPORTS], busiest[MAX_EXPORTS:]
    requests = CounterMetricFamily("nfsd_export_requests", "NFS calls for an export.", labels=["export"])
    data = CounterMetricFamily("nfsd_export_bytes", "Bytes of file data of an export.", labels=["export", "direction"])
    if rest:
        shown.append(ExportStat(OTHER, sum(e.requests for e in rest), sum(e.read_bytes for e in rest),
                                sum(e.write_bytes for e in rest)))
    for export in shown:
        requests.add_metric([export.path], export.requests)
        data.add_metric([export.path, "read"], export.read_bytes)
        data.add_metric([export.path, "write"], export.write_bytes)
    yield from (requests, data)


def registry() -> CollectorRegistry:
    made = CollectorRegistry(auto_describe=False)
    made.register(NfsdCollector())
    return made


def exposition() -> bytes:
    return generate_latest(registry())


class _Quiet(WSGIRequestHandler):
    timeout = 10  # seconds that a scraper may take to send its request

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: one line a scrape would be noise."""


class _Server(ThreadingMixIn, WSGIServer):
    """A scraper that stalls does not keep the others waiting."""

    daemon_threads = True


def make_listener(host: str, port: int) -> WSGIServer:
    return make_server(host, port, make_wsgi_app(registry()), server_class=_Server, handler_class=_Quiet)
