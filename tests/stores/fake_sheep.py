# SPDX-License-Identifier: MIT
"""A small sheep, written from the protocol, that does wrong when told.

    with FakeCluster(nodes=2) as cluster:
        alpha = cluster.vdi("alpha", 10 << 20, {0: 1, 2: 1})
        cluster.nodes[0].fault(Late(), op=READ_OBJ, after=3, times=1)
        ... imagefs-store-sheepdog list -- cluster.uri() ...

All nodes serve the same objects, from memory.  The bytes of an object follow from its
owner and its number, so a test can say what any VDI has to look like.
"""

import contextlib
import random
import socket
import struct
import threading
import time

READ_OBJ, READ_VDIS, NODE_LIST, STAT_RECOVERY, READ_DEL_VDIS = 0x02, 0x15, 0x82, 0x97, 0xC9
OPS = {READ_OBJ, READ_VDIS, NODE_LIST, STAT_RECOVERY, READ_DEL_VDIS}
SUCCESS, NO_OBJ, EIO, INVALID_PARMS, STARTUP, VER_MISMATCH = 0, 2, 3, 5, 0x0F, 0x14
WAIT_FOR_FORMAT, WAIT_FOR_JOIN, HALT = 0x16, 0x17, 0x19

INODE_BIT = 1 << 63
TREE_BIT = 1 << 60
VDIS = 1 << 24
INDEX = 4664  # where the index begins
INDEX_BYTES = 4 << 20
NODE_LIST_BYTES = 6144 * 80  # what a sheep takes a client to have room for
SECOND = 1 << 32
CREATED = 1_700_000_000 * SECOND

TREE_MAGIC = 0x6274


def object_bytes(vid, index, size):
    """What object @index of VDI @vid has in it."""
    return random.Random(vid << 32 | index).randbytes(size)


def name_hash(name):
    """Where sheepdog looks for a VDI first."""
    value = 0xCBF29CE484222325
    for byte in name:
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return value % VDIS or 1


class Vdi:
    """A VDI of a FakeCluster.  owners[index] is the VDI whose object is at index."""

    def __init__(self, vid, name, size, owners, **about):
        self.vid = vid
        self.name = name if isinstance(name, bytes) else name.encode()
        self.size = size
        self.owners = dict(owners)
        self.tag = about.pop("tag", "").encode()
        self.created = about.pop("created", CREATED + vid)
        self.snapped = about.pop("snapped", 0)
        self.snapshot_id = about.pop("snapshot_id", 1)
        self.parent = about.pop("parent", 0)
        self.copies = about.pop("copies", 2)
        self.copy_policy = about.pop("copy_policy", 0)
        self.shift = about.pop("shift", 22)
        self.shift_shown = about.pop("shift_shown", self.shift)
        self.tree = about.pop("tree", 0)  # the depth of its B-tree, 0: an array
        self.leaf_entries = about.pop("leaf_entries", 3)
        assert not about, about

    @property
    def id(self):
        snapshot = "-s" if self.snapped else ""
        return f"{self.vid:06x}-{self.created:016x}{snapshot}"

    @property
    def object_size(self):
        return 1 << self.shift

    def inode(self):
        """The first bytes of the inode, and its index."""
        head = bytearray(INDEX)
        struct.pack_into(
            "<256s256sQQQQQBBBBIIII", head, 0, self.name, self.tag, self.created,
            self.snapped, 0, self.size, 0, self.copy_policy, 1 if self.tree else 0,
            self.copies, self.shift_shown, self.snapshot_id, self.vid, self.parent, 0,
        )  # fmt: skip
        return bytes(head) + (self.tree_root() if self.tree else self.array())

    def array(self):
        index = bytearray(4 * (max(self.owners, default=0) + 1))
        for at, owner in self.owners.items():
            struct.pack_into("<I", index, 4 * at, owner)
        return bytes(index)

    def leaves(self):
        """The entries of the tree, leaf by leaf."""
        entries = sorted(self.owners.items())
        if self.tree == 1:
            return [entries]
        step = self.leaf_entries
        return [entries[at : at + step] for at in range(0, len(entries), step)]

    @staticmethod
    def leaf(entries):
        head = struct.pack("<HHI", TREE_MAGIC, 1, len(entries))
        return head + b"".join(struct.pack("<II", *entry) for entry in entries)

    def tree_root(self):
        if not self.owners:
            return b""  # a tree without data was never made
        if self.tree == 1:
            return self.leaf(self.leaves()[0])
        leaves = self.leaves()
        head = struct.pack("<HHI", TREE_MAGIC, 2, len(leaves))
        return head + b"".join(
            struct.pack("<IIQ", entries[-1][0], 0, self.leaf_object(at))
            for at, entries in enumerate(leaves)
        )

    def leaf_object(self, at):
        return TREE_BIT | self.vid << 32 | at

    def content(self, offset=0, length=None):
        """What the VDI has in it: what a reader has to be given."""
        end = self.size if length is None else offset + length
        pieces = []
        while offset < end:
            at, inner = divmod(offset, self.object_size)
            piece = min(end - offset, self.object_size - inner)
            if self.owners.get(at):
                data = object_bytes(self.owners[at], at, self.object_size)
                pieces.append(data[inner : inner + piece])
            else:
                pieces.append(bytes(piece))
            offset += piece
        return b"".join(pieces)

    def extents(self):
        """[(offset, length)] of what has an owner, joined."""
        found = []
        for at in sorted(at for at, owner in self.owners.items() if owner):
            start = at * self.object_size
            end = min(start + self.object_size, self.size)
            if found and found[-1][1] == start:
                found[-1][1] = end
            else:
                found.append([start, end])
        return [(start, end - start) for start, end in found]


