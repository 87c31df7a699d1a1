"""Is everything all right, who asks, who waits, what does it take."""

from __future__ import annotations

from deploy.monitoring.board import Board, Panel, Row, lines, quantile, quantiles

GOOD_IF_ONE = ((0, "red"), (1, "green"))
BAD_IF_ANY = ((0, "green"), (1, "red"))

HEALTH = Row(
    title="Is it all right?",
    panels=(
        Panel(
            title="Up",
            description="Whether the last scrape was answered.",
            unit="short",
            kind="number",
            queries=(lines("up{@}"),),
            thresholds=GOOD_IF_ONE,
            names=(("0", "down"), ("1", "up")),
            width=4,
            height=4,
        ),
        Panel(
            title="Ready",
            description="Whether new requests are taken, as /readyz tells.",
            unit="short",
            kind="number",
            queries=(lines("shira_ready{@}"),),
            thresholds=GOOD_IF_ONE,
            names=(("0", "no"), ("1", "ready")),
            width=4,
            height=4,
        ),
        Panel(
            title="Base",
            description="Changed: within the last day an audit found bits that are not those that were loaded, and "
            "what was answered since the audit before it cannot be vouched for.",
            unit="short",
            kind="number",
            queries=(lines("shira_base_changed_timestamp_seconds{@} > bool (time() - 86400)"),),
            thresholds=BAD_IF_ANY,
            names=(("0", "intact"), ("1", "changed")),
            width=4,
            height=4,
        ),
        Panel(
            title="Since the base was found intact",
            description="Time since the last audit that found every bit of the base as it was loaded; before the first "
            "audit, since the start. Audits come every shira_audit_interval_seconds.",
            unit="s",
            kind="number",
            queries=(
                lines(
                    "time() - (shira_base_verified_timestamp_seconds{@} >= process_start_time_seconds{@}"
                    " or on (job, instance) process_start_time_seconds{@} and on (job, instance) shira_ready{@})"
                ),
            ),
            width=4,
            height=4,
        ),
        Panel(
            title="Redis",
            description="Whether the link to the shared tier works. Without it answers go on from disk.",
            unit="short",
            kind="number",
            queries=(
                lines(
                    'shira_redis_up{@} and on (job, instance) shira_build_info{redis!="off"}'
                    ' or on (job, instance) -1 * shira_build_info{@, redis="off"}'
                ),
            ),
            thresholds=((-1, "blue"), (0, "red"), (1, "green")),
            names=(("-1", "not used"), ("0", "down"), ("1", "up")),
            width=4,
            height=4,
        ),
        Panel(
            title="Alerts that fire",
            description="How many alerts fire now, of all servers. Grafana lists them under Alerting.",
            unit="short",
            kind="number",
            queries=(lines('count(ALERTS{alertstate="firing"}) or vector(0)', "firing"),),
            thresholds=BAD_IF_ANY,
            width=4,
            height=4,
        ),
    ),
)

TRAFFIC = Row(
    title="Who asks?",
    panels=(
        Panel(
            title="Answers",
            description="Requests for texts or images that ended, per second: answered, failed by our fault, refused "
            "(429, or 503 while the server stops), or ended by the client's own doing.",
            unit="reqps",
            queries=(
                lines("sum by (instance, verdict) (rate(shira_generations_total{@}[~]))", "{{instance}} {{verdict}}"),
            ),
        ),
        Panel(
            title="Failed answers by cause",
            description="Requests for texts or images that did not end well, per second, by the code of their error.",
            unit="reqps",
            queries=(
                lines(
                    'sum by (outcome) (rate(shira_requests_total{@, route="/generate", outcome!="ok"}[~]))',
                    "{{outcome}}",
                ),
            ),
        ),
        Panel(
            title="First token",
            description="From arrival to the first token of a text: half of them and 95 of 100 were faster. Who had "
            "none and gave up after more than 2.5 s counts with that wait.",
            unit="s",
            queries=quantiles("shira_time_to_first_token_seconds", 0.5, 0.95),
        ),
        Panel(
            title="Tokens",
            description="Tokens per second: of prompts, of answers, and those of prompts whose KV was in memory "
            "already.",
            unit="ops",
            queries=(
                lines("sum by (instance, kind) (rate(shira_tokens_total{@}[~]))", "{{instance}} {{kind}}"),
                lines("rate(shira_prefix_tokens_reused_total{@}[~])", "{{instance}} reused"),
            ),
        ),
        Panel(
            title="Time per token",
            description="Mean time between the tokens of one text after its first; of texts, half and 95 of 100.",
            unit="s",
            queries=quantiles("shira_time_per_output_token_seconds", 0.5, 0.95),
        ),
        Panel(
            title="An image",
            description="From arrival to the finished image: half of them and 95 of 100 were faster.",
            unit="s",
            queries=quantiles("shira_image_seconds", 0.5, 0.95),
        ),
        Panel(
            title="Images",
            description="Images finished per second.",
            unit="ops",
            queries=(lines("rate(shira_images_total{@}[~])"),),
        ),
        Panel(
            title="Requests by route",
            description="HTTP requests per second by the template of their route, scrapes and probes included.",
            unit="reqps",
            queries=(lines("sum by (route) (rate(shira_requests_total{@}[~]))", "{{route}}"),),
        ),
        Panel(
            title="Whole requests",
            description="From the head of a request to the end of its answer, streams included: 95 of 100 were faster.",
            unit="s",
            queries=(quantile(0.95, "shira_request_seconds", "{{route}}", by="route"),),
        ),
    ),
)

