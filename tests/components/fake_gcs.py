"""A Cloud Storage of one process: as much of its JSON API as the lock of a serving directory asks.

Objects have generations, and `ifGenerationMatch` is kept (cloud.google.com/storage/docs/
request-preconditions).
"""

import contextlib
import email
import http.server
import itertools
import json
import threading
import urllib.parse


class Bucket:
    """Objects by name, as (generation, content)."""

    def __init__(self):
        self.objects = {}
        self.url = ""
        self._generations = itertools.count(1)
        self._busy = threading.Lock()

    def answer(self, method, path, query, body):
        """Returns status and content of an answer."""
        with self._busy:
            name = urllib.parse.unquote(path.rpartition("/o/")[2])
            if method == "POST":
                description, content = email.message_from_bytes(body).get_payload()
                name = json.loads(description.get_payload())["name"]
                content = content.get_payload()
            generation = self.objects.get(name, (0, ""))[0]
            if int(query.get("ifGenerationMatch", generation)) != generation:
                return 412, {}
            if method == "POST":
                self.objects[name] = (next(self._generations), content)
            elif not generation:
                return 404, {}
            elif method == "DELETE":
                del self.objects[name]
                return 204, None
            elif query.get("alt") == "media":
                return 200, self.objects[name][1]
            return 200, {"name": name, "generation": str(self.objects[name][0])}


@contextlib.contextmanager
def served():
    """Yields a Bucket that is served on this machine, at its `url`."""
    bucket = Bucket()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            url = urllib.parse.urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if body:
                body = f"Content-Type: {self.headers['Content-Type']}\n\n".encode() + body
            query = dict(urllib.parse.parse_qsl(url.query))
            status, content = bucket.answer(self.command, url.path, query, body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            if content is not None:
                text = content if isinstance(content, str) else json.dumps(content)
                self.wfile.write(text.encode())

        do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    bucket.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
