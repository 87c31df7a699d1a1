"""``make loadtest``: start a server, upload the example adapters, run Locust against it, stop the server.

Exits with Locust's code: 0 when no request failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from server.core.config import load_config
from server.demo.process import example_files, push_examples, running_server
from server.demo.text import EXAMPLES_BASE

ROOT = Path(__file__).parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    examples = example_files(ROOT / "examples")
    with running_server(EXAMPLES_BASE, load_config({}, os.environ).models_path) as client:
        push_examples(client, examples)
        command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), "--headless"]
        command += ["--host", str(client.base_url), "--users", str(arguments.users), "--spawn-rate", "4"]
        command += ["--run-time", f"{arguments.seconds}s", "--only-summary"]
        environment = {**os.environ, "LOADTEST_SEED": str(arguments.seed)}
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
