"""Checks the requests of a file (see capture.py) with the published verifier. Arguments: as of verify.mjs."""

import base64
import json
import sys

from standardwebhooks import Webhook

with open(sys.argv[1]) as file:
    requests = [json.loads(line) for line in file]
with open(sys.argv[2]) as file:
    secrets = json.load(file)


def accepts(verifier, body, headers):
    try:
        verifier.verify(body, headers, json_parse=False)
        return True
    except Exception:
        return False


checked = 0


def expect(wanted, given, what):
    global checked
    checked += 1
    if given is not wanted:
        sys.exit(f"{what}: accepted is {given}")


for request in requests:
    path, headers, body = request["path"], request["headers"], base64.b64decode(request["body"])
    secret = secrets[path]["secret"]
    verifier = Webhook(secret.encode() if secrets[path]["raw"] else secret)
    changed = body[:-2] + bytes([body[-2] ^ 1]) + body[-1:]
    expect(True, accepts(verifier, body, headers), f"{path} as it arrived")
    expect(False, accepts(verifier, changed, headers), f"{path}, body changed")
    expect(False, accepts(verifier, body, headers | {"webhook-id": "dlv_0"}), f"{path}, id changed")
    expect(False, accepts(verifier, body, headers | {"webhook-signature": ""}), f"{path}, no signature")
    expect(False, accepts(Webhook("whsec_b3RoZXI="), body, headers), f"{path}, another secret")
print(f"python: {len(requests)} deliveries, {checked} checks")
