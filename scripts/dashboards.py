#!/usr/bin/env python3
"""Writes grafana/dashboards/*.json from the panels below, and deploy/kubernetes/prometheus-rule.yaml from the rules in
deploy/prometheus/rules. With --check it writes nothing, and says which of these files differ from what it would write.

A query is written with SEL where the matchers of job and instance stand, and RATE where the range of a rate stands.
Each panel says in its description what it shows and what to do when it looks bad.
"""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SELECTOR = 'job=~"$job",instance=~"$instance"'
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
RUNBOOKS = "docs/OPERATIONS.md, 'Runbooks', has the steps."


def panel(title, unit, description, *queries, kind="timeseries", width=8, height=8, **options):
    """A panel; each query is an expression, or one with the legend of its series."""
    return {"title": title, "unit": unit, "description": description, "kind": kind, "width": width,
            "height": height, "options": options,
            "queries": [query if isinstance(query, tuple) else (query, title) for query in queries]}


def quantiles(metric):
    return [(f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{SEL}}[RATE])))", f"p{share[2:]:0<2}")
            for share in ("0.5", "0.95", "0.99")]


def per_second(counter, by, matcher=""):
    return f"sum by ({by}) (rate({counter}{{SEL{matcher}}}[RATE]))"


OVERVIEW = [
    panel("Oldest undelivered", "s",
          "Age of the oldest event without a durable fate. About a second is normal. Rising: look at 'In flight' and "
          f"at the dashboard Replicas; add replicas or raise --in-flight-max. {RUNBOOKS}",
          "max(postrider_oldest_undelivered_seconds{SEL})", kind="stat", width=6, height=4, warn=15, bad=60),
    panel("Attempts that succeed", "percentunit",
          "Share of attempts that were answered with 2xx. Low for many endpoints at once: this side's network, DNS or "
          "TLS roots; low for few: the dashboard Endpoints names them.",
          'sum(rate(postrider_attempts_total{SEL,outcome="delivered"}[RATE])) / '
          "sum(rate(postrider_attempts_total{SEL}[RATE]))", kind="stat", width=6, height=4, low=True),
    panel("Replicas", "short",
          "Replicas that Prometheus reaches. Fewer than you run: one has died or cannot be reached; another one takes "
          "its work over within two leases.",
          "count(postrider_build_info{SEL})", kind="stat", width=6, height=4),
    panel("Ready", "bool_yes_no",
          "The conditions of readiness, of the worst replica. No: docs/OPERATIONS.md, 'Readiness', says what each "
          "waits for. Do not restart a replica because of it.",
          ("min by (condition) (postrider_ready{SEL})", "{{condition}}"), kind="stat", width=6, height=4),
    panel("Events in", "ops",
          "Events read from the streams, those acknowledged, and deliveries made of them. Read but not acknowledged "
          "for long: Redis refuses writes, or the replicas are at their limits.",
          ("sum(rate(postrider_events_read_total{SEL}[RATE]))", "read"),
          ("sum(rate(postrider_events_acknowledged_total{SEL}[RATE]))", "acknowledged"),
          ("sum(rate(postrider_deliveries_routed_total{SEL}[RATE]))", "deliveries")),
    panel("Attempts by outcome", "ops",
          "Attempts by what they came to. Rising retryable: endpoints fail or are slow, see the dashboard Endpoints. "
          "Rising refused: receivers answer 3xx or 4xx, their log says why.",
          (per_second("postrider_attempts_total", "outcome"), "{{outcome}}")),
    panel("Deliveries ended", "ops",
          "Deliveries that got their last fate. Failed ones wait to be retried by hand; tell the owners of their "
          "endpoints before a cap evicts them.",
          ("sum(rate(postrider_deliveries_delivered_total{SEL}[RATE]))", "delivered"),
          (per_second("postrider_deliveries_failed_total", "reason"), "failed: {{reason}}")),
    panel("Publish to arrival", "s",
          "From an event's stream time to the end of its successful attempt, retries included. High p50: the system "
          "is behind. High p99 alone: retries and slow endpoints, which is theirs.",
          *quantiles("postrider_delivery_seconds")),
    panel("Time of an attempt", "s",
          "How long endpoints take to answer. High: the receivers' own speed. Near the request timeout for many: "
          "look for a fault of this network.",
          *quantiles("postrider_attempt_seconds")),
    panel("In flight and in memory", "short",
          "Attempts in flight, and deliveries held in memory. At --in-flight-max or --deliveries-max for long: add "
          "replicas or raise them.",
          ("sum(postrider_attempts_in_flight{SEL})", "in flight"),
          ("sum(postrider_deliveries_in_memory{SEL})", "in memory")),
    panel("Oldest undelivered by shard", "s",
          "The age of the oldest event without a durable fate. One shard only: its readers are stuck, read the "
          "replicas' logs. All shards: deliveries do not keep up.",
          ("max by (shard) (postrider_oldest_undelivered_seconds{SEL})", "shard {{shard}}")),
    panel("Backlog", "short",
          "Deliveries that wait in Redis, and those of them that are due at endpoints which may be sent to. Waiting "
          "ones rise while an endpoint is down. Due ones that stay: replicas are at their limits.",
          ("sum(postrider_backlog_deliveries{SEL})", "waiting"), ("sum(postrider_retries_due{SEL})", "due now")),
    panel("Retries and parking", "ops",
          "Retries scheduled, deliveries parked without an attempt, and those claimed again. More parked than claimed "
          "for long: the backlog grows.",
          ("sum(rate(postrider_retries_scheduled_total{SEL}[RATE]))", "retries scheduled"),
          ("sum(rate(postrider_deliveries_parked_total{SEL}[RATE]))", "parked"),
          ("sum(rate(postrider_deliveries_claimed_total{SEL}[RATE]))", "claimed")),
    panel("Redis latency (p99)", "s",
          "What Redis takes to answer a worker: a settle flush, a read that did not wait, a lease's renewal. Above "
          "some 50 ms: a slow disk, a fork for the AOF's rewrite, or a CPU that is full.",
          ("histogram_quantile(0.99, sum by (le, operation) (rate(postrider_redis_seconds_bucket{SEL}[RATE])))",
           "{{operation}}")),
    panel("Faults of attempts", "ops",
          "Attempts without a complete answer, by kind. dns or tls for many endpoints: this side. blocked: the guard "
          "denies a target. connect and timeout: the receivers.",
          (per_second("postrider_attempt_faults_total", "kind"), "{{kind}}")),
    panel("Errors of Redis", "ops",
          "Operations on Redis that failed. Some while it restarts. Otherwise read the replicas' logs, which have the "
          "error's text.",
          (per_second("postrider_redis_errors_total", "operation"), "{{operation}}")),
    panel("Lost or refused", "short",
          "Rejected events, and what caps evicted: rejected events, failed deliveries. Any eviction is a loss: raise "
          "the cap named in docs/OPERATIONS.md, and mend the producer or the endpoint.",
          ("sum(increase(postrider_events_rejected_total{SEL}[RATE]))", "rejected"),
          ("sum(increase(postrider_rejected_evicted_total{SEL}[RATE]))", "rejected, evicted"),
          ("sum(increase(postrider_failed_evicted_total{SEL}[RATE]))", "failed, evicted"),
          ("sum(increase(postrider_events_unrouted_total{SEL}[RATE]))", "unrouted")),
]

