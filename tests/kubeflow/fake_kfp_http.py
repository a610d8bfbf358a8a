"""The stand-in for Kubeflow Pipelines behind real HTTP, with faults where a test plants them."""

import dataclasses
import json
import re
import urllib.parse
from http.server import BaseHTTPRequestHandler

import kfp_server_api
from fake_kfp_requests import RefusedError

ROOT = "/apis/v2beta1"


@dataclasses.dataclass
class Fault:
    """Happens to the next requests whose "METHOD path" matches.

    kind: a status to answer with; "drop" to hang up before the request is carried out; "lose" to
    hang up after.
    """

    pattern: str
    kind: int | str
    times: int = 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        query = {key: value for key, value in query.items() if value}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        line = f"{self.command} {url.path.removeprefix(ROOT)}"
        headers = {key.lower(): value for key, value in self.headers.items()}
        fake = self.fake
        with fake.lock:
            fake.requests.append(line)
            fake.on_request(line)
            fault = next((f for f in fake.faults if f.times and re.search(f.pattern, line)), None)
            if fault is not None:
                fault.times -= 1
                if isinstance(fault.kind, int):
                    return self._send(fault.kind, _error("the server's fault", 13, line))
                if fault.kind == "drop":
                    return self._hang_up()
            try:
                model, content = fake.answer(self.command, url.path, query, headers, body)
                status, answer = 200, _as_the_sdk_reads_it(model, content)
            except RefusedError as refused:
                status, answer = refused.status, _error(str(refused), refused.code, line)
        if fault is not None and fault.kind == "lose":
            return self._hang_up()
        return self._send(status, answer)

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815

    def _hang_up(self):
        self.close_connection = True
        self.connection.close()

    def _send(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def _error(message, code, line):
    if "/upload" in line:
        return {"error_message": message, "error_details": f"{message} (and where)"}
    detail = {"@type": "type.googleapis.com/google.rpc.Status", "code": code, "message": message}
    return {"error": message, "code": code, "message": message, "details": [detail]}


def _as_the_sdk_reads_it(model, content):
    """Returns content as JSON; nothing in it may be lost or changed by the SDK's own model."""
    plain = json.loads(json.dumps(content, default=lambda time: time.isoformat()))
    if model != "object":
        api = kfp_server_api.ApiClient()
        response = type("Response", (), {"data": json.dumps(plain)})
        read = api.sanitize_for_serialization(api.deserialize(response, model))
        assert read == plain, (read, plain)
    return plain
