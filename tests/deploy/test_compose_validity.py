"""Is the compose file one: by the schema of its specification, and by what it refers to. No engine is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.image.compose_options import COMPOSE
from deploy.image.variables import expand

TEXT = COMPOSE.read_text()
PROFILES = {"server": ["cpu"], "server-gpu": ["gpu"], "pictures": ["pictures"]}
TOOL = shutil.which("check-jsonschema", path=Path(sys.executable).parent) or "check-jsonschema"


def problems(text: str, folder: Path) -> str:
    """What the schema of the Compose Specification does not allow."""
    file = folder / "compose.yaml"
    file.write_text(text)
    command = [TOOL, "--builtin-schema", "vendor.compose-spec", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def unknown(text: str) -> set[str]:
    """What is referred to and declared nowhere."""
    document = yaml.safe_load(text)
    return {name for kind, name in references(document["services"]) if name not in document.get(kind, {})}


def references(services: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if re.fullmatch(r"[\w-]+", source):  # else a path, or a variable that is one
                yield "volumes", source
        for secret in service.get("secrets", []):
            yield "secrets", secret if isinstance(secret, str) else secret["source"]
        for needed in service.get("depends_on", {}):
            yield "services", needed


def test_it_is_what_the_specification_allows(tmp_path: Path) -> None:
    assert problems(TEXT, tmp_path) == ""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("restart: unless-stopped", "restrat: unless-stopped"),
        ("read_only: true", "read_only: [true]"),
        ("condition: service_healthy", "condition: healthy"),
        ("image: shira-server:cpu", "imgae: shira-server:cpu"),
    ],
)
def test_a_mistake_in_a_key_or_a_value_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    assert right in TEXT
    assert "services" in problems(TEXT.replace(right, wrong, 1), tmp_path)


def test_whatever_it_refers_to_is_declared() -> None:
    assert unknown(TEXT) == set()


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ('["shira-data:', '["shira-dota:', "shira-dota"),
        ("prometheus: {condition", "promtheus: {condition", "promtheus"),
        ("secrets: [grafana-password]", "secrets: [grafana-pasword]", "grafana-pasword"),
        ("{source: metrics-key", "{source: metric-key", "metric-key"),
    ],
)
def test_a_reference_to_nothing_is_found(right: str, wrong: str, found: str) -> None:
    assert right in TEXT
    assert unknown(TEXT.replace(right, wrong)) == {found}


def test_each_profile_brings_its_server_and_all_bring_the_rest() -> None:
    services = yaml.safe_load(TEXT)["services"]
    assert {name: service["profiles"] for name, service in services.items() if "profiles" in service} == PROFILES
    assert services.keys() - PROFILES.keys() == {"redis", "prometheus", "grafana"}


def test_a_variable_has_a_default_or_says_what_to_do_without_it() -> None:
    forms = re.findall(r"\$\{\w+(:-[^}]*|:\?copy \.env\.example to \.env)?\}", TEXT)
    assert forms
    assert all(forms)
    assert len(forms) == TEXT.count("$")


def test_a_server_has_as_many_threads_as_processors() -> None:
    for name in PROFILES:
        server = yaml.safe_load(TEXT)["services"][name]
        asked = (server["environment"]["SHIRA_THREADS"], server["deploy"]["resources"]["limits"]["cpus"])
        assert [expand(str(value), {"SERVER_CPUS": "3"}) for value in asked] == ["3", "3"]


def test_nothing_that_is_secret_is_in_an_environment() -> None:
    document = yaml.safe_load(TEXT)
    for service in document["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("KEY|PASSWORD|SECRET", name):
                assert str(value).startswith("/run/secrets/")
    assert all(secret["file"].startswith("${SECRETS_DIR:?") for secret in document["secrets"].values())