BY_CONFIG = "The 50 worst are named, the rest is 'other'."

ENDPOINTS = [
    panel("Configs", "short",
          "Configs by state. Disabled ones get nothing more: their owners have to repair the receiver and enable them.",
          ("sum by (state) (postrider_configs{SEL})", "{{state}}"), kind="stat", height=4),
    panel("Failing configs", "short",
          "Configs from which nothing but failures came since their last success, and open breakers. Many at once: "
          "this side's network or DNS.",
          ("sum(postrider_configs_failing{SEL})", "failing"), ("sum(postrider_breakers_open{SEL})", "breakers open"),
          kind="stat", height=4),
    panel("Disabled lately", "short",
          "Configs disabled by a 410 or by days of failures, at this moment. Tell the owner: GET configs says why.",
          "sum(increase(postrider_configs_disabled_total{SEL}[RATE]))", kind="stat", height=4),
    panel("Top failing", "short",
          f"Failed attempts of the last 5 minutes by config. {BY_CONFIG} postrider logs list --status retrying shows "
          "what they answered; tell their owners.",
          ("topk(10, sum by (config) (postrider_config_failed_attempts{SEL}))", "{{config}}"), kind="bargauge"),
    panel("Slowest", "s",
          f"95th percentile of the last 5 minutes' attempts by config. {BY_CONFIG} Near the request timeout: the "
          "receiver hangs; it is held to few attempts at a time and slows nobody else.",
          ("topk(10, max by (config) (postrider_config_attempt_p95_seconds{SEL}))", "{{config}}"), kind="bargauge"),
    panel("Largest backlog", "short",
          f"Deliveries that wait by config. {BY_CONFIG} An endpoint that is gone for good: pause or delete the config "
          "before its queue's cap fails deliveries.",
          ("topk(10, sum by (config) (postrider_config_backlog{SEL}))", "{{config}}"), kind="bargauge"),
    panel("Open breakers", "short",
          "Configs whose breaker is open: one probe at a time until it succeeds. At most 50 are named. Nothing to do "
          "here; the receiver has to come back.",
          ("sum by (config) (postrider_config_breaker_open{SEL})", "{{config}}"), kind="bargauge"),
    panel("In flight by config", "short",
          f"Attempts in flight by config. {BY_CONFIG} One at --config-in-flight-max for long: it is slow, or its "
          "limit is too low for its speed.",
          ("topk(10, sum by (config) (postrider_config_in_flight{SEL}))", "{{config}}")),
    panel("Moves of breakers", "ops",
          "Moves by the state moved to. Many to open and few to closed: endpoints that answer a probe and no more.",
          (per_second("postrider_breaker_transitions_total", "to"), "{{to}}")),
    panel("Parked", "ops",
          "Deliveries that went to Redis without an attempt. Rising for healthy endpoints: --config-in-flight-max is "
          "too low for their speed.",
          "sum(rate(postrider_deliveries_parked_total{SEL}[RATE]))"),
    panel("Configs that wait", "short",
          "Configs with deliveries in their queue. Many: many endpoints fail or are slow.",
          ("sum by (shard) (postrider_due_configs{SEL})", "shard {{shard}}")),
    panel("Failed deliveries", "ops",
          "Deliveries that ended failed, by reason. expired and backlog full: an endpoint was away for too long. "
          "refused: receivers say no.",
          (per_second("postrider_deliveries_failed_total", "reason"), "{{reason}}")),
]

