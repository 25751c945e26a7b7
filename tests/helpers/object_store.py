"""An S3 server of this machine, moto's, and a gateway before it that refuses, cuts or changes requests.

Nothing but the endpoint in the environment leads to it, so no test asks anything of a real store.
"""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cache.storage.objects import ObjectStorage

START_S = 60.0
SECRET = "wJalr-a-secret-of-the-tests"


def environment(endpoint: str) -> dict[str, str]:
    """The variables by which obstore finds the server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "AKIATESTS",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }


@contextmanager
def moto() -> Iterator[str]:
    """A server in a process of its own; its endpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
    try:
        end_s = time.monotonic() + START_S
        while True:
            assert server.poll() is None, "moto's server ended"
            assert time.monotonic() < end_s, "moto's server did not start"
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def make_bucket(endpoint: str, name: str) -> None:
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT")).read()


def objects_of(url: str) -> dict[str, bytes]:
    """Every object below `url`: its bytes by key."""
    storage = ObjectStorage(url)
    return {entry.key: storage.get(entry.key) for entry in sorted(storage.entries(""), key=lambda entry: entry.key)}


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]


# What becomes of a request: None lets it through, a number is the status of the answer, "cut" ends the connection in
# the middle of the answer's body, "lose" before the answer, "hang" never answers, "unconditional" takes the condition
# away.
Plan = Callable[[Request], int | str | None]


@dataclass
class Gateway:
    """Stands before the server at `upstream`; `plan` says what becomes of each request."""

    upstream: str
    plan: Plan = lambda request: None
    requests: list[Request] = field(default_factory=list)
    endpoint: str = ""

    @contextmanager
    def serve(self) -> Iterator["Gateway"]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _handler(gateway: Gateway) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = dict(self.headers.items())
            request = Request(self.command, self.path, headers)
            gateway.requests.append(request)
            action = gateway.plan(request)
            if action == "hang":
                time.sleep(30)
                action = "cut"
            if isinstance(action, int):
                self.answer(action, b"<Error><Code>Made</Code></Error>", {})
                return
            if action == "unconditional":
                headers = {key: value for key, value in headers.items() if key.lower() != "if-none-match"}
            upstream = http.client.HTTPConnection(gateway.upstream.removeprefix("http://"))
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            data = answer.read()
            if action == "lose":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            kept = {key: value for key, value in answer.getheaders() if key.lower() not in LEFT_OUT}
            self.answer(answer.status, data, kept, is_cut=action == "cut")
            upstream.close()

        def answer(self, status: int, data: bytes, headers: dict[str, str], is_cut: bool = False) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(data)))
            elif "content-length" not in {key.lower() for key in headers}:
                self.send_header("Content-Length", "0")
            self.end_headers()
            if is_cut:
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            elif self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any

    return Handler


LEFT_OUT = {"connection", "transfer-encoding", "server", "date"}
