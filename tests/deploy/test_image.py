"""What can be read from the Dockerfile without building it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy.image.check import normal, pinned
from deploy.image.compose_options import stop_grace_s
from deploy.image.config import configs_of
from deploy.image.context import files_sent, under
from deploy.image.dockerfile import Instruction, read_dockerfile
from server import __version__
from server.app import LAST_ANSWERS_S
from server.cli.root import shira
from server.core.config import env_name
from server.core.settings import ServerConfig

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = read_dockerfile(REPOSITORY / "Dockerfile")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS_IN_THE_IMAGE = ("images", "tracing")
TARGETS = ("cpu", "cuda")
LABEL = "org.opencontainers.image."


def steps(keyword: str, stage: str) -> list[Instruction]:
    return [step for step in DOCKERFILE.stages[stage].instructions if step.keyword == keyword]


def test_a_build_without_a_target_is_the_one_for_cpus() -> None:
    assert list(DOCKERFILE.stages)[-1] == "cpu"


def test_every_file_that_is_copied_exists_and_is_sent() -> None:
    sent = files_sent(REPOSITORY)
    copies = [step for stage in DOCKERFILE.stages for step in steps("COPY", stage) if "from" not in step.flags]
    assert copies
    for step in copies:
        for source in step.words[:-1]:
            assert under(source, sent)


def test_nothing_is_sent_that_is_not_copied() -> None:
    copied = {source for stage in DOCKERFILE.stages for step in steps("COPY", stage) for source in step.words[:-1]}
    assert {path.parts[0] for path in files_sent(REPOSITORY)} <= copied | {"Dockerfile", ".dockerignore"}


def test_the_dependencies_are_installed_before_the_source_comes_in() -> None:
    [copied] = steps("COPY", "dependencies")
    assert copied.words[:-1] == ("constraints.txt", "pyproject.toml")
    assert "--constraint constraints.txt" in steps("RUN", "dependencies")[-1].words[0]


@pytest.mark.parametrize("target", TARGETS)
def test_a_compiler_is_only_where_kernels_are_compiled_at_run_time(target: str) -> None:
    ran = " ".join(step.words[0] for name in ("runtime", target) for step in steps("RUN", name))
    assert ("gcc" in ran) == (target == "cuda")


@pytest.mark.parametrize("target", TARGETS)
def test_the_user_is_a_number_other_than_roots(target: str) -> None:
    user = configs_of(DOCKERFILE, target, {})[target].user
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


@pytest.mark.parametrize("target", TARGETS)
def test_all_that_the_server_writes_is_in_the_volume(target: str) -> None:
    config = configs_of(DOCKERFILE, target, {})[target]
    [volume] = map(Path, config.volumes)
    assert Path(config.environment["HOME"]) == volume  # of every cache
    assert Path(config.environment[env_name("data_dir")]).is_relative_to(volume)
    assert Path(config.folder) == volume


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_starts_the_shira_command_behind_an_init(target: str) -> None:
    config = configs_of(DOCKERFILE, target, {})[target]
    assert config.entry_point == ("tini", "--", *PROJECT["scripts"])
    [command] = config.command
    assert command in shira.commands
    assert config.ports == (config.environment[env_name("port")],)


def test_every_setting_in_the_environment_is_one() -> None:
    environment = configs_of(DOCKERFILE, "cuda", {})["cuda"].environment
    known = {env_name(key) for key in ServerConfig.model_fields}
    assert {name for name in environment if name.startswith("SHIRA_")} <= known


def test_the_labels_are_the_projects() -> None:
    labels = configs_of(DOCKERFILE, "cpu", {"SOURCE_URL": "https://a.b/c", "REVISION": "f00"})["cpu"].labels
    told = {name.removeprefix(LABEL): value for name, value in labels.items()}
    assert told == {
        "title": PROJECT["name"],
        "description": PROJECT["description"],
        "licenses": PROJECT["license"],
        "version": __version__,
        "source": "https://a.b/c",
        "revision": "f00",
        "base.name": DOCKERFILE.arguments["PYTHON_IMAGE"],
    }


def test_an_index_is_named_only_where_one_is_given() -> None:
    assert configs_of(DOCKERFILE, "cpu", {})["dependencies"].arguments["TORCH_INDEX_URL"] == ""
    given = configs_of(DOCKERFILE, "cpu", {"TORCH_INDEX_URL": "https://a.b/c"})["dependencies"]
    assert given.arguments["TORCH_INDEX_URL"] == "https://a.b/c"


def test_the_constraints_pin_everything_that_the_image_installs() -> None:
    pins = pinned((REPOSITORY / "constraints.txt").read_text())
    wanted = PROJECT["dependencies"] + [
        line for extra in EXTRAS_IN_THE_IMAGE for line in PROJECT["optional-dependencies"][extra]
    ]
    assert set(needed(wanted)) - set(pins) == set()
    installs = steps("RUN", "dependencies")[-1].words[0]
    assert set(re.findall(r"extras\['(\w+)'\]", installs)) == set(EXTRAS_IN_THE_IMAGE)


def test_the_server_has_drained_before_it_is_killed() -> None:
    assert stop_grace_s() > ServerConfig.model_fields["drain_s"].default + LAST_ANSWERS_S


def needed(wanted: list[str]) -> Iterator[str]:
    """Names of packages, and of those that they need, as this environment has them installed."""
    seen: set[str] = set()
    todo = [Requirement(line) for line in wanted]
    while todo:
        requirement = todo.pop()
        extras = requirement.extras or {""}
        name = normal(requirement.name)
        is_wanted = requirement.marker is None or requirement.marker.evaluate()
        if not is_wanted or str(requirement) in seen:
            continue
        seen.add(str(requirement))
        yield name
        try:
            below = map(Requirement, requires(name) or [])
        except PackageNotFoundError:
            continue
        for needed_by_it in below:
            marker = needed_by_it.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in chain(extras, [""])):
                needed_by_it.marker = None
                todo.append(needed_by_it)
