"""A proxy on loopback before a real server that spoils some of its answers.

    with FaultProxy("http://127.0.0.1:9000") as proxy:
        proxy.spoil(".tar", [status(503, "SlowDown")] * 5)      the next five requests of a path that contains '.tar'

The server still does what a spoilt request asks for, unless `is_asked` is False. Signatures stay valid, because the
request is passed on unchanged, Host included. Each request has its own connection to the server.
"""

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    num_sent: int | None = None  # bytes of the body that are sent before the connection is broken; None: all


Fault = Callable[[Answer], Answer]


def slow(seconds: float) -> Fault:
    def late(answer: Answer) -> Answer:
        time.sleep(seconds)
        return answer

    return late


def status(number: int, code: str) -> Fault:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
    return lambda _: Answer(number, {"Content-Type": "application/xml"}, body)


def page(number: int, text: str) -> Fault:
    return lambda _: Answer(number, {"Content-Type": "text/html"}, f"<html>{text}</html>".encode())


def reset(_: Answer) -> Answer:
    """Breaks the connection before anything is answered."""
    return Answer(0, {}, b"", 0)


def cut(answer: Answer) -> Answer:
    return answer._replace(num_sent=len(answer.body) // 2)


def flip(answer: Answer) -> Answer:
    """Changes one bit in the middle."""
    body = bytearray(answer.body)
    body[len(body) // 2] ^= 0x10
    return answer._replace(body=bytes(body))


class FaultProxy:
    def __init__(self, endpoint: str) -> None:
        self.num_spoilt = 0
        self._server_at = urlsplit(endpoint).netloc
        self._part_of_path = ""
        self._faults: deque[Fault] = deque()
        self._is_asked = True
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = proxy._answer(self, body)
                if answer.status:
                    self.send_response_only(answer.status)
                    for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(answer.body[: answer.num_sent])
                if answer.num_sent is not None:
                    self.close_connection = True
                    at_once = struct.pack("ii", 1, 0)  # RST instead of FIN
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        class Server(ThreadingHTTPServer):
            def shutdown_request(self, request: Any) -> None:
                request.close()  # without a FIN before the RST

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # the reader has gone

        self._proxy = Server(("127.0.0.1", 0), Handler)
        self._proxy.daemon_threads = True
        self._thread = threading.Thread(target=self._proxy.serve_forever, args=(0.05,))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._proxy.server_port}"

    def spoil(self, part_of_path: str, faults: Iterable[Fault], *, is_asked: bool = True) -> None:
        """Spoils the next requests. Faults that an earlier call left are dropped."""
        self.num_spoilt, self._part_of_path, self._faults, self._is_asked = 0, part_of_path, deque(faults), is_asked

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        fault = self._next_fault(request.path)
        if fault is None:
            return self._ask(request, body)
        return fault(self._ask(request, body) if self._is_asked else Answer(200, {}, b""))

    def _next_fault(self, path: str) -> Fault | None:
        with contextlib.suppress(IndexError):
            if self._part_of_path in path:
                fault = self._faults.popleft()
                self.num_spoilt += 1
                return fault
        return None

    def _ask(self, request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        connection = http.client.HTTPConnection(self._server_at, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            kept = ("ETag", "Content-Range", "Content-Type", "Last-Modified", "Accept-Ranges")
            headers = {name: value for name in kept if (value := response.headers[name])}
            return Answer(response.status, headers, response.read())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._thread.join()
