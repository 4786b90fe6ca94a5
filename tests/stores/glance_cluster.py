#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A real Glance on this machine, and a real Keystone, for tests and benchmarks.

    with Glance() as glance:
        id = glance.upload("alpha", b"the bytes")
        glance.register("beta", "/mnt/beta.raw")

    with Keystone() as keystone, Glance(keystone=keystone) as glance:
        os.environ.update(keystone.environment())

Debian's glance-api and keystone with SQLite, each with a folder and a port of loopback of its
own; nothing of the system's own configuration is used, and nothing is left at the end.

As a program it runs a command beside a Glance, and ends with its exit status:

    glance_cluster.py [--keystone] [--workers N] [--upload FILE]... COMMAND [ARGUMENT ...]

The command finds the API in GLANCE, and with --keystone what is needed to log in in OS_*.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from sheepdog_cluster import find, free_port

HOST = "127.0.0.1"
LIMIT = 60  # seconds that any one step may take
PYTHON = "/usr/bin/python3"  # Debian's, that its packages are for
TRIES = 5
PIECE = 1 << 20


def missing(*programs):
    """What keeps a Glance (or the programs that are named) from running here, or None."""
    for program in programs or ("glance-api", "glance-manage"):
        if not find(program):
            return f"no {program} on PATH"
    return None


def missing_keystone():
    return missing("keystone-manage", "keystone-wsgi-public")


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, method, url, status, text):
        super().__init__(f"{method} {url}: {status} {text}")
        self.status = status


# Whatever proxy this machine has is not for 127.0.0.1.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def request(method, url, data=None, token=None, **headers):
    """One HTTP request: the answer with its body read, for .status, .headers and .data."""
    if isinstance(data, (dict, list)):
        headers.setdefault("Content_Type", "application/json")
        data = json.dumps(data).encode()
    if token:
        headers["X_Auth_Token"] = token
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    asked = urllib.request.Request(url, data=data, method=method, headers=headers)
    try:
        with _opener.open(asked, timeout=LIMIT) as answer:
            answer.data = answer.read()
            return answer
    except urllib.error.HTTPError as error:
        with error:
            raise Refused(method, url, error.code, error.read()[:500]) from None


def hashes(path):
    """(size, md5, sha512) of a file."""
    md5, sha512, size = hashlib.md5(), hashlib.sha512(), 0
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            md5.update(piece)
            sha512.update(piece)
            size += len(piece)
    return size, md5.hexdigest(), sha512.hexdigest()


