"""Runs every script against two replicas and receivers of its own, on this machine, and writes the report.

    run.py --program POSTRIDER --k6 K6 --output FOLDER [--short] [--only NAME,...]

Ends with 1 when a threshold fails or a process ended by itself. Everything is bounded in time and stopped at the end.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

from report import write_report
from sampling import Sampler
from stage import ORGANISATION, SECRET, Failure, Stage, free_port

# Rates for a build with optimisations on four cores that are shared with k6, Redis and the receivers.
LONG = {
    "publish-stream": {"RATE": 2000, "BATCH": 4, "DURATION": "12s"},
    "publish-http": {"RATE": 1000, "BATCH": 20, "DURATION": "8s"},
    "admin-api": {"RATE": 60, "LOGGED": 2000, "DURATION": "8s"},
    "slow-endpoints": {"RATE": 500, "DURATION": "8s"},
    "retry-storm": {"RATE": 500, "DURATION": "8s"},
    "spike": {"RATE": 500, "SPIKE": 5, "BATCH": 5, "DURATION": "10s"},
    "soak": {"RATE": 1000, "BATCH": 2, "DURATION": "10s", "WINDOW": "2s"},
}
# For a debug build on two cores: it is asked whether everything holds, not how fast it is.
SHORT = {
    "publish-stream": {"RATE": 300},
    "publish-http": {"RATE": 200, "BATCH": 10},
    "admin-api": {"RATE": 20, "LOGGED": 200},
    "slow-endpoints": {"RATE": 100},
    "retry-storm": {"RATE": 100},
    "spike": {"RATE": 100, "SPIKE": 4},
    "soak": {"RATE": 200, "WINDOW": "2s"},
}
SHORT_BOUNDS = {
    "DURATION": "10s", "P99_MS": 3000, "ANSWER_P99_MS": 2000, "CONFIGS_P99_MS": 2000, "LOGS_P99_MS": 2000,
    "PUT_P99_MS": 2000, "SETTLED_SECONDS": 10,
}
# Runs that have to fail, each by its threshold: what cannot fail proves nothing.
FAULTS = {
    "deliveries_missing": {"RATE": 50, "DURATION": "1s", "SETTLE": "2s"},
    "dropped_iterations": {"RATE": 2000, "DURATION": "1s", "VUS": 1},
}
# k6's exit code when a threshold was crossed.
CROSSED = 99
# Beyond a script's own duration: its setup, and the account at its end.
GRACE_SECONDS = 120


def environment(stage, script, given, summary, api):
    both = f"{stage.receivers['healthy-a']},{stage.receivers['healthy-b']}"
    beside = {"slow-endpoints", "retry-storm"}
    return {
        "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"),
        "POSTRIDER_URL": ",".join(stage.admin), "POSTRIDER_TOKEN": stage.token, "ORGANISATION": ORGANISATION,
        "REDIS_URL": stage.redis_url, "RECEIVER_SECRET": SECRET,
        "RECEIVER_URLS": both if script == "publish-stream" else stage.receivers["healthy-a"],
        **({"FAILING_URLS": stage.receivers["failing"], "SLOW_URLS": stage.receivers["slow"],
            "HUNG_URLS": stage.receivers["hung"]} if script in beside else {}),
        "SUMMARY": summary, "K6_API": f"http://{api}", **{name: str(value) for name, value in given.items()},
    }


def run_script(stage, sampler, args, script, given, name=None):
    """Gives what became of one script: its times, its exit code, and k6's summary where there is one."""
    summary = os.path.join(args.output, f"{name or script}.json")
    if os.path.exists(summary):
        os.remove(summary)
    api = f"127.0.0.1:{free_port()}"
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), f"{script}.js")
    begun = time.time()
    k6 = subprocess.Popen(
        [args.k6, "run", "--quiet", "--no-usage-report", "--no-color", "--address", api, path],
        env=environment(stage, script, given, summary, api), stdin=subprocess.DEVNULL,
        # What is meant to fail would read as a failure.
        **({"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} if name else {}))
    sampler.extra = {"k6": k6.pid}
    try:
        code = k6.wait(float(str(given["DURATION"]).rstrip("s")) + GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        code = "no end in time"
    finally:
        if k6.poll() is None:
            k6.kill()
            k6.wait()
        sampler.extra = {}
    stage.check()
    found = None
    if os.path.exists(summary):
        with open(summary, encoding="utf-8") as file:
            found = json.load(file)
    return {"script": script, "given": given, "begun": begun, "ended": time.time(), "code": code, "summary": found}


def run_faults(stage, sampler, args):
    """Loses every delivery, then has too few VUs; names each run that did not fail by its threshold."""
    blind = []
    for metric, given in FAULTS.items():
        if metric == "deliveries_missing":
            given = {**given, "RECEIVER_URLS": stage.receivers["refusing"]}
        one = run_script(stage, sampler, args, "publish-stream", given, f"fault-{metric}")
        found = ((one["summary"] or {}).get("metrics") or {}).get(metric, {}).get("thresholds", {})
        if one["code"] != CROSSED or all(result["ok"] for result in found.values()):
            blind.append(f"{metric} held although it cannot (k6 ended with {one['code']})")
        else:
            print(f"fault seen: {metric} fails where it has to", flush=True)
    return blind


def interrupted(*_):
    # As Ctrl-C: what was started is stopped on the way out.
    raise KeyboardInterrupt


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--k6", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    args.program, args.k6, args.output = (os.path.abspath(path) for path in (args.program, args.k6, args.output))
    os.makedirs(args.output, exist_ok=True)
    signal.signal(signal.SIGTERM, interrupted)
    scripts = {name: {**SHORT_BOUNDS, **given} for name, given in SHORT.items()} if args.short else LONG
    only = [name for name in args.only.split(",") if name]
    unknown = [name for name in only if name not in scripts]
    if unknown:
        parser.error(f"--only: {unknown[0]}; expected some of {', '.join(scripts)}")
    results, failure, blind = [], None, []
    with Stage(args.program, args.output) as stage:
        sampler = Sampler(stage)
        sampler.start()
        try:
            for script in only or scripts:
                results.append(run_script(stage, sampler, args, script, scripts[script]))
            if not only:
                blind = run_faults(stage, sampler, args)
        except Failure as error:
            failure = str(error)
        finally:
            sampler.stop()
    write_report(args.output, results, sampler.samples, args)
    failed = [one["script"] for one in results if one["code"] != 0] + blind
    if failure or failed:
        sys.exit(f"load test: {failure or 'failed: ' + ', '.join(failed)}")
    print(f"load test: all of {len(results)} scripts hold; {os.path.join(args.output, 'report.html')}")


if __name__ == "__main__":
    try:
        main()
    except Failure as error:
        sys.exit(f"load test: {error}")
