"""All benchmarks, encoder by encoder, and what becomes of them in bench.json."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from semanom_ros.benchmarks import anomalib_methods, camera_batches, memory, offline_commands
from semanom_ros.benchmarks.anomalib_search import against_anomalib
from semanom_ros.benchmarks.encoder_results import about, label, nothing
from semanom_ros.benchmarks.engine_backends import ENGINES, backends
from semanom_ros.benchmarks.figures import Found
from semanom_ros.benchmarks.live_detector import detector
from semanom_ros.benchmarks.machine import machine
from semanom_ros.benchmarks.plan import CAMERAS, Plan
from semanom_ros.benchmarks.search import search
from semanom_ros.benchmarks.start_up import start
from semanom_ros.core.embedding.embedder import Embedder

log = logging.getLogger(__name__)

LIVE = ('end_to_end', 'throughput', 'overload', 'received')
"""Benchmarks that share one running detector."""


def measure(plans: Sequence[Plan], wanted: Sequence[str], once: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Measures with one encoder after the other; after each, all that is known so far, as for bench.json.

    Args:
        plans: of each encoder; the figures at the top are those of the first.
        wanted: names of benchmarks.
        once: which of them are measured with the first encoder alone.
    """
    result = nothing()
    for number, plan in enumerate(plans):
        embedder = Embedder.load(plan.settings.method)
        embedder.encoder.warm_up()
        found = Found()
        found.details['encoder'] = about(embedder.encoder)
        _measure(plan, embedder, [name for name in wanted if not number or name not in once], found)
        if not number:
            found.onto(result)
            result['machine'] = machine(embedder.encoder.device)
        result['encoders'][label(embedder.encoder)] = found.content()
        yield result


def _measure(plan: Plan, embedder: Embedder, wanted: Sequence[str], found: Found) -> None:
    seconds: dict[str, float] = {}

    def timed(name: str, benchmark: Callable[[], None]) -> None:
        if name in wanted:
            begin = time.perf_counter()
            benchmark()
            seconds[name] = round(time.perf_counter() - begin, 1)
            log.info('%s %s: %.0f s', label(embedder.encoder), name, seconds[name])

    timed('stages', lambda: camera_batches.stages(plan, embedder, found))
    timed('instance', lambda: camera_batches.instance(plan, embedder, found))
    timed('record', lambda: offline_commands.record(plan, embedder, found))
    timed('evaluate', lambda: offline_commands.evaluate(plan, embedder, found))
    if set(LIVE) & set(wanted):
        with detector(plan, embedder) as live:
            timed('end_to_end', lambda: live.end_to_end(plan, embedder, found))
            timed('throughput', lambda: live.saturated(plan, embedder, found))
            timed('overload', lambda: live.overload(plan, found))
            timed('received', lambda: live.received(plan, found))
    timed('six_cameras', lambda: _six_cameras(plan, embedder, found))
    timed('search', lambda: search(plan, embedder, found))
    timed('start', lambda: start(plan, embedder, found))
    timed('backends', lambda: backends(plan, embedder, found, ENGINES))
    timed('anomalib', lambda: against_anomalib(plan, embedder, found))
    timed('memory', lambda: memory.growth(plan, found))
    timed('methods', lambda: anomalib_methods.compare(plan, found))
    found.details['seconds'] = seconds


def _six_cameras(plan: Plan, embedder: Embedder, found: Found) -> None:
    camera_batches.six_cameras(plan, embedder, found)
    with detector(plan, embedder, CAMERAS) as live:
        live.saturated(plan, embedder, found)