class Server:
    """A process that serves HTTP on a port of its own, from a folder of its own."""

    name = ""

    def __init__(self, folder=None):
        parent = folder or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        self.folder = Path(tempfile.mkdtemp(prefix=self.name + ".", dir=parent))
        self.port = None
        self.process = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def url(self):
        return f"http://{HOST}:{self.port}"

    def start(self):
        self.prepare()
        for _ in range(TRIES):
            self.port = free_port()
            self.configure()
            if self.launch():
                self.set_up()
                return
        raise RuntimeError(f"{self.name} does not start:\n{self.log()}")

    def stop(self):
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def prepare(self):
        """What has to be there before the first start."""

    def configure(self):
        """Write what depends on the port."""

    def set_up(self):
        """What is done once it runs."""

    def command(self):
        raise NotImplementedError

    def health(self):
        return self.url + "/healthcheck"

    def environment_of_server(self):
        # PYTHONPATH may lead to the packages of another Python.
        hidden = ("PYTHONPATH", "PYTHONHOME")
        return {k: v for k, v in os.environ.items() if k not in hidden and k[:3] != "OS_"}

    def launch(self):
        """Start the server on its port.  Returns whether it serves: somebody may have it."""
        with open(self.folder / "output", "ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment_of_server(),
                cwd=self.folder,
                start_new_session=True,
            )
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError, Refused):
                request("GET", self.health())
                return True
            time.sleep(0.05)
        self.end()
        return False

    def end(self, sign=signal.SIGTERM):
        """End the server and all of its workers."""
        process, self.process = self.process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(LIMIT)

    def restart(self):
        """Start it again, with its port and what it has stored."""
        self.end()
        if not self.launch():
            raise RuntimeError(f"{self.name} does not start again:\n{self.log()}")

    def manage(self, program, *arguments):
        done = subprocess.run(
            [PYTHON, find(program), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment_of_server(),
            cwd=self.folder,
            timeout=LIMIT,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{done.args} exited {done.returncode}: {done.stdout!r}")

    def log(self):
        """What it wrote: for the message of a test that failed."""
        path = self.folder / "output"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""


# As keystone-wsgi-public, which looks up the names of clients besides.
KEYSTONE_SERVER = """
import sys, wsgiref.simple_server as simple
from keystone.server.wsgi import initialize_public_application
port = int(sys.argv.pop())
class Handler(simple.WSGIRequestHandler):
    def log_message(self, *arguments): pass
    def address_string(self): return self.client_address[0]
simple.make_server("127.0.0.1", port, initialize_public_application(),
                   handler_class=Handler).serve_forever()
"""


class Keystone(Server):
    """Users of the domain "default": admin, and reader of the project "images".

    What is written in the catalog for Glance is said with set_image_endpoint().
    """

    name = "keystone"
    admin_password = "admin-secret"
    password = "pass word's \"secret\" $HOME #1"

    def prepare(self):
        (self.folder / "credential").mkdir(mode=0o700)
        (self.folder / "fernet").mkdir(mode=0o700)
        for number in "01":  # the next key and the one that is used
            self.write_key(self.folder / "fernet" / number)
        self.configure()
        conf = ("--config-file", self.folder / "keystone.conf")
        self.manage("keystone-manage", *conf, "db_sync")
        self.manage("keystone-manage", *conf, "bootstrap", "--bootstrap-password",
                    self.admin_password, "--bootstrap-region-id", "here")
        # Keystone leaves cursors open, which else lock out what is written.
        with contextlib.closing(sqlite3.connect(self.folder / "keystone.sqlite")) as database:
            database.execute("PRAGMA journal_mode = WAL")

    def configure(self):
        (self.folder / "keystone.conf").write_text(f"""\
[DEFAULT]
log_file = {self.folder}/output
use_stderr = false
[database]
connection = sqlite:///{self.folder}/keystone.sqlite
[fernet_tokens]
key_repository = {self.folder}/fernet
[fernet_receipts]
key_repository = {self.folder}/fernet
[credential]
key_repository = {self.folder}/credential
[token]
# One that ends is to be noticed at once.
caching = false
cache_on_issue = false
[revoke]
caching = false
[cache]
# Of who has which role: else it is looked up a dozen times for each request.
enabled = true
backend = dogpile.cache.memory
[identity]
password_hash_rounds = 4
[oslo_policy]
policy_dirs = {self.folder}/policy.d
""")

    def command(self):
        return [PYTHON, "-c", KEYSTONE_SERVER, str(self.port)]

    def environment_of_server(self):
        return {**super().environment_of_server(),
                "OS_KEYSTONE_CONFIG_FILES": str(self.folder / "keystone.conf")}

    def set_up(self):
        self.token = self.log_in("admin", self.admin_password, "admin")
        self.role = self.ask("GET", "/v3/roles?name=reader")["roles"][0]["id"]
        self.project = self.create("project", name="images", domain_id="default")
        self.user = self.create("user", name="reader", domain_id="default",
                                password=self.password)
        self.grant(self.user)
        # Glance itself looks here for Keystone.
        identity = self.create("service", name="keystone", type="identity")
        self.create("endpoint", service_id=identity, url=self.url, interface="internal",
                    region_id="here")
        self.service = self.create("service", name="glance", type="image")
        self.endpoint = None

    def log_in(self, user, password, project):
        answer = request("POST", self.url + "/v3/auth/tokens", {"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": user, "password": password, "domain": {"id": "default"}}}},
            "scope": {"project": {"name": project, "domain": {"id": "default"}}}}})
        return answer.headers["X-Subject-Token"]

    def ask(self, method, path, data=None, token=None):
        answer = request(method, self.url + path, data, token or self.token)
        return json.loads(answer.data) if answer.data else None

    def create(self, kind, **what):
        return self.ask("POST", f"/v3/{kind}s", {kind: what})[kind]["id"]

    def grant(self, user):
        self.ask("PUT", f"/v3/projects/{self.project}/users/{user}/roles/{self.role}")

    def revoke(self, user):
        self.ask("DELETE", f"/v3/projects/{self.project}/users/{user}/roles/{self.role}")

    def set_image_endpoint(self, url, interface="public", region="here"):
        """Write where Glance is in the catalog; any other place is forgotten."""
        if self.endpoint:
            self.ask("DELETE", f"/v3/endpoints/{self.endpoint}")
        self.endpoint = self.create("endpoint", service_id=self.service, url=url,
                                    interface=interface, region_id=region)

    def reader_token(self):
        return self.log_in("reader", self.password, "images")

    def application_credential(self, name):
        """(id, secret) of a new one of the reader's."""
        made = self.ask("POST", f"/v3/users/{self.user}/application_credentials",
                        {"application_credential": {"name": name}}, self.reader_token())
        made = made["application_credential"]
        return made["id"], made["secret"]

    def write_key(self, path):
        """Make a key for tokens, in one step."""
        new = self.folder / "new-key"
        new.write_bytes(base64.urlsafe_b64encode(os.urandom(32)))
        new.rename(path)

    def end_all_tokens(self):
        """Make every token that was given out so far worthless, as their age would."""
        for key in (self.folder / "fernet").iterdir():
            self.write_key(key)
        self.token = self.log_in("admin", self.admin_password, "admin")

    def health(self):
        return self.url + "/v3"

    def environment(self):
        """What a client of OpenStack needs to be the reader."""
        return {
            "OS_AUTH_URL": self.url + "/v3",
            "OS_USERNAME": "reader",
            "OS_PASSWORD": self.password,
            "OS_USER_DOMAIN_ID": "default",
            "OS_PROJECT_NAME": "images",
            "OS_PROJECT_DOMAIN_NAME": "Default",
        }


