"""A real Prometheus that scrapes what a test tells it to, and promtool."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.servers.ports import free_port
from tests.waiting import until


class Prometheus:
    """One Prometheus with one target, scraped every 200 ms."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, target: str) -> None:
        """Scrape ``http://{target}/metrics``."""
        scrape = {"job_name": "kennel", "scrape_interval": "200ms", "scrape_timeout": "200ms"}
        scrape["static_configs"] = [{"targets": [target]}]
        file = self.home / "prometheus.json"
        file.write_text(json.dumps({"scrape_configs": [scrape]}))  # JSON is YAML
        argv = ["setpriv", "--pdeathsig", "KILL", _program("prometheus"), f"--config.file={file}"]
        argv += [f"--storage.tsdb.path={self.home}/data", f"--web.listen-address=127.0.0.1:{self.port}"]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        until(self.answers, what="prometheus answers")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.home / "log").read_text()
        try:
            return requests.get(f"{self.url}/-/ready", timeout=5).ok
        except requests.ConnectionError:
            return False

    def query(self, expression: str) -> dict[str, float]:
        """Ask for the present values, by their labels but job and instance."""
        answer = requests.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=5).json()
        found = {}
        for sample in answer["data"]["result"]:
            hidden = {"__name__", "job", "instance"}
            labels = sorted((name, value) for name, value in sample["metric"].items() if name not in hidden)
            found[",".join(f"{name}={value}" for name, value in labels)] = float(sample["value"][1])
        return found

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def check_metrics(text: str) -> str:
    """Give promtool's complaints about an exposition; empty when there are none."""
    argv = [_program("promtool"), "check", "metrics"]
    done = subprocess.run(argv, input=text, text=True, capture_output=True, check=False, timeout=30)
    return (done.stdout + done.stderr).strip() or (
        "" if done.returncode == 0 else f"status {done.returncode}"
    )


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not installed: run `make setup`"
    return found


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus of this test's own, not started."""
    home = tmp_path / "prometheus"
    home.mkdir()
    server = Prometheus(home)
    yield server
    server.stop()
