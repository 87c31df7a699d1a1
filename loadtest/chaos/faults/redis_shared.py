"""Two replicas and the Redis they share: killed, emptied, frozen, full, slow. No request fails, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import monotonic

import redis

from loadtest.chaos.filled import is_filled
from loadtest.chaos.slow_proxy import SlowProxy
from loadtest.chaos.trial import AGREE_S, Phase, Trial
from loadtest.live_server import LiveServer, metric, wait_until
from loadtest.shared_redis import SharedRedis

LINK_BACK_S = 10.0  # the longest a link may take to come back
DELAY_S, STALL_S = 0.02, 2.0  # a stall outlasts the link's timeout


def run(trial: Trial) -> None:
    with ExitStack() as stack:
        valkey = stack.enter_context(SharedRedis(trial.directory / "redis"))
        proxy = stack.enter_context(SlowProxy(valkey.port, seed=trial.settings.seed))
        url = f"redis://127.0.0.1:{proxy.port}/0"
        lives = [stack.enter_context(trial.server(name, redis=url)) for name in ("one", "two")]
        trial.begin(lives[0])
        wait_until(lambda: trial.agree(lives), AGREE_S)
        with _under_load(trial, lives, "killed", "Redis killed, gone for a while, an empty one started") as phase:
            valkey.stop()
            _wait_for_links(lives, up=False)
            trial.hold()
            valkey.start()
            _recovered(trial, valkey, lives, phase)
        with _under_load(trial, lives, "replaced", "an empty Redis in its place at once") as phase:
            valkey.stop()
            valkey.start()
            _recovered(trial, valkey, lives, phase)
        with _under_load(trial, lives, "emptied", "FLUSHALL") as phase:
            valkey.flush()
            _recovered(trial, valkey, lives, phase)
        with _under_load(trial, lives, "frozen", "SIGSTOP for a while, then SIGCONT") as phase:
            valkey.freeze()
            _wait_for_links(lives, up=False)
            trial.hold()
            valkey.thaw()
            _recovered(trial, valkey, lives, phase)
        with _under_load(trial, lives, "full", "maxmemory 1 byte above nothing, noeviction; then room again") as phase:
            with redis.Redis(port=valkey.port) as client:
                client.config_set("maxmemory", 1)
                trial.hold()
                refused = client.info("errorstats").get("errorstat_OOM", {}).get("count", 0)
                client.config_set("maxmemory", 0)
            phase.what += f"; Redis refused {refused} commands"
            trial.expect(refused > 0, "Redis was never full")
            _recovered(trial, valkey, lives, phase)
        what = f"every packet {DELAY_S * 1e3:.0f} ms late, one in {proxy.stall_every} by {STALL_S:g} s"
        with _under_load(trial, lives, "slow", what) as phase:
            proxy.delay_s, proxy.stall_s = DELAY_S, STALL_S
            trial.hold()
            proxy.delay_s = proxy.stall_s = 0.0
            _recovered(trial, valkey, lives, phase)
        trial.finish(*lives)


@contextmanager
def _under_load(trial: Trial, lives: Sequence[LiveServer], name: str, what: str) -> Iterator[Phase]:
    """The fault under load; afterwards the replicas agree."""
    with trial.phase(f"Redis {name}", what) as phase:
        with trial.load(*lives, num_writers=1):
            trial.hold(min(1.0, trial.settings.hold_s))
            yield phase
            trial.hold(min(1.0, trial.settings.hold_s))
        started_s = monotonic()
        wait_until(lambda: trial.agree(lives), AGREE_S)
        phase.what += f"; replicas agreed {monotonic() - started_s:.1f} s after the load"


def _recovered(trial: Trial, valkey: SharedRedis, lives: Sequence[LiveServer], phase: Phase) -> None:
    started_s = monotonic()
    _wait_for_links(lives, up=True)
    with redis.Redis(port=valkey.port) as client:
        wait_until(lambda: is_filled(client, trial.stable))
    trial.recovered(phase, monotonic() - started_s, limit_s=LINK_BACK_S)


def _wait_for_links(lives: Sequence[LiveServer], *, up: bool) -> None:
    wait_until(lambda: all(metric(live.client, "shira_redis_up") == up for live in lives))
