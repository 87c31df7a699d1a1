"""What the demo says of switches is what the server did."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from loadtest.live_server import LiveServer
from server.demo.process import DemoFailed
from server.demo.switches import index_sets, show_switches
from tests.e2e.real_adapters import default_base, random_adapter, random_index_set, write_all


@pytest.mark.slow
def test_adapters_of_one_index_set_are_overwritten_others_exchanged_and_a_wrong_claim_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, base = default_base()
    shared = random_index_set(base, seed=0)
    adapters = [
        ("a", random_adapter(base, seed=1, index_set=shared)),
        ("b", random_adapter(base, seed=2)),
        ("c", random_adapter(base, seed=3, index_set=shared)),
    ]
    files = write_all(adapters, tmp_path)
    digests = index_sets(list(files.values()))
    assert digests == {name: adapter.index_set.digest for name, adapter in adapters}
    with LiveServer(tmp_path / "data") as live:
        for name, path in files.items():
            live.push(name, path)
        show_switches(live.client, "Once", digests)
        told = capsys.readouterr().out
        assert re.search(r"a ↔ c .*overwrite", told)
        assert re.search(r"a ↔ b .*exchange", told)
        assert '{kind="overwrite"} +18, {kind="exchange"} +18' in told
        show_switches(live.client, "Once", {name: digests[name] for name in ("a", "b")})
        assert "overwrite" not in capsys.readouterr().out
        with pytest.raises(DemoFailed, match=r"a ↔ b: expected two switches by overwrite, .*'exchange': 2"):
            show_switches(live.client, "Once", {"a": digests["a"], "b": digests["a"]})
