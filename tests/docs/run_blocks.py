"""Runs every code block of documents against live processes, in their order, and fails where one does not do what the
document says.

    run_blocks.py PROGRAM TOOLS SCRATCH DOCUMENT...

TOOLS is a folder with what scripts/docs-check.sh installed. Each document gets a Redis, a `postrider serve`, and two
receivers: an endpoint at RECEIVER_URL and a development server at LOCAL_URL; their secret is `whsec_demo`.

A block's tag says how it is run: `sh` by bash (exported variables and functions live on in the document's later blocks, and
what is put into the background lives until its end), `js`, `python`, `go` and `java` as whole programs, `json` is
parsed. Any other tag, and a block without one, is a failure. Comments right behind a block say what has to come of it:

    <!-- prints: TEXT -->        its output has TEXT
    <!-- soon prints: TEXT -->   so does its output when it is repeated for at most 20 s; for blocks that only ask
    <!-- exits: N -->            its exit status; 0 otherwise
    <!-- delivers: N -->         N more deliveries arrive, not one more
    <!-- full Redis -->          it is run again with a full Redis: it has to try XADD twice, and to succeed when there is room
"""

import json
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "live"))

from live import Failure, Live, free_port, listens, wait_for  # noqa: E402

BLOCK_SECONDS = 60
SECRET = "whsec_demo"
FENCE = re.compile(r"^( *)(```+)(.*)$")
COMMENT = re.compile(r"^<!-- *(prints|soon prints|exits|delivers|full Redis)(?:: *(.*?))? *-->$")


class Block:
    """A code block: where it is, its tag, its text, and what has to come of it."""

    def __init__(self, document, line, tag):
        self.document, self.line, self.tag, self.lines, self.wishes = document, line, tag, [], []

    @property
    def text(self):
        return "\n".join(self.lines) + "\n"

    @property
    def place(self):
        return f"{self.document}:{self.line}"

    def wanted(self, kind):
        return [text for name, text in self.wishes if name == kind]


def blocks_of(document, text):
    """The blocks of a document with the wishes behind them."""
    blocks, current, fence, may_wish = [], None, None, False
    for number, line in enumerate(text.splitlines(), 1):
        found = FENCE.match(line)
        if current is None and found:
            current, fence = Block(document, number, found[3].strip()), found[2]
        elif current is not None and found and found[2] == fence and not found[3].strip():
            blocks.append(current)
            current, may_wish = None, True
        elif current is not None:
            current.lines.append(line)
        elif wish := COMMENT.match(line.strip()):
            if not may_wish:
                raise Failure(f"{document}:{number}: a wish that is not behind a block")
            blocks[-1].wishes.append((wish[1], wish[2]))
        elif line.strip().startswith("<!--"):
            raise Failure(f"{document}:{number}: {line.strip()} is no wish")
        else:
            may_wish = False
    if current is not None:
        raise Failure(f"{current.place}: the block has no end")
    return blocks


