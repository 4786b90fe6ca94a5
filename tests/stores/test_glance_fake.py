# SPDX-License-Identifier: MIT
"""The glance store against a server that does wrong when told."""

import contextlib
import json
import os
import random
import subprocess
import threading
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies

import conformance
from fake_glance import (
    After, Chunked, Cut, Do, Drip, FakeGlance, Headers, IgnoresRange, NoRange, Other, Redirect,
    Refuse, Silent, Slowly, Status, Together,
)  # fmt: skip

SOURCE = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("IMAGEFS_BUILD", SOURCE / "build")).resolve()
PROGRAM = BUILD / "imagefs-store-glance"
LIMIT = 100
MIB = 1 << 20
USAGE, GONE, UNAVAILABLE, IO, AGAIN, DENIED = 64, 66, 69, 74, 75, 77
SECRET = "s3cr3t-of-the-user"

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="built without the glance store")


@pytest.fixture
def glance():
    with FakeGlance() as fake:
        yield fake
        assert fake.errors == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """(certificate, key) of 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=glance",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True, timeout=LIMIT)  # fmt: skip
    return cert, key


def environment(stall_ms=60000, **more):
    """The environment without what else would be found in it."""
    hidden = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
    clean = {name: value for name, value in os.environ.items()
             if not name.startswith("OS_") and name.lower() not in hidden}  # fmt: skip
    return {**clean, "IMAGEFS_STALL_MS": str(stall_ms), "LC_ALL": "C.UTF-8",
            "IMAGEFS_STORE_PROTOCOL": "1", **more}  # fmt: skip


def run(*arguments, stdin=b"", **variables):
    done = subprocess.run(
        [PROGRAM, *map(str, arguments)],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**variables),
        timeout=LIMIT,
        check=False,
    )
    assert SECRET.encode() not in done.stdout + done.stderr
    return done


def lines_of(asks):
    return "".join(f"{offset} {length}\n" for offset, length in asks).encode()


def read(glance, image, *asks, uri=None, **options):
    asks = asks or ((0, image.size),)
    return run("read", "--", uri or glance.uri, image.id, stdin=lines_of(asks), **options)


def reads_well(glance, image, *asks, **options):
    expected = b"".join(image.data[o : o + n] for o, n in asks or ((0, image.size),))
    done = read(glance, image, *asks, **options)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout) == len(expected)
    assert done.stdout == expected


def listed(glance, uri=None, **options):
    done = run("list", "--", uri or glance.uri, **options)
    assert (done.returncode, done.stderr) == (0, b"")
    return {image["name"]: image for image in map(json.loads, done.stdout.splitlines())}


def fails(done, status, *words):
    """The program failed with @status, and its last line says @words."""
    assert done.returncode == status, done.stderr
    last = done.stderr.decode().splitlines()[-1]
    for word in words:
        assert word in last


class Reader:
    """A reader that runs while the test does something."""

    def __init__(self, glance, image, **variables):
        self.process = subprocess.Popen(
            [PROGRAM, "read", "--", glance.uri, image.id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(**variables),
        )
        self.timer = threading.Timer(LIMIT, self.process.kill)
        self.timer.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.timer.cancel()
        self.process.kill()
        self.process.wait(LIMIT)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()

    def ask(self, *asks):
        self.process.stdin.write(lines_of(asks))
        self.process.stdin.flush()

    def take(self, count):
        return self.process.stdout.read(count)

    def end(self):
        """End of input: (exit status, what was said)."""
        self.process.stdin.close()
        rest = self.process.stdout.read()
        assert rest == b""
        said = self.process.stderr.read()
        return self.process.wait(LIMIT), said


# ---- the list ----


def test_all_pages_are_listed_with_what_is_known_of_each_image(glance):
    glance.page = 7
    images = [glance.add("image-%d" % i, size=i) for i in range(31)]
    found = listed(glance)
    assert len(found) == 31
    assert [request.path.split("?")[0] for request in glance.requests] == ["/v2/images"] * 5
    for image in images:
        entry = found[image.properties["name"]]
        assert (entry["id"], entry["size"]) == (image.id, image.size)
        assert entry["immutable"] is True
        assert entry["mtime"] == 1767323045  # 2026-01-02T03:04:05Z


def test_attributes_are_named_as_glance_names_them(glance):
    glance.add("alpha", checksum="c" * 32, os_hash_algo="sha512", os_hash_value="d" * 128,
               tags=["one", "two, three"], min_disk=3, virtual_size=None)
    attrs = listed(glance)["alpha"]["attrs"]
    assert attrs == {
        "disk_format": "raw", "container_format": "bare", "checksum": "c" * 32,
        "os_hash_algo": "sha512", "os_hash_value": "d" * 128, "visibility": "public",
        "owner": "somebody", "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-02-03T04:05:06Z", "min_disk": "3", "protected": "false",
        "os_hidden": "false", "tags": "one,two, three",
    }  # fmt: skip


def test_locations_which_may_have_passwords_are_not_shown(glance):
    glance.add("alpha")
    done = run("list", "--", glance.uri)
    assert b"alpha" in done.stdout and b"SECRET" not in done.stdout


def test_only_active_images_are_listed(glance):
    glance.add("active")
    for status in ("queued", "saving", "deactivated", "killed", "pending_delete"):
        glance.add(status, status=status)
    assert set(listed(glance)) == {"active"}
    # Also where the server takes no notice of the filter.
    for image in glance.images.values():
        image.properties["status"] = [image.properties["status"]]
    glance.images = {k: v for k, v in glance.images.items() if v.properties["name"] != "active"}
    glance.wrong_list(Status(200, json.dumps({"images": [
        {**image.properties, "status": image.properties["status"][0]}
        for image in glance.images.values()]})))
    assert listed(glance) == {}


def test_a_name_that_repeats_has_the_id_behind_it(glance):
    glance.page = 2
    same = [glance.add("same") for _ in range(3)]
    glance.add("other")
    assert set(listed(glance)) == {"other", *("same~" + image.id for image in same)}


def test_no_image_is_called_as_another_is_or_could_be_after_its_id(glance):
    one, other, alone = glance.add("same"), glance.add("same"), glance.add("alone")
    names = {one.id: "same~" + one.id, other.id: "same~" + other.id, alone.id: "alone"}
    for name in ("same~" + one.id, one.id, "alone~" + alone.id, "any~" + alone.id):
        borrower = glance.add(name)
        names[borrower.id] = name + "~" + borrower.id
    own = glance.add("x")
    own.properties["name"] = names[own.id] = "own~" + own.id
    names[glance.add("same~with more").id] = "same~with more"
    assert {image["id"]: name for name, image in listed(glance).items()} == names


def test_an_image_without_a_name_is_called_by_its_id(glance):
    images = [glance.add(None), glance.add("")]
    assert set(listed(glance)) == {image.id for image in images}


def test_a_name_with_a_nul_byte_has_another_character_there(glance):
    glance.add("a\0b")
    assert set(listed(glance)) == {"a\ufffdb"}


def test_an_image_of_0_bytes_is_listed_and_one_of_unknown_size_left_out(glance):
    glance.add("empty", size=0)
    unknown = glance.add("unknown")
    unknown.properties["size"] = None
    done = run("list", "--", glance.uri)
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    assert (json.loads(line)["name"], json.loads(line)["size"]) == ("empty", 0)
    assert unknown.id.encode() in done.stderr and b"size" in done.stderr


def test_an_id_that_cannot_be_one_is_left_out(glance):
    glance.add("good")
    for id in ("../../v2/tasks", "", "a b", "x?y", ".."):
        glance.add("bad" + id).properties["id"] = id
    done = run("list", "--", glance.uri)
    assert done.returncode == 0
    assert [json.loads(line)["name"] for line in done.stdout.splitlines()] == ["good"]


def test_no_images_are_an_empty_list(glance):
    assert listed(glance) == {}


def test_an_image_that_comes_twice_as_pages_move_is_listed_once(glance):
    glance.page = 2
    for i in range(6):
        glance.add("image-%d" % i)
    first, *rest = list(glance.images.values())
    glance.wrong_list(Status(200, json.dumps({
        "images": [first.properties, first.properties], "next": "/v2/images?marker=" + first.id})),
        Status(200, json.dumps({"images": [i.properties for i in (first, *rest)]})))
    assert len(listed(glance)) == 6


def test_a_list_whose_marker_is_gone_is_begun_again(glance):
    glance.page = 2
    images = [glance.add("image-%d" % i) for i in range(5)]

    def next_path(path):
        glance.images.pop(images[1].id, None)
        return path

    glance.next_path = next_path
    assert set(listed(glance)) == {"image-0", "image-2", "image-3", "image-4"}


def test_a_list_that_always_changes_is_given_up(glance):
    glance.page = 1
    glance.add("alpha")
    glance.next_path = lambda path: "/v2/images?limit=1&marker=gone"
    fails(run("list", "--", glance.uri), IO, "change")


@pytest.mark.parametrize("circle", [1, 2, 3, 7])
def test_pages_that_lead_in_a_circle_are_found_out(glance, circle):
    glance.add("alpha")
    pages = []

    def page(handler, image):
        pages.append(1)
        assert len(pages) < 100
        data = {"images": [i.properties for i in glance.images.values()],
                "next": "/v2/images?limit=1000&page=%d" % (len(pages) % circle)}
        handler.send(200, json.dumps(data).encode())

    glance.wrong_list(*[page] * 100)
    fails(run("list", "--", glance.uri), UNAVAILABLE, "next page")


def test_the_next_page_of_an_endpoint_with_a_prefix():
    for next_path in (lambda path: path, lambda path: "/image" + path):
        with FakeGlance(prefix="/image") as glance:
            glance.page = 2
            glance.next_path = next_path
            for i in range(5):
                glance.add("image-%d" % i)
            assert len(listed(glance)) == 5
            image = next(iter(glance.images.values()))
            reads_well(glance, image, uri=glance.uri + "v2/")


def test_a_next_page_of_another_host_is_not_asked_for_with_the_token(glance):
    with FakeGlance() as other:
        glance.page = 1
        glance.add("alpha")
        glance.next_path = lambda path: other.url + path
        fails(run("list", "--", glance.uri, OS_TOKEN=SECRET), UNAVAILABLE, "next page")
        assert other.requests == []
        glance.next_path = lambda path: glance.url + path
        assert set(listed(glance)) == {"alpha"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": 7}', "<html>a portal</html>"])
def test_what_is_no_list_is_said_not_to_be_one(glance, text):
    glance.wrong_list(Status(200, text))
    fails(run("list", "--", glance.uri), UNAVAILABLE, "not an answer of Glance")


def test_a_page_that_fails_is_tried_again(glance):
    glance.add("alpha")
    glance.wrong_list(Status(500), Status(502), Status(503))
    assert set(listed(glance)) == {"alpha"}


@pytest.mark.parametrize(
    "code, status",
    [(500, UNAVAILABLE), (502, UNAVAILABLE), (503, AGAIN), (413, AGAIN), (429, AGAIN),
     (401, DENIED), (403, DENIED), (404, UNAVAILABLE), (400, USAGE)],
)  # fmt: skip
def test_the_status_of_a_list_that_fails(glance, code, status):
    glance.add("alpha")
    glance.wrong_list(*[Status(code)] * 20)
    done = run("list", "--", glance.uri)
    fails(done, status, str(code))
    assert done.stdout == b""


def test_filters_are_handed_on(glance):
    glance.add("alpha")
    listed(glance, glance.uri + "?visibility=all&tag=a%20b&tag=c&os_hidden=true")
    assert glance.requests[0].path == (
        "/v2/images?limit=1000&status=active&visibility=all&tag=a%20b&tag=c&os_hidden=true")


@pytest.mark.parametrize(
    "uri",
    ["glance+http:", "glance+http:/x", "glance+ftp://host/", "glance+http://host/#x",
     "glance+http://host/?unknown=1", "glance+http://host/?env=relative", "glance://host/",
     "glance+http:///path", "glance+http://host/?env", "glance+http://ho st/",
     "glance+http://host/?name=%00"],
)  # fmt: skip
def test_a_uri_that_is_wrong_is_refused(uri):
    fails(run("list", "--", uri), USAGE, "URI")


def test_a_password_in_the_uri_is_refused_and_not_said():
    fails(run("list", "--", f"glance+http://user:{SECRET}@host/"), USAGE, "OS_PASSWORD")


def test_no_host_and_nothing_to_look_it_up_with_is_refused():
    fails(run("list", "--", "glance:///"), USAGE, "OS_ENDPOINT")


def test_nobody_listening_is_unavailable(glance):
    port = glance.port
    with FakeGlance() as other:
        port = other.port
    fails(run("list", "--", f"glance+http://127.0.0.1:{port}/"), UNAVAILABLE, str(port))


# ---- reading ----


def test_an_image_is_read_whole_and_in_parts(glance):
    image = glance.add("alpha", size=3 * MIB + 17)
    reads_well(glance, image)
    reads_well(glance, image, (5, 1), (0, 1), (3 * MIB, 17), (MIB - 3, MIB), (0, 3 * MIB + 17))


def test_an_image_that_is_not_there_is_gone(glance):
    image = glance.add("alpha")
    for id in ("00000000-0000-4000-8000-000000000000", "..", "a/b", "?x", "%2e%2e", "a#b", ""):
        fails(run("read", "--", glance.uri, id, stdin=b"0 1\n"), GONE)
    assert read(glance, image).returncode == 0


@hypothesis.settings(max_examples=25)
@hypothesis.given(data=strategies.data())
def test_any_asks_in_any_order_are_answered_in_theirs(data):
    size = data.draw(strategies.integers(1, 5 * MIB))
    with FakeGlance() as glance:
        image = glance.add("alpha", size=size)
        if data.draw(strategies.booleans()):
            glance.always(data.draw(strategies.sampled_from([NoRange(), Chunked(), Slowly()])))
        asks = []
        for _ in range(data.draw(strategies.integers(1, 12))):
            offset = data.draw(strategies.integers(0, size - 1))
            if asks and data.draw(strategies.booleans()):
                offset = min(sum(asks[-1]), size - 1)
            asks.append((offset, data.draw(strategies.integers(1, size - offset))))
        reads_well(glance, image, *asks)


def test_asks_one_by_one_that_run_on_are_few_requests(glance):
    image = glance.add("alpha", size=24 * MIB)
    with Reader(glance, image) as reader:
        at, length = 0, MIB
        while at < image.size:
            length = min(2 * length, image.size - at)
            reader.ask((at, length))
            assert reader.take(length) == image.data[at : at + length]
            at += length
        assert reader.end() == (0, b"")
    assert len(glance.requests) <= 3


def test_16_requests_are_under_way_at_once(glance):
    image = glance.add("alpha", size=MIB)
    glance.wrong(*[Together(16)] * 16)
    glance.rules = [glance.rules[0]] * 16
    reads_well(glance, image, *((4096 * i, 4096) for i in range(16)))


def test_answers_come_in_the_order_of_asking_whatever_comes_first(glance):
    image = glance.add("alpha", size=MIB)
    others = threading.Semaphore(0)

    def last(handler, image):
        for _ in range(9):
            assert others.acquire(timeout=LIMIT)
        handler.answer(image)

    def rule(handler, image):
        if handler.headers["Range"] == "bytes=0-99":
            last(handler, image)
        else:
            handler.answer(image)
            others.release()

    glance.always(rule)
    reads_well(glance, image, *((1000 * i, 100) for i in range(10)))


def test_connections_are_kept(glance):
    image = glance.add("alpha", size=MIB)
    numbers = random.Random(1)
    asks = [(numbers.randrange(MIB - 4096), 4096) for _ in range(300)]
    reads_well(glance, image, *asks)
    assert len(glance.requests) == 300
    assert len({request.connection for request in glance.requests}) <= 16


def test_an_answer_that_is_cut_goes_on_at_the_byte(glance):
    image = glance.add("alpha", size=100000)
    glance.wrong(Cut(1234), Cut(0), Cut(50000))
    reads_well(glance, image)
    assert glance.ranges() == [(0, 99999), (1234, 99999), (1234, 99999), (51234, 99999)]


def test_a_long_answer_that_is_cut_goes_on_at_the_byte(glance):
    image = glance.add("alpha", size=20 * MIB)
    glance.wrong(Cut(7 * MIB + 1), Cut(100), Cut(0), Cut(4 * MIB))
    reads_well(glance, image)
    assert [first for first, _ in glance.ranges()] == [
        0, 7 * MIB + 1, 7 * MIB + 101, 7 * MIB + 101, 11 * MIB + 101]


def test_an_answer_that_is_cut_again_and_again_without_a_byte_is_given_up(glance):
    image = glance.add("alpha", size=100000)
    glance.wrong(Cut(1234))
    glance.always(Cut(0))
    done = read(glance, image)
    fails(done, UNAVAILABLE, "/file")
    assert done.stdout == image.data[:1234]


def test_cuts_with_progress_between_are_never_too_many(glance):
    image = glance.add("alpha", size=12000)
    glance.wrong(*[Cut(1000)] * 11)
    reads_well(glance, image)


@pytest.mark.parametrize("size", [40000, 4 * MIB])
def test_a_drip_is_waited_for(glance, size):
    image = glance.add("alpha", size=size)
    glance.wrong(Drip(size // 40, 0.05))
    reads_well(glance, image, stall_ms=1000)
    assert len(glance.requests) == 1


@pytest.mark.parametrize("count", [None, 0, 1234])
@pytest.mark.parametrize("size", [100000, 3 * MIB])
def test_an_answer_that_stops_coming_is_asked_for_anew(glance, size, count):
    image = glance.add("alpha", size=size)
    glance.wrong(Silent(count))
    reads_well(glance, image, stall_ms=2000)
    assert glance.ranges()[-1] == (count or 0, size - 1)


def test_a_server_that_is_silent_is_unavailable_before_the_stall_limit(glance):
    image = glance.add("alpha", size=100000)
    glance.wrong(Cut(500), Silent(10))
    glance.always(Silent(0))
    done = read(glance, image, stall_ms=1500)
    fails(done, UNAVAILABLE, "nothing came")
    assert done.stdout == image.data[:510]


@pytest.mark.parametrize(
    "code, status, words",
    [(204, IO, "no data"), (404, GONE, "404"), (401, DENIED, "401"), (403, DENIED, "403"),
     (413, AGAIN, "413"), (429, AGAIN, "429"), (503, AGAIN, "503"), (500, UNAVAILABLE, "500"),
     (502, UNAVAILABLE, "502"), (504, UNAVAILABLE, "504"), (410, GONE, "410"),
     (416, GONE, "416"), (418, IO, "418"), (302, UNAVAILABLE, "302")],
)  # fmt: skip
def test_the_status_of_a_read_that_fails(glance, code, status, words):
    image = glance.add("alpha")
    glance.wrong(Cut(100))
    glance.always(Status(code))
    done = read(glance, image)
    fails(done, status, words)
    assert done.stdout == image.data[:100]


def test_what_the_server_says_is_passed_on(glance):
    image = glance.add("alpha")
    glance.always(Status(403, "<html><head><title>403 Forbidden</title></head><body>"
                              "<h1>403 Forbidden</h1>\nThe image is <b>deactivated</b>.<br /><br />"
                              "</body></html>"))
    fails(read(glance, image), DENIED, "403 Forbidden: The image is deactivated .")


@pytest.mark.parametrize("code", [500, 502, 503, 504, 413, 429, 204])
def test_a_failure_that_passes_is_survived(glance, code):
    image = glance.add("alpha", size=100000)
    glance.wrong(Cut(10), Status(code), Status(code))
    reads_well(glance, image)


def test_retry_after_is_kept_to(glance):
    image = glance.add("alpha")
    glance.wrong(Status(503, Retry_After="1"))
    reads_well(glance, image)
    assert len(glance.requests) == 2


def test_a_retry_after_beyond_the_stall_limit_is_not_waited_for(glance):
    image = glance.add("alpha")
    glance.wrong(Status(503, Retry_After="3600"))
    fails(read(glance, image), AGAIN, "503")
    assert len(glance.requests) == 1


def test_a_failure_further_on_does_not_hold_up_what_comes_before(glance):
    image = glance.add("alpha", size=MIB)

    def rule(handler, image):
        if handler.headers["Range"] == "bytes=5000-5099":
            handler.send(404, b"")
        else:
            handler.answer(image)

    glance.always(rule)
    done = read(glance, image, (0, 100), (1000, 100), (5000, 100), (0, 100))
    fails(done, GONE, "404")
    assert done.stdout == image.data[:100] + image.data[1000:1100]


@pytest.mark.parametrize(
    "content_range",
    [None, "bytes 1-9999/10000", "bytes 0-10000/10001", "bytes 5-3/10000", "items 0-1/2", "bytes"],
)
def test_an_answer_with_other_bytes_is_never_passed_on(glance, content_range):
    image = glance.add("alpha")
    glance.always(Headers(Content_Range=content_range))
    done = read(glance, image)
    fails(done, IO, "bytes")
    assert done.stdout == b""


def test_a_shorter_part_than_was_asked_for_is_taken_and_the_rest_asked_for(glance):
    image = glance.add("alpha", size=10000)

    def part(handler, image):
        first, last = handler.headers["Range"].split("=")[1].split("-")
        last = min(int(last), int(first) + 2999)
        data = image.data[int(first) : last + 1]
        handler.send(206, data, Content_Range="bytes %s-%d/%d" % (first, last, image.size))

    glance.always(part)
    reads_well(glance, image)
    assert [first for first, _ in glance.ranges()] == [0, 3000, 6000, 9000]


def test_an_image_of_another_size_is_another_version(glance):
    image, other = glance.add("alpha", size=50000), glance.add("beta", size=60000)
    glance.wrong(Cut(1000))
    glance.always(Other(other))
    done = read(glance, image)
    fails(done, GONE, "changed")
    assert done.stdout == image.data[:1000]


def test_an_image_with_another_checksum_is_another_version(glance):
    image = glance.add("alpha", size=50000)
    glance.wrong(Headers(Content_MD5="a" * 32), Headers(Content_MD5="b" * 32))
    done = read(glance, image, (0, 10), (4000, 10))
    fails(done, GONE, "checksum")


@pytest.mark.parametrize("size", [50000, 5 * MIB])
def test_bytes_that_nobody_asked_for_are_not_passed_on(glance, size):
    image = glance.add("alpha", size=size)
    glance.always(Chunked(surplus=3))
    done = read(glance, image, (0, size - 10))
    fails(done, IO, "more than")
    assert done.stdout == image.data[: len(done.stdout)]


def test_a_compressed_answer_is_refused(glance):
    image = glance.add("alpha")
    glance.always(Headers(Content_Encoding="gzip"))
    done = read(glance, image)
    fails(done, IO, "compressed")
    assert done.stdout == b""


@pytest.mark.parametrize("rule", [Chunked(), Slowly(), Headers(Connection="close")])
@pytest.mark.parametrize("size", [50000, 5 * MIB])
def test_answers_in_other_forms_are_right_as_well(glance, rule, size):
    image = glance.add("alpha", size=size)
    glance.always(rule)
    reads_well(glance, image)
    reads_well(glance, image, (0, size // 2), (size // 2, size // 4), (1, 1))


@pytest.mark.parametrize("rule", [NoRange(), IgnoresRange()])
def test_without_ranges_the_image_is_read_from_its_start(glance, rule):
    image = glance.add("alpha", size=6 * MIB)
    glance.always(rule)
    reads_well(glance, image)
    reads_well(glance, image, (0, 100), (100, 100), (5 * MIB, MIB))
    reads_well(glance, image, (5 * MIB, 10), (0, 10), (5 * MIB + 10, 10), (0, 6 * MIB), (7, 7))


def test_without_ranges_what_lies_ahead_is_one_request(glance):
    image = glance.add("alpha", size=6 * MIB)
    glance.always(NoRange())
    reads_well(glance, image, *((i * 100000, 1000) for i in range(60)))
    assert glance.ranges().count(None) == 1


def test_without_ranges_asks_one_by_one_go_on_in_one_request(glance):
    image = glance.add("alpha", size=6 * MIB)
    glance.always(NoRange())
    with Reader(glance, image) as reader:
        for at in range(0, image.size, MIB):
            reader.ask((at, MIB))
            assert reader.take(MIB) == image.data[at : at + MIB]
        reader.ask((10, 10))
        assert reader.take(10) == image.data[10:20]
        assert reader.end() == (0, b"")
    assert glance.ranges().count(None) == 2


def test_without_ranges_a_cut_is_survived(glance):
    image = glance.add("alpha", size=6 * MIB)
    glance.wrong(NoRange(), Cut(3 * MIB), Cut(100))
    glance.always(NoRange())
    reads_well(glance, image, (0, 10), (MIB, 5 * MIB))


def test_without_ranges_an_image_that_ends_early_is_gone(glance):
    image, other = glance.add("alpha", size=60000), glance.add("beta", size=50000)
    glance.always(IgnoresRange())
    glance.wrong(NoRange())
    glance.standing = lambda handler, image: IgnoresRange()(handler, other)
    fails(read(glance, image, (0, 60000)), GONE)


# ---- redirections, TLS, proxies ----


def test_a_redirection_to_the_same_host_is_followed_with_the_token(glance):
    image = glance.add("alpha", size=3 * MIB)
    glance.prefix = ""
    glance.wrong(Redirect(lambda image: f"/v2/images/{image.id}/file?moved=1"))

    def rule(handler, image):
        assert handler.headers["X-Auth-Token"] == SECRET
        handler.answer(image)

    glance.always(rule)
    reads_well(glance, image, OS_TOKEN=SECRET)
    assert [request.token for request in glance.requests] == [SECRET, SECRET]


def test_a_redirection_to_another_host_is_followed_without_the_token(glance):
    with FakeGlance() as other:
        image, same = glance.add("alpha", size=3 * MIB), other.add("alpha", size=3 * MIB)
        assert image.data == same.data
        glance.always(Redirect(lambda image: f"{other.url}/v2/images/{image.id}/file"))
        reads_well(glance, image, OS_TOKEN=SECRET)
        assert [request.token for request in other.requests] == [None]
        assert {request.token for request in glance.requests} == {SECRET}
        # And the list.
        glance.wrong_list(Redirect(f"{other.url}/v2/images"))
        assert set(listed(glance, OS_TOKEN=SECRET)) == {"alpha"}
        assert other.requests[-1].token is None


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "https://127.0.0.1/"])
def test_a_redirection_to_another_scheme_is_not_followed(glance, url):
    image = glance.add("alpha")
    glance.always(Redirect(url))
    done = read(glance, image)
    fails(done, UNAVAILABLE, "redirected")
    assert done.stdout == b""


def test_redirections_in_a_circle_end(glance):
    image = glance.add("alpha")
    glance.always(Redirect(lambda image: f"/v2/images/{image.id}/file"))
    fails(read(glance, image), UNAVAILABLE, "redirected")
    glance.wrong_list(*[Redirect("/v2/images")] * 100)
    fails(run("list", "--", glance.uri), IO, "302")


def test_with_tls_the_certificate_has_to_be_known(certificate):
    with FakeGlance(certificate=certificate) as glance:
        image = glance.add("alpha", size=5 * MIB)
        fails(run("list", "--", glance.uri), UNAVAILABLE, "certificate")
        fails(read(glance, image), UNAVAILABLE, "certificate")
        assert glance.requests == []
        ca = str(certificate[0])
        assert set(listed(glance, OS_CACERT=ca)) == {"alpha"}
        reads_well(glance, image, OS_CACERT=ca)
        reads_well(glance, image, *((i * 4096, 4096) for i in range(100)), OS_CACERT=ca)


def test_with_tls_the_name_has_to_be_that_of_the_certificate(certificate):
    with FakeGlance(certificate=certificate) as glance:
        glance.add("alpha")
        uri = f"glance+https://localhost:{glance.port}/"
        fails(run("list", "--", uri, OS_CACERT=str(certificate[0])), UNAVAILABLE, "name")


def test_a_file_of_certificates_that_is_not_there_is_said(certificate):
    with FakeGlance(certificate=certificate) as glance:
        fails(run("list", "--", glance.uri, OS_CACERT="/nowhere/ca.pem"), UNAVAILABLE, "ca.pem")


def test_tls_is_not_given_up_for_a_redirection_or_a_catalog(glance, certificate):
    with FakeGlance(certificate=certificate) as safe:
        image = safe.add("alpha")
        ca = str(certificate[0])
        safe.always(Redirect(f"{glance.url}/v2/images/{image.id}/file"))
        fails(read(safe, image, OS_CACERT=ca), UNAVAILABLE, "redirected")
        assert glance.requests == []
    fails(run("list", "--", "glance+https:///", OS_ENDPOINT=glance.url), USAGE, "TLS")


def test_a_proxy_is_used_as_the_variables_say(glance):
    with FakeGlance() as proxy:
        image, same = glance.add("alpha", size=5 * MIB), proxy.add("alpha", size=5 * MIB)
        variables = {"http_proxy": proxy.url}
        assert set(listed(glance, **variables)) == {"alpha"}
        reads_well(glance, image, **variables)
        assert glance.requests == []
        assert all(r.path.startswith(glance.url) for r in proxy.requests)
        proxy.requests.clear()
        reads_well(glance, image, no_proxy="127.0.0.1", **variables)
        assert proxy.requests == []
        assert same.data == image.data


# ---- logging in ----


def login(glance, **more):
    return {"OS_AUTH_URL": glance.url, "OS_USERNAME": "reader", "OS_PASSWORD": SECRET,
            "OS_PROJECT_NAME": "images", **more}  # fmt: skip


def test_a_token_is_sent_as_it_is(glance):
    glance.add("alpha")
    assert set(listed(glance, OS_TOKEN=SECRET)) == {"alpha"}
    assert [request.token for request in glance.requests] == [SECRET]


def test_a_password_is_sent_to_keystone_and_its_token_to_glance(glance):
    image = glance.add("alpha")
    assert set(listed(glance, **login(glance))) == {"alpha"}
    assert [request.path for request in glance.requests][0] == "/v3/auth/tokens"
    assert json.loads(glance.requests[0].body) == {"auth": {
        "identity": {"methods": ["password"], "password": {"user": {
            "name": "reader", "password": SECRET, "domain": {"id": "default"}}}},
        "scope": {"project": {"name": "images", "domain": {"id": "default"}}}}}
    assert glance.requests[1].token == "token-1"
    reads_well(glance, image, **login(glance))


@pytest.mark.parametrize("path", ["", "/", "/v3", "/v3/", "/v2.0"])
def test_the_url_of_keystone_has_its_version_or_not(glance, path):
    glance.add("alpha")
    assert listed(glance, **login(glance, OS_AUTH_URL=glance.url + path))
    assert glance.requests[0].path == "/v3/auth/tokens"


@pytest.mark.parametrize(
    "variables, auth",
    [
        ({"OS_USER_ID": "u1", "OS_PASSWORD": SECRET, "OS_PROJECT_ID": "p1"},
         {"identity": {"methods": ["password"], "password": {"user": {
             "id": "u1", "password": SECRET}}}, "scope": {"project": {"id": "p1"}}}),
        ({"OS_USERNAME": "u", "OS_PASSWORD": SECRET, "OS_USER_DOMAIN_NAME": "ud",
          "OS_PROJECT_NAME": "p", "OS_PROJECT_DOMAIN_ID": "pd"},
         {"identity": {"methods": ["password"], "password": {"user": {
             "name": "u", "password": SECRET, "domain": {"name": "ud"}}}},
          "scope": {"project": {"name": "p", "domain": {"id": "pd"}}}}),
        ({"OS_USERNAME": "u", "OS_PASSWORD": SECRET, "OS_TENANT_NAME": "t"},
         {"identity": {"methods": ["password"], "password": {"user": {
             "name": "u", "password": SECRET, "domain": {"id": "default"}}}},
          "scope": {"project": {"name": "t", "domain": {"id": "default"}}}}),
        ({"OS_USERNAME": "u", "OS_PASSWORD": SECRET, "OS_DOMAIN_NAME": "d"},
         {"identity": {"methods": ["password"], "password": {"user": {
             "name": "u", "password": SECRET, "domain": {"id": "default"}}}},
          "scope": {"domain": {"name": "d"}}}),
        ({"OS_USERNAME": "u", "OS_PASSWORD": SECRET, "OS_SYSTEM_SCOPE": "all"},
         {"identity": {"methods": ["password"], "password": {"user": {
             "name": "u", "password": SECRET, "domain": {"id": "default"}}}},
          "scope": {"system": {"all": True}}}),
        ({"OS_APPLICATION_CREDENTIAL_ID": "a1", "OS_APPLICATION_CREDENTIAL_SECRET": SECRET},
         {"identity": {"methods": ["application_credential"], "application_credential": {
             "id": "a1", "secret": SECRET}}}),
        ({"OS_APPLICATION_CREDENTIAL_NAME": "a", "OS_APPLICATION_CREDENTIAL_SECRET": SECRET,
          "OS_USERNAME": "u", "OS_USER_DOMAIN_ID": "ud", "OS_PROJECT_NAME": "not sent"},
         {"identity": {"methods": ["application_credential"], "application_credential": {
             "name": "a", "secret": SECRET, "user": {"name": "u", "domain": {"id": "ud"}}}}}),
        ({"OS_AUTH_TYPE": "v3password", "OS_USERNAME": "u", "OS_PASSWORD": SECRET,
          "OS_APPLICATION_CREDENTIAL_SECRET": "not meant"},
         {"identity": {"methods": ["password"], "password": {"user": {
             "name": "u", "password": SECRET, "domain": {"id": "default"}}}}}),
    ],
)  # fmt: skip
def test_the_ways_to_log_in(glance, variables, auth):
    glance.add("alpha")
    assert listed(glance, OS_AUTH_URL=glance.url, **variables)
    assert json.loads(glance.requests[0].body) == {"auth": auth}


@pytest.mark.parametrize(
    "variables, missing",
    [
        ({"OS_USERNAME": "u", "OS_AUTH_URL": "http://127.0.0.1:1"}, "OS_PASSWORD"),
        ({"OS_USERNAME": "u", "OS_PASSWORD": SECRET}, "OS_AUTH_URL"),
        ({"OS_AUTH_TYPE": "password", "OS_AUTH_URL": "http://127.0.0.1:1"}, "OS_USERNAME"),
        ({"OS_AUTH_TYPE": "token"}, "OS_TOKEN"),
        ({"OS_AUTH_TYPE": "kerberos"}, "OS_AUTH_TYPE"),
        ({"OS_APPLICATION_CREDENTIAL_SECRET": SECRET, "OS_AUTH_URL": "http://127.0.0.1:1"},
         "OS_APPLICATION_CREDENTIAL_ID"),
        ({"OS_APPLICATION_CREDENTIAL_SECRET": SECRET, "OS_AUTH_URL": "http://127.0.0.1:1",
          "OS_APPLICATION_CREDENTIAL_NAME": "a"}, "OS_USERNAME"),
        ({"OS_USERNAME": "u", "OS_PASSWORD": SECRET, "OS_AUTH_URL": "keystone:5000"},
         "OS_AUTH_URL"),
        ({"OS_USERNAME": "u", "OS_PASSWORD": SECRET, "OS_AUTH_URL": f"http://u:{SECRET}@h/"},
         "OS_AUTH_URL"),
    ],
)  # fmt: skip
def test_a_variable_that_is_missing_or_wrong_is_named(glance, variables, missing):
    fails(run("list", "--", glance.uri, **variables), USAGE, missing)
    assert glance.requests == []


def test_no_login_where_that_is_said(glance):
    glance.add("alpha")
    assert listed(glance, **login(glance, OS_AUTH_TYPE="none"))
    assert [request.token for request in glance.requests] == [None]


@pytest.mark.parametrize("variables", [{"OS_INTERFACE": "public"}, {"OS_INTERFACE": "publicURL"},
                                       {"OS_ENDPOINT_TYPE": "publicURL"}, {}])  # fmt: skip
def test_the_endpoint_is_that_of_the_catalog(glance, variables):
    image = glance.add("alpha")
    variables = login(glance, OS_REGION_NAME="here", **variables)
    for uri in ("glance:///", "glance+http:///", "glance+http://", "glance://"):
        assert set(listed(glance, uri, **variables)) == {"alpha"}
        reads_well(glance, image, uri=uri, **variables)


def test_a_catalog_without_such_an_endpoint_is_said(glance):
    done = run("list", "--", "glance:///", **login(glance, OS_INTERFACE="admin"))
    fails(done, USAGE, "admin")
    done = run("list", "--", "glance:///", **login(glance, OS_REGION_NAME="mars"))
    fails(done, USAGE, "mars")
    glance.catalog = []
    fails(run("list", "--", "glance:///", **login(glance)), USAGE, "OS_PROJECT_NAME")


def test_the_endpoint_can_be_given(glance):
    glance.add("alpha")
    assert listed(glance, "glance:///", OS_ENDPOINT=glance.url + "/v2")
    assert listed(glance, "glance:///", OS_ENDPOINT=glance.url, OS_TOKEN=SECRET)
    assert glance.requests[-1].token == SECRET


def test_a_password_that_is_wrong_is_no_permission(glance):
    glance.wrong_login(Status(401, '{"error": {"message": "requires authentication"}}'))
    fails(run("list", "--", glance.uri, **login(glance)), DENIED, "cannot log in", "401")


def test_a_keystone_that_fails_is_tried_again(glance):
    glance.add("alpha")
    glance.wrong_login(Status(503), Status(500))
    assert listed(glance, **login(glance))


@pytest.mark.parametrize(
    "rule, status", [(Status(500), UNAVAILABLE), (Status(503), AGAIN), (Status(404), UNAVAILABLE),
                     (Status(200, "{}"), UNAVAILABLE), (Status(302, Location="/x"), IO)])  # fmt: skip
def test_a_keystone_that_fails_for_good_is_said(glance, rule, status):
    glance.wrong_login(*[rule] * 20)
    fails(run("list", "--", glance.uri, **login(glance)), status, "cannot log in")
    assert {request.path for request in glance.requests} == {"/v3/auth/tokens"}


def test_a_keystone_that_is_silent_ends_before_the_stall_limit(glance):
    glance.wrong_login(*[Silent()] * 9)
    fails(run("list", "--", glance.uri, stall_ms=1500, **login(glance)), UNAVAILABLE, "log in")


@pytest.mark.parametrize("size", [100000, 4 * MIB])
def test_a_token_that_ends_in_the_middle_of_a_copy_is_renewed(glance, size):
    image = glance.add("alpha", size=size)
    glance.wrong(Refuse("token-1"), Refuse("token-1"))
    glance.always(Refuse("token-2"))
    glance.rules[1] = Cut(5)  # whichever of the two it is
    reads_well(glance, image, (0, 10), (10, size - 10), **login(glance))
    assert glance.logins == 2


def test_many_requests_with_a_token_that_has_ended_are_one_login(glance):
    image = glance.add("alpha", size=MIB)
    glance.wrong(Refuse("token-1"))
    glance.always(Refuse("token-2"))
    with Reader(glance, image, **login(glance)) as reader:
        reader.ask((0, 10))
        assert reader.take(10) == image.data[:10]
        asks = [(i * 1000, 100) for i in range(30)]
        reader.ask(*asks)
        for offset, length in asks:
            assert reader.take(length) == image.data[offset : offset + length]
        assert reader.end() == (0, b"")
    assert glance.logins == 2


def test_a_token_that_is_never_taken_is_no_permission(glance):
    image = glance.add("alpha")
    glance.always(Refuse("another"))
    fails(read(glance, image, **login(glance)), DENIED, "401")
    assert glance.logins == 2
    fails(read(glance, image, OS_TOKEN=SECRET), DENIED, "401")
    fails(read(glance, image), DENIED, "OS_USERNAME")


def test_a_token_that_ends_while_listing_is_renewed(glance):
    glance.page = 2
    for i in range(5):
        glance.add("image-%d" % i)

    def first(handler, image):
        handler.answer_list({"limit": ["2"], "status": ["active"]})

    glance.wrong_list(first, Status(401))
    assert len(listed(glance, **login(glance))) == 5
    assert [r.token for r in glance.requests if r.method == "GET"] == [
        "token-1", "token-1", "token-2", "token-2"]


# ---- the file of variables ----


def write_env(folder, text):
    path = folder / "glance.env"
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    "line, token",
    [
        ("OS_TOKEN=plain", "plain"),
        ("export OS_TOKEN=plain", "plain"),
        ("  export\tOS_TOKEN='single quotes'  # comment", "single quotes"),
        ('OS_TOKEN="double \\"quotes\\" \\$HOME \\\\ \\x"', 'double "quotes" $HOME \\ \\x'),
        ("OS_TOKEN='$HOME `id` \\n \"'", '$HOME `id` \\n "'),
        ("OS_TOKEN=a\\ b\\$c", "a b$c"),
        ("OS_TOKEN=a'b c'\"d\"e#f", "ab cde#f"),
        ("OS_TOKEN=a=b==", "a=b=="),
        ("OS_TOKEN=first\nOS_TOKEN=second", "second"),
        ("# OS_TOKEN=no\n\nunset OS_TENANT_ID\nOS_TOKEN=yes\r", "yes"),
        ("OS_TOKEN=last-line", "last-line"),
    ],
)
def test_the_lines_of_a_file_of_variables(glance, tmp_path, line, token):
    glance.add("alpha")
    path = write_env(tmp_path, line)
    assert listed(glance, f"{glance.uri}?env={path}")
    assert glance.requests[0].token == token


@pytest.mark.parametrize(
    "line",
    ["OS_TOKEN", "OS_TOKEN=a b", "OS_TOKEN='a", 'OS_TOKEN="a', "OS_TOKEN=$A", 'OS_TOKEN="`id`"',
     "read -sr OS_PASSWORD", "1=2", "OS_TOKEN=a;id", "if [ -z x ]; then", "=x",
     "OS_TOKEN = x"],
)  # fmt: skip
def test_a_line_that_is_wrong_is_named_and_not_shown(glance, tmp_path, line):
    path = write_env(tmp_path, f"OS_USERNAME=u\n{line}\nOS_PASSWORD={SECRET}\n")
    done = run("list", "--", f"{glance.uri}?env={path}")
    fails(done, USAGE, "line 2")
    assert glance.requests == []


def test_only_the_file_counts(glance, tmp_path):
    glance.add("alpha")
    path = write_env(tmp_path, "# nothing\n")
    assert listed(glance, f"{glance.uri}?env={path}", OS_TOKEN=SECRET)
    assert glance.requests[0].token is None


def test_a_file_that_is_not_there_or_not_to_be_read(glance, tmp_path):
    fails(run("list", "--", f"{glance.uri}?env=/nowhere/x"), USAGE, "/nowhere/x")


def test_a_token_that_was_renewed_in_the_file_is_used(glance, tmp_path):
    image = glance.add("alpha", size=100000)
    path = write_env(tmp_path, "OS_TOKEN=old")

    def renew(handler, image):
        write_env(tmp_path, "OS_TOKEN=new")
        handler.send(401, b"")

    glance.wrong(Cut(100), renew)
    glance.always(Refuse("new"))
    reads_well(glance, image, uri=f"{glance.uri}?env={path}")


def test_the_file_with_a_login_is_enough(glance, tmp_path):
    image = glance.add("alpha")
    lines = "".join(f"export {name}='{value}'\n" for name, value in login(glance).items())
    path = write_env(tmp_path, lines + "OS_REGION_NAME=here\n")
    uri = f"glance:///?env={path}"
    assert set(listed(glance, uri)) == {"alpha"}
    reads_well(glance, image, uri=uri)


# ---- the rules of the protocol ----


@pytest.mark.parametrize("rule", [None, NoRange(), Chunked()])
def test_all_rules_of_the_protocol_are_kept(glance, rule):
    glance.add("alpha", size=3 * MIB + 5)
    glance.add("empty", size=0)
    glance.add("small", size=100)
    glance.add("same", size=5000)
    glance.add("same", size=6000)
    glance.always(rule)
    found = [(name, verdict, why) for name, _, verdict, why in
             conformance.check(str(PROGRAM), glance.uri, limit=20) if verdict == "wrong"]
    assert found == []


def test_nothing_is_left_running_when_nobody_reads(glance):
    image = glance.add("alpha", size=30 * MIB)
    with Reader(glance, image) as reader:
        reader.ask((0, image.size))
        assert reader.take(1000) == image.data[:1000]
        reader.process.stdout.close()
        assert reader.process.wait(LIMIT) == 0


def test_who_reads_slowly_is_waited_for(glance):
    """However short the stall limit is: the store has done its part."""
    image = glance.add("alpha", size=20 * MIB)
    with Reader(glance, image, stall_ms=500) as reader:
        reader.ask((0, image.size))
        read = b""
        while len(read) < image.size:
            with contextlib.suppress(subprocess.TimeoutExpired):
                reader.process.wait(0.3)
            assert reader.process.poll() is None, reader.process.stderr.read()
            read += reader.take(min(4 * MIB, image.size - len(read)))
        assert read == image.data
        assert reader.end() == (0, b"")


def test_an_answer_that_waits_does_not_keep_the_next_from_being_asked_for(glance):
    image = glance.add("alpha", size=MIB)
    event = threading.Event()
    glance.wrong(After(event), Do(event.set))
    with Reader(glance, image) as reader:
        reader.ask((0, 100))
        reader.ask((1000, 100))
        assert reader.take(200) == image.data[:100] + image.data[1000:1100]
        assert reader.end() == (0, b"")
