"""Runs the services of docker-compose.yml natively: each one's own command, environment and health check, on a loopback
address of its own instead of a container, so that the file cannot drift from the program.

    native.py PROJECT.json PROGRAM

PROJECT.json is what Compose's loader makes of the file (tests/deploy/main.go), PROGRAM the built postrider. Grafana and
k6 are not started: of Grafana the mounted files are checked, k6 is run by `make loadtest`.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ORGANISATION = "org_compose"
NETWORK = "127.77.0"
STARTED = {"redis": "redis-server", "postrider": None, "prom/prometheus": "prometheus"}
NOT_STARTED = ("grafana/grafana", "grafana/k6")


class Failure(Exception):
    """What the compose file and the program do not agree on."""


def seconds(text):
    """A duration as Compose writes it: 45s, 1m30s."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    parts = re.findall(r"([0-9.]+)(ms|h|m|s)", str(text))
    return sum(float(number) * units[unit] for number, unit in parts)


class Service:
    """One service, on its own loopback address."""

    def __init__(self, stage, name, spec, number):
        self.stage, self.name, self.spec = stage, name, spec
        self.address = f"{NETWORK}.{number}"
        self.image = spec["image"].rsplit(":", 1)[0]
        self.process = None

    def command(self):
        words = [self.stage.native(word, self) for word in self.spec.get("command") or []]
        if self.image == "redis":
            data = self.stage.folder("redis")
            # The image listens on every address of its container.
            return [*(data if word == "/data" else word for word in words), "--bind", self.address]
        if self.image == "prom/prometheus":
            data = self.stage.folder("prometheus")
            words = [word.replace("=/prometheus", f"={data}") for word in words]
            return ["prometheus", *words, f"--web.listen-address={self.address}:9090"]
        return [self.stage.program, *words]

    def environment(self):
        given = self.spec.get("environment") or {}
        return {"PATH": os.environ["PATH"], **{name: self.stage.native(text or "", self) for name, text in given.items()}}

    def start(self):
        log = open(os.path.join(self.stage.root, f"{self.name}.log"), "wb")
        self.process = subprocess.Popen(
            self.command(), env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            cwd=self.stage.folder(self.name),
        )

    def is_healthy(self):
        words = [self.stage.native(word, self) for word in self.spec["healthcheck"]["test"]]
        if words[0] != "CMD":
            raise Failure(f"{self.name}: the health check is not in the form CMD, which an image without a shell needs")
        words = words[1:]
        if words[0] == "wget":
            return answers(words[-1])
        if words[0] == "/postrider":
            words[0] = self.stage.program
        if words[0] == "redis-cli":
            words[1:1] = ["-h", self.address]
        return subprocess.run(words, env=self.environment(), capture_output=True, timeout=10).returncode == 0

    def wait_healthy(self):
        check = self.spec["healthcheck"]
        limit = seconds(check.get("start_period", "0s")) + seconds(check["interval"]) * check["retries"]
        until = time.monotonic() + max(limit, 20)
        while not self.is_healthy():
            if self.process.poll() is not None:
                raise Failure(f"{self.name} ended with {self.process.returncode}:\n{self.log()}")
            if time.monotonic() > until:
                raise Failure(f"{self.name} is not healthy after {limit:.0f} s:\n{self.log()}")
            time.sleep(0.1)

    def stop(self):
        """Stops as Compose does, and gives how long it took."""
        grace, begun = seconds(self.spec["stop_grace_period"]), time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} did not end within its stop_grace_period of {grace} s") from None
        return time.monotonic() - begun

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def log(self):
        with open(os.path.join(self.stage.root, f"{self.name}.log"), encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-20:])


