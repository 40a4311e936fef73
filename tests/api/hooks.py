"""What a request must keep to beyond its schema, for JSON Schema cannot say it: only such requests are good ones.

Each rule stands in docs/WIRE.md. The formats make texts that mean something: URLs that are sent to nobody, for the
guard denies all of loopback but the receiver, and times that a clock can show.
"""

import os
import re
from datetime import datetime

import schemathesis
import world
from hypothesis import strategies as st

WORDS = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789", min_size=6, max_size=20)
TIMES = st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2100, 1, 1))

schemathesis.openapi.format("uri", WORDS.map(lambda word: f"https://127.0.0.9/{word}"))
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


def mend_config(config):
    """Takes out of a config what `body_is_good` refuses: PEM that is none, and masks of what is not stored."""
    if isinstance(config.get("clientCertificate"), dict):
        del config["clientCertificate"]
    for name in ("secret", "headers"):
        if "****" in str(config.get(name)):
            del config[name]


@schemathesis.hook
def filter_case(context, case):
    """Leaves out what is refused for a reason that no schema can give."""
    if operation_id(case) == "getWebhookTrace" and len({"nonce", "id"} & set(case.query or {})) != 1:
        # Exactly one of two parameters: schemas speak of one parameter at a time.
        return False
    return query_is_good(case.query or {}) and body_is_good(case.body)


@schemathesis.hook
def map_case(context, case):
    """Every second id in a path becomes that of something that is there, and every cursor one that was given."""
    path, known = case.path_parameters or {}, KNOWN.get(operation_id(case))
    positive = case.meta is None or case.meta.generation.mode.is_positive
    if operation_id(case) == "getWebhookLogs" and positive and "cursor" in (case.query or {}):
        # A cursor is opaque, and belongs to its filters.
        given = world.cursor()
        case.query = {"cursor": given} if given else {}
    if known and all(is_replaced(value) for value in path.values()):
        case.path_parameters.update(known())
    return case


SHAPES = re.compile(
    "^(dlv_[0-7][0-9a-hjkmnp-tv-z]{25}|[0-9a-f]{24}|[0-9a-f]{12}|job_[0-9a-f]{16}|rej_[0-9]+_[0-9]+-[0-9]+)$"
)


# The ids that the description shows, with which some phases are content.
EXAMPLES = [
    "9b1d04c57ea2f3180000002f",
    "dlv_000000001f06fbnfev40000000",
    "job_0b61f8a09c2d4e57",
    "5f0c9d2b7a11",
    "rej_0_1777626000121-0",
]


def is_replaced(value):
    if not isinstance(value, str) or SHAPES.match(value) is None:
        return False
    return value in EXAMPLES or sum(value.encode()) % 2 == 1


def operation_id(case):
    return case.operation.definition.raw["operationId"]


def a_config():
    return {"id": world.config()}


def a_delivery():
    return {"deliveryId": world.delivery()}


def a_job():
    return dict(zip(("id", "jobId"), world.job()))


def a_rejected_entry():
    return {"id": world.rejected()}


# What each operation's path names.
KNOWN = {
    "getWebhookConfig": a_config,
    "deleteWebhookConfig": a_config,
    "pauseWebhookConfig": a_config,
    "resumeWebhookConfig": a_config,
    "rotateWebhookSecret": a_config,
    "testWebhookConfig": a_config,
    "getWebhookStats": a_config,
    "recoverWebhookConfig": a_config,
    "replayWebhookConfig": a_config,
    "getWebhookJobs": a_config,
    "getWebhookJob": a_job,
    "cancelWebhookJob": a_job,
    "getWebhookLog": a_delivery,
    "getWebhookLogCurl": a_delivery,
    "retryWebhookDelivery": a_delivery,
    "getRejectedEvent": a_rejected_entry,
    "deleteRejectedEvent": a_rejected_entry,
    "requeueRejectedEvent": a_rejected_entry,
    "revokeToken": lambda: {"tokenId": world.token()},
}


@schemathesis.hook
def before_call(context, case, kwargs):
    """Mends what only the thing that is named can tell, also where an id was found in an earlier answer."""
    operation, body = operation_id(case), case.body
    if case.meta is None or case.meta.generation.mode.is_positive:
        if operation == "requeueRejectedEvent":
            # What is wrong with an entry must be repaired, and nothing that it needs be taken out.
            fields = body.get("fields") if isinstance(body, dict) else None
            fields = fields if isinstance(fields, dict) else {}
            kept = {name: value for name, value in fields.items() if value is not None}
            case.body = {"fields": {**kept, "data": {}}}
            case.media_type = case.media_type or "application/json"
        if operation == "updateWebhookConfigs":
            # Some phases ask for what `filter_case` leaves out.
            for config in configs_of(body):
                mend_config(config)
        if operation in ("recoverWebhookConfig", "replayWebhookConfig") and isinstance(body, dict):
            # No schema compares two fields.
            since, until = body.get("since"), body.get("until")
            if isinstance(since, str) and isinstance(until, str) and since > until:
                body["since"], body["until"] = until, since
        if operation == "getWebhookTrace" and "id" in (case.query or {}):
            # Links are guessed by names: one takes the id of a trace, which is in the log, for that of an event.
            if re.fullmatch("[0-9a-f]{32}", str(case.query["id"])):
                case.query["id"] = world.delivery()
    # The run's own tokens, whose ids it finds in the list, are kept.
    if (case.path_parameters or {}).get("tokenId") in world.OWN_TOKENS:
        case.path_parameters["tokenId"] = world.token()


@schemathesis.hook
def after_call(context, case, response):
    """Notes what was answered, so that the script sees which operations never succeeded."""
    with open(os.environ["API_CHECK_SEEN"], "a", encoding="ascii") as seen:
        seen.write(f"{operation_id(case)} {response.status_code}\n")
