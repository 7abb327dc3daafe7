"""HTTP/1.1 around a service: a thread a connection, errors in OpenAI's form, a stop that lets requests finish."""

from __future__ import annotations

import errno
import hmac
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import unquote

from gapbench.records import InputError
from gapbench.replies import one_line
from gapbench.serve.protocol import Refusal, read_body
from gapbench.serve.service import RETRY_AFTER, Service

LONGEST_BODY = 50 * 2**20  # bytes
LONGEST_READ = 4 * LONGEST_BODY  # read and thrown away, for a client hears of its mistake only once it has sent all
IDLE = 60.0  # seconds that a connection may be silent while the server reads or writes
MODELS = "/v1/models"
ROUTES = {"/health": "GET", MODELS: "GET", "/v1/chat/completions": "POST", "/v1/images/generations": "POST"}


class Server(ThreadingMixIn, TCPServer):
    """Bound to its port at once, so that a taken one is known before a model is loaded; open for connections later.

    Port 0 is any that is free. `key`: what clients must show, or none. `report` is told of errors that are ours.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 1024

    def __init__(
        self, host: str, port: int, key: str | None = None, report: Callable[[str], None] | None = None
    ) -> None:
        if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
            raise InputError("--api-key: give ASCII letters, digits and signs, and no spaces")
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.key, self.report = key, report or (lambda line: None)
        self.service: Service
        self.stopping = threading.Event()
        self._under_way = 0
        self._ended = threading.Condition()
        super().__init__((host, port), _Handler, bind_and_activate=False)
        with self._address_checked():
            self.server_bind()

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"

    @contextmanager
    def serving(self, service: Service) -> Iterator[str]:
        """Answers requests, in threads, at the URL that this gives; those under way at the end still finish."""
        self.service = service
        with self._address_checked():
            self.server_activate()
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self.url
        finally:
            self.stop()
            thread.join()

    def stop(self) -> None:
        """Accept no more connections, refuse further requests on open ones, finish those under way."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._ended:
            self._ended.wait_for(lambda: self._under_way == 0)
        self.service.close()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Around a request: `stop` waits until it has been replied to."""
        with self._ended:
            self._under_way += 1
        try:
            yield
        finally:
            with self._ended:
                self._under_way -= 1
                self._ended.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""
        error = sys.exception()
        if not isinstance(error, (ConnectionError, TimeoutError)):
            self.report(f"{type(error).__name__}: {one_line(str(error))}")

    @contextmanager
    def _address_checked(self) -> Iterator[None]:
        host, port = self.server_address[:2]
        try:
            yield
        except OSError as error:
            self.server_close()
            if error.errno == errno.EADDRINUSE:
                message = f"--port {port}: already in use at {host}; give another, or 0 for any that is free"
            elif error.errno == errno.EACCES:
                message = f"--port {port}: may not be used by this user; give one above 1023"
            else:
                message = f"--host {host}: no address of this machine ({error.strerror}); give 127.0.0.1 or 0.0.0.0"
            raise InputError(message) from None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "gapbench", ""
    timeout = IDLE
    wbufsize = -1  # a reply leaves in one piece
    disable_nagle_algorithm = True
    server: Server

    def do(self) -> None:
        """One request of any method."""
        with self.server.request():
            try:
                reply = self._reply(self._body())
            except Refusal as refusal:
                self._send(refusal.status, refusal.body(), refusal.headers)
            except (ConnectionError, TimeoutError):
                raise
            except Exception as error:
                message = f"{type(error).__name__}: {one_line(str(error))}"
                self.server.report(f"{self.path}: {message}")
                self._send(500, Refusal(500, message).body())
            else:
                self._send(200, reply)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do

    def _reply(self, body: bytes) -> dict[str, Any] | bytes:
        path = self.path.partition("?")[0]
        if self.server.stopping.is_set():
            self.close_connection = True
            raise Refusal(503, "the server stops", headers=RETRY_AFTER)
        if path != "/health":
            self._check_key()
        method = ROUTES.get(path) or ("GET" if path.startswith(f"{MODELS}/") else None)
        if method is None:
            raise Refusal(
                404, f"Unknown request URL: {self.command} {path}; there is {', '.join(ROUTES)}", None, "unknown_url"
            )
        if method != self.command:
            message = f"Not allowed to {self.command} {path}; {method} it"
            raise Refusal(405, message, None, "method_not_supported", {"Allow": method})
        service = self.server.service
        if path == "/health":
            return {"status": "ok"}
        if path == MODELS:
            return service.models()
        if path == "/v1/chat/completions":
            return service.chat(read_body(body), self._gone)
        if path == "/v1/images/generations":
            return service.draw(read_body(body), self._gone)
        return service.described(unquote(path.removeprefix(f"{MODELS}/")))

    def _body(self) -> bytes:
        """All of it, also of a request that is refused: the next one on this connection begins after it."""
        if "transfer-encoding" in self.headers:
            self.close_connection = True
            raise Refusal(411, "the body comes in chunks; give its Content-Length")
        told = self.headers.get("content-length", "0")
        if not (told.isascii() and told.isdigit()):
            self.close_connection = True
            raise Refusal(400, "Content-Length: give a number of bytes")
        length = int(told)
        if length <= LONGEST_BODY:
            body = self.rfile.read(length)
            if len(body) < length:
                raise ConnectionAbortedError
            return body
        self.close_connection = True
        left = min(length, LONGEST_READ)
        while left > 0 and (part := self.rfile.read(min(left, 2**16))):
            left -= len(part)
        raise Refusal(413, f"the body has {length} bytes; {LONGEST_BODY} are taken", None, "request_too_large")

    def _check_key(self) -> None:
        if self.server.key is None:
            return
        scheme, _, given = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.server.key.encode()):
            message = "Incorrect API key; send the server's as Authorization: Bearer KEY"
            raise Refusal(401, message, None, "invalid_api_key", {"WWW-Authenticate": "Bearer"})

    def _gone(self) -> bool:
        """Whether the client closed the connection."""
        self.connection.setblocking(False)
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.connection.settimeout(self.timeout)

    def _send(self, status: int, reply: dict[str, Any] | bytes, headers: Mapping[str, str] | None = None) -> None:
        content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/event-stream" if isinstance(reply, bytes) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    def handle_expect_100(self) -> bool:
        """Lets a client go on that waits before it sends a long body."""
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no HTTP, in the same form as all errors."""
        self.close_connection = True
        self._send(code, Refusal(code, message or self.responses[code][0]).body())

    def log_message(self, *_: Any) -> None:
        """Requests are no news."""
