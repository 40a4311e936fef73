"""Runs the receivers of examples/receivers against a live `postrider serve`, all at once, each through every case.

    check.py PROGRAM SCRATCH NAME=COMMAND...

PROGRAM is the built postrider, SCRATCH a folder for logs, COMMAND starts the receiver NAME. A receiver says
`processed <nonce>` for each event that it processed. It gets a Redis database of its own.
"""

import collections
import concurrent.futures
import hashlib
import hmac
import os
import shlex
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "live"))

from live import Failure, Live, end, free_port, listens, wait_for  # noqa: E402
from relay import RedisProxy, Relay, post  # noqa: E402

DAY = 24 * 60 * 60
SECRETS = {"first": "whsec_first_secret", "second": "whsec_second_secret", "wrong": "whsec_wrong_secret"}


def sign(body, secret):
    return {"x-nudj-signature": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


class Bench:
    """One receiver, its relay, its proxy, its config."""

    configs = threading.Lock()

    def __init__(self, live, name, command, database):
        self.live, self.name, self.command, self.database = live, name, shlex.split(command), database
        self.port, self.processed = free_port(), collections.Counter()
        self.relay, self.proxy = Relay(self.port), RedisProxy(live.redis_port)
        self.process = None

    def expect(self, truth, what):
        if not truth:
            raise Failure(what)

    def start(self, secret):
        environment = {
            "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PORT": str(self.port),
            "WEBHOOK_SECRET": SECRETS[secret], "REDIS_URL": f"redis://127.0.0.1:{self.proxy.port}/{self.database}",
        }
        self.process = self.live.start(self.name, self.command, env=environment, stdout=subprocess.PIPE)
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()
        wait_for(f"{self.name} to listen", lambda: listens(self.port))

    def _read(self, lines):
        for line in lines:
            word, _, nonce = line.decode().strip().partition(" ")
            if word == "processed":
                self.processed[nonce] += 1

    def stop(self):
        end(self.process)

    def configure(self, secret):
        with Bench.configs:
            config = {"url": self.relay.url, "events": ["*"], "secret": SECRETS[secret], "maxRetries": 5}
            self.config = self.live.ask("PUT", "/webhooks/configs", config)["id"]
        self.signs_with(secret)

    def signs_with(self, secret):
        """Waits until deliveries are signed with it: a replica takes a moment to use a change."""
        def is_signed():
            before = len(self.relay.seen)
            self.live.ask("POST", f"/webhooks/configs/{self.config}/test")
            return any(
                request["headers"]["x-nudj-signature"] == sign(request["body"], SECRETS[secret])["x-nudj-signature"]
                for request in self.relay.seen[before:]
            )
        wait_for(f"deliveries that are signed with the {secret} secret", is_signed)

    def publish(self, what):
        nonce = f"{self.name}-{what}"
        event = {"event": "check.done", "data": {"amount": 1}, "nonce": nonce, "configId": self.config}
        self.live.ask("POST", "/webhooks/events", event)
        return nonce

    def settled(self, nonce, status):
        """The log's record of the event, once it has this status."""
        def record():
            edges = self.live.ask("GET", f"/webhooks/logs?webhookConfigId={self.config}&limit=100")["edges"]
            ids = {request["headers"]["x-nudj-delivery-id"] for request in self.relay.requests_of(nonce)}
            found = [edge for edge in edges if edge["deliveryId"] in ids]
            return found and found[0]["status"] == status and found[0]
        return wait_for(f"{nonce} to be {status}", record)

    def was_processed(self, nonce, times=1):
        """Waits until everything is done, then counts."""
        wait_for(f"{nonce} to be processed", lambda: self.processed[nonce] >= times)
        wait_for(f"the nonce of {nonce}", lambda: self.redis("EXISTS", f"hooks:seen:{nonce}"))
        self.is_idle()
        self.expect(self.processed[nonce] == times, f"{nonce} was processed {self.processed[nonce]} times, not {times}")

    def is_idle(self):
        for name in ("queue", "working"):
            wait_for(f"hooks:{name} to be empty", lambda: not self.redis("LLEN", f"hooks:{name}"))
        self.expect(not self.redis("LLEN", "hooks:failed"), "hooks:failed is not empty")

    def redis(self, *words):
        return self.live.redis(*words, database=self.database)

    def refused(self, nonce):
        record = self.settled(nonce, "failed")
        self.expect((record["responseStatus"], record["failReason"]) == (401, "refused"), f"{nonce}: {record}")
        self.is_idle()
        self.expect(not self.processed[nonce], f"{nonce} was processed")

    # === the cases, in this order ===

    def good(self):
        nonce = self.publish("good")
        self.expect(self.settled(nonce, "delivered")["attempts"] == 1, "more than one attempt")
        self.was_processed(nonce)
        left = self.redis("TTL", f"hooks:seen:{nonce}")
        self.expect(DAY - 60 < left <= DAY, f"the nonce is kept for {left} s")

    def tampered(self):
        self.relay.harm = "tamper"
        nonce = self.publish("tampered")
        self.refused(nonce)
        self.relay.harm = None

    def wrong_secret(self):
        self.configure("wrong")
        self.refused(self.publish("wrong-secret"))
        self.configure("first")

    def malformed(self):
        body = b'{"nonce":"%s-malformed"}' % self.name.encode()
        good = sign(body, SECRETS["first"])["x-nudj-signature"]
        others = ["", "sha256=", good[:-1], good + "0", good.removeprefix("sha256="), "sha256=" + "zz" * 32, "sha256=\xe9"]
        for text in others:
            status = post(self.port, body, {"x-nudj-signature": text})
            self.expect(status == 401, f"the signature {text!r} got {status}")
        self.expect(post(self.port, body, {}) == 401, "no signature at all did not get 401")
        for genuine in (b"", b"no JSON", b"[]", b'{"nonce":7}', b"{}"):
            status = post(self.port, genuine, sign(genuine, SECRETS["first"]))
            self.expect(status == 400, f"a genuine {genuine!r} got {status}")
        self.is_idle()
        self.expect(not self.processed[f"{self.name}-malformed"], "an unsigned body was processed")

    def rotation(self):
        rotated = {"secret": SECRETS["second"]}
        self.live.ask("POST", f"/webhooks/configs/{self.config}/rotate-secret", rotated)
        self.signs_with("second")
        for step in ("old", "new"):
            nonce = self.publish(f"rotation-{step}")
            self.settled(nonce, "delivered")
            self.was_processed(nonce)
            headers = self.relay.requests_of(nonce)[0]["headers"]
            self.expect("x-nudj-signature-previous" in headers, "there is no second signature")
            if step == "old":
                self.stop()
                self.start("second")

    def duplicate(self):
        self.relay.harm = "swallow"
        nonce = self.publish("duplicate")
        self.expect(self.settled(nonce, "delivered")["attempts"] == 2, "there was no second attempt")
        self.was_processed(nonce)
        first, second = self.relay.requests_of(nonce)
        self.expect(first["body"] == second["body"], "the two bodies differ")
        status = post(self.port, first["body"], first["headers"])
        self.expect(status == 200, f"a third one got {status}")
        self.was_processed(nonce)

    def crash(self):
        """Killed after the work and before the nonce: the event comes again."""
        nonce = f"{self.name}-crash"
        self.proxy.hold(nonce)
        self.publish("crash")
        self.expect(self.proxy.held.wait(30), "the nonce was never written")
        self.settled(nonce, "delivered")
        self.expect(self.processed[nonce] == 1, f"processed {self.processed[nonce]} times before the crash")
        # The worker stands still, so these two meet in the queue.
        twice = f"{self.name}-twice"
        body = b'{"nonce":"%s"}' % twice.encode()
        for status in [post(self.port, body, sign(body, SECRETS["second"])) for _ in range(2)]:
            self.expect(status == 202, f"an event for the queue got {status}")
        self.process.kill()
        self.process.wait()
        self.proxy.down()
        self.expect(not self.redis("EXISTS", f"hooks:seen:{nonce}"), "the nonce was written before the crash")
        self.expect(self.redis("LLEN", "hooks:working") == 1, "the event was lost")
        self.proxy.let_go()
        self.proxy.up()
        self.start("second")
        self.was_processed(nonce, times=2)
        self.was_processed(twice)

    def lost_answer(self):
        """Redis moved the body, and the worker never learned it: the event is processed all the same."""
        nonce = f"{self.name}-lost-answer"
        self.proxy.lose(nonce)
        self.publish("lost-answer")
        self.expect(self.proxy.lost.wait(30), "the body was never taken from the queue")
        self.was_processed(nonce)

    def without_redis(self):
        self.proxy.down()
        nonce = self.publish("without-redis")
        wait_for("an answer without Redis", lambda: self.relay.requests_of(nonce))
        first = self.relay.requests_of(nonce)[0]
        self.expect(first["status"] == 503, f"without Redis the answer was {first['status']}")
        self.expect(first["took"] < 5, f"without Redis the answer took {first['took']:.1f} s")
        self.proxy.up()
        self.settled(nonce, "delivered")
        self.was_processed(nonce)

    def run(self):
        self.start("first")
        self.configure("first")
        cases = (self.good, self.tampered, self.wrong_secret, self.malformed, self.rotation, self.duplicate, self.crash,
                 self.lost_answer, self.without_redis)
        for case in cases:
            try:
                case()
            except Failure as failure:
                raise Failure(f"{self.name}: {case.__name__}: {failure}") from failure
        return f"{self.name}: {', '.join(case.__name__.replace('_', ' ') for case in cases)}"


def main():
    program, scratch, *receivers = sys.argv[1:]
    began = time.monotonic()
    # Long enough for a receiver to get its Redis back within five retries.
    with Live(program, scratch, "--retry-schedule", "500ms,1s,2s") as live:
        benches = [Bench(live, *receiver.split("=", 1), number) for number, receiver in enumerate(receivers, 1)]
        failures = []
        with concurrent.futures.ThreadPoolExecutor(len(benches)) as pool:
            for future in [pool.submit(bench.run) for bench in benches]:
                try:
                    print("receivers:", future.result())
                except Failure as failure:
                    failures.append(failure)
    for failure in failures:
        print("receivers: FAILED:", failure, file=sys.stderr)
    print(f"receivers: {len(benches) - len(failures)} of {len(benches)} in {time.monotonic() - began:.0f} s")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
