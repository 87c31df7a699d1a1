"""What is resident where."""

from __future__ import annotations

from deploy.monitoring.board import Board, Panel, Row, lines

RESIDENT = Row(
    title="What is resident where?",
    panels=(
        Panel(
            title="Adapters",
            description="Adapters on each tier; on the device: blends that are staged.",
            unit="short",
            queries=(lines("sum by (instance, tier) (shira_adapter_resident{@})", "{{instance}} {{tier}}"),),
        ),
        Panel(
            title="Bytes",
            description="Bytes held on each tier.",
            unit="bytes",
            queries=(lines("sum by (instance, tier) (shira_tier_bytes{@})", "{{instance}} {{tier}}"),),
        ),
        Panel(
            title="Budget used",
            description="Share of each tier's budget that is taken. A full tier evicts what was used longest ago.",
            unit="percentunit",
            is_share=True,
            queries=(lines("shira_tier_bytes{@} / (shira_tier_budget_bytes{@} > 0)", "{{instance}} {{tier}}"),),
        ),
        Panel(
            title="Index sets",
            description="Distinct index sets on each tier. Adapters made with one mask share one.",
            unit="short",
            queries=(lines("sum by (instance, tier) (shira_index_sets{@})", "{{instance}} {{tier}}"),),
        ),
        Panel(
            title="Saved by shared index sets",
            description="Bytes that the host tier saves because adapters share index sets.",
            unit="bytes",
            queries=(lines("shira_index_set_bytes_shared{@}"),),
        ),
        Panel(
            title="Budgets",
            description="What each tier may hold; of Redis, what adapter values may take beside the index sets.",
            unit="bytes",
            queries=(lines("sum by (instance, tier) (shira_tier_budget_bytes{@})", "{{instance}} {{tier}}"),),
        ),
    ),
)

FLOW = Row(
    title="Is there room enough?",
    panels=(
        Panel(
            title="Look-ups",
            description="Look-ups per second that a tier answered.",
            unit="ops",
            queries=(lines("sum by (instance, tier) (rate(shira_tier_hits_total{@}[~]))", "{{instance}} {{tier}}"),),
        ),
        Panel(
            title="Misses",
            description="Share of a tier's look-ups that it could not answer; many of them together with evictions: "
            "it is "
            "too small for the traffic.",
            unit="percentunit",
            is_share=True,
            queries=(lines("shira:tier_misses:ratio_rate10m{@}", "{{instance}} {{tier}}"),),
        ),
        Panel(
            title="Evictions",
            description="Entries per second that had to leave a tier.",
            unit="ops",
            queries=(
                lines("sum by (instance, tier) (rate(shira_tier_evictions_total{@}[~]))", "{{instance}} {{tier}}"),
            ),
        ),
        Panel(
            title="Uploads",
            description="Uploads per minute by outcome: created, unchanged (the same bytes again), or the error's "
            "code.",
            unit="short",
            queries=(lines("60 * sum by (outcome) (rate(shira_uploads_total{@}[~]))", "{{outcome}}"),),
        ),
        Panel(
            title="Data disk",
            description="Bytes free and in all where the data directory lies.",
            unit="bytes",
            queries=(
                lines("shira_data_free_bytes{@}", "{{instance}} free"),
                lines("shira_data_size_bytes{@}", "{{instance}} in all"),
            ),
        ),
    ),
)

TIERS = Board(
    uid="shira-tiers",
    title="shira: tiers and index sets",
    description="What is resident where, and is there room enough.",
    rows=(RESIDENT, FLOW),
)
