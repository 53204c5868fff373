"""Metrics: through a real Prometheus, from two workers and from other processes."""

import os
import subprocess
import sys

import requests

from kennel_core import db, projects
from kennel_core.models import Build, BuildStatus, Deployment
from kennel_core.settings import Settings
from kennel_web import create_app
from tests.recording_doorbell import RecordingDoorbell
from tests.servers.prometheus import Prometheus, check_metrics
from tests.servers.web import ROOT, Gunicorn, environment
from tests.waiting import until

MEASURES = """
from kennel_core import metrics
metrics.phase_ended("build:api", "ok", 2.0)
metrics.phase_ended("build:web", "ok", 40.0)
metrics.phase_ended("clone", "failed", 0.2)
metrics.build_claimed(0.3)
metrics.pass_ended("ok", 0.02)
"""
REQUESTS = 40


def fill() -> dict[str, int]:
    """Write rows; returns how many builds of each status."""
    wanted = {"queued": 1, "building": 0, "built": 1, "done": 3, "failed": 2, "cancelled": 0}
    with db.connection():
        project = projects.add("acme/shop", "https://forge.example.org/acme/shop.git", "main")
        for status, count in wanted.items():
            for _ in range(count):
                build = Build.create(project=project, ref="main", commit="a" * 40, status=BuildStatus(status))
        for name in ("api", "web"):
            Deployment.create(
                project=project,
                ref="main",
                name=name,
                kind="site",
                environment="prod",
                build=build,
                commit=build.commit,
                store_path="/nix/store/x",
                config_path="/nix/store/y",
                host=f"{name}.example.org",
            )
    return wanted


def test_a_prometheus_sees_the_database_and_every_process(
    web: Gunicorn, web_settings: Settings, prometheus: Prometheus
) -> None:
    wanted = fill()
    until(lambda: len(web.workers()) == 2)
    for number in range(REQUESTS):
        assert requests.get(f"{web.url}/builds/{number + 1}/log", timeout=10).status_code in {200, 404}
    directory = {"PROMETHEUS_MULTIPROC_DIR": str(web_settings.runtime_dir / "metrics")}
    subprocess.run(
        [sys.executable, "-c", MEASURES], cwd=ROOT, env=environment(web_settings) | directory, check=True
    )

    prometheus.start(f"127.0.0.1:{web.port}")

    until(lambda: prometheus.query("up") == {"": 1.0})
    assert prometheus.query("kennel_builds") == {f"status={name}": n for name, n in wanted.items()}
    assert prometheus.query("kennel_deployments") == {"": 2}
    assert prometheus.query("kennel_projects") == {"": 1}
    assert sum(prometheus.query("flask_http_request_total").values()) == REQUESTS
    rule = 'flask_http_request_duration_seconds_count{url_rule="/builds/<id:build_id>/log"}'
    assert sum(prometheus.query(rule).values()) == REQUESTS
    assert prometheus.query("kennel_build_phase_duration_seconds_count") == {
        "phase=build,result=ok": 2,
        "phase=clone,result=failed": 1,
    }
    assert prometheus.query("kennel_queue_age_seconds_count") == {"": 1}
    assert prometheus.query("kennel_pass_duration_seconds_count") == {"result=ok": 1}


def test_promtool_has_nothing_to_say(web: Gunicorn) -> None:
    fill()
    requests.get(f"{web.url}/nowhere", timeout=10)
    answer = requests.get(f"{web.url}/metrics", timeout=10)
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert check_metrics(answer.text) == ""


def test_counts_follow_the_database_at_each_scrape(web: Gunicorn) -> None:
    fill()

    def failed() -> str:
        text = requests.get(f"{web.url}/metrics", timeout=10).text
        return next(line for line in text.splitlines() if line.startswith('kennel_builds{status="failed"}'))

    assert failed().endswith(" 2.0")
    with db.connection():
        Build.update(status="failed").execute()
    assert {failed() for _ in range(10)} == {'kennel_builds{status="failed"} 7.0'}  # whichever worker answers


def test_requests_stay_counted_when_a_worker_is_killed(web: Gunicorn) -> None:
    before = until(lambda: len(web.workers()) == 2 and web.workers())
    for _ in range(REQUESTS):
        requests.get(f"{web.url}/nowhere", timeout=10)
    for pid in before:
        web.kill_worker(pid)
    until(lambda: len(web.workers()) == 2 and not web.workers() & before)
    text = until(lambda: requests.get(f"{web.url}/metrics", timeout=10)).text
    assert f'flask_http_request_total{{method="GET",status="404"}} {REQUESTS}.0' in text
    assert "pid=" not in text


def test_paths_methods_and_ids_make_no_series(settings: Settings, database_file) -> None:
    client = create_app(settings, RecordingDoorbell()).test_client()
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
    for number in range(20):
        client.get(f"/builds/{number}/log")
        client.get(f"/anything/{number}")
        client.open("/healthz", method=f"ODD{number}")
        client.get("/healthz")
    text = client.get("/metrics").text
    assert check_metrics(text) == ""
    series = [
        line for line in text.splitlines() if line.startswith("flask_http_request_duration_seconds_count")
    ]
    assert len(series) == 2, series
    assert "ODD" not in text
