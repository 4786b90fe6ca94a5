# SPDX-License-Identifier: MIT
"""A small server that answers as Glance does, or wrongly when told.

    with FakeGlance() as glance:
        image = glance.add("alpha", size=1 << 20)
        glance.wrong(Cut(1000))          # the next request for data ends after 1000 bytes
        glance.always(Status(503))       # from now on

What it was asked is in .requests.  An image's bytes follow from its number and their offset.
"""

import http.server
import json
import re
import socket
import ssl
import sys
import threading
import time
from urllib.parse import parse_qs, urlsplit

HOST = "127.0.0.1"
LIMIT = 60
PAGE = 1000


def image_bytes(number, offset, length):
    """Some bytes of image @number: eight at a time are their offset and the number, mixed."""
    first, last = offset // 8, (offset + length + 7) // 8
    words = b"".join(
        ((word * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03) & (2**64 - 1)).to_bytes(8, "big")
        for word in range(first, last)
    )
    skipped = offset - 8 * first
    return words[skipped : skipped + length]


class Image:
    def __init__(self, number, name, size, **properties):
        self.id = "%08x-1111-4222-8333-%012x" % (number, number)
        self.data = image_bytes(number, 0, size)
        self.size = size
        self.properties = {
            "name": name, "id": self.id, "status": "active", "size": size,
            "disk_format": "raw", "container_format": "bare", "visibility": "public",
            "checksum": None, "os_hash_algo": None, "os_hash_value": None,
            "owner": "somebody", "tags": [], "protected": False, "os_hidden": False,
            "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-02-03T04:05:06Z",
            "file": "/v2/images/%s/file" % self.id,
            "locations": [{"url": "swift+https://user:SECRET@example/", "metadata": {}}],
            **properties,
        }  # fmt: skip


class Request:
    def __init__(self, handler):
        self.method = handler.command
        self.path = handler.path
        self.headers = handler.headers
        self.connection = handler.client_address
        self.token = handler.headers["X-Auth-Token"]
        self.body = b""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers["Range"] or "")
        self.range = (int(found[1]), int(found[2]) if found[2] else None) if found else None


# ---- what can be wrong: each is called with the handler, and the image if it is for data ----


class Status:
    """An answer with this status, and @text as its body."""

    def __init__(self, code, text="<html><body>some words</body></html>", **headers):
        self.code, self.text, self.headers = code, text, headers

    def __call__(self, handler, image):
        handler.send(self.code, self.text.encode(), **self.headers)


class Refuse(Status):
    """401 to requests without this token."""

    def __init__(self, token):
        super().__init__(401)
        self.good = token

    def __call__(self, handler, image):
        if handler.headers["X-Auth-Token"] == self.good:
            handler.answer(image)
        else:
            super().__call__(handler, image)


class Cut:
    """The right answer, of which only the first @count bytes come."""

    def __init__(self, count):
        self.count = count

    def __call__(self, handler, image):
        start, data = handler.begin(image)
        handler.wfile.write(data[: self.count])
        handler.hang_up()


class Silent:
    """The first @count bytes of the right answer, and then nothing until the client goes."""

    def __init__(self, count=None):
        self.count = count

    def __call__(self, handler, image):
        if self.count is not None:
            _, data = handler.begin(image)
            handler.wfile.write(data[: self.count])
        handler.wait_for_end()


class Drip:
    """The right answer in pieces of @size bytes, @pause seconds after one another."""

    def __init__(self, size, pause):
        self.size, self.pause = size, pause

    def __call__(self, handler, image):
        _, data = handler.begin(image)
        for start in range(0, len(data), self.size):
            handler.wfile.write(data[start : start + self.size])
            time.sleep(self.pause)