class Request:
    def __init__(self, header):
        (self.version, self.op, self.flags, self.epoch, self.id, self.length, self.object,
         _, _, self.offset, _) = struct.unpack("<BBHIIIQQQII", header)  # fmt: skip

    def __repr__(self):
        return f"<{self.op:#x} {self.object:016x} {self.offset}+{self.length}>"


class Reply:
    """What a sheep is about to answer; a fault changes it."""

    def __init__(self, request, result, data=b"", nodes=0):
        self.version = 0
        self.op = request.op
        self.id = request.id
        self.length = len(data)
        self.result = result
        self.nodes = nodes
        self.data = data

    def encode(self):
        header = struct.pack("<BBHIIIII", self.version, self.op, 0, 1, self.id, self.length,
                             self.result, self.nodes)  # fmt: skip
        return header.ljust(48, b"\0") + self.data


class Fault:
    """Something that goes wrong with an answer.  The default is to answer rightly."""

    def apply(self, node, connection, reply):
        connection.send(reply.encode())


class Change(Fault):
    """Answer with other fields than the right ones: Change(id=7), Change(data=b"")."""

    def __init__(self, **fields):
        self.fields = fields

    def apply(self, node, connection, reply):
        for field, value in self.fields.items():
            before = getattr(reply, field)
            setattr(reply, field, value(before) if callable(value) else value)
        connection.send(reply.encode())


class Result(Fault):
    """Answer with a result and no data."""

    def __init__(self, result):
        self.result = result

    def apply(self, node, connection, reply):
        reply.result, reply.data, reply.length = self.result, b"", 0
        connection.send(reply.encode())


class Never(Fault):
    """Answer nothing, the connection staying open."""

    def apply(self, node, connection, reply):
        pass


