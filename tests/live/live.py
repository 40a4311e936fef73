"""A private Redis and a live `postrider serve` on free loopback ports, for checks that are written in Python.

    with Live(program, scratch) as live:
        live.call("PUT", "/webhooks/configs", {...})

Everything that was started is ended by its process, also when a check fails; `scratch` keeps the logs.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

PATIENCE = 30


class Failure(Exception):
    """What a check found wrong."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, condition, patience=PATIENCE):
    """Waits until `condition` gives something true, and answers it; says `what` was waited for otherwise."""
    end = time.monotonic() + patience
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise Failure(f"waited {patience} s for {what}")
        time.sleep(0.02)


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def end(process):
    """Ends a process that was started with a session of its own, and whatever it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            pass


class Live:
    """The two processes, a token, and ways to talk to them."""

    ORGANISATION = "acme"

    def __init__(self, program, scratch, *flags):
        self.program, self.scratch, self.flags = os.path.abspath(program), os.path.abspath(scratch), flags
        self.processes = []
        self.redis_port, self.admin_port, self.ops_port = free_port(), free_port(), free_port()
        self.redis_url = f"redis://127.0.0.1:{self.redis_port}/0"
        self.url = f"http://127.0.0.1:{self.admin_port}"
        self.token = None

    def __enter__(self):
        shutil.rmtree(self.scratch, ignore_errors=True)
        os.makedirs(self.scratch)
        try:
            self._start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            end(process)

    def _start_all(self):
        server = os.environ.get("REDIS_SERVER", "redis-server")
        self.start("redis", [server, "--port", str(self.redis_port), "--bind", "127.0.0.1", "--save", "",
                             "--maxmemory-policy", "noeviction", "--dir", self.scratch])
        wait_for("Redis", lambda: listens(self.redis_port))
        self.start("serve", [
            self.program, "serve", "--redis-url", self.redis_url, "--allow-http", "--allow-target", "127.0.0.0/8",
            "--listen", f"127.0.0.1:{self.admin_port}", "--ops-listen", f"127.0.0.1:{self.ops_port}",
            "--admin-rate-limit", "0", *self.flags,
        ])
        wait_for("postrider serve to be ready", self._is_ready)
        made = subprocess.run(
            [self.program, "token", "create", "--redis-url", self.redis_url, "--organisation", self.ORGANISATION,
             "--role", "admin", "--output", "json"],
            check=True, capture_output=True, stdin=subprocess.DEVNULL,
        )
        self.token = json.loads(made.stdout)["token"]
        wait_for("the token to be known", lambda: self.call("GET", "/webhooks/configs")[0] == 200)

    def _is_ready(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.ops_port}/readyz", timeout=2).status == 200
        except OSError:
            return False

    def start(self, name, command, **options):
        """Starts a process whose output goes to `<name>.log`, unless `options` say otherwise."""
        log = open(os.path.join(self.scratch, f"{name}.log"), "ab")
        options = {"stdout": log, "stderr": log, "stdin": subprocess.DEVNULL, **options}
        process = subprocess.Popen(command, start_new_session=True, **options)
        self.processes.append(process)
        return process

    def call(self, method, path, body=None):
        """A request to the admin API: its status and its answer."""
        request = urllib.request.Request(
            f"{self.url}/api/v2/admin{path}", method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self.token}", "content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def ask(self, method, path, body=None):
        """The same, where anything but 2xx is a failure."""
        status, answer = self.call(method, path, body)
        if status // 100 != 2:
            raise Failure(f"{method} {path}: {status} {answer}")
        return answer

    def redis(self, *words, database=0):
        """One command, by a connection of its own; errors of Redis are failures."""
        with socket.create_connection(("127.0.0.1", self.redis_port), timeout=10) as connection:
            for command in (("SELECT", database), words):
                parts = [word if isinstance(word, bytes) else str(word).encode() for word in command]
                text = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
                connection.sendall(b"*%d\r\n%s" % (len(parts), text))
            replies = connection.makefile("rb")
            _reply(replies)
            return _reply(replies)


def _reply(stream):
    line = stream.readline().rstrip(b"\r\n")
    kind, rest = line[:1], line[1:]
    if kind == b"-":
        raise Failure(f"Redis: {rest.decode()}")
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if int(rest) < 0 else stream.read(int(rest) + 2)[:-2].decode()
    if kind == b"*":
        return [_reply(stream) for _ in range(int(rest))]
    return rest.decode()
