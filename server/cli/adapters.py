"""``shira adapters``: the adapters of a running server."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from server.cli.progress import reading
from server.cli.remote import Remote, remote_options

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
as_json = click.option("--json", "is_json", is_flag=True, help="Print the server's answer as JSON.")


@click.group()
def adapters() -> None:
    """Upload, list, show, remove and roll back adapters."""


@adapters.command()
@remote_options
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="By default the name of the file or directory.")
@click.option("--description")
@click.option("--tag", "tags", multiple=True, help="May be given more than once.")
@as_json
def push(
    *, remote: Remote, path: Path, name: str | None, description: str | None, tags: tuple[str, ...], is_json: bool
) -> None:
    """Upload PATH: a native or diffusers' single .safetensors file, or a PEFT checkpoint directory."""
    parts = {"config": path / CONFIG_NAME, "weights": path / WEIGHTS_NAME} if path.is_dir() else {"file": path}
    for part in parts.values():
        if not part.is_file():
            raise click.UsageError(f"{path} is no PEFT checkpoint: {part.name} is missing")
    fields = {"name": name or (path.resolve().name if path.is_dir() else path.stem)}
    fields |= {"description": description} if description is not None else {}
    fields |= {"tags": ",".join(tags)} if tags else {}
    with ExitStack() as stack:
        files = {part: (file.name, stack.enter_context(reading(file))) for part, file in parts.items()}
        response = remote.call("POST", "/adapters", sent=path, data=fields, files=files)
    adapter = response.json()
    state = "uploaded" if response.status_code == 201 else "was there already"
    _show(adapter, f"{adapter['name']} {state}: {adapter['version']}", is_json=is_json)


@adapters.command("list")
@remote_options
@as_json
def list_(*, remote: Remote, is_json: bool) -> None:
    """List every adapter."""
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = remote.json("GET", "/adapters", params={"after": after} if after else {})
        found += page["adapters"]
        after = page["next"]
        if after is None:
            break
    width = max((len(adapter["name"]) for adapter in found), default=0)
    lines = [
        f"{adapter['name']:<{width}}  {adapter['version'][:19]}  {adapter['updated_at'][:19]}"
        f"{'  pinned' if adapter['pinned'] else ''}{'' if adapter['base_verified'] else '  base unverified'}"
        for adapter in found
    ]
    _show({"adapters": found}, "\n".join(lines), is_json=is_json)


@adapters.command()
@remote_options
@click.argument("name")
@as_json
def show(*, remote: Remote, name: str, is_json: bool) -> None:
    """Show one adapter and its versions."""
    adapter = remote.json("GET", _path(name))
    adapter["versions"] = remote.json("GET", f"{_path(name)}/versions")["versions"]
    lines = [f"{key}: {value}" for key, value in adapter.items() if key != "versions"]
    lines += [
        f"{'*' if entry['current'] else ' '} {entry['version']}  {entry['created_at'][:19]}"
        for entry in adapter["versions"]
    ]
    _show(adapter, "\n".join(lines), is_json=is_json)


@adapters.command()
@remote_options
@click.argument("name")
@click.option("--version", help="Only this older version.")
@as_json
def rm(*, remote: Remote, name: str, version: str | None, is_json: bool) -> None:
    """Delete an adapter; returns once its memory is free."""
    deleted = remote.json("DELETE", _path(name), params={"version": version} if version else {})
    gone = f"{name} deleted" if version is None else f"{version} of {name} deleted, {name} itself is kept"
    _show(deleted, f"{gone}; {_freed(len(deleted['versions']))}", is_json=is_json)


@adapters.command()
@remote_options
@click.argument("name")
@click.option("--to", "version", help="By default the version uploaded before the current one.")
@as_json
def rollback(*, remote: Remote, name: str, version: str | None, is_json: bool) -> None:
    """Point an adapter's name at an earlier version."""
    etag = remote.call("GET", _path(name)).headers["ETag"]
    target = version or _previous(name, remote.json("GET", f"{_path(name)}/versions")["versions"])
    adapter = remote.json("PATCH", _path(name), json={"version": target}, headers={"If-Match": etag})
    _show(adapter, f"{name} is at {adapter['version']}", is_json=is_json)


def _freed(num_versions: int) -> str:
    if num_versions == 0:
        return "no version freed: another name still uses what it had"
    return f"{num_versions} version{'' if num_versions == 1 else 's'} freed"


def _previous(name: str, versions: list[dict[str, Any]]) -> str:
    current = next(place for place, entry in enumerate(versions) if entry["current"])
    if current == 0:
        raise click.ClickException(f"{name} has no version before the current one")
    version: str = versions[current - 1]["version"]
    return version


def _path(name: str) -> str:
    from urllib.parse import quote

    return f"/adapters/{quote(name, safe='')}"


def _show(answer: dict[str, Any], text: str, *, is_json: bool) -> None:
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False) if is_json else text)
