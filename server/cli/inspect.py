"""``shira inspect``: what an adapter file holds, fully checked, without a server or a base."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "is_json", is_flag=True, help="Print as JSON.")
def inspect(path: Path, *, is_json: bool) -> None:
    """Validate the adapter at PATH (a file, or a PEFT checkpoint directory) and describe what it holds."""
    import json

    from adapters_store.errors import AdapterRejected
    from adapters_store.tools.inspect import inspect_file, render

    try:
        found = inspect_file(path)
    except AdapterRejected as error:
        raise click.ClickException(f"{path}: {error}") from error
    click.echo(json.dumps(found, indent=2, ensure_ascii=False) if is_json else render(found))
