"""What a run came to: report.md with the figures, report.html with the charts beside them, samples.json with what they are
drawn from. Nothing is fetched when the page is read."""

import html
import json
import os
import platform
import time

from charts import chart
from stage import cores

# Figures of k6's summary: column, metric, what is taken of it.
COLUMNS = (
    ("published", "events_published", "count"), ("a second", "events_published", "rate"),
    ("accepted", "deliveries_accepted", "count"), ("missing", "deliveries_missing", "count"),
    ("duplicates", "deliveries_duplicate", "count"), ("failed attempts", "attempts_failed", "count"),
    ("waiting", "deliveries_waiting", "count"), ("p50 ms", "e2e_p50_ms{kind:healthy}", "max"),
    ("p95 ms", "e2e_p95_ms{kind:healthy}", "max"), ("p99 ms", "e2e_p99_ms{kind:healthy}", "max"),
    ("max ms", "e2e_max_ms{kind:healthy}", "max"),
)
GROUPS = ("replica", "redis", "receiver", "k6")


def figure(summary, metric, part, seconds):
    values = summary["metrics"].get(metric, {}).get("values", {})
    if part == "rate":
        # Over the load alone: k6 divides by the whole run, setup and account included.
        return round(values.get("count", 0) / seconds) if values else None
    if metric.startswith("e2e_") and "window_p99_ms" in summary["metrics"]:
        # The soak begins percentiles anew in each window: the worst one's p99 stands for all.
        values = summary["metrics"]["window_p99_ms"]["values"] if metric.startswith("e2e_p99") else {}
    value = values.get(part)
    return None if value is None else round(value, 1) if value % 1 else int(value)


def rows(results):
    for one in results:
        seconds = float(str(one["given"]["DURATION"]).rstrip("s"))
        cells = [one["script"], "holds" if one["code"] == 0 else f"FAILS ({one['code']})"]
        for _, metric, part in COLUMNS:
            found = figure(one["summary"], metric, part, seconds) if one["summary"] else None
            cells.append("" if found is None else f"{found:,}")
        yield cells


def answers(results):
    """Answer times of the admin API, by route."""
    for one in results:
        for name, metric in sorted(((one["summary"] or {}).get("metrics") or {}).items()):
            if name.startswith("http_req_duration{route:"):
                values = metric["values"]
                yield [one["script"], name[len("http_req_duration{route:"):-1],
                       *(f"{values[part]:.1f}" for part in ("med", "p(95)", "p(99)", "max"))]


def crossed(results):
    for one in results:
        for name, metric in ((one["summary"] or {}).get("metrics") or {}).items():
            for demand, result in (metric.get("thresholds") or {}).items():
                if not result["ok"]:
                    yield f"{one['script']}: {name} {demand}"


def percentile(buckets, share):
    """Milliseconds below which this share lies, interpolated inside its bucket; None when nothing came."""
    bounds = sorted((float(bound), count) for bound, count in buckets.items())
    total = bounds[-1][1] if bounds else 0
    if total <= 0:
        return None
    below, lower = 0.0, 0.0
    for bound, count in bounds:
        if count >= share * total:
            if bound == float("inf"):
                return lower * 1000
            return (lower + (bound - lower) * (share * total - below) / max(count - below, 1e-9)) * 1000
        below, lower = count, bound
    return lower * 1000


def cpu(before, after, group, elapsed):
    used = 0.0
    for name, now in after["processes"].items():
        then = before["processes"].get(name)
        if name.startswith(group) and now and then:
            used += max(0.0, now["cpu"] - then["cpu"])
    return used / elapsed


def memory(sample, group):
    found = [now["memory"] for name, now in sample["processes"].items() if name.startswith(group) and now]
    return sum(found) / 2**20 if found else None


def series(samples, begun):
    """Every chart's lines from the samples."""
    charts = {name: {} for name in ("rate", "latency", "backlog", "cpu", "memory", "commands")}

    def add(name, line, second, value):
        charts[name].setdefault(line, []).append((second, value))

    for before, after in zip(samples, samples[1:]):
        elapsed, second = after["at"] - before["at"], after["at"] - begun

        def rate(of, first=before, last=after, over=elapsed):
            return max(0.0, of(last) - of(first)) / over

        def counter(name):
            return lambda sample: sample["counters"][name]

        add("rate", "published (stream)", second, rate(lambda sample: sample["published"]))
        add("rate", "delivered", second, rate(counter("postrider_deliveries_delivered_total")))
        add("rate", "attempts", second, rate(counter("postrider_attempts_total")))
        add("rate", "retries scheduled", second, rate(counter("postrider_retries_scheduled_total")))
        buckets = {bound: count - before["arrival"].get(bound, 0) for bound, count in after["arrival"].items()}
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            add("latency", name, second, percentile(buckets, share))
        add("backlog", "not acknowledged", second,
            max(0, after["published"] - after["counters"]["postrider_events_acknowledged_total"]))
        add("backlog", "waiting in queues", second, after["waiting"])
        add("backlog", "in flight", second, after["counters"]["postrider_attempts_in_flight"])
        for group in GROUPS:
            add("cpu", group, second, cpu(before, after, group, elapsed))
            add("memory", group, second, memory(after, group))
        add("memory", "Redis data", second, after["redis_memory"] / 2**20)
        add("commands", "commands", second, rate(lambda sample: sample["redis_commands"]))
    return charts


