"""Checks the dashboards and rules as files: the rules of Grafana's dashboard linter, and that every metric is one that
the program declares (src/metrics/names.rs). Each check gives complaints; check.py runs them."""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DASHBOARDS = ("overview", "endpoints", "redis", "replicas")
# Made by Prometheus itself.
OF_PROMETHEUS = {"up"}
HISTOGRAM_SUFFIXES = ("_bucket", "_sum", "_count")
RANGE_FUNCTIONS = re.compile(r"\b(?:rate|irate|increase|delta)\s*\(")


def declared():
    """Every metric's name and kind, as src/metrics/names.rs declares them."""
    text = (ROOT / "src/metrics/names.rs").read_text(encoding="utf-8")
    kinds = {}
    for list_name, body in re.findall(r"pub const (\w+): &\[\(&str, &str\)\] = &\[(.*?)\n\];", text, re.S):
        for name in re.findall(r'\(\s*"((?:postrider|process)_\w+)",', body):
            kinds[name] = {"COUNTERS": "counter", "HISTOGRAMS": "histogram"}.get(list_name, "gauge")
    return kinds


def metrics_of(expr):
    """Names of metrics in a query: what is no function, keyword, label or string."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expr)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    return set(re.findall(r"\b((?:job:)?(?:postrider|process)_\w+(?::\w+)?|up)\b(?!\s*\()", bare))


def base(name):
    for suffix in HISTOGRAM_SUFFIXES:
        if name.endswith(suffix) and declared().get(name.removesuffix(suffix)) == "histogram":
            return name.removesuffix(suffix)
    return name


def unknown_metrics(expr, recorded=frozenset()):
    known = set(declared()) | OF_PROMETHEUS | recorded
    return sorted(name for name in metrics_of(expr) if base(name) not in known)


def load(name):
    return json.loads((ROOT / f"grafana/dashboards/{name}.json").read_text(encoding="utf-8"))


def template_complaints(dashboard):
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    source = variables.get("datasource", {})
    if source.get("type") != "datasource" or source.get("query") != "prometheus" or source.get("label") != "Data source":
        yield "has no variable 'datasource' of type datasource for Prometheus, labelled 'Data source'"
    for name in ("job", "instance"):
        variable = variables.get(name, {})
        if variable.get("type") != "query" or variable.get("label") != name.capitalize():
            yield f"has no query variable '{name}' labelled '{name.capitalize()}'"
            continue
        if not variable.get("multi") or variable.get("allValue") != ".+" or not variable.get("includeAll"):
            yield f"variable '{name}' does not allow several and all ('.+')"
        if variable.get("datasource", {}).get("uid") != "${datasource}":
            yield f"variable '{name}' does not ask the chosen data source"
        if variable.get("refresh") != 2:
            yield f"variable '{name}' is not read anew when the time changes"
        query = variable.get("query", {}).get("query", "")
        if not re.fullmatch(r"label_values\(\w+(\{[^}]*\})?, \w+\)", query) or unknown_metrics(query[13:].split(",")[0]):
            yield f"variable '{name}' asks {query!r}"
    if dashboard.get("editable") is not False or dashboard.get("schemaVersion") != 39:
        yield "is editable, or not of schemaVersion 39"


def target_complaints(target, kinds):
    expr = target["expr"]
    selectors = re.findall(r"\b(?:postrider|process)_\w+(\{[^}]*\})?", expr)
    for label in ("job", "instance"):
        if any(f'{label}=~"${label}"' not in selector for selector in selectors):
            yield f"a selector without {label}=~\"${label}\": {expr}"
    for window in re.findall(r"\[([^\]]*)\]", expr):
        if window != "$__rate_interval":
            yield f"[{window}] instead of [$__rate_interval]: {expr}"
    for name in metrics_of(expr):
        is_counter = kinds.get(name) == "counter" or base(name) != name
        if is_counter and not re.search(rf"{RANGE_FUNCTIONS.pattern}\s*{name}\b", expr):
            yield f"the counter {name} without rate or increase: {expr}"
    for name in unknown_metrics(expr):
        yield f"{name} is not declared in src/metrics: {expr}"
    if target.get("datasource", {}).get("uid") != "${datasource}":
        yield f"does not ask the chosen data source: {expr}"


def panel_complaints(panel, kinds):
    if not panel.get("title") or len(panel.get("description", "")) < 40:
        yield "has no title, or no description that says what to do"
    if not panel.get("fieldConfig", {}).get("defaults", {}).get("unit"):
        yield "has no unit"
    if panel.get("datasource", {}).get("uid") != "${datasource}":
        yield "has a data source of its own"
    if not panel.get("targets"):
        yield "asks nothing"
    for target in panel.get("targets", []):
        yield from target_complaints(target, kinds)


def blind_spots():
    """What the checks of panels do not see of a panel that breaks them all."""
    bad = {"title": "", "description": "x", "fieldConfig": {"defaults": {}}, "targets": [
        {"expr": "sum(postrider_events_read_total[5m]) + postrider_nothing", "datasource": {"uid": "mine"}}]}
    seen = "\n".join(panel_complaints(bad, declared()))
    for what in ("no title", "no unit", "data source of its own", "without job", "without instance", "[5m]",
                 "without rate", "postrider_nothing is not declared", "the chosen data source"):
        if what not in seen:
            yield f"the linter does not see: {what}"


def dashboard_complaints():
    kinds, uids = declared(), set()
    for name in DASHBOARDS:
        dashboard = load(name)
        uids.add(dashboard["uid"])
        yield from (f"{name}: {what}" for what in template_complaints(dashboard))
        ids = [panel["id"] for panel in dashboard["panels"]]
        if len(set(ids)) != len(ids):
            yield f"{name}: two panels have one id"
        for panel in dashboard["panels"]:
            yield from (f"{name}: '{panel['title']}' {what}" for what in panel_complaints(panel, kinds))
    if len(uids) != len(DASHBOARDS):
        yield "two dashboards have one uid"


def provisioning_complaints():
    """What is mounted is what Grafana is told to read, as often as Prometheus scrapes."""
    def read(path):
        return (ROOT / path).read_text(encoding="utf-8")

    compose, provider = read("docker-compose.yml"), read("grafana/provisioning/dashboards/postrider.yaml")
    source, prometheus = read("grafana/provisioning/datasources/prometheus.yaml"), read("deploy/prometheus/prometheus.yml")
    folder = re.search(r"\n\s+path: (\S+)\n", provider)[1]
    if f"./grafana/dashboards:{folder}:ro" not in compose:
        yield f"docker-compose.yml does not mount the dashboards at {folder}"
    home = re.search(r"DEFAULT_HOME_DASHBOARD_PATH: (\S+)", compose)[1]
    if pathlib.PurePath(home).parent != pathlib.PurePath(folder) or pathlib.PurePath(home).stem not in DASHBOARDS:
        yield f"the home dashboard {home} is none of them"
    host = re.search(r"url: http://(\w+):9090", source)[1]
    if f"\n  {host}:\n" not in compose:
        yield f"the data source asks {host}, which docker-compose.yml does not have"
    if re.search(r"timeInterval: (\w+)", source)[1] != re.search(r"scrape_interval: (\w+)", prometheus)[1]:
        yield "the data source's timeInterval is not Prometheus's scrape_interval"


def rule_complaints(groups):
    """`groups` as Prometheus tells them (/api/v1/rules)."""
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = frozenset(rule["name"] for rule in rules if rule["type"] == "recording")
    book = (ROOT / "docs/OPERATIONS.md").read_text(encoding="utf-8")
    lines = (ROOT / "deploy/prometheus/rules/alerts.yml").read_text(encoding="utf-8")
    for rule in rules:
        for name in unknown_metrics(rule["query"], recorded):
            yield f"{rule['name']}: {name} is not declared in src/metrics"
        if rule["type"] == "recording":
            continue
        for wanted in ("summary", "description", "runbook_url"):
            if not rule["annotations"].get(wanted):
                yield f"{rule['name']}: has no {wanted}"
        if rule["labels"].get("severity") not in ("page", "ticket"):
            yield f"{rule['name']}: severity is neither page nor ticket"
        if f"\n### {rule['name']}\n" not in book or not rule["annotations"]["runbook_url"].endswith(rule["name"].lower()):
            yield f"{rule['name']}: its runbook is not in docs/OPERATIONS.md, or is not linked"
    alerts = [rule for rule in rules if rule["type"] == "alerting"]
    if lines.count("\n        for: ") != len(alerts):
        yield "an alert says not for how long it has to hold"
    tested = (ROOT / "deploy/prometheus/tests/alerts.yml").read_text(encoding="utf-8")
    for alert in alerts:
        fires = re.search(rf"alertname: {alert['name']}\n\s+eval_time: \w+\n\s+exp_alerts:\n\s+- exp_labels", tested)
        quiet = re.search(rf"alertname: {alert['name']}\n\s+eval_time: \w+\n\s+exp_alerts: \[\]", tested)
        if not fires or not quiet:
            yield f"{alert['name']}: deploy/prometheus/tests has not both a case in which it fires and one in which not"
