"""Locust users of a shira-server: text requests whose adapter is drawn from a Zipf distribution.

Run as its own process (Locust patches the standard library):
``locust -f loadtest/locustfile.py --host http://127.0.0.1:8000``. The adapters are those the server lists.
"""

from __future__ import annotations

import os
import random

from locust import HttpUser, between, events, task

from server.bench_serve.workload import zipf_weights

SEED = int(os.environ.get("LOADTEST_SEED", "0"))
ZIPF_EXPONENT = float(os.environ.get("LOADTEST_ZIPF", "1.0"))
KEY = os.environ.get("SHIRA_KEY", "")
PROMPTS = ["In the beginning", "def read(path):", "The king said", "Once upon a time", "import os"]


@events.init.add_listener  # type: ignore[untyped-decorator]
def seed_everything(**_: object) -> None:
    random.seed(SEED)


class TextUser(HttpUser):  # type: ignore[misc]
    """Waits, picks an adapter (or the base), asks, and checks that the receipt names what was asked for."""

    wait_time = between(0.05, 0.3)

    def on_start(self) -> None:
        if KEY:
            self.client.headers["Authorization"] = f"Bearer {KEY}"
        listed = self.client.get("/adapters", name="list adapters").json()["adapters"]
        self.names: list[str | None] = [None, *(adapter["name"] for adapter in listed)]
        self.weights = zipf_weights(len(self.names), ZIPF_EXPONENT)

    @task  # type: ignore[untyped-decorator]
    def generate(self) -> None:
        name = random.choices(self.names, self.weights)[0]
        body = {
            "prompt": random.choice(PROMPTS),
            "adapter": [] if name is None else name,
            "parameters": {"max_new_tokens": random.randint(4, 24)},
        }
        with self.client.post("/generate", json=body, name="generate", catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {response.text[:200]}")
                return
            applied = [adapter["name"] for adapter in response.json()["receipt"]["adapters"]]
            if applied != ([] if name is None else [name]):
                response.failure(f"asked for {name}, got {applied}")
