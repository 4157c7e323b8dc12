"""A fake MLflow server with replies that a test sets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.http_server import running

FILE = "model.safetensors"
SOURCE = "mlflow-artifacts:/1/models/m-1/artifacts"


class OddServer:
    """Has one version. `version` is the number in its replies, `listing` its list of files. It never answers a request for a file of the list."""

    def __init__(self) -> None:
        self.version, self.listing, self.url = "7", "{}", ""
        self.ends = threading.Event()

    def answer(self, path: str) -> str:
        if path.endswith(FILE):
            self.ends.wait()
        if "mlflow-artifacts" in path:
            return self.listing
        version = {"name": "m", "version": self.version, "creation_timestamp": 1, "source": SOURCE, "tags": [{"key": "sha256", "value": "ab"}]}
        experiment = {"experiment_id": "1", "name": "m", "artifact_location": "mlflow-artifacts:/1", "lifecycle_stage": "active"}
        model = {"name": "m", "aliases": []}
        return json.dumps({"experiment": experiment, "registered_model": model, "model_version": version, "model_versions": [version]})


@contextmanager
def odd_server() -> Iterator[OddServer]:
    odd = OddServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = odd.answer(self.path).encode()
            if odd.ends.is_set():  # the client has gone
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    odd.url = f"http://127.0.0.1:{server.server_port}"
    with running(server):
        try:
            yield odd
        finally:
            odd.ends.set()
