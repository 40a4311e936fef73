"""What is there while schemathesis runs: a config that works, deliveries, a job, a token, a rejected entry.

Generated requests pause, delete and use up whatever they find, so each of these is asked of the server when a request
needs it, and made where it is missing.
"""

import hashlib
import os
import socket
import time

import requests

URL = os.environ["API_CHECK_URL"] + "/api/v2/admin"
SOCKET = os.environ["API_CHECK_REDIS"]
RECEIVER = os.environ["API_CHECK_RECEIVER"]
ADMIN = os.environ["API_CHECK_ADMIN"]
OPERATOR = os.environ["API_CHECK_OPERATOR"]
ORGANISATION = "org_api_check"
TO_BE_REVOKED = "to be revoked"

# Revoking one of these would end the run.
OWN_TOKENS = [hashlib.sha256(token.encode()).hexdigest()[:12] for token in (ADMIN, OPERATOR)]


def ask(method, path, body=None, token=ADMIN):
    headers = {"Authorization": f"Bearer {token}", "x-organisation-id": ORGANISATION}
    answer = requests.request(method, URL + path, json=body, headers=headers, timeout=20)
    assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
    return answer.json() if answer.content else None


def until(what, look):
    """The first thing that `look` gives, within ten seconds."""
    for _ in range(200):
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


def config(path="/accepts"):
    """An active config whose receiver accepts, or refuses."""
    url = RECEIVER + path
    for one in ask("GET", "/webhooks/configs"):
        if one["url"] == url and one["active"] and not one.get("rateLimit"):
            return one["id"]
    made = {"url": url, "events": ["reward.earned"], "active": True, "rateLimit": None, "entityFilters": {}}
    return ask("PUT", "/webhooks/configs", made)["id"]


def publish(config_id):
    ask("POST", "/webhooks/events", {"event": "reward.earned", "data": {}, "configId": config_id})


def delivery(path="/accepts", status="delivered"):
    """A delivery that can be retried."""
    of = config(path)
    query = f"/webhooks/logs?limit=1&webhookConfigId={of}&status={status}"

    def look():
        return [edge["deliveryId"] for edge in ask("GET", query)["edges"]]

    found = look()
    if not found:
        publish(of)
        found = until(f"a delivery that is {status}", look)
    return found[0]


def cursor():
    """Where the second page of the log begins."""
    return ask("GET", "/webhooks/logs?limit=1")["nextCursor"]


def job():
    """A config and a job of it that can be cancelled: it runs, or was cancelled."""
    of = config("/refuses")
    for one in ask("GET", f"/webhooks/configs/{of}/jobs")["jobs"]:
        if one["state"] in ("running", "cancelled"):
            return of, one["id"]
    query = f"/webhooks/logs?webhookConfigId={of}&status=failed"
    for _ in range(5):
        publish(of)
    until("failed deliveries", lambda: ask("GET", query)["totalCount"] >= 5)
    return of, ask("POST", f"/webhooks/configs/{of}/recover", {"ratePerSecond": 1})["id"]


def token():
    """A token that may be revoked."""
    for one in ask("GET", "/auth-config/tokens")["tokens"]:
        if one["name"] == TO_BE_REVOKED:
            return one["id"]
    return ask("POST", "/auth-config/tokens", {"name": TO_BE_REVOKED, "role": "viewer"})["id"]


def rejected():
    """An entry whose `data` is wrong, and nothing else."""
    query = "/webhooks/rejected?limit=1&field=data"

    def look():
        return [edge["id"] for edge in ask("GET", query, token=OPERATOR)["edges"]]

    found = look()
    if not found:
        add_entry("organisationId", ORGANISATION, "event", "reward.earned", "data", "[]")
        found = until("a rejected entry", look)
    return found[0]


def add_entry(*fields):
    """Writes to the stream as a producer does."""
    words = ["XADD", "postrider:{0}:events", "*", *fields]
    command = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    with socket.socket(socket.AF_UNIX) as redis:
        redis.connect(SOCKET)
        redis.sendall(command.encode())
        answer = redis.recv(256)
    assert answer.startswith(b"$"), answer