class Chunked:
    """The right answer in chunks, without a Content-Length; @surplus bytes behind it."""

    def __init__(self, surplus=0):
        self.surplus = surplus

    def __call__(self, handler, image):
        _, data = handler.begin(image, Content_Length=None, Transfer_Encoding="chunked")
        data += b"x" * self.surplus
        for start in range(0, len(data), 70000):
            piece = data[start : start + 70000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")


class Headers:
    """The right bytes under other headers; None leaves one out."""

    def __init__(self, code=206, **headers):
        self.code, self.headers = code, headers

    def __call__(self, handler, image):
        _, data = handler.begin(image, self.code, **self.headers)
        handler.wfile.write(data)


class Slowly:
    """The right answer, its head in three pieces and the first bytes alone."""

    def __call__(self, handler, image):
        start, data = handler.find(image)
        head = (
            "HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\n"
            "Content-Range: bytes %d-%d/%d\r\n\r\n"
            % (len(data), start, start + len(data) - 1, image.size)
        ).encode() + data[:10]
        for piece in (head[:20], head[20:60], head[60:], data[10:13]):
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(0.02)
        handler.wfile.write(data[13:])


class NoRange:
    """What Glance does with an image at an HTTP location: 400 to any Range."""

    def __call__(self, handler, image):
        if handler.headers["Range"]:
            handler.send(400, b"<html>Invalid range</html>")
        else:
            handler.answer(image)


class IgnoresRange:
    """All of the image, whatever is asked for."""

    def __call__(self, handler, image):
        handler.send(200, image.data)


class Other:
    """The answer of another image, which has come in its place."""

    def __init__(self, image):
        self.image = image

    def __call__(self, handler, image):
        handler.answer(self.image)


class Redirect:
    def __init__(self, url, code=302):
        self.url, self.code = url, code

    def __call__(self, handler, image):
        url = self.url(image) if callable(self.url) else self.url
        handler.send(self.code, b"", Location=url)


class Together:
    """No answer before @count requests have come."""

    def __init__(self, count):
        self.barrier = threading.Barrier(count)

    def __call__(self, handler, image):
        self.barrier.wait(LIMIT)
        handler.answer(image)


class After:
    """No answer before @event; then the right one."""

    def __init__(self, event):
        self.event = event

    def __call__(self, handler, image):
        assert self.event.wait(LIMIT)
        handler.answer(image)


class Do:
    """Call @what, then give the right answer."""

    def __init__(self, what):
        self.what = what

    def __call__(self, handler, image):
        self.what()
        handler.answer(image)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = LIMIT
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    @property
    def glance(self):
        return self.server.glance

    def do_GET(self):
        request = Request(self)
        self.glance.note(request)
        # A client that is a proxy's sends the whole URL.
        path = urlsplit(self.path)
        local = path.path.removeprefix(self.glance.prefix)
        found = re.fullmatch(r"/v2/images/([^/]+)/file", local)
        image = self.glance.images.get(found[1]) if found else None
        rule = self.glance.next_rule(bool(found))
        try:
            if rule and (image or not found):
                rule(self, image)
            elif found:
                self.answer(image)
            elif local == "/v2/images":
                self.answer_list(parse_qs(path.query))
            else:
                self.send(404, b"<html>not here</html>")
            self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError, TimeoutError, ssl.SSLError):
            self.close_connection = True

    def do_POST(self):
        request = Request(self)
        request.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.glance.note(request)
        rule = self.glance.next_login()
        if rule:
            rule(self, None)
            return
        self.glance.logins += 1
        answer = {"token": {"catalog": self.glance.catalog, "expires_at": "2036-01-01T00:00:00Z"}}
        self.send(201, json.dumps(answer).encode(),
                  X_Subject_Token="token-%d" % self.glance.logins)

    def send(self, code, data, **headers):
        self.send_response(code)
        for name, value in {"Content_Length": str(len(data)), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if code not in (204, 304):
            self.wfile.write(data)

    def find(self, image):
        """(start, bytes) that are asked for."""
        asked = Request(self).range
        if not asked:
            return 0, image.data
        end = image.size if asked[1] is None else asked[1] + 1
        return asked[0], image.data[asked[0] : end]

    def begin(self, image, code=206, **headers):
        """Send the head of the right answer, but for @headers.  Returns as find() does."""
        start, data = self.find(image)
        right = {"Content_Length": str(len(data))}
        if self.headers["Range"] and code == 206:
            right["Content_Range"] = "bytes %d-%d/%d" % (start, start + len(data) - 1, image.size)
        self.send_response(code if self.headers["Range"] else 200)
        for name, value in {**right, **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.flush()
        return start, data

    def answer(self, image):
        if not image:
            self.send(404, b"<html><head><title>404 Not Found</title></head><body>"
                           b"<h1>404 Not Found</h1>No image found</body></html>")
            return
        asked = Request(self).range
        if asked and asked[0] >= image.size:
            self.send(416, b"", Content_Range="bytes */%d" % image.size)
            return
        _, data = self.begin(image)
        self.wfile.write(data)

    def answer_list(self, query):
        """A page, with the path of the next one."""
        limit = min(int(query.get("limit", ["25"])[0]), self.glance.page)
        status = query.get("status", [None])[0]
        images = [image.properties for image in self.glance.images.values()
                  if status is None or image.properties["status"] == status]
        ids = [image["id"] for image in images]
        marker = query.get("marker", [None])[0]
        start = 0
        if marker:
            if marker not in ids:
                self.send(400, b"<html>no such marker</html>")
                return
            start = ids.index(marker) + 1
        page = {"images": images[start : start + limit], "first": "/v2/images"}
        if len(page["images"]) == limit:
            page["next"] = self.glance.next_path(
                "/v2/images?limit=%d&marker=%s" % (limit, ids[start + limit - 1])
                + ("&status=" + status if status else ""))
        self.send(200, json.dumps(page).encode(), Content_Type="application/json")

    def hang_up(self):
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def wait_for_end(self):
        """Wait until the client has closed the connection."""
        self.wfile.flush()
        self.close_connection = True
        self.glance.silent.release()
        while self.connection.recv(65536):
            pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        # Who has what it wants may go.
        if isinstance(sys.exc_info()[1], ConnectionError):
            return
        self.glance.errors.append(client_address)
        super().handle_error(request, client_address)


class FakeGlance:
    """@certificate: (certificate, key), the paths of PEM files, for TLS."""

    def __init__(self, certificate=None, prefix=""):
        self.prefix = prefix
        self.page = PAGE
        self.images = {}
        self.requests = []
        self.errors = []
        self.rules = []  # for the next requests for data
        self.list_rules = []  # for the next others
        self.login_rules = []
        self.standing = None  # for those after these, for data
        self.next_path = lambda path: path
        self.logins = 0
        self.silent = threading.Semaphore(0)
        self.lock = threading.Lock()
        self.server = Server((HOST, 0), Handler)
        self.server.glance = self
        self.scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True,
                                                     do_handshake_on_connect=False)
            self.scheme = "https"
        self.port = self.server.server_address[1]
        self.catalog = [{"type": "image", "endpoints": [
            {"interface": "internal", "region": "here", "region_id": "here",
             "url": "http://192.0.2.1:1/"},
            {"interface": "public", "region": "there", "region_id": "there",
             "url": "http://192.0.2.2:1/"},
            {"interface": "public", "region": "here", "region_id": "here",
             "url": self.url + "/v2/"},
        ]}]  # fmt: skip
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def url(self):
        return f"{self.scheme}://{HOST}:{self.port}{self.prefix}"

    @property
    def uri(self):
        return "glance+" + self.url + "/"

    def add(self, name, size=10000, **properties):
        image = Image(len(self.images) + 1, name, size, **properties)
        self.images[image.id] = image
        return image

    def wrong(self, *rules):
        """What is done with the next requests for data, one after the other."""
        self.rules += rules

    def wrong_list(self, *rules):
        self.list_rules += rules

    def wrong_login(self, *rules):
        self.login_rules += rules

    def always(self, rule):
        """What is done with all requests for data after those."""
        self.standing = rule

    def note(self, request):
        with self.lock:
            self.requests.append(request)

    def next_rule(self, for_data):
        with self.lock:
            rules = self.rules if for_data else self.list_rules
            if rules:
                return rules.pop(0)
            return self.standing if for_data else None

    def next_login(self):
        with self.lock:
            return self.login_rules.pop(0) if self.login_rules else None

    def data_requests(self):
        return [request for request in self.requests if request.path.endswith("/file")]

    def ranges(self):
        """What was asked of images, in order: (first, last), or None for all of one."""
        return [request.range for request in self.data_requests()]
