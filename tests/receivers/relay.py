"""What stands between the parts of a receiver's check: Relay between Postrider and the receiver, RedisProxy between the
receiver and Redis. Both do harm on request."""

import http.client
import http.server
import socket
import threading
import time


class Relay:
    """Hands requests on to the receiver, and remembers them.

    `harm` is None, "tamper" (another byte in the body), or "swallow" (the receiver gets the request and answers, and
    the answer of the next one is lost).
    """

    def __init__(self, receiver_port):
        self.receiver_port, self.harm, self.seen = receiver_port, None, []
        relay = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                relay._hand_on(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hooks"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _hand_on(self, handler):
        body = handler.rfile.read(int(handler.headers["content-length"]))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        harm, sent = self.harm, body
        if harm == "tamper":
            sent = body.replace(b'"amount": 1', b'"amount": 9')
        began = time.monotonic()
        status = post(self.receiver_port, sent, headers)
        took = time.monotonic() - began
        self.seen.append({"body": body, "headers": headers, "status": status, "took": took})
        if harm == "swallow":
            self.harm = None
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        handler.send_response(status or 502)
        handler.send_header("content-length", "0")
        handler.end_headers()

    def requests_of(self, nonce):
        return [request for request in self.seen if nonce.encode() in request["body"]]


def post(port, body, headers):
    """The status of the receiver's answer; None when there was none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    own = ("host", "content-length", "connection")
    try:
        connection.request("POST", "/hooks", body, {n: v for n, v in headers.items() if n not in own})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class RedisProxy:
    """Passes bytes on to Redis. `hold(nonce)` stops the write of that nonce on its way: from then on, nothing that its
    connection sends arrives. `lose(nonce)` breaks the connection on which the next answer with that nonce comes, and
    the answer is lost. `down()` breaks every connection and refuses new ones until `up()`."""

    def __init__(self, redis_port):
        self.redis_port = redis_port
        self.held, self.lost = threading.Event(), threading.Event()
        self.unwanted = None
        self.pattern, self.is_up, self.pairs = None, True, set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self, nonce):
        self.held.clear()
        self.pattern = f"hooks:seen:{nonce}".encode()

    def let_go(self):
        self.pattern = None

    def lose(self, nonce):
        self.lost.clear()
        self.unwanted = f'"{nonce}"'.encode()

    def down(self):
        self.is_up = False
        for pair in list(self.pairs):
            close(*pair)

    def up(self):
        self.is_up = True

    def _accept(self):
        while True:
            client, _ = self.listener.accept()
            if not self.is_up:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.redis_port))
            self.pairs.add((client, server))
            threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answers, args=(server, client), daemon=True).start()

    def _answers(self, server, client):
        try:
            while chunk := server.recv(1 << 16):
                if self.unwanted and self.unwanted in chunk:
                    self.unwanted = None
                    self.lost.set()
                    break
                client.sendall(chunk)
        except OSError:
            pass
        close(server, client)

    def _requests(self, client, server):
        stopped = False
        try:
            while chunk := client.recv(1 << 16):
                if self.pattern and self.pattern in chunk and b"\r\nSET" in chunk.upper():
                    stopped = True
                    self.held.set()
                if not stopped:
                    server.sendall(chunk)
        except OSError:
            pass
        close(client, server)
        self.pairs.discard((client, server))


def close(*sockets):
    for one in sockets:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        one.close()