REDIS = [
    panel("Memory", "bytes",
          "Memory against maxmemory. Above 85 % the publish endpoint refuses; at 100 % Redis refuses XADD. What grew: "
          "docs/OPERATIONS.md, 'When Redis is full'.",
          ("max(postrider_redis_memory_bytes{SEL})", "used"), ("max(postrider_redis_memory_max_bytes{SEL})", "maxmemory")),
    panel("Memory used", "percentunit",
          "Used memory over maxmemory; 0 where no limit is set, which is a fault of its own. Above 0.8: act now.",
          "max(postrider_redis_memory_ratio{SEL})", kind="stat", warn=0.7, bad=0.85),
    panel("Commands", "ops",
          "Commands a second that Redis processes. Flat at its top while latency rises: one core of Redis is full; "
          "use more shards on more servers.",
          "max(postrider_redis_commands_per_second{SEL})"),
    panel("Stream entries", "short",
          "Entries of the event streams. Rising without end: producers are faster than deliveries; add replicas.",
          ("sum by (shard) (postrider_stream_entries{SEL})", "shard {{shard}}")),
    panel("Pending", "short",
          "Events read and not acknowledged. Rising while nothing is acknowledged: Redis refuses writes or a replica "
          "hangs. Read its log.",
          ("sum by (shard) (postrider_stream_pending{SEL})", "shard {{shard}}")),
    panel("Floor age", "s",
          "How far the floor lies behind while events are above it. Rising: one event keeps the stream from being "
          "trimmed; a replica holds it. Restart the one that shows errors.",
          ("max by (shard) (postrider_floor_age_seconds{SEL})", "shard {{shard}}")),
    panel("Rejected", "short",
          "Entries that could not be understood and are kept. Rising: a producer breaks the contract; the entries say "
          "what was wrong.",
          ("sum by (shard) (postrider_rejected_entries{SEL})", "shard {{shard}}")),
    panel("Bytes of rejected", "bytes",
          "What rejected entries take. At its cap the oldest are evicted: raise --rejected-max or mend the producer.",
          ("sum by (shard) (postrider_rejected_bytes{SEL})", "shard {{shard}}")),
    panel("Trimmed", "ops",
          "Entries trimmed behind the floor. None while events come: the floor stands, see 'Floor age'.",
          "sum(rate(postrider_stream_trimmed_total{SEL}[RATE]))"),
    panel("Writing to disk fails", "bool_yes_no",
          "Whether the last write of the AOF, its rewrite or a snapshot failed. Yes: the disk is full or broken; Redis "
          "refuses writes soon. Free the disk first.",
          ("max by (what) (postrider_redis_persistence_failing{SEL})", "{{what}}"), kind="stat"),
    panel("Append-only file", "bytes",
          "Size of the append-only file. Growing without end: rewrites fail; see 'Writing to disk fails' and the free "
          "disk of the node.",
          "max(postrider_redis_aof_bytes{SEL})"),
    panel("Append-only file is on", "bool_yes_no",
          "Whether Redis keeps an append-only file. No: a restart of Redis loses what waits. Set appendonly yes.",
          "max(postrider_redis_aof_enabled{SEL})", kind="stat"),
    panel("Replicas of Redis", "short",
          "Replicas that follow this Redis. Fewer than there should be: a failover would lose acknowledged writes.",
          "max(postrider_redis_replicas{SEL})", kind="stat"),
    panel("Replication lag", "bytes",
          "How far the slowest replica is behind. Growing: its network or disk is too slow; a failover would lose as "
          "much.",
          "max(postrider_redis_replica_lag_bytes{SEL})"),
    panel("Connections", "short",
          "Connections to Redis: a few for each worker. Growing without end: a client leaks them.",
          "max(postrider_redis_clients{SEL})"),
    panel("Evicted keys", "short",
          "Keys that Redis evicted since its start. Not 0: deliveries were lost. Set maxmemory-policy noeviction.",
          "max(postrider_redis_evicted_keys{SEL})", kind="stat", warn=1, bad=1),
    panel("Settle latency", "s",
          "How long a settle flush takes, as workers see it. It bounds how fast deliveries end. High with low CPU of "
          "Redis: the network or the disk.",
          *[(query.replace("{SEL}", '{SEL,operation="settle"}'), legend)
            for query, legend in quantiles("postrider_redis_seconds")]),
    panel("Unreadable values", "short",
          "Stored values that could not be read, by kind. Any: something else wrote into the keyspace, or a newer "
          "version did. The log names the key's kind.",
          ("sum by (kind) (increase(postrider_stored_unreadable_total{SEL}[RATE]))", "{{kind}}")),
]

