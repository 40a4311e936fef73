"""Runs Prometheus on a live, loaded, faulted Postrider, and asks it everything that the dashboards and rules ask.

    check.py PROGRAM

PROGRAM is the built postrider. Two replicas on a Redis of their own deliver to endpoints that answer, fail and hang; one
config is paused, one entry is rejected, and in the middle the replica that samples Redis is killed.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import lint

ORGANISATION, EVENT, SECRET = "org_dashboards", "reward.earned", "whsec_of_the_dashboards"
# What Grafana puts in: all jobs, all instances, and four scrapes.
VARIABLES = {"$__rate_interval": "10s", "$job": ".+", "$instance": ".+", "$__range": "1m"}
LIMIT = 80
# Panels whose queries rightly give nothing here; they must parse all the same.
RIGHTLY_EMPTY = {
    ("overview", "Errors of Redis"): "no operation on Redis fails here: there is a series once one has",
    ("replicas", "Refused by the admin API"): "nobody asks it too much: there is a series once somebody has",
    ("redis", "Unreadable values"): "nobody else writes into the keyspace: there is a series once somebody has",
}


class Failure(Exception):
    """What does not hold."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get_json(url, data=None):
    with urllib.request.urlopen(url, data=data, timeout=5) as answer:
        return json.load(answer)


