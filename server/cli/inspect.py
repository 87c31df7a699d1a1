"""``shira inspect``: what an adapter file holds, fully checked, without a server or a base."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "is_json", is_flag=True, help="Print as JSON.")
def inspect(path: Path, *, is_json: bool) -> None:
    """Validate a native adapter file and describe what it holds."""
    import json

    from adapters_store.tools import inspect as tool

    report = tool.inspect_adapter(path)
    click.echo(json.dumps(report.as_json(), indent=2) if is_json else report.as_text())