class Runner:
    """Runs the blocks of one document."""

    def __init__(self, live, tools):
        self.live, self.tools = live, os.path.abspath(tools)
        self.room = os.path.join(live.scratch, "blocks")
        self.state = os.path.join(live.scratch, "state")
        os.makedirs(self.room)
        open(self.state, "w").close()
        self.runs = {"sh": self.sh, "js": self.js, "python": self.python, "go": self.go, "java": self.java}
        self.environment = {
            "PATH": f"{os.path.dirname(live.program)}:{os.environ['PATH']}", "HOME": os.environ.get("HOME", "/"),
            "REDIS_URL": live.redis_url, "POSTRIDER_URL": live.url, "POSTRIDER_TOKEN": live.token,
            "RECEIVER_URL": self._receiver("receiver"), "LOCAL_URL": self._receiver("local"),
            # Go's caches, and what this machine says of registries.
            **{name: text for name, text in os.environ.items() if name.startswith("GO") or name.endswith("_proxy")},
        }

    def _receiver(self, name):
        port = free_port()
        command = [self.live.program, "receive", "--listen", f"127.0.0.1:{port}", "--secret", SECRET]
        self.live.start(name, command)
        wait_for(f"the receiver {name}", lambda: listens(port))
        return f"http://127.0.0.1:{port}/hooks"

    # === how each tag is run: the command ===

    def sh(self, block):
        # Functions and exported variables are handed to the next block by a file.
        keep = f'trap \'{{ declare -px; declare -f; }} >"{self.state}"\' EXIT'
        script = f'set -euo pipefail\nsource "{self.state}" 2>/dev/null || true\n{keep}\n{block.text}'
        return ["bash", self._write("block.sh", script)]

    def js(self, block):
        return ["node", self._write(os.path.join(self.tools, "node", "block.mjs"), block.text)]

    def python(self, block):
        return [os.path.join(self.tools, "venv", "bin", "python"), self._write("block.py", block.text)]

    def go(self, block):
        program = os.path.join(self.tools, "go", "block")
        self._write(os.path.join(self.tools, "go", "main.go"), block.text)
        subprocess.run(["go", "build", "-o", program, "."], check=True, cwd=os.path.join(self.tools, "go"))
        return [program]

    def java(self, block):
        name = re.search(r"\bclass (\w+)", block.text)[1]
        return ["java", "-cp", os.path.join(self.tools, "jars", "*"), self._write(f"{name}.java", block.text)]

    def _write(self, name, text):
        path = os.path.join(self.room, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    # === running ===

    def run(self, block):
        if block.tag == "json":
            return self._parse(block)
        if block.tag not in self.runs:
            known = ", ".join([*self.runs, "json"])
            raise Failure(f"{block.place}: the tag '{block.tag}' cannot be run; expected one of {known}")
        try:
            command = self.runs[block.tag](block)
        except subprocess.CalledProcessError as error:
            raise Failure(f"{block.place}: does not build") from error
        self._once(block, command)
        if block.wanted("full Redis"):
            self._once(block, command, full=True)

    def _parse(self, block):
        try:
            json.loads(block.text)
        except ValueError as error:
            raise Failure(f"{block.place}: this is no JSON: {error}") from error

    def _once(self, block, command, full=False):
        before = self._delivered()
        patience = time.monotonic() + 20
        while True:
            status, output = self._execute(block, command, full)
            wanted = int((block.wanted("exits") or [0])[0])
            if status != wanted:
                raise Failure(f"{block.place}: ended with {status}, not {wanted}\n{output}")
            missing = [text for text in block.wanted("prints") if text not in output]
            soon = [text for text in block.wanted("soon prints") if text not in output]
            if missing or soon and time.monotonic() > patience:
                raise Failure(f"{block.place}: did not print {missing or soon}, but\n{output}")
            if not soon:
                break
            time.sleep(0.3)
        for number in block.wanted("delivers"):
            due = before + int(number)
            wait_for(f"{block.place}: {number} deliveries", lambda: self._delivered() >= due)
            self._let_pass()
            if self._delivered() != due + 1:
                raise Failure(f"{block.place}: {self._delivered() - 1 - before} deliveries instead of {number}")

    def _execute(self, block, command, full):
        """Runs it to its end: its status and what it printed."""
        with open(os.path.join(self.room, "output"), "w+b") as output:
            if full:
                self.live.redis("CONFIG", "SET", "maxmemory", "1")
            try:
                process = self.live.start("block", command, stdout=output, stderr=output, env=self.environment, cwd=self.room)
                if full:
                    tries = self._refused() + 2
                    wait_for(f"{block.place} to try again", lambda: self._refused() >= tries or process.poll() is not None)
                    if process.poll() is not None:
                        raise Failure(f"{block.place}: ended while Redis was full, with {process.returncode}")
            finally:
                if full:
                    self.live.redis("CONFIG", "SET", "maxmemory", "0")
            try:
                status = process.wait(BLOCK_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise Failure(f"{block.place}: did not end within {BLOCK_SECONDS} s") from error
            output.seek(0)
            return status, output.read().decode(errors="replace")

    def _let_pass(self):
        """Sends a test event behind all others, one delivery more: when it has arrived, so have they."""
        config = self.live.ask("GET", "/webhooks/configs")[0]["id"]
        self.live.ask("POST", f"/webhooks/configs/{config}/test")

    def _refused(self):
        """How many XADD were refused because Redis was full."""
        found = re.search(r"cmdstat_xadd:.*rejected_calls=(\d+)", self.live.redis("INFO", "commandstats"))
        return int(found[1]) if found else 0

    def _delivered(self):
        return self.live.ask("GET", "/webhooks/logs?status=delivered&limit=1")["totalCount"]


def main():
    program, tools, scratch, *documents = sys.argv[1:]
    began, count = time.monotonic(), 0
    try:
        for document in documents:
            with open(document) as file:
                blocks = blocks_of(document, file.read())
            if not blocks:
                raise Failure(f"{document}: no blocks were found")
            name = os.path.basename(document)
            with Live(program, os.path.join(scratch, name), "--retry-schedule", "300ms") as live:
                runner = Runner(live, tools)
                for block in blocks:
                    started = time.monotonic()
                    runner.run(block)
                    count += 1
                    print(f"docs: {block.place} {block.tag} {time.monotonic() - started:.1f} s", flush=True)
    except Failure as failure:
        sys.exit(f"docs: FAILED: {failure}")
    print(f"docs: {count} blocks in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
