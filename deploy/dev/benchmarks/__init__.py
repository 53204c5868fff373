"""What `make bench` measures, on the real parts, with all state in temporary directories.

Every module named in ROWS has `measure(bench: Bench) -> Iterator[Row]`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))  # the servers that tests use

MODULES = ("webhook", "passes", "log", "live", "redeploy", "memory", "valkey", "secrets", "provisioning")