WAITING = Row(
    title="Who waits?",
    panels=(
        Panel(
            title="Who waits",
            description="Requests that have not run a step, those that run, those that gave up their place for a "
            "while, "
            "and how many may wait before the next gets 429.",
            unit="short",
            queries=(
                lines("shira_queue_depth{@}", "{{instance}} waiting"),
                lines("shira_requests_running{@}", "{{instance}} running"),
                lines("shira_requests_parked{@}", "{{instance}} parked"),
                lines("shira_queue_limit{@}", "{{instance}} may wait"),
            ),
        ),
        Panel(
            title="Longest wait now",
            description="How long the oldest request in the queue has waited; 0 without one.",
            unit="s",
            queries=(lines("shira_oldest_wait_seconds{@}"),),
        ),
        Panel(
            title="Time in the queue",
            description="From arrival to the first step, of requests that began: half of them and 95 of 100.",
            unit="s",
            queries=quantiles("shira_queue_seconds", 0.5, 0.95),
        ),
        Panel(
            title="By tenant",
            description="Live requests of each tenant that has any; nobody: there are none.",
            unit="short",
            queries=(
                lines(
                    "sum by (tenant, state) (shira_tenant_requests{@})"
                    ' or on () label_replace(0 * sum(shira_queue_depth{@}), "tenant", "nobody", "", "")',
                    "{{tenant}} {{state}}",
                ),
            ),
        ),
        Panel(
            title="Longest wait by tenant",
            description="How long the oldest request in the queue of each tenant has waited.",
            unit="s",
            queries=(
                lines(
                    "max by (tenant) (shira_tenant_oldest_wait_seconds{@})"
                    ' or on () label_replace(0 * sum(shira_queue_depth{@}), "tenant", "nobody", "", "")',
                    "{{tenant}}",
                ),
            ),
        ),
        Panel(
            title="Refused for their deadline",
            description="Requests per second refused because their deadline could not be met any more.",
            unit="reqps",
            queries=(lines("rate(shira_deadline_refusals_total{@}[~])"),),
        ),
    ),
)

ENGINE = Row(
    title="What does it do?",
    panels=(
        Panel(
            title="Steps",
            description="Steps of the model per second: with one blend in the weights or several beside each other; "
            "over "
            "prompts, single tokens or images.",
            unit="ops",
            queries=(
                lines(
                    "sum by (instance, mode, phase) (rate(shira_step_seconds_count{@}[~]))",
                    "{{instance}} {{mode}} {{phase}}",
                ),
            ),
        ),
        Panel(
            title="A step",
            description="Time of a step of the model: 95 of 100 were faster.",
            unit="s",
            queries=(quantile(0.95, "shira_step_seconds", "{{mode}} {{phase}}", by="mode, phase"),),
        ),
        Panel(
            title="KV memory",
            description="Memory that sequences hold for their keys and values, and how much there is. None for "
            "pictures.",
            unit="bytes",
            queries=(
                lines("shira_kv_bytes{@}", "{{instance}} used"),
                lines("shira_kv_budget_bytes{@}", "{{instance}} there is"),
            ),
        ),
        Panel(
            title="Parked",
            description="Sequences per second that gave up their place: for want of KV memory, to one that waited too "
            "long, "
            "or to others' adapter bytes.",
            unit="ops",
            queries=(lines("sum by (instance, reason) (rate(shira_parked_total{@}[~]))", "{{instance}} {{reason}}"),),
        ),
    ),
)

PROCESS = Row(
    title="What does it take?",
    panels=(
        Panel(
            title="Memory",
            description="Memory the server may take, by its cgroup's limit, else the machine's memory; and what counts "
            "against it: the cgroup's working set (embedded Redis included), else the resident memory.",
            unit="bytes",
            queries=(
                lines("shira_memory_used_bytes{@}", "{{instance}} used"),
                lines("shira_memory_limit_bytes{@}", "{{instance}} limit"),
            ),
        ),
        Panel(
            title="Processors",
            description="Processors busy on the server's behalf.",
            unit="short",
            queries=(lines("rate(process_cpu_seconds_total{@}[~]) and on (job, instance) shira_ready"),),
        ),
        Panel(
            title="Data disk free",
            description="Share of the file system of the data directory that is free.",
            unit="percentunit",
            is_share=True,
            queries=(lines("shira_data_free_bytes{@} / shira_data_size_bytes{@}"),),
        ),
        Panel(
            title="Open files",
            description="Open file descriptors, connections included, and how many there may be.",
            unit="short",
            queries=(
                lines("process_open_fds{@} and on (job, instance) shira_ready", "{{instance}} open"),
                lines("process_max_fds{@} and on (job, instance) shira_ready", "{{instance}} limit"),
            ),
        ),
        Panel(
            title="Restarts",
            description="How often the server was started again within the last hour.",
            unit="short",
            queries=(lines("changes(process_start_time_seconds{@}[1h]) and on (job, instance) shira_ready"),),
        ),
        Panel(
            title="What runs",
            description="The version, the base and how it is kept, of each server.",
            unit="short",
            kind="table",
            queries=(lines("shira_build_info{@}"),),
        ),
    ),
)

OVERVIEW = Board(
    uid="shira-overview",
    title="shira: overview",
    description="Is everything all right, who asks, who waits, what does it take.",
    rows=(HEALTH, TRAFFIC, WAITING, ENGINE, PROCESS),
)
