"""The report of a run: ``report.md``, ``report.png``, and both in one ``report.html`` that needs no other file.

``python -m loadtest.report FOLDER`` judges a run anew by what it left there, and writes its report anew."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import click

from loadtest.comparing import Comparison
from loadtest.figures import PERCENTS
from loadtest.outcomes import Outcome, read_outcomes
from loadtest.plot import draw
from loadtest.record import Record, judged_anew
from loadtest.run_files import OUTCOMES, RECORD, SAMPLES, TRACE
from loadtest.samples import read_samples
from loadtest.slo import load_slos
from loadtest.times import TIMES
from loadtest.trace import read_trace
from server.core.errors import ServerError

Table = Sequence[Sequence[str]]  # the heading first

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .75rem;border-bottom:1px solid #ddd;text-align:left}
img{max-width:100%}code{background:#f4f4f4;padding:.1rem .3rem;overflow-wrap:anywhere}
.BROKEN{color:#b3364a;font-weight:600}"""


def write_report(folder: Path) -> None:
    """Raises OSError, StorageFull."""
    record = Record.load(folder / RECORD)
    picture = folder / "report.png"
    draw(record, read_outcomes(folder / OUTCOMES), read_samples(folder / SAMPLES), picture)
    (folder / "report.md").write_text(as_markdown(record))
    (folder / "report.html").write_text(as_html(record, picture.read_bytes()))


def as_markdown(record: Record) -> str:
    parts = [f"# {record.scenario['name']}", verdict_line(record), "![The run over time](report.png)"]
    for title, table in sections(record):
        parts += [f"## {title}", _markdown_table(table)]
    parts += ["## Command", f"```\n{record.command}\n```"]
    return "\n\n".join(parts) + "\n"


def as_html(record: Record, png: bytes) -> str:
    title = html.escape(record.scenario["name"])
    parts = [f"<h1>{title}</h1>", f"<p>{html.escape(verdict_line(record))}</p>"]
    parts += [f'<img alt="The run over time" src="data:image/png;base64,{base64.b64encode(png).decode()}">']
    for heading, table in sections(record):
        parts += [f"<h2>{html.escape(heading)}</h2>", _html_table(table)]
    parts += ["<h2>Command</h2>", f"<p><code>{html.escape(record.command)}</code></p>"]
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>" + "\n".join(parts) + "</body></html>\n"


def verdict_line(record: Record) -> str:
    broken = [verdict.slo.name for verdict in record.verdicts if not verdict.is_met]
    objectives = (
        f"{len(broken)} of {len(record.verdicts)} objectives broken: {', '.join(broken)}"
        if broken
        else (f"All {len(record.verdicts)} objectives held")
    )
    figures = record.figures
    failures = f" Beside the requests, {len(record.failures)} things failed." if record.failures else ""
    return (
        f"{objectives}. {figures['num_requests']:.0f} requests in {record.duration_s:g} s: "
        f"{figures['num_answered']:.0f} answered, {figures['num_refused']:.0f} refused, "
        f"{figures['num_wrong']:.0f} wrong, {figures['num_lost']:.0f} lost, "
        f"{figures['num_left']:.0f} whose client left.{failures}"
    )


def sections(record: Record) -> list[tuple[str, Table]]:
    found = [
        ("Objectives", _objectives(record)),
        ("Failures beside the requests", [["first of each kind"], *([failure] for failure in record.failures)]),
        ("Times", _times(record)),
        ("Counts", _counts(record)),
        ("Memory", _memory(record)),
        ("The server's own histograms", _comparisons(record)),
        ("Problems", [["first ones"], *([problem] for problem in record.problems)]),
        ("Circumstances", _circumstances(record)),
    ]
    return [(title, table) for title, table in found if len(table) > 1]


def _objectives(record: Record) -> Table:
    rows = [
        [
            verdict.slo.name,
            verdict.slo.figure,
            verdict.slo.bound,
            "none" if verdict.value is None else f"{verdict.value:,.6g}",
            "held" if verdict.is_met else "BROKEN",
        ]
        for verdict in record.verdicts
    ]
    return [["objective", "figure", "bound", "measured", ""], *rows]


