"""Docker Compose itself reads the compose file, with the example as .env, as an operator has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.image.compose_tool import fetch_compose

pytestmark = pytest.mark.ops

DEPLOY = Path(__file__).parents[2] / "deploy"
PROFILES = {
    "cpu": {"server"},
    "gpu": {"server-gpu"},
    "cpu,pictures": {"server", "pictures"},
    "*": {"server", "server-gpu", "pictures"},
}
ALWAYS = {"redis", "prometheus", "grafana"}


@pytest.fixture(scope="module")
def compose() -> Path:
    return fetch_compose()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "deploy"
    folder.mkdir()
    shutil.copy(DEPLOY / "compose.yaml", folder)
    shutil.copy(DEPLOY / ".env.example", folder / ".env")
    return folder


def config(compose: Path, project: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(project), **variables}
    command = [str(compose), "config", "--format", "json"]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def resolved(compose: Path, project: Path, **variables: str) -> dict[str, Any]:
    done = config(compose, project, **variables)
    assert (done.returncode, done.stderr) == (0, "")  # no variable that is not set
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.parametrize("profiles", PROFILES)
def test_each_profile_is_valid_and_brings_its_servers(compose: Path, project: Path, profiles: str) -> None:
    services = resolved(compose, project, COMPOSE_PROFILES=profiles)["services"]
    assert services.keys() == ALWAYS | PROFILES[profiles]


def test_the_example_as_it_stands_brings_the_server_for_cpus(compose: Path, project: Path) -> None:
    assert resolved(compose, project)["services"].keys() == ALWAYS | PROFILES["cpu"]


def test_a_value_of_env_reaches_its_place(compose: Path, project: Path) -> None:
    with (project / ".env").open("a") as file:
        file.write("SERVER_CPUS=3\nREDIS_MAXMEMORY=7gb\nSHIRA_MAX_QUEUE=9\nTORCH_INDEX_URL=https://a.b/c\n")
    services = resolved(compose, project)["services"]
    server = services["server"]
    assert server["deploy"]["resources"]["limits"]["cpus"] == 3
    assert (server["environment"]["SHIRA_THREADS"], server["environment"]["SHIRA_MAX_QUEUE"]) == ("3", "9")
    assert server["build"]["args"]["TORCH_INDEX_URL"] == "https://a.b/c"
    assert "7gb" in services["redis"]["command"]


def test_nothing_that_is_secret_is_in_an_environment(compose: Path, project: Path) -> None:
    document = resolved(compose, project, COMPOSE_PROFILES="*")
    assert "SHIRA_API_KEYS" not in document["services"]["server"]["environment"]
    assert {secret["file"] for secret in document["secrets"].values()} == {
        str(project / "secrets" / name) for name in ("api-keys.toml", "metrics-key", "grafana-password")
    }


def test_a_missing_env_is_told(compose: Path, project: Path) -> None:
    (project / ".env").unlink()
    done = config(compose, project)
    assert done.returncode != 0
    assert "copy .env.example to .env" in done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("restart: unless-stopped", "restrat: unless-stopped"),
        ("read_only: true", "read_only: [true]"),
        ("shira-data:/var/lib/shira", "shira-dota:/var/lib/shira"),
        ("prometheus: {condition: service_healthy}", "promtheus: {condition: service_healthy}"),
    ],
)
def test_a_mistake_in_the_file_is_found(compose: Path, project: Path, right: str, wrong: str) -> None:
    file = project / "compose.yaml"
    text = file.read_text()
    assert right in text
    file.write_text(text.replace(right, wrong))
    assert config(compose, project).returncode != 0