REPLICAS = [
    panel("CPU", "short",
          "Cores that each replica uses. At its number of workers: add replicas. Low while events wait: limits or "
          "Redis hold it back.",
          ("rate(process_cpu_seconds_total{SEL}[RATE])", "{{instance}}")),
    panel("Memory", "bytes",
          "Memory that each replica occupies. Near the container's limit: lower --delivery-bytes-max or raise the "
          "limit.",
          ("process_resident_memory_bytes{SEL}", "{{instance}}")),
    panel("Open files", "percentunit",
          "Open files and sockets over how many are allowed. Above 0.9: raise ulimit -n, or lower --in-flight-max and "
          "--idle-connections-max.",
          ("process_open_fds{SEL} / process_max_fds{SEL}", "{{instance}}")),
    panel("Loop lag", "s",
          "How late workers' loops ran at worst lately. Above 0.5 s: the machine starves them of CPU, and leases will "
          "be lost. Give them cores.",
          ("max by (instance, worker) (postrider_loop_lag_seconds{SEL})", "{{instance}} worker {{worker}}")),
    panel("Workers with a lease", "short",
          "Workers that hold their leases. One without sends and reads nothing: Redis is away, or the machine stalls.",
          ("sum by (instance) (postrider_worker_leased{SEL})", "{{instance}}")),
    panel("Consumers that hold a lease", "short",
          "Consumers by shard, as Redis knows them. More than workers: one died within the last two leases. Fewer: a "
          "replica is away.",
          ("sum by (shard) (postrider_live_consumers{SEL})", "shard {{shard}}")),
    panel("Live replicas", "short",
          "Replicas among which limits are divided, as each sees it. They differ for long: replicas do not reach the "
          "same Redis.",
          ("postrider_live_replicas{SEL}", "{{instance}}")),
    panel("Leases lost", "short",
          "Leases that replicas lost. Not 0: a worker was frozen or cut off for two leases. Look for CPU starvation "
          "and long pauses of Redis.",
          ("sum by (instance) (increase(postrider_leases_lost_total{SEL}[RATE]))", "{{instance}}")),
    panel("Events taken over", "short",
          "Events taken over from dead consumers, and processed again. Rises when a replica died; otherwise --lease "
          "is too short for this machine.",
          ("sum by (instance) (increase(postrider_reclaimed_total{SEL}[RATE]))", "reclaimed by {{instance}}"),
          ("sum by (instance) (increase(postrider_events_recovered_total{SEL}[RATE]))", "recovered by {{instance}}")),
    panel("Attempts by replica", "ops",
          "Attempts by replica. One with few: it holds no lease, or its limits are low.",
          (per_second("postrider_attempts_total", "instance"), "{{instance}}")),
    panel("In flight by replica", "short",
          "Attempts in flight by replica. At --in-flight-max for long: add replicas.",
          ("postrider_attempts_in_flight{SEL}", "{{instance}}")),
    panel("Settle batch (p95)", "short",
          "Outcomes in one settle flush. Always at 256 or more: Redis is the bottleneck.",
          ("histogram_quantile(0.95, sum by (le, instance) (rate(postrider_settle_batch_size_bucket{SEL}[RATE])))",
           "{{instance}}")),
    panel("Clock offset", "s",
          "Redis's clock minus each machine's. Far from 0: logs differ in time, and receivers that check timestamps "
          "refuse. Repair NTP.",
          ("postrider_clock_offset_seconds{SEL}", "{{instance}}")),
    panel("Connections to the admin API", "short",
          "Open connections by replica. At --admin-connections-max: further ones wait. Find who keeps them open.",
          ("sum by (instance) (postrider_admin_connections{SEL})", "{{instance}}")),
    panel("Refused by the admin API", "ops",
          "Requests with bad tokens, and those that a limit refused. Bad tokens: a client lost its own, or somebody "
          "tries some. token rate: a caller loops.",
          ("sum(rate(postrider_admin_auth_failures_total{SEL}[RATE]))", "bad token"),
          (per_second("postrider_admin_refused_total", "limit"), "{{limit}}")),
    panel("Versions", "short",
          "Replicas by version. More than one for longer than a rolling restart: finish the upgrade.",
          ("count by (version) (postrider_build_info{SEL})", "{{version}}"), kind="stat"),
    panel("Up for", "s",
          "How long each replica has run. Short again and again: it crashes; read its log's last lines.",
          ("time() - process_start_time_seconds{SEL}", "{{instance}}"), kind="stat"),
    panel("Threads", "short",
          "Threads by replica: one a worker, and few others. Growing: report it.",
          ("process_threads{SEL}", "{{instance}}")),
]

