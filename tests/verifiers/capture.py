"""Serves until the expected number of requests arrived, then writes them to a file and ends.

Arguments: the file to write the port to, the file to write the requests to, how many are expected. Each line of the
latter is one request: {"path", "headers" (names in lower case), "body" (base64)}. The same delivery counts once.
"""

import base64
import http.server
import json
import os
import sys
import threading

port_file, out_file, expected = sys.argv[1], sys.argv[2], int(sys.argv[3])
requests = {}
lock = threading.Lock()
done = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    def take(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = {"path": self.path, "headers": headers, "body": base64.b64encode(body).decode()}
        with lock:
            requests[headers["x-nudj-delivery-id"]] = request
            if len(requests) >= expected:
                done.set()
        self.send_response(204)
        self.end_headers()

    do_POST = do_PUT = take

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
with open(port_file + ".new", "w") as file:
    file.write(str(server.server_address[1]))
os.rename(port_file + ".new", port_file)
if not done.wait(60):
    sys.exit(f"capture: {len(requests)} of {expected} requests arrived within 60 s")
with open(out_file, "w") as file:
    file.writelines(json.dumps(request) + "\n" for request in requests.values())