def get_text(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def wait_for(what, condition, limit=30):
    until = time.monotonic() + limit
    while True:
        try:
            if condition():
                return
        except (urllib.error.URLError, OSError):
            pass
        if time.monotonic() > until:
            raise Failure(f"waited {limit} s in vain for {what}")
        time.sleep(0.1)


class Stage:
    """The processes, and the folder that they live in."""

    def __init__(self, program, root):
        self.program, self.root, self.running = os.path.abspath(program), pathlib.Path(root), {}
        self.redis_port, self.prometheus_port = free_port(), free_port()
        self.redis = f"redis://127.0.0.1:{self.redis_port}"
        self.replicas = {name: (free_port(), free_port()) for name in ("a", "b")}
        self.stop_publishing = threading.Event()

    def start(self, name, *words):
        folder = self.root / name
        folder.mkdir()
        log = open(folder / "log", "wb")
        self.running[name] = subprocess.Popen(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def end(self, name, how=signal.SIGKILL):
        process = self.running.pop(name)
        process.send_signal(how)
        process.wait(20)

    def end_all(self):
        self.stop_publishing.set()
        for name in list(self.running):
            self.end(name)

    def run(self, *words, stdin=None):
        done = subprocess.run([self.program, *words, "--redis-url", self.redis], capture_output=True, text=True,
                              timeout=30, check=False, input=stdin)
        if done.returncode != 0:
            raise Failure(f"postrider {words[0]}: {done.stderr}")
        return done.stdout

    def raw(self, *words):
        """One command to Redis, in its own protocol."""
        with socket.create_connection(("127.0.0.1", self.redis_port), 5) as connection:
            parts = [word.encode() for word in words]
            connection.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
            return connection.recv(4096)

    def start_redis(self):
        self.start("redis", "redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1", "--appendonly", "yes",
                   "--save", "", "--maxmemory", "256mb", "--maxmemory-policy", "noeviction")
        wait_for("Redis", lambda: self.raw("PING").startswith(b"+PONG"))

    def start_replica(self, name):
        admin, ops = self.replicas[name]
        self.start(f"replica-{name}", self.program, "serve", "--redis-url", self.redis, "--workers", "2", "--lease", "2s",
                   "--listen", f"127.0.0.1:{admin}", "--ops-listen", f"127.0.0.1:{ops}", "--allow-http",
                   "--allow-target", "127.0.0.0/8", "--request-timeout", "3s")
        wait_for(f"replica {name}", lambda: get_text(f"http://127.0.0.1:{ops}/readyz"))

    def start_prometheus(self):
        """The delivered configuration, with the replicas' addresses here and a scrape a second."""
        folder = self.root / "configuration"
        shutil.copytree(lint.ROOT / "deploy/prometheus", folder)
        path = folder / "prometheus.yml"
        text = path.read_text(encoding="utf-8").replace("5s", "1s")
        for name, (_, ops) in self.replicas.items():
            text = text.replace(f"postrider-{name}:9464", f"127.0.0.1:{ops}")
        path.write_text(text, encoding="utf-8")
        self.start("prometheus", "prometheus", f"--config.file={path}", f"--storage.tsdb.path={self.root / 'tsdb'}",
                   f"--web.listen-address=127.0.0.1:{self.prometheus_port}")
        wait_for("Prometheus", lambda: get_text(f"http://127.0.0.1:{self.prometheus_port}/-/ready"))

    def ask(self, path, **fields):
        data = urllib.parse.urlencode(fields).encode() if fields else None
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/{path}"
        try:
            return get_json(url, data)["data"]
        except urllib.error.HTTPError as error:
            raise Failure(f"{fields}: {json.load(error).get('error')}") from None

    def query(self, expr):
        for name, value in VARIABLES.items():
            expr = expr.replace(name, value)
        return self.ask("query", query=expr)["result"]

    def put_configs(self):
        token = json.loads(self.run("token", "create", "--organisation", ORGANISATION, "--role", "admin", "--output",
                                    "json"))["token"]
        endpoints = {"healthy": [], "failing": ["--status", "500"], "hanging": ["--hang"], "paused": []}
        ids = {}
        for name, words in endpoints.items():
            port = free_port()
            self.start(name, self.program, "receive", "--listen", f"127.0.0.1:{port}", "--secret", SECRET, *words)
            config = {"url": f"http://127.0.0.1:{port}/{name}", "events": [EVENT], "secret": SECRET}
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.replicas['a'][0]}/api/v2/admin/webhooks/configs", method="PUT",
                data=json.dumps({**config, "active": name != "paused"}).encode(),
                headers={"authorization": f"Bearer {token}", "content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=5) as answer:
                ids[name] = json.load(answer)["id"]
        return ids

    def publish(self):
        """Some events every second, until the end."""
        lines = "".join(json.dumps({"event": EVENT, "data": {"user": {"id": "u1"}}}) + "\n" for _ in range(20))
        while not self.stop_publishing.wait(0.5):
            try:
                self.run("publish", "--organisation", ORGANISATION, "--file", "-", stdin=lines)
            except (Failure, subprocess.SubprocessError):
                if not self.stop_publishing.is_set():
                    raise


def panels():
    for name in lint.DASHBOARDS:
        for panel in lint.load(name)["panels"]:
            yield name, panel["title"], [target["expr"] for target in panel["targets"]]


def check_panels(stage, limit=30):
    """Every query gives data, soon."""
    waiting = {(name, title, expr) for name, title, exprs in panels() for expr in exprs}
    asked, until = len(waiting), time.monotonic() + limit
    while True:
        waiting = {key for key in waiting if not stage.query(key[2])}
        left = {key for key in waiting if key[:2] not in RIGHTLY_EMPTY}
        if not left:
            return asked, len(waiting)
        if time.monotonic() > until:
            lines = "\n".join(f"  {name}: '{title}': {expr}" for name, title, expr in sorted(left))
            raise Failure(f"these queries give no data:\n{lines}")
        time.sleep(0.5)


def value(stage, expr):
    result = stage.query(expr)
    return float(result[0]["value"][1]) if result else None


def check_facts(stage, ids):
    """The figures are true, as far as they are known here."""
    config = 'sum(postrider_config_failed_attempts{config="%s"})'
    wait_for("the failing config to be named", lambda: (value(stage, config % ids["failing"]) or 0) > 0)
    wait_for("the hanging config to be the slowest",
             lambda: [row["metric"]["config"] for row in stage.query(
                 "topk(1, max by (config) (postrider_config_attempt_p95_seconds))")] == [ids["hanging"]])
    if value(stage, config % ids["healthy"]) or value(stage, config % ids["paused"]):
        raise Failure("a config that does not fail is shown as failing")
    for expr, wanted in [('sum(postrider_configs{state="paused"})', 1), ('sum(postrider_configs{state="active"})', 3),
                         ("count(postrider_redis_memory_bytes)", 1), ("count(postrider_build_info)", 2),
                         ("sum(postrider_rejected_entries)", 1), ("min(postrider_ready)", 1)]:
        wait_for(f"{expr} to be {wanted}", lambda expr=expr, wanted=wanted: value(stage, expr) == wanted, 20)


def alerts(stage):
    return {(alert["labels"]["alertname"], alert["state"]) for alert in stage.ask("alerts")["alerts"]}


def journey(stage):
    stage.start_redis()
    stage.start_replica("a")
    stage.start_replica("b")
    stage.start_prometheus()
    complaints = list(lint.rule_complaints(stage.ask("rules")["groups"]))
    if complaints:
        raise Failure("\n".join(complaints))
    # What happens before the first scrape is in no increase.
    wait_for("both replicas to be scraped", lambda: value(stage, "count(postrider_build_info)") == 2)
    ids = stage.put_configs()
    threading.Thread(target=stage.publish, daemon=True).start()
    # Without an organisation: nobody can deliver it.
    stage.raw("XADD", "postrider:{0}:events", "*", "event", EVENT, "data", "{}")
    asked, empty = check_panels(stage, 40)
    print(f"{asked} queries of {len(list(panels()))} panels: all parse, {empty} rightly give nothing")
    check_facts(stage, ids)
    holders = [row["metric"]["instance"] for row in stage.query("postrider_redis_memory_bytes")]
    dead = next(name for name, (_, ops) in stage.replicas.items() if holders == [f"127.0.0.1:{ops}"])
    stage.end(f"replica-{dead}")
    begun = time.monotonic()
    alive = next(ops for name, (_, ops) in stage.replicas.items() if name != dead)
    sampled = 'postrider_redis_memory_bytes{instance="127.0.0.1:%d"}' % alive
    wait_for("the other replica to sample Redis", lambda: bool(stage.query(sampled)), 30)
    print(f"replica {dead}, which sampled Redis, was killed: the other one did after {time.monotonic() - begun:.1f} s")
    check_panels(stage)
    if value(stage, "count(postrider_redis_memory_bytes)") != 1:
        raise Failure("two replicas show what one of them samples for all")
    wait_for("the loss of the replica to be noticed",
             lambda: ("PostriderReplicaLost", "pending") in alerts(stage), 10)
    wait_for("the takeover", lambda: (value(stage, "max(postrider_live_replicas)") or 0) == 1, 20)
    wait_for("the rejected event to be told", lambda: ("PostriderEventsRejected", "firing") in alerts(stage), 10)
    firing = {name for name, state in alerts(stage) if state == "firing"}
    if firing & {"PostriderRedisAway", "PostriderNoProgress", "PostriderAbsent", "PostriderNotSampled", "PostriderEvicted", "PostriderDiskFails"}:
        raise Failure(f"false alarms: {firing}")
    print(f"alerts: firing {sorted(firing)}")


def main():
    complaints = [*lint.blind_spots(), *lint.dashboard_complaints(), *lint.provisioning_complaints()]
    if complaints:
        raise Failure("\n".join(complaints))
    for name, title in RIGHTLY_EMPTY:
        if (name, title) not in {(of, panel) for of, panel, _ in panels()}:
            raise Failure(f"there is no panel '{title}' of {name}")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="postrider-dashboards-") as root:
        stage = Stage(sys.argv[1], root)
        try:
            journey(stage)
        except Failure:
            for log in sorted(pathlib.Path(root).glob("*/log")):
                print(f"--- {log.parent.name}\n" + "".join(open(log, errors="replace").readlines()[-6:]), file=sys.stderr)
            raise
        finally:
            stage.end_all()
    took = time.monotonic() - begun
    if took > LIMIT:
        raise Failure(f"took {took:.0f} s, more than {LIMIT} s")
    print(f"the dashboards show a live Postrider ({took:.0f} s)")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"dashboards: {failure}")