def _times(record: Record) -> Table:
    rows = [
        [name, *(f"{record.figures[f'{name}_p{percent}']:,.4g}" for percent in PERCENTS), meaning]
        for name, meaning in TIMES.items()
        if f"{name}_p{PERCENTS[0]}" in record.figures
    ]
    return [["figure", *(f"p{percent}" for percent in PERCENTS), "of what was answered, from when it was due"], *rows]


def _counts(record: Record) -> Table:
    names = [name for name in record.figures if name.startswith("num_") or name.endswith("_per_s")]
    return [["figure", "value"], *([name, f"{record.figures[name]:,.6g}"] for name in names)]


def _memory(record: Record) -> Table:
    heading = ["server", "peak, MiB", "growth, MiB (third quarter's mean less the second's: rates are the same)"]
    heading += ["per hour, MiB", "± standard error", "base"]
    rows = [
        [
            name,
            f"{growth.peak_mib:,.0f}",
            f"{growth.growth_mib:+.1f}",
            f"{growth.slope_mib_per_h:+.1f}",
            f"{growth.error_mib_per_h:.1f}",
            "intact" if record.audits.get(name) else "NOT INTACT",
        ]
        for name, growth in record.memory.items()
    ]
    return [heading, *rows]


def _comparisons(record: Record) -> Table:
    rows = [
        [one.figure, f"{one.client_ms:.4g}", f"{one.low_ms:g} to {one.high_ms:g}", _apart(one)]
        for one in record.comparisons
    ]
    return [["figure", "generator, ms", "server's bucket, ms", "buckets apart"], *rows]


def _apart(one: Comparison) -> str:
    return "the server counted none" if one.buckets_apart is None else str(one.buckets_apart)


def _circumstances(record: Record) -> Table:
    rate = record.scenario["rate"]
    curve = f"{rate['curve']}, peak {rate['peak']:g}, cv {rate['cv']:g}"
    drawn = {"seed": record.scenario["seed"], "rate curve": curve}
    facts = {
        "ended": record.ended_at,
        "mean rate asked for, per s": f"{rate['mean_per_s']:.4g}",
        **(drawn if record.replayed is None else {"replayed": record.replayed}),
        **record.machine,
        **record.versions,
    }
    return [["", ""], *([name, str(value)] for name, value in facts.items())]


def _markdown_table(table: Table) -> str:
    heading, *rows = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in table)
    return "\n".join("| " + " | ".join(row) + " |" for row in (heading, ["---"] * len(heading), *rows))


def _html_table(table: Table) -> str:
    heading, *rows = table
    lines = ["<table>", _html_row(heading, "th"), *(_html_row(row, "td") for row in rows), "</table>"]
    return "\n".join(lines)


def _html_row(cells: Iterable[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}{_class(cell)}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _class(cell: str) -> str:
    return ' class="BROKEN"' if cell in ("BROKEN", "NOT INTACT") else ""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--slo", "slo_file", type=click.Path(path_type=Path), help="Objectives, TOML; by default the run's own.")
def main(folder: Path, slo_file: Path | None) -> None:
    """Judges the run of FOLDER anew, and writes its report anew."""
    try:
        slos = None if slo_file is None else load_slos(slo_file)
        record = Record.load(folder / RECORD)
        outcomes = _with_due_times(read_outcomes(folder / OUTCOMES), folder)
        record = judged_anew(record, outcomes, read_samples(folder / SAMPLES), slos)
    except ServerError as error:
        raise click.ClickException(str(error)) from error
    record.save(folder / RECORD)
    write_report(folder)
    for verdict in record.verdicts:
        click.echo(str(verdict))
    click.echo(f"{folder}/report.html")


def _with_due_times(outcomes: Sequence[Outcome], folder: Path) -> list[Outcome]:
    """Earlier versions wrote when they sent it as the due time of what follows the first request of a row."""
    offsets_s = {row.offset_s for row in read_trace(folder / TRACE)}
    return [one if one.due_s in offsets_s else replace(one, due_s=None) for one in outcomes]


if __name__ == "__main__":
    main()
