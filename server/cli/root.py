"""The root of the command line and the one place where errors become exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from adapters_store.errors import AdapterStoreError
from server import __version__
from server.cli.adapters import adapters
from server.cli.bench import bench
from server.cli.convert import convert
from server.cli.demo import demo
from server.cli.eval import evaluate
from server.cli.extract import extract
from server.cli.fuse import fuse
from server.cli.inspect import inspect
from server.cli.overlap import overlap
from server.cli.reproduce import reproduce
from server.cli.serve import serve
from server.cli.store import store
from server.cli.train import train
from server.core.errors import ConfigError, ServerError

DONE, FAILED, USED_WRONGLY, INTERRUPTED = 0, 1, 2, 130


@click.group()
@click.version_option(__version__, prog_name="shira")
def shira() -> None:
    """Serve Sparse High Rank Adapters: exact millisecond switching over one base model."""


for command in (
    serve,
    demo,
    adapters,
    inspect,
    train,
    extract,
    convert,
    fuse,
    overlap,
    evaluate,
    bench,
    reproduce,
    store,
):
    shira.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code."""
    try:
        result = shira.main(arguments, prog_name="shira", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except ConfigError as error:
        return _report(error, USED_WRONGLY)
    except (ServerError, AdapterStoreError, OSError) as error:
        return _report(error, FAILED)
    return result if isinstance(result, int) else DONE


def _report(error: Exception, code: int) -> int:
    message = " ".join(str(error).split()) or type(error).__name__
    click.echo(f"Error: {message}", err=True)
    return code
