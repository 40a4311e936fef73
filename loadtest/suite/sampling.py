"""One sample a second of what runs: the replicas' /metrics, Redis, and each process's processor time and memory."""

import os
import re
import socket
import threading
import time
import urllib.request

STREAM = "postrider:{0}:events"
DUE = "postrider:{0}:due"
QUEUE = "postrider:{0}:queue:"
COUNTERS = (
    "postrider_events_acknowledged_total", "postrider_deliveries_delivered_total", "postrider_retries_scheduled_total",
    "postrider_attempts_total", "postrider_attempts_in_flight", "postrider_deliveries_in_memory",
)
ARRIVAL = "postrider_delivery_seconds_bucket"
LINE = re.compile(r"^(\w+)(\{[^}]*\})? (\S+)$")


class Redis:
    """Enough of Redis's protocol to ask for figures."""

    def __init__(self, port):
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.file = self.connection.makefile("rb")

    def ask(self, *words):
        parts = [str(word).encode() for word in words]
        self.connection.sendall(
            b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        return self.answer()

    def answer(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:].strip()
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        if kind == b":":
            return int(rest)
        return rest.decode() if kind == b"+" else None

    def close(self):
        self.file.close()
        self.connection.close()


class Sampler(threading.Thread):
    """Samples until `stop`."""

    def __init__(self, stage):
        super().__init__(daemon=True)
        self.stage, self.samples, self.extra = stage, [], {}
        self.ended = threading.Event()

    def run(self):
        redis = Redis(self.stage.redis_port)
        while not self.ended.wait(1.0 - time.time() % 1.0):
            try:
                self.samples.append(self.sample(redis))
            except (OSError, ValueError, IndexError):
                # A process is just ending; the stage finds out which.
                continue
        redis.close()

    def stop(self):
        self.ended.set()
        self.join(5)

    def sample(self, redis):
        stream = redis.ask("XINFO", "STREAM", STREAM) or []
        about = dict(zip(stream[::2], stream[1::2]))
        waiting = sum(redis.ask("ZCARD", QUEUE + config) for config in redis.ask("ZRANGE", DUE, 0, -1))
        info = dict(line.split(":", 1) for line in redis.ask("INFO").splitlines() if ":" in line)
        found = {
            "at": time.time(), "published": about.get("entries-added", 0), "waiting": waiting,
            "redis_memory": int(info["used_memory"]), "redis_commands": int(info["total_commands_processed"]),
            "counters": dict.fromkeys(COUNTERS, 0.0), "arrival": {}, "processes": {},
        }
        for url in self.stage.metrics:
            with urllib.request.urlopen(url, timeout=2) as answer:
                add_metrics(found, answer.read().decode())
        for name, pid in {**self.stage.pids(), **self.extra}.items():
            found["processes"][name] = process(pid)
        return found


def add_metrics(found, text):
    for line in text.splitlines():
        match = LINE.match(line)
        if not match:
            continue
        name, labels, value = match.groups()
        if name in found["counters"]:
            found["counters"][name] += float(value)
        elif name == ARRIVAL:
            bound = re.search(r'le="([^"]+)"', labels).group(1)
            found["arrival"][bound] = found["arrival"].get(bound, 0.0) + float(value)


def process(pid):
    """Processor seconds and resident bytes; nothing for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return None
    ticks = int(fields[11]) + int(fields[12])
    return {"cpu": ticks / os.sysconf("SC_CLK_TCK"), "memory": int(fields[21]) * os.sysconf("SC_PAGE_SIZE")}
