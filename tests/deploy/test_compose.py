"""What the compose file promises the containers, and what they need."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters_store.tiers.embedded import server_binary
from deploy.image.compose_options import server_service
from deploy.image.config import configs_of
from deploy.image.dockerfile import read_dockerfile
from deploy.image.variables import expand
from server.core.config import env_name
from server.core.keys import find_key, read_keys_file
from server.core.settings import ServerConfig, parse_bytes

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVERS = ("server", "server-gpu", "pictures")
DOCKERFILE = read_dockerfile(DEPLOY.parent / "Dockerfile")
EXAMPLE = (DEPLOY / ".env.example").read_text()
README = (DEPLOY / "README.md").read_text()


def defaults(value: object) -> str:
    """As it is where .env holds no more than the example."""
    return expand(str(value), {"SECRETS_DIR": "./secrets"})


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_can_do_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_says_whether_it_works(name: str) -> None:
    """The servers by their image."""
    image = configs_of(DOCKERFILE, "cpu", {})["cpu"] if name in SERVERS else None
    assert image.health if image else SERVICES[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_waits_until_what_it_needs_works(name: str) -> None:
    needed = SERVICES[name].get("depends_on", {})
    assert all(condition == {"condition": "service_healthy"} for condition in needed.values())
    assert needed.keys() == ({"redis"} if name in SERVERS else {"prometheus"} if name == "grafana" else set())


@pytest.mark.parametrize("name", SERVICES)
def test_no_port_is_open_to_other_machines_unless_told_so(name: str) -> None:
    assert all(defaults(port).startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", SERVERS)
def test_the_volume_is_where_the_image_writes(name: str) -> None:
    service = SERVICES[name]
    image = configs_of(DOCKERFILE, service["build"]["target"], {})[service["build"]["target"]]
    assert [volume.partition(":")[2] for volume in service["volumes"][:1]] == list(image.volumes)
    assert all(port.endswith(f":{image.ports[0]}") for port in service["ports"])


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_gets_settings_that_exist(name: str) -> None:
    known = {env_name(key) for key in ServerConfig.model_fields}
    assert SERVICES[name]["environment"].keys() <= known
    assert set(re.findall(r"^#?(SHIRA_\w+)=", EXAMPLE, flags=re.M)) <= known


def test_the_gpu_server_is_found_where_prometheus_looks_for_the_server() -> None:
    assert SERVICES["server-gpu"]["networks"]["default"]["aliases"] == ["server"]
    [device] = SERVICES["server-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_servers_of_two_bases_share_no_database() -> None:
    assert len({SERVICES[name]["environment"]["SHIRA_REDIS"] for name in ("server", "pictures")}) == 2


def test_redis_evicts_nothing_keeps_nothing_and_has_room_above_its_limit() -> None:
    command = [defaults(word) for word in SERVICES["redis"]["command"]]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert (options["--save"], options["--appendonly"]) == ("", "no")
    limit = defaults(SERVICES["redis"]["deploy"]["resources"]["limits"]["memory"])
    assert binary_bytes(limit) >= 1.5 * binary_bytes(options["--maxmemory"])


def test_a_real_server_takes_the_command_line_of_redis(tmp_path: Path) -> None:
    command = [defaults(word) for word in SERVICES["redis"]["command"][1:]]
    own = ["--port", "0", "--unixsocket", str(tmp_path / "socket"), "--dir", str(tmp_path)]
    process = subprocess.Popen([server_binary(), *command, *own], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any("eady to accept connections" in line for line in process.stdout)  # ends where it exits instead
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_prometheus_finds_every_file_that_its_configuration_names() -> None:
    service = SERVICES["prometheus"]
    mounted = [volume.split(":")[1] for volume in service["volumes"]] + [
        entry["target"] for entry in service["secrets"]
    ]
    configuration = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    named = [path for key in ("rule_files", "credentials_file", "files") for path in values_of(key, configuration)]
    assert named
    for path in named:
        place = Path("/etc/prometheus") / path
        assert any(place.is_relative_to(target) for target in mounted), path


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_from_the_repository_is_there(name: str) -> None:
    sources = [defaults(volume).split(":")[0] for volume in SERVICES[name].get("volumes", [])]
    folders = [source for source in sources if source.startswith(".")]
    assert all((DEPLOY / folder).exists() for folder in folders)


def test_the_example_names_every_variable_with_its_default() -> None:
    asked = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (DEPLOY / "compose.yaml").read_text()))
    shown = dict(re.findall(r"^#(\w+)=(.*)$", EXAMPLE, flags=re.M))
    assert {name: shown.get(name) for name in asked} == asked


def test_the_example_shows_the_servers_own_defaults() -> None:
    fields = ServerConfig.model_fields
    shown = dict(re.findall(r"^#SHIRA_(\w+)=(.*)$", EXAMPLE, flags=re.M))
    for name in ("model", "drain_s", "max_queue", "host_budget_bytes"):
        told = shown[name.upper()]
        default = fields[name].default
        assert (parse_bytes(told) if name.endswith("_bytes") else type(default)(told)) == default


def test_the_commands_of_the_readme_make_secrets_that_fit_together(tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    folder.mkdir()
    (folder / ".env.example").write_text(EXAMPLE)
    commands = next(block for block in re.findall(r"^```\n(.*?)^```", README, flags=re.S | re.M) if "api-keys" in block)
    subprocess.run(
        ["sh", "-ec", commands.partition("docker compose")[0]], cwd=tmp_path, check=True, capture_output=True
    )
    secrets = folder / "secrets"
    keys = read_keys_file(secrets / "api-keys.toml")
    metrics, admin = (find_key(keys, (secrets / name).read_text()) for name in ("metrics-key", "admin-key"))
    assert metrics is not None
    assert metrics.role == "generate"
    assert admin is not None
    assert admin.role == "admin"
    assert {f"{secret}" for secret in COMPOSE["secrets"]} <= {path.name for path in secrets.iterdir()}
    assert secrets.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o004 for path in secrets.iterdir() if path.name != "admin-key")


def test_the_servers_temporary_folder_is_bounded() -> None:
    [folder] = server_service()["tmpfs"]
    assert re.fullmatch(r"/tmp:size=\d+m", folder)  # noqa: S108


def binary_bytes(text: str) -> int:
    """Of a number as compose and Redis write it, where 1gb and 1g are 2³⁰."""
    number, unit = re.fullmatch(r"(\d+)([mg])b?", text.lower()).groups()  # type: ignore[union-attr]
    return int(number) << {"m": 20, "g": 30}[unit]


def values_of(key: str, part: object) -> list[str]:
    """Wherever in a document it stands; lists flattened."""
    match part:
        case dict():
            own = part.get(key, [])
            below = [found for value in part.values() for found in values_of(key, value)]
            return (own if isinstance(own, list) else [own]) + below
        case list():
            return [found for value in part for found in values_of(key, value)]
        case _:
            return []
