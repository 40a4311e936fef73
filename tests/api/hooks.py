"""What a request must keep to beyond its schema, for JSON Schema cannot say it: only such requests are good ones.

Each rule stands in docs/WIRE.md. The formats make texts that mean something: URLs that are sent to nobody, for the
guard denies loopback, and times that a clock can show.
"""

import os
import re
from datetime import datetime

import schemathesis
from hypothesis import strategies as st

WORDS = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789", min_size=6, max_size=20)
TIMES = st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2100, 1, 1))

schemathesis.openapi.format("uri", WORDS.map(lambda word: f"https://127.0.0.1/{word}"))
schemathesis.openapi.format("date-time", TIMES.map(lambda at: at.isoformat(timespec="milliseconds") + "Z"))



def query_is_good(query):
    """Names of one filter agree, `since` is not after `until`, a Redis without replicas cannot wait for any."""
    bounds = []
    for names in (["since", "fromDate", "startDate"], ["until", "toDate", "endDate"]):
        given = {query[name] for name in names if isinstance(query.get(name), str)}
        if len(given) > 1:
            return False
        bounds.append(next(iter(given), None))
    if None not in bounds and bounds[0] > bounds[1]:
        return False
    if len({str(query[name]) for name in ("event", "eventSubCategory") if name in query}) > 1:
        return False
    if "success" in query and "status" in query:
        return False
    wait = str(query.get("wait", "0"))
    return not wait.isdigit() or int(wait) == 0 or int(wait) > 16


def configs_of(body):
    """The configs of a PUT's body, in any of its three shapes."""
    if isinstance(body, dict):
        body = body.get("configs", [body])
    return [config for config in body if isinstance(config, dict)] if isinstance(body, list) else []


def body_is_good(body):
    """Two names of one field agree, no two configs of a set have the same id or URL, and what is masked is stored."""
    configs = configs_of(body)
    for config in configs:
        names = [config.get("active"), config.get("isEnabled")]
        if True in names and False in names:
            return False
        # Only an event type that is subscribed can be filtered.
        filters, events = config.get("entityFilters"), config.get("events")
        if isinstance(filters, dict) and not (isinstance(events, list) and set(filters) <= {*map(str, events)}):
            return False
        # PEM that is a certificate and its key is nothing that can be generated from a schema.
        if isinstance(config.get("clientCertificate"), dict):
            return False
        headers = config.get("headers")
        values = [config.get("secret"), *(headers.values() if isinstance(headers, dict) else [])]
        if any(isinstance(value, str) and "****" in value for value in values):
            return False
    for name in ("id", "url"):
        values = [config[name] for config in configs if isinstance(config.get(name), str)]
        if len(values) != len(set(values)):
            return False
    return True


@schemathesis.hook
def filter_case(context, case):
    """Leaves out what is refused for a reason that no schema can give."""
    return query_is_good(case.query or {}) and body_is_good(case.body)


KNOWN = [
    (re.compile("^dlv_[0-7][0-9a-hjkmnp-tv-z]{25}$"), os.environ.get("API_CHECK_DELIVERY")),
    (re.compile("^[0-9a-f]{24}$"), os.environ.get("API_CHECK_CONFIG")),
]


@schemathesis.hook
def map_case(context, case):
    """Every second id in a path becomes that of something that is there."""
    for name, value in (case.path_parameters or {}).items():
        for shape, known in KNOWN:
            if known and isinstance(value, str) and shape.match(value) and sum(value.encode()) % 2:
                case.path_parameters[name] = known
    return case
