"""Shows that run_blocks.py can fail: every document below has a mistake, and has to be refused for it.

    self_check.py PROGRAM TOOLS SCRATCH
"""

import sys

from run_blocks import Failure, Live, Runner, blocks_of

WRONG = {
    "a block without a tag": ("```\ntrue\n```", "cannot be run"),
    "a tag that cannot be run": ("```ruby\nputs 1\n```", "cannot be run"),
    "no JSON": ('```json\n{"a": 1,}\n```', "no JSON"),
    "a command that fails": ("```sh\nfalse\ntrue\n```", "ended with 1"),
    "a failure in a pipe": ("```sh\nfalse | true\n```", "ended with 1"),
    "a variable that nobody set": ('```sh\necho "$NOBODY_SET_THIS"\n```', "unbound"),
    "a program that throws": ("```python\nassert False\n```", "ended with 1"),
    "a program that does not build": ("```go\npackage main\nfunc main() { x }\n```", "does not build"),
    "a success where a failure was promised": ("```sh\ntrue\n```\n<!-- exits: 1 -->", "ended with 0"),
    "another output": ("```sh\necho a\n```\n<!-- prints: b -->", "did not print"),
    "too many deliveries": (
        "```sh\npostrider publish --redis-url $REDIS_URL --organisation acme --event a.b --data '{}' >/dev/null\n```\n"
        "<!-- delivers: 0 -->",
        "1 deliveries instead of 0",
    ),
    "a producer that gives up at once": (
        "```sh\nredis-cli -e -u $REDIS_URL XADD 'postrider:{0}:events' '*' organisationId acme event a.b data '{}'\n```\n"
        "<!-- full Redis -->",
        "while Redis was full",
    ),
    "a block without an end": ("```sh\ntrue\n", "has no end"),
    "a wish behind nothing": ("text\n<!-- prints: a -->", "not behind a block"),
    "a wish that was misspelt": ("```sh\ntrue\n```\n<!-- print: a -->", "is no wish"),
}


def refusal(runner, name, text):
    try:
        for block in blocks_of(name, text):
            runner.run(block)
    except Failure as failure:
        return str(failure)
    return "nothing"


def main():
    program, tools, scratch = sys.argv[1:]
    with Live(program, scratch) as live:
        runner = Runner(live, tools)
        config = live.ask("PUT", "/webhooks/configs", {"url": runner.environment["RECEIVER_URL"], "events": ["*"]})
        live.ask("POST", f"/webhooks/configs/{config['id']}/test")
        for name, (text, expected) in WRONG.items():
            found = refusal(runner, name, text)
            if expected not in found:
                sys.exit(f"docs: {name}: expected a failure with '{expected}', got {found}")
    print(f"docs: {len(WRONG)} wrong documents are refused")


if __name__ == "__main__":
    main()
