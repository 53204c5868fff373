"""What Prometheus is told: times measured where they happen, and counts from the database when it asks.

Every process writes to files below ``PROMETHEUS_MULTIPROC_DIR``, which is set before this module is
imported; the web process adds them up.
"""

import os
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from kennel_core import builds
from kennel_core.models import Deployment, Project

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

registry = CollectorRegistry()

_phase_duration = Histogram(
    "kennel_build_phase_duration_seconds",
    "How long a phase of a build took.",
    ("phase", "result"),
    buckets=(0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600),
    registry=registry,
)
_queue_age = Histogram(
    "kennel_queue_age_seconds",
    "How long a build had waited when a builder took it.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600),
    registry=registry,
)
_pass_duration = Histogram(
    "kennel_pass_duration_seconds",
    "How long a pass of the reconciler took.",
    ("result",),
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
    registry=registry,
)


def phase_ended(phase: str, result: str, seconds: float) -> None:
    """Count a phase of a build: `phase` without the package, `result` ``ok``, ``failed`` or ``cancelled``."""
    _phase_duration.labels(phase.partition(":")[0], result).observe(seconds)


def build_claimed(waited: float) -> None:
    """Count how many seconds a build waited for a builder."""
    _queue_age.observe(waited)


def pass_ended(result: str, seconds: float) -> None:
    """Count a pass: `result` is ``ok`` or ``failed``."""
    _pass_duration.labels(result).observe(seconds)


class DatabaseCollector(Collector):
    """Gauges counted when they are asked for; needs a database connection then."""

    def describe(self) -> Iterable[Metric]:
        """Name nothing in advance, so that registering asks nothing."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Count the rows."""
        by_status = GaugeMetricFamily("kennel_builds", "Builds by status.", labels=["status"])
        for status, count in builds.counts().items():
            by_status.add_metric([status], count)
        yield by_status
        yield GaugeMetricFamily(
            "kennel_builds_held", "Builds that wait though a builder is free.", value=builds.held()
        )
        yield GaugeMetricFamily(
            "kennel_deployments", "Deployments that should run.", value=Deployment.select().count()
        )
        yield GaugeMetricFamily("kennel_projects", "Registered projects.", value=Project.select().count())


def exposition(accept: str, own: CollectorRegistry) -> tuple[bytes, str]:
    """Return the text for a scrape and its content type; needs a database connection.

    `accept` is the scraper's header. `own` has what the caller measures in this process; where processes
    share a directory, it is read from there, as is everybody else's.
    """
    whole = CollectorRegistry()
    if DIRECTORY in os.environ:
        MultiProcessCollector(whole)  # type: ignore[no-untyped-call]
    else:
        whole.register(registry)
        whole.register(own)
    whole.register(DatabaseCollector())
    encode, content_type = choose_encoder(accept)
    return encode(whole), content_type