class Stage:
    """The services that are run, and the folder that they live in."""

    def __init__(self, project, program, root):
        self.program, self.root, self.files = os.path.abspath(program), root, {}
        self.services = {}
        for number, (name, spec) in enumerate(sorted(project["services"].items()), start=10):
            self.services[name] = Service(self, name, spec, number)
        self.subnet = project["networks"]["inside"]["ipam"]["config"][0]["subnet"]

    def folder(self, name):
        path = os.path.join(self.root, name)
        os.makedirs(path, exist_ok=True)
        return path

    def native(self, text, service):
        """A text of the file with the names of services, container addresses and mounted paths made this machine's."""
        text = text.replace(self.subnet, f"{NETWORK}.0/24")
        for name, other in self.services.items():
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?=:\d)", other.address, text)
        text = text.replace("0.0.0.0", service.address).replace("127.0.0.1", service.address)
        for mount in service.spec.get("volumes") or []:
            if mount["type"] == "bind" and mount["target"] in text:
                text = text.replace(mount["target"], self.mounted(mount["source"], service))
        return text

    def mounted(self, source, service):
        """A copy of a mounted folder in which other services are found natively."""
        if source not in self.files:
            copy = os.path.join(self.root, f"mount{len(self.files)}")
            shutil.copytree(source, copy)
            self.files[source] = copy
            for folder, _, names in os.walk(copy):
                for path in (os.path.join(folder, name) for name in names):
                    with open(path, encoding="utf-8") as file:
                        text = file.read()
                    with open(path, "w", encoding="utf-8") as file:
                        file.write(self.native(text, service))
        return self.files[source]

    def run(self, *words):
        service = self.services["postrider-a"]
        done = subprocess.run(
            [self.program, *words], env=service.environment(), capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode != 0:
            raise Failure(f"postrider {' '.join(words[:2])}: {done.stderr}")
        return done.stdout


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def get_json(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def wait_for(what, condition, limit=30):
    until = time.monotonic() + limit
    while not condition():
        if time.monotonic() > until:
            raise Failure(f"waited {limit} s in vain for {what}")
        time.sleep(0.1)


def check_files(project):
    """Everything that is mounted exists, and every image is either run here or known not to be."""
    for name, spec in project["services"].items():
        image = spec["image"].rsplit(":", 1)[0]
        if image not in STARTED and image not in NOT_STARTED:
            raise Failure(f"{name}: nothing here runs the image {image}")
        for mount in spec.get("volumes") or []:
            if mount["type"] == "bind" and not os.path.isdir(mount["source"]):
                raise Failure(f"{name}: mounts {mount['source']}, which does not exist")


def check_grace(stage):
    """A replica may finish its attempts before Compose kills it."""
    settings = json.loads(stage.run("settings", "print", "--output", "json"))
    rows = settings["settings"] if isinstance(settings, dict) else settings
    drain = next(seconds(row["value"]) for row in rows if row["name"] == "drain-timeout")
    for name in ("postrider-a", "postrider-b"):
        grace = seconds(stage.services[name].spec["stop_grace_period"])
        if grace <= drain:
            raise Failure(f"{name}: stop_grace_period {grace} s is not above drain-timeout {drain} s")


def put_config(stage, token):
    secret = stage.services["receiver"].environment()["POSTRIDER_RECEIVE_SECRET"]
    receiver = f"http://{stage.services['receiver'].address}:9000/"
    body = json.dumps({"url": receiver, "events": ["reward.earned"], "secret": secret}).encode()
    request = urllib.request.Request(
        f"http://{stage.services['postrider-a'].address}:8080/api/v2/admin/webhooks/configs",
        data=body, method="PUT",
        headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        json.load(answer)


def publish(stage):
    data = '{"user":{"id":"u1"}}'
    stage.run("publish", "--organisation", ORGANISATION, "--event", "reward.earned", "--data", data)


def journey(stage):
    """An event arrives signed through one replica, and through the other once the first has stopped."""
    services = stage.services
    token = json.loads(stage.run(
        "token", "create", "--organisation", ORGANISATION, "--role", "admin", "--output", "json"))["token"]
    put_config(stage, token)
    stats = f"http://{services['receiver'].address}:9000/stats"
    for count in range(1, 6):
        publish(stage)
        wait_for(f"event {count} to arrive", lambda count=count: get_json(stats)["accepted"] == count)
    print(f"postrider-a stopped in {services['postrider-a'].stop():.1f} s")
    publish(stage)
    wait_for("an event to arrive through postrider-b", lambda: get_json(stats)["accepted"] == 6)
    counts = get_json(stats)
    if counts["badSignatures"] or counts["duplicates"]:
        raise Failure(f"the receiver saw {counts}")
    prometheus = f"http://{services['prometheus'].address}:9090/api/v1/query?query="
    delivered = "sum(postrider_deliveries_delivered_total)"
    wait_for("Prometheus to have scraped a replica", lambda: bool(get_json(prometheus + delivered)["data"]["result"]), 40)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        project = json.load(file)
    check_files(project)
    with tempfile.TemporaryDirectory(prefix="postrider-compose-") as root:
        stage = Stage(project, sys.argv[2], root)
        check_grace(stage)
        run = [service for service in stage.services.values() if service.image in STARTED]
        run.sort(key=lambda service: ("redis", "postrider", "prom/prometheus").index(service.image))
        try:
            for service in run:
                service.start()
                service.wait_healthy()
                print(f"{service.name} is healthy")
            journey(stage)
            for service in reversed(run):
                if service.process.poll() is None:
                    print(f"{service.name} stopped in {service.stop():.1f} s")
        finally:
            for service in run:
                service.kill()
    print("the compose file's services run and deliver")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"compose: {failure}")