DASHBOARDS = {"overview": ("Postrider / Overview", OVERVIEW), "endpoints": ("Postrider / Endpoints", ENDPOINTS),
              "redis": ("Postrider / Redis", REDIS), "replicas": ("Postrider / Replicas", REPLICAS)}


def thresholds(options):
    if options.get("low"):
        levels = [("red", None), ("yellow", 0.9), ("green", 0.99)]
    elif "bad" in options:
        levels = [("green", None), ("yellow", options["warn"]), ("red", options["bad"])]
    else:
        levels = [("green", None)]
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for color, value in levels]}


def drawn(spec, number, place):
    line = spec["kind"] == "timeseries"
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": False}
    options = {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
               "tooltip": {"mode": "multi", "sort": "desc"}}
    if not line:
        options = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                   "orientation": "horizontal" if spec["kind"] == "bargauge" else "auto"}
    return {
        "id": number, "type": spec["kind"], "title": spec["title"], "description": spec["description"],
        "datasource": DATASOURCE, "gridPos": place, "options": options,
        "fieldConfig": {"defaults": {"unit": spec["unit"], "min": None if spec["title"] == "Clock offset" else 0,
                                     "thresholds": thresholds(spec["options"]), **({"custom": custom} if line else {})},
                        "overrides": []},
        "targets": [{"refId": "ABCDEFGH"[index], "datasource": DATASOURCE, "legendFormat": legend,
                     "instant": not line, "range": line,
                     "expr": expr.replace("SEL", SELECTOR).replace("[RATE]", "[$__rate_interval]")}
                    for index, (expr, legend) in enumerate(spec["queries"])],
    }