class Half(Fault):
    """Send a part of the answer and nothing more, or end the node then."""

    def __init__(self, then=None):
        self.then = then

    def apply(self, node, connection, reply):
        data = reply.encode()
        connection.send(data[: 48 + reply.length // 2])
        connection.mute = True
        if self.then:
            self.then(node)


class Held(Fault):
    """Answer when told, in the reverse order of asking."""

    def __init__(self):
        self.lock = threading.Lock()
        self.waiting = []
        self.most = 0
        self.enough = threading.Event()
        self.released = False
        self.want = None

    def apply(self, node, connection, reply):
        with self.lock:
            if self.released:
                connection.send(reply.encode())
                return
            self.waiting.append((connection, reply))
            self.most = max(self.most, len(self.waiting))
            if self.want and len(self.waiting) >= self.want:
                self.enough.set()

    def wait(self, count, limit=60):
        """Wait until @count answers are held."""
        with self.lock:
            self.want = count
            if len(self.waiting) >= count:
                return True
        return self.enough.wait(limit)

    def release(self):
        with self.lock:
            self.released = True
            for connection, reply in reversed(self.waiting):
                connection.send(reply.encode())
            self.waiting = []


class Shuffled(Fault):
    """Answer each with a delay of its own, so that they come in any order."""

    def __init__(self, seed=0, most=0.02):
        self.random = random.Random(seed)
        self.most = most

    def apply(self, node, connection, reply):
        timer = threading.Timer(self.random.random() * self.most, connection.send,
                                (reply.encode(),))  # fmt: skip
        timer.daemon = True
        timer.start()


class Do(Fault):
    """Do something before the answer is made: it is then that of the cluster as it is."""

    def __init__(self, action):
        self.action = action

    def apply(self, node, connection, reply):
        raise NotImplementedError


class Rule:
    def __init__(self, fault, op, match, after, times):
        self.fault = fault
        self.op = op
        self.match = match
        self.after = after
        self.times = times

    def takes(self, request):
        if self.op is not None and request.op != self.op:
            return False
        if self.match and not self.match(request):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is not None:
            if self.times == 0:
                return False
            self.times -= 1
        return True


class Connection:
    def __init__(self, node, sock):
        self.node = node
        self.sock = sock
        self.lock = threading.Lock()
        self.mute = False
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()

    def send(self, data):
        with self.lock, contextlib.suppress(OSError):
            if not self.mute:
                self.sock.sendall(data)

    def receive(self, count):
        data = b""
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            if not piece:
                return None
            data += piece
        return data

    def run(self):
        with contextlib.suppress(OSError):
            if self.node.greeting:
                self.sock.sendall(self.node.greeting)
            while True:
                header = self.receive(48)
                if header is None:
                    return
                self.node.handle(self, Request(header))

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


class Node:
    """One sheep: a port, and what it does wrong."""

    def __init__(self, cluster, family=socket.AF_INET, path=None):
        self.cluster = cluster
        self.family = family
        self.path = path
        self.zone = len(cluster.nodes)
        self.greeting = b""
        self.rules = []
        self.lock = threading.Lock()
        self.requests = []
        self.connections = []
        self.listener = None
        self.port = 0
        self.start()

    def start(self):
        """Listen, on the same port as before."""
        self.listener = socket.socket(self.family)
        if self.family == socket.AF_UNIX:
            self.listener.bind(self.path)
        else:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            host = "::1" if self.family == socket.AF_INET6 else "127.0.0.1"
            self.listener.bind((host, self.port))
            self.port = self.listener.getsockname()[1]
        self.listener.listen(64)
        listener = self.listener
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()

    def accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with self.lock:
                    if listener is not self.listener:
                        sock.close()
                        return
                    self.connections.append(Connection(self, sock))

    def stop(self):
        """Die: nobody listens any more, and all connections end."""
        with self.lock:
            listener, self.listener = self.listener, None
            connections, self.connections = self.connections, []
        if listener:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in connections:
            connection.close()

    @property
    def address(self):
        return f"[::1]:{self.port}" if self.family == socket.AF_INET6 else f"127.0.0.1:{self.port}"

    def fault(self, fault, op=None, match=None, after=0, times=None):
        """
        Have @fault happen to requests of @op that @match takes, but the first @after, and
        only so many @times.
        """
        self.rules.append(Rule(fault, op, match, after, times))
        return fault

    def handle(self, connection, request):
        with self.lock:
            self.requests.append(request)
            fault = next((rule.fault for rule in self.rules if rule.takes(request)), Fault())
        self.cluster.saw(self, request)
        if isinstance(fault, Do):
            fault.action()
            fault = Fault()
        fault.apply(self, connection, self.cluster.answer(request))


class FakeCluster:
    def __init__(self, nodes=1, named=None):
        self.lock = threading.Lock()
        self.objects = {}  # what is not made on demand; None: it is gone
        self.vdis = {}
        self.deleted = set()
        self.state = SUCCESS  # what answers all that needs a cluster that runs
        self.knows_deleted = True
        self.lists_nodes = True
        self.wrong = []  # requests that no reader makes
        self.nodes = []
        for _ in range(nodes):
            self.nodes.append(Node(self))
        self.named = nodes if named is None else named

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            node.stop()

    def uri(self, vdi="", nodes=None):
        named = self.nodes[: self.named] if nodes is None else nodes
        return "sheepdog://" + ",".join(node.address for node in named) + "/" + vdi

    def vdi(self, name, size, owners=(), vid=None, **about):
        """
        Make a VDI.  @owners: {index: VDI number}, or the indexes of objects of its own.
        """
        encoded = name if isinstance(name, bytes) else name.encode()
        with self.lock:
            vid = vid or name_hash(encoded)
            while vid in self.vdis:
                vid += 1
            if not isinstance(owners, dict):
                owners = dict.fromkeys(owners, vid)
            self.vdis[vid] = vdi = Vdi(vid, name, size, owners, **about)
        return vdi

    def snapshot(self, vdi, tag="", snapshot_id=None):
        """Take a snapshot: @vdi becomes it, and the name goes to the VDI returned."""
        new = self.vdi(
            vdi.name, vdi.size, dict(vdi.owners), shift=vdi.shift, parent=vdi.vid,
            snapshot_id=vdi.snapshot_id + 1, tree=vdi.tree,
        )  # fmt: skip
        vdi.tag = tag.encode()
        vdi.snapped = vdi.created + 5 * SECOND
        if snapshot_id is not None:
            vdi.snapshot_id = snapshot_id
        return new

    def delete(self, vdi, leave=()):
        """Delete a VDI, as sheepdog does: its inode stays, without a name."""
        with self.lock:
            self.deleted.add(vdi.vid)
            vdi.name = b""
            vdi.size = 0
            for at, owner in list(vdi.owners.items()):
                if owner == vdi.vid and at not in leave:
                    self.objects[owner << 32 | at] = None
            vdi.owners = {}

    def lose(self, vid, index):
        """Have an object be gone."""
        with self.lock:
            self.objects[vid << 32 | index] = None

    def requests(self, op=None):
        return [request for node in self.nodes for request in list(node.requests)
                if op is None or request.op == op]  # fmt: skip

    def data_requests(self):
        return [request for request in self.requests(READ_OBJ) if request.object < TREE_BIT]

    def saw(self, node, request):
        """Remember what a client that only reads never asks for, or would hurt a sheep."""
        room = {READ_VDIS: VDIS // 8, READ_DEL_VDIS: VDIS // 8, NODE_LIST: NODE_LIST_BYTES,
                STAT_RECOVERY: 24}.get(request.op, 0)  # fmt: skip
        version = 0x0A if request.op >= 0x80 else 1
        if (request.op not in OPS or request.flags or request.length < room
                or request.version != version or request.length > INDEX_BYTES):  # fmt: skip
            self.wrong.append(request)

    def answer(self, request):
        with self.lock:
            if request.op == NODE_LIST:
                if not self.lists_nodes:
                    return Reply(request, VER_MISMATCH)
                data = b"".join(self._node(node) for node in self.nodes)
                return Reply(request, SUCCESS, data, nodes=len(self.nodes))
            if request.op == READ_VDIS:
                return Reply(request, SUCCESS, self._bitmap(self.vdis))
            if request.op == READ_DEL_VDIS:
                if not self.knows_deleted:
                    return Reply(request, INVALID_PARMS)
                return Reply(request, SUCCESS, self._bitmap(self.deleted))
            if self.state != SUCCESS:
                return Reply(request, self.state)
            if request.op == STAT_RECOVERY:
                return Reply(request, SUCCESS, bytes(24))
            if request.op == READ_OBJ:
                return self._read(request)
        return Reply(request, INVALID_PARMS)

    def _node(self, node):
        address = bytes(12) + socket.inet_aton("127.0.0.1")
        if node.family == socket.AF_INET6:
            address = socket.inet_pton(socket.AF_INET6, "::1")
        return struct.pack("<24s16sH22sHxxIQ", b"", address, node.port, b"", 128, node.zone,
                           1 << 30).ljust(80, b"\0")  # fmt: skip

    @staticmethod
    def _bitmap(vids):
        bitmap = bytearray(VDIS // 8)
        for vid in vids:
            bitmap[vid // 8] |= 1 << vid % 8
        return bytes(bitmap)

    def _read(self, request):
        data = self._object(request.object)
        if data is None:
            return Reply(request, NO_OBJ)
        part = data[request.offset : request.offset + request.length]
        return Reply(request, SUCCESS, part.ljust(request.length, b"\0"))

    def _object(self, number):
        if number in self.objects:
            return self.objects[number]
        vid, index = number >> 32 & (VDIS - 1), number & 0xFFFFFFFF
        vdi = self.vdis.get(vid)
        if number & INODE_BIT:
            return vdi.inode() if vdi else None
        if number & TREE_BIT:
            leaves = vdi.leaves() if vdi else []
            return Vdi.leaf(leaves[index]) if index < len(leaves) else None
        if not vdi:
            return None
        data = object_bytes(vid, index, vdi.object_size)
        if len(self.objects) < 64:
            self.objects[number] = data
        return data


def wait_until(condition, limit=60):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)
