from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import loadtest
from loadtest.scenario import ScenarioRejected, load_scenario
from loadtest.slo import load_slos
from tests.loadtest.scenarios import TEXT, scenario

FOLDER = Path(loadtest.__file__).parent
GOOD = """
name = "x"
duration_s = 10
rate = { mean_per_s = 1 }
mix = { text = 1 }
text = { num_adapters = 2, prompt_tokens = { low = 1, high = 2 }, output_tokens = { low = 1, high = 2 } }
servers.text = { model = "m" }
"""


@pytest.mark.parametrize("path", sorted((FOLDER / "scenarios").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_scenario_is_accepted(path: Path) -> None:
    assert load_scenario(path).rate.peak <= 1.2


@pytest.mark.parametrize("path", sorted((FOLDER / "slo").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_file_of_objectives_is_accepted(path: Path) -> None:
    assert {"num_wrong", "num_lost", "base_verified"} <= {slo.figure for slo in load_slos(path)}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("duration_s = 10", "", "duration_s: expected a value, got none"),
        ("duration_s = 10", "duration_s = -1", "duration_s: expected greater than 0, got -1"),
        ("mean_per_s = 1", 'mean_per_s = "many"', "rate.mean_per_s: expected a valid number"),
        ("mean_per_s = 1", "mean_per_s = 1, peak = 2", "rate.peak: expected less than or equal to 1.2, got 2"),
        ("mix = { text = 1 }", "mix = { }", "mix: expected one share above 0, got none"),
        (
            "mix = { text = 1 }",
            "mix = { image = 1 }",
            "image: expected a table, because mix.image is above 0, got none",
        ),
        ("{ low = 1, high = 2 }", "{ low = 3, high = 2 }", "text.prompt_tokens: expected low to be at most high"),
        ("num_adapters = 2", "num_adapters = 2, num_moving = 3", "expected at most num_adapters, 2, got 3"),
        ("num_adapters = 2", "num_adapters = 2, colour = 1", "text.colour: expected no such field, got 1"),
        ("servers.text", "servers.pictures", "servers.text: expected a table, because mix.text is above 0, got none"),
        ("servers.text", "servers.video", "servers.video"),
        ('name = "x"', "name =", "cannot be read"),
    ],
)
def test_a_wrong_scenario_is_refused_with_file_field_expected_and_got(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ScenarioRejected) as refused:
        load_scenario(path)
    assert says in str(refused.value)
    assert str(path) in str(refused.value)


def test_the_good_one_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    assert load_scenario(path).text is not None


@pytest.mark.parametrize(("share", "kind"), [(0.0, "text"), (1.0, "image")])
def test_moves_need_names_that_move_on_the_server_they_go_to(share: float, kind: str) -> None:
    upload: dict[str, Any] = {"forms": {"move": 1}, "picture_share": share}
    with pytest.raises(ValueError, match=f"{kind}.num_moving: expected 1 or more"):
        scenario(mix={"text": 1, "upload": 1}, upload=upload)
    if kind == "text":
        scenario(mix={"text": 1, "upload": 1}, upload=upload, text=TEXT | {"num_moving": 1})
