"""``shira store``: the data directory of a server, running or not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from adapters_store.tools.store_check import StoreCheck

data_dir_argument = click.argument("data_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.group()
def store() -> None:
    """Check and back up the adapters in a data directory."""


@store.command()
@data_dir_argument
def check(*, data_dir: Path) -> None:
    """Read everything that the names in DATA_DIR promise, byte for byte. Exit code 1 when something is wrong."""
    from adapters_store.tools.store_check import check_store

    _tell(check_store(data_dir), data_dir)


@store.command()
@data_dir_argument
@click.argument("copy", type=click.Path(file_okay=False, path_type=Path))
def backup(*, data_dir: Path, copy: Path) -> None:
    """Bring COPY, an earlier copy or a new directory, up to what DATA_DIR holds, and check it.

    The server may run. To restore, start a server on the copy (or on a copy of it)."""
    from adapters_store.tools.backup import back_up

    try:
        made = back_up(data_dir, copy)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{made.num_copied} new files")
    _tell(made.check, copy, made.problems)


def _tell(found: StoreCheck, data_dir: Path, problems: tuple[str, ...] = ()) -> None:
    mebibytes = found.num_bytes / 2**20
    click.echo(f"{data_dir}: {found.num_aliases} names, {found.num_versions} versions, {mebibytes:.1f} MiB read")
    if found.unnamed:
        click.echo(f"{len(found.unnamed)} files that no name needs; a server removes them when it starts")
    if problems or not found.is_sound:
        raise click.ClickException("\n".join((*problems, *found.problems)))