def placed(specs):
    x = y = tallest = 0
    for number, spec in enumerate(specs, start=1):
        if x + spec["width"] > 24:
            x, y, tallest = 0, y + tallest, 0
        yield drawn(spec, number, {"x": x, "y": y, "w": spec["width"], "h": spec["height"]})
        x, tallest = x + spec["width"], max(tallest, spec["height"])


def query_variable(name, query):
    return {"name": name, "label": name.capitalize(), "type": "query", "datasource": DATASOURCE,
            "query": {"query": query, "refId": name}, "definition": query, "refresh": 2, "sort": 1, "multi": True,
            "includeAll": True, "allValue": ".+", "current": {"text": ["All"], "value": ["$__all"]}, "hide": 0}


def dashboard(name):
    title, specs = DASHBOARDS[name]
    return {
        "uid": f"postrider-{name}", "title": title, "tags": ["postrider"], "schemaVersion": 39, "version": 1,
        "editable": False, "graphTooltip": 1, "refresh": "10s", "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser", "annotations": {"list": []},
        "links": [{"type": "dashboards", "title": "Postrider", "tags": ["postrider"], "asDropdown": False,
                   "includeVars": True, "keepTime": True, "icon": "dashboard", "targetBlank": False, "url": ""}],
        "templating": {"list": [
            {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0,
             "includeAll": False, "multi": False, "refresh": 1, "current": {}},
            query_variable("job", "label_values(postrider_build_info, job)"),
            query_variable("instance", 'label_values(postrider_build_info{job=~"$job"}, instance)'),
        ]},
        "panels": list(placed(specs)),
    }


def prometheus_rule():
    """The rules for the Prometheus operator: the same groups, two levels deeper."""
    lines = ["# Made by scripts/dashboards.py from deploy/prometheus/rules; change those.",
             "apiVersion: monitoring.coreos.com/v1", "kind: PrometheusRule", "metadata:", "  name: postrider", "spec:",
             "  groups:"]
    for path in sorted((ROOT / "deploy/prometheus/rules").glob("*.yml")):
        head, groups = path.read_text(encoding="utf-8").split("groups:\n")
        lines += [f"  {line}" if line else "" for line in groups.rstrip("\n").split("\n")]
    return "\n".join(lines) + "\n"


def files():
    made = {f"grafana/dashboards/{name}.json": json.dumps(dashboard(name), indent=1) + "\n" for name in DASHBOARDS}
    return {**made, "deploy/kubernetes/prometheus-rule.yaml": prometheus_rule()}


def main():
    differ = []
    for name, text in files().items():
        path = ROOT / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        differ.append(name)
        if "--check" not in sys.argv[1:]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if differ and "--check" in sys.argv[1:]:
        sys.exit(f"not what scripts/dashboards.py makes: {', '.join(differ)}")
    print(f"scripts/dashboards.py: {'wrote ' + ', '.join(differ) if differ else 'all files are as made'}")


if __name__ == "__main__":
    main()