TITLES = {
    "rate": ("Published and delivered", "per second"),
    "latency": ("From the stream to delivered, all receivers", "ms, logarithmic, by the replicas' own histogram"),
    "backlog": ("Backlog", "events, deliveries"),
    "cpu": ("Processor time", "cores"),
    "memory": ("Resident memory", "MiB"),
    "commands": ("Redis", "commands per second"),
}


def table(head, lines):
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    yield from ("| " + " | ".join(line) + " |" for line in lines)


def html_table(head, lines):
    def row(tag, cells):
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
    return f"<table>{row('th', head)}{''.join(row('td', line) for line in lines)}</table>"


def peaks(samples):
    """What the run took at most, over one second."""
    pairs = list(zip(samples, samples[1:]))
    for group in GROUPS:
        cores = max((cpu(a, b, group, b["at"] - a["at"]) for a, b in pairs), default=0)
        most = max((memory(sample, group) or 0 for sample in samples), default=0)
        yield [group, f"{cores:.2f}", f"{most:.0f}"]


STYLE = (
    "body{font:14px sans-serif;max-width:960px;margin:2em auto;padding:0 1em}table{border-collapse:collapse;font-size:12px}"
    "td,th{border:1px solid #d0d7de;padding:3px 6px;text-align:right}td:first-child{text-align:left}h2{margin-bottom:0}"
    "h2 small{font-weight:normal;color:#57606a}p{margin:.3em 0}svg{width:100%}.span{fill:#eaeef2}.grid{stroke:#d0d7de}"
    ".line{fill:none;stroke-width:1.5}.name{font-size:9px;text-anchor:middle}.tick{font-size:10px;text-anchor:end}"
)


def write_report(folder, results, samples, args):
    kind = "short" if args.short else "long"
    about = (f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, {kind} form, {cores()} cores "
             f"({platform.machine()}) shared by k6, Redis, two replicas and the receivers. Load average at the end: "
             f"{os.getloadavg()[0]:.1f}.")
    head = ["script", "result", *(name for name, *_ in COLUMNS)]
    sections = [
        ("Scripts", head, list(rows(results))),
        ("Answers of the admin API, ms", ["script", "route", "p50", "p95", "p99", "max"], list(answers(results))),
        ("At most", ["processes", "cores", "MiB"], list(peaks(samples))),
    ]
    failing = [f"- FAILS {line}" for line in crossed(results)]
    lines = ["# Load test", "", about, ""]
    sections = [section for section in sections if section[2]]
    for title, names, cells in sections:
        lines += [f"## {title}", "", *table(names, cells), ""]
    with open(os.path.join(folder, "report.md"), "w", encoding="utf-8") as file:
        file.write("\n".join([*lines, *failing]).rstrip() + "\n")

    begun = samples[0]["at"] if samples else 0
    end = samples[-1]["at"] - begun if samples else 0
    spans = [(one["script"], max(0, one["begun"] - begun), min(end, one["ended"] - begun)) for one in results]
    if spans and end - spans[-1][2] > 1:
        spans.append(("faults", spans[-1][2], end))
    drawn = series(samples, begun)
    body = [f"<h1>Load test</h1><p>{html.escape(about)}</p>", *(f"<p>{html.escape(line)}</p>" for line in failing)]
    body += [f"<h2>{title}</h2>{html_table(names, cells)}" for title, names, cells in sections]
    body += [chart(*TITLES[name], lines, spans, end, logarithmic=name == "latency") for name, lines in drawn.items() if lines]
    with open(os.path.join(folder, "report.html"), "w", encoding="utf-8") as file:
        file.write(f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Load test</title><style>{STYLE}</style>'
                   f'{"".join(body)}</html>\n')
    with open(os.path.join(folder, "samples.json"), "w", encoding="utf-8") as file:
        json.dump(samples, file)