PASTE = """
[pipeline:glance-api]
pipeline = healthcheck versionnegotiation unauthenticated-context rootapp
[pipeline:glance-api-keystone]
pipeline = healthcheck versionnegotiation authtoken context rootapp
[composite:rootapp]
paste.composite_factory = glance.api:root_app_factory
/: apiversions
/v2: apiv2app
[app:apiversions]
paste.app_factory = glance.api.versions:create_resource
[app:apiv2app]
paste.app_factory = glance.api.v2.router:API.factory
[filter:healthcheck]
paste.filter_factory = oslo_middleware:Healthcheck.factory
[filter:versionnegotiation]
paste.filter_factory = glance.api.middleware.version_negotiation:VersionNegotiationFilter.factory
[filter:unauthenticated-context]
paste.filter_factory = glance.api.middleware.context:UnauthenticatedContextMiddleware.factory
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
delay_auth_decision = true
[filter:context]
paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
"""


empty = None  # the bytes of Glance's database once it was made: that takes seconds


class Glance(Server):
    """@drop_in is a file of configuration that counts more than the rest; uploads have to go
    to .images nonetheless."""

    name = "glance"

    def __init__(self, workers=1, keystone=None, folder=None, drop_in=None):
        super().__init__(folder)
        self.workers = workers
        self.keystone = keystone
        self.drop_in = drop_in

    @property
    def images(self):
        """The folder that uploads go to."""
        return self.folder / "images"

    def prepare(self):
        for name in ("images", "staging", "tasks", "lock"):
            (self.folder / name).mkdir()
        self.configure()
        self.make_database()

    def make_database(self):
        global empty
        path = self.folder / "glance.sqlite"
        if empty:
            path.write_bytes(empty)
            return
        self.manage("glance-manage", *self.config_arguments(), "db_sync")
        empty = path.read_bytes()

    def configure(self):
        keystone = self.keystone
        (self.folder / "glance-api-paste.ini").write_text(PASTE)
        (self.folder / "glance-api.conf").write_text(f"""\
[DEFAULT]
bind_host = {HOST}
bind_port = {self.port}
workers = {self.workers}
log_file = {self.folder}/output
use_stderr = false
client_socket_timeout = 30
show_multiple_locations = true
enabled_import_methods = []
node_staging_uri = file://{self.folder}/staging
[database]
connection = sqlite:///{self.folder}/glance.sqlite
[oslo_concurrency]
lock_path = {self.folder}/lock
[oslo_messaging_notifications]
driver = noop
[import_filtering_opts]
allowed_hosts = [{HOST}]
allowed_ports = []
[paste_deploy]
config_file = {self.folder}/glance-api-paste.ini
{"flavor = keystone" if keystone else ""}
[glance_store]
stores = file, http
default_store = file
filesystem_store_datadir = {self.images}
""" + (f"""
[keystone_authtoken]
www_authenticate_uri = {keystone.url}
auth_url = {keystone.url}
auth_type = password
username = admin
password = {keystone.admin_password}
user_domain_id = default
project_domain_id = default
project_name = admin
# A token is looked at each time it is used.
token_cache_time = -1
""" if keystone else ""))

    def command(self):
        return [PYTHON, find("glance-api"), *self.config_arguments()]

    def config_arguments(self):
        """What leads a program of Glance's to the configuration."""
        files = [self.folder / "glance-api.conf", *([self.drop_in] if self.drop_in else [])]
        return [word for file in files for word in ("--config-file", str(file))]

    def set_up(self):
        if self.keystone:
            self.keystone.set_image_endpoint(self.url)

    def ask(self, method, path, data=None, **headers):
        token = self.keystone.token if self.keystone else None
        answer = request(method, self.url + path, data, token, **headers)
        return json.loads(answer.data) if answer.data else None

    def create(self, name, **properties):
        """Make an image without data, which is not active."""
        properties.setdefault("disk_format", "raw")
        properties.setdefault("container_format", "bare")
        if self.keystone:
            properties.setdefault("visibility", "public")
        if name is not None:
            properties["name"] = name
        return self.ask("POST", "/v2/images", properties)["id"]

    def upload(self, name, data, **properties):
        """Upload bytes, or a file's (Path), as an image.  Returns its id."""
        id = self.create(name, **properties)
        if isinstance(data, bytes):
            self.put(id, data, len(data))
        else:
            with open(data, "rb") as file:
                self.put(id, file, os.path.getsize(data))
        return id

    def put(self, id, data, size):
        self.ask("PUT", f"/v2/images/{id}/file", data, Content_Type="application/octet-stream",
                 Content_Length=str(size))

    def database(self):
        return contextlib.closing(sqlite3.connect(self.folder / "glance.sqlite", timeout=LIMIT))

    def register(self, name, path, size=None, hashed=True, **properties):
        """Make an image of a file that stays where it is, as an operator does who writes to
        the database.  Returns its id."""
        id = self.create(name, **properties)
        found = hashes(path) if hashed else (os.path.getsize(path), None, None)
        with self.database() as database, database:
            database.execute(
                "INSERT INTO image_locations(image_id, value, meta_data, status, created_at,"
                " updated_at, deleted)"
                " VALUES (?, ?, '{}', 'active', datetime('now'), datetime('now'), 0)",
                (id, f"file://{path}"))
            database.execute(
                "UPDATE images SET status = 'active', size = ?, checksum = ?,"
                " os_hash_algo = ?, os_hash_value = ? WHERE id = ?",
                (found[0] if size is None else size, found[1],
                 "sha512" if found[2] else None, found[2], id))
        return id

    def add_many(self, count, name="image-%05d", size=4096):
        """Put @count active images into the database, without data.  Returns their ids."""
        ids = ["%08x-0000-4000-8000-%012x" % (i, i) for i in range(count)]
        with self.database() as database, database:
            database.executemany(
                "INSERT INTO images(id, name, size, status, created_at, updated_at, deleted,"
                " disk_format, container_format, min_disk, min_ram, protected, visibility,"
                " os_hidden, owner) VALUES (?, ?, ?, 'active',"
                " strftime('%Y-%m-%d %H:%M:%S.000000', 'now', ?),"
                " strftime('%Y-%m-%d %H:%M:%S.000000', 'now'), 0, 'raw', 'bare', 0, 0, 0, 'shared', 0, NULL)",
                ((id, name % i, size, "-%d seconds" % i) for i, id in enumerate(ids)))
        return ids

    def forget(self, ids):
        """Take what add_many() made out of the database."""
        with self.database() as database, database:
            database.executemany("DELETE FROM images WHERE id = ?", ((id,) for id in ids))

    def add_http_location(self, name, url):
        """Make an image of what an HTTP server has.  Returns its id."""
        id = self.create(name)
        self.ask("PATCH", f"/v2/images/{id}",
                 json.dumps([{"op": "add", "path": "/locations/-",
                              "value": {"url": url, "metadata": {}}}]).encode(),
                 Content_Type="application/openstack-images-v2.1-json-patch")
        return id

    def set(self, id, **columns):
        """Change what the database says of an image."""
        names = ", ".join(f"{name} = ?" for name in columns)
        with self.database() as database, database:
            database.execute(f"UPDATE images SET {names} WHERE id = ?", (*columns.values(), id))

    def show(self, id):
        return self.ask("GET", f"/v2/images/{id}")

    def delete(self, id):
        self.ask("DELETE", f"/v2/images/{id}")

    def file_of(self, id):
        return self.images / id

    def file_url(self, id):
        return f"{self.url}/v2/images/{id}/file"

    @property
    def uri(self):
        return "glance+" + self.url + "/"


def main():
    parser = argparse.ArgumentParser(description="Run a command beside a Glance.")
    parser.add_argument("--keystone", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--upload", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if not options.command:
        parser.error("which command?")
    lacking = missing() or (options.keystone and missing_keystone())
    if lacking:
        parser.error(lacking)
    with contextlib.ExitStack() as stack:
        keystone = stack.enter_context(Keystone()) if options.keystone else None
        glance = stack.enter_context(Glance(workers=options.workers, keystone=keystone))
        for path in options.upload:
            glance.upload(path.name, path)
        environment = {**os.environ, "GLANCE": glance.url}
        if keystone:
            environment.update(keystone.environment())
        return subprocess.run(options.command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
