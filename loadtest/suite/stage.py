"""The processes of a run on one machine: Redis, two replicas, receivers. All on loopback, on free ports; each is ended by
its own process id, whatever happens."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

ORGANISATION = "org_load"
SECRET = "whsec_of_the_load_test"
# Receivers by the name under which scripts ask for them.
RECEIVERS = {
    "healthy-a": [],
    "healthy-b": [],
    "failing": ["--fail-rate", "0.3"],
    "slow": ["--delay", "2s"],
    "hung": ["--hang"],
    "refusing": ["--status", "400"],
}
START_SECONDS = 30
# Above the drain of the replicas below.
STOP_SECONDS = 12


class Failure(Exception):
    """What made the run impossible."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cores():
    """Those that this run may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


class Stage:
    """Started by `with`, stopped at its end."""

    def __init__(self, program, folder):
        self.program, self.folder = program, folder
        self.processes, self.receivers, self.admin, self.metrics = {}, {}, [], []
        self.redis_port, self.token = free_port(), None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def redis_url(self):
        return f"redis://127.0.0.1:{self.redis_port}"

    def start(self):
        data = os.path.join(self.folder, "redis")
        shutil.rmtree(data, ignore_errors=True)
        os.makedirs(data)
        self.run("redis", [
            os.environ.get("REDIS_SERVER", "redis-server"), "--bind", "127.0.0.1", "--port", str(self.redis_port),
            "--dir", data, "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
            "--maxmemory", "1gb", "--maxmemory-policy", "noeviction",
        ])
        self.wait("redis", lambda: redis_answers(self.redis_port))
        for name, behaviour in RECEIVERS.items():
            port = free_port()
            self.run(f"receiver-{name}", [self.program, "receive", "--listen", f"127.0.0.1:{port}", *behaviour],
                     {"POSTRIDER_RECEIVE_SECRET": SECRET})
            self.receivers[name] = f"http://127.0.0.1:{port}"
            self.wait(f"receiver-{name}", lambda at=self.receivers[name]: answers(f"{at}/stats"))
        for name in ("replica-a", "replica-b"):
            self.start_replica(name)
        self.token = self.make_token()

    def start_replica(self, name):
        admin, ops = free_port(), free_port()
        words = [
            "serve", "--redis-url", self.redis_url, "--listen", f"127.0.0.1:{admin}",
            "--ops-listen", f"127.0.0.1:{ops}", "--allow-http", "--allow-target", "127.0.0.0/8",
            "--workers", str(max(1, cores() // 2)),
            # The limit per token would be all that is measured of the admin API.
            "--admin-rate-limit", "0",
            # Above the slow receiver's delay; short, because a hung one is waited for at the end.
            "--request-timeout", "4s",
        ]
        self.run(name, [self.program, *words])
        self.admin.append(f"http://127.0.0.1:{admin}")
        self.metrics.append(f"http://127.0.0.1:{ops}/metrics")
        self.wait(name, lambda: answers(f"http://127.0.0.1:{ops}/readyz"))

    def make_token(self):
        done = subprocess.run(
            [self.program, "token", "create", "--redis-url", self.redis_url, "--organisation", ORGANISATION,
             "--role", "admin", "--output", "json"],
            capture_output=True, text=True, timeout=30, check=False)
        if done.returncode != 0:
            raise Failure(f"token create: {done.stderr}")
        return json.loads(done.stdout)["token"]

    def run(self, name, words, environment=None):
        with open(self.log_of(name), "wb") as log:
            self.processes[name] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                env={"PATH": os.environ["PATH"], **(environment or {})})

    def log_of(self, name):
        return os.path.join(self.folder, f"{name}.log")

    def wait(self, name, condition):
        until = time.monotonic() + START_SECONDS
        while not condition():
            self.check()
            if time.monotonic() > until:
                raise Failure(f"{name} is not ready after {START_SECONDS} s; see {self.log_of(name)}")
            time.sleep(0.05)

    def check(self):
        """Whoever ended by itself makes the run worthless."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise Failure(f"{name} ended with {process.returncode}; see {self.log_of(name)}")

    def pids(self):
        return {name: process.pid for name, process in self.processes.items()}

    def stop(self):
        """Replicas first, together: they give back what they hold while Redis is there."""
        for group in ("replica", "receiver", "redis"):
            members = [process for name, process in self.processes.items() if name.startswith(group)]
            for process in members:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            until = time.monotonic() + STOP_SECONDS
            for process in members:
                try:
                    process.wait(max(0.1, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def redis_answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
