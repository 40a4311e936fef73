"""Receives Postrider's webhooks: verifies, answers, and works afterwards. ../README.md says why in this order."""

import hashlib
import hmac
import json
import logging
import os
import threading
import time

import redis
from flask import Flask, request
from waitress import serve

SECRET = os.environ["WEBHOOK_SECRET"].encode()
REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
SEEN_SECONDS = 24 * 60 * 60
QUEUE_MAX = 10_000

log = logging.getLogger("receiver")
app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 1 << 20
# A request must be answered soon, so its commands fail soon.
store = redis.Redis.from_url(REDIS_URL, socket_timeout=2, socket_connect_timeout=2)


def is_genuine(body: bytes) -> bool:
    expected = b"sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest().encode()
    given = (request.headers.get(name, "") for name in ("X-Nudj-Signature", "X-Nudj-Signature-Previous"))
    return any([hmac.compare_digest(expected, value.encode()) for value in given])


def nonce_of(body: bytes) -> str | None:
    try:
        return json.loads(body)["nonce"]
    except (ValueError, TypeError, KeyError):
        return None


def process_event(event: dict) -> None:
    print(f"processed {event['nonce']}", flush=True)  # Your work.


@app.post("/hooks")
def receive():
    body = request.get_data()
    if not is_genuine(body):
        return "", 401
    nonce = nonce_of(body)
    if not isinstance(nonce, str) or not nonce:
        return "", 400
    seen, waiting = store.pipeline(transaction=False).exists(f"hooks:seen:{nonce}").llen("hooks:queue").execute()
    if seen:
        return "", 200
    if waiting >= QUEUE_MAX:
        return "", 503
    store.lpush("hooks:queue", body)
    return "", 202


@app.errorhandler(redis.RedisError)
def without_redis(error):
    log.error("redis: %s", error)
    return "", 503


def work_one(worker: redis.Redis) -> None:
    body = worker.blmove("hooks:queue", "hooks:working", 1, src="RIGHT", dest="LEFT")
    if body is None:
        return
    event = json.loads(body)
    seen = f"hooks:seen:{event['nonce']}"
    done = worker.pipeline(transaction=True).lrem("hooks:working", 1, body)
    if not worker.exists(seen):
        try:
            process_event(event)
            done.set(seen, 1, ex=SEEN_SECONDS)
        except Exception:
            log.exception("failed %s", event["nonce"])
            done.lpush("hooks:failed", body)
    done.execute()


def work() -> None:
    worker = redis.Redis.from_url(REDIS_URL)
    while True:
        try:
            while worker.lmove("hooks:working", "hooks:queue", "LEFT", "RIGHT"):  # What a crash left behind.
                pass
            while True:
                work_one(worker)
        except redis.RedisError as error:
            log.error("worker: %s", error)
            time.sleep(1)


if __name__ == "__main__":
    logging.basicConfig()
    threading.Thread(target=work, daemon=True).start()
    serve(app, host="127.0.0.1", port=int(os.environ.get("PORT", "9000")))
