"""Is switching healthy."""

from __future__ import annotations

from deploy.monitoring.board import Board, Panel, Row, lines, quantile, quantiles

SWITCHES = Row(
    title="Is switching healthy?",
    panels=(
        Panel(
            title="A switch",
            description="Time of a whole switch of the weights, staging included where a blend is used for the first "
            "time: half of them, 95 and 99 of 100.",
            unit="s",
            queries=quantiles("shira_switch_seconds", 0.5, 0.95, 0.99, where='phase="total"'),
        ),
        Panel(
            title="What a request's switches took",
            description="Time spent on switches while a request ran, as its receipt tells it (switch_ms).",
            unit="s",
            queries=quantiles("shira_request_switch_seconds", 0.5, 0.95, 0.99),
        ),
        Panel(
            title="Switches",
            description="Switches per second: fuse (from the base), restore (to it), exchange (to other positions), "
            "overwrite (same positions).",
            unit="ops",
            queries=(lines("sum by (instance, kind) (rate(shira_switches_total{@}[~]))", "{{instance}} {{kind}}"),),
        ),
        Panel(
            title="Phases of a switch",
            description="95 of 100 were faster: stage (words computed, first use of a blend), exchange, restore.",
            unit="s",
            queries=(
                quantile(
                    0.95, "shira_switch_seconds", "{{phase}}", by="phase", where='phase=~"stage|exchange|restore"'
                ),
            ),
        ),
        Panel(
            title="Bytes brought to the host",
            description="Time to bring an adapter to the host, checked and ready, by the tier it came from: 95 of 100.",
            unit="s",
            queries=(quantile(0.95, "shira_switch_seconds", "from {{tier}}", by="tier", where='phase="fetch"'),),
        ),
        Panel(
            title="Time spent switching",
            description="Share of the time in which the weights are being switched instead of used.",
            unit="percentunit",
            is_share=True,
            queries=(lines('sum by (instance) (rate(shira_switch_seconds_sum{@, phase="total"}[~]))'),),
        ),
    ),
)

MODES = Row(
    title="How are blends run?",
    panels=(
        Panel(
            title="Rows beside others",
            description="Share of the rows of all steps that ran with words of their own, beside the blend in the "
            "weights.",
            unit="percentunit",
            is_share=True,
            queries=(
                lines(
                    'sum by (instance) (rate(shira_rows_total{@, mode="mixed"}[~]))'
                    " / (sum by (instance) (rate(shira_rows_total{@}[~])) > 0)"
                    " or sum by (instance) (rate(shira_rows_total{@}[~]))"
                ),
            ),
        ),
        Panel(
            title="Time in steps by mode",
            description="Share of the time spent in steps with one blend in the weights (fused) and with several "
            "beside "
            "each other (mixed).",
            unit="percentunit",
            queries=(lines("sum by (instance, mode) (rate(shira_step_seconds_sum{@}[~]))", "{{instance}} {{mode}}"),),
        ),
        Panel(
            title="Adapters that run and wait",
            description="The busiest adapters that run and those that are waited for, as gateways read them.",
            unit="dateTimeAsIso",
            kind="table",
            queries=(lines("1000 * shira_lora_requests_info{@}"),),
        ),
    ),
)

SWITCHING = Board(
    uid="shira-switching",
    title="shira: switching",
    description="Is switching healthy, and how are blends run.",
    rows=(SWITCHES, MODES),
)
