#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A small guest, made here: a disk that boots a Debian kernel into a shell on ttyS0.

The disk has an MBR, a FAT partition with syslinux, the kernel and an initramfs, and an ext4
partition with files of this machine, which the guest checks by their hashes before it asks
who logs in.  It is made once and kept in build-guest/ beside the sources; nothing of it needs
root's devices, and the kernel is Debian's package, which is unpacked and not installed.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
FOLDER = SOURCE / "build-guest"
MIB = 1 << 20
SECTOR = 512
BOOT_START, BOOT_SIZE = MIB, 32 * MIB
ROOT_START, ROOT_SIZE = BOOT_START + BOOT_SIZE, 160 * MIB
DISK_SIZE = ROOT_START + ROOT_SIZE + MIB
FILES_SIZE = 64 * MIB
FILE_MAX = 4 * MIB
META_PACKAGE = "linux-image-cloud-amd64"
MODULES = ("virtio_pci", "virtio_blk", "ext4")
NEEDED = {
    "qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils", "syslinux": "syslinux",
    "mcopy": "mtools", "mke2fs": "e2fsprogs", "modprobe": "kmod", "apt-get": "apt",
}  # fmt: skip
BUSYBOX = Path("/bin/busybox")
MBR = Path("/usr/lib/syslinux/mbr/mbr.bin")
CHECKED = "guest: files are whole"

# no_timer_check: on a busy machine an emulated timer is late, which is no reason to panic.
CMDLINE = ("console=ttyS0 no_timer_check quiet panic=-1 tsc=reliable random.trust_cpu=on"
           " mitigations=off")

INIT = """#!/bin/sh
mount -t devtmpfs dev /dev
for module in $(cat /modules); do insmod "/$module"; done
while [ ! -b /dev/vda2 ]; do usleep 10000; done
mount -t ext4 -o ro,noatime /dev/vda2 /root || exec sh
mount --move /dev /root/dev
exec switch_root /root /sbin/init
"""

RC = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
hostname guest
if sha256sum -c -s /manifest; then
	echo "%s"
else
	echo "guest: FILES DIFFER"
	sha256sum -c /manifest 2>&1 | grep -v ': OK$' | head
fi
""" % CHECKED

INITTAB = """::sysinit:/etc/rc
ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100
::ctrlaltdel:/sbin/poweroff
"""


class Unavailable(Exception):
    """What a guest needs is not here; its text says what."""


def run(*args, **keys):
    keys.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run([os.fspath(a) for a in args], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=300, **keys)
    if done.returncode:
        raise Unavailable("%s: %s" % (args[0], done.stderr.strip()))
    return done.stdout


# ---- the kernel ----


def fetch_kernel(cache):
    """Debian's kernel package, unpacked: (the kernel, the folder with lib/modules)."""
    there = sorted(cache.glob("boot/vmlinuz-*"))
    if there:
        return there[-1], cache
    depends = run("apt-cache", "depends", META_PACKAGE)
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if not found:
        raise Unavailable("apt has no %s" % META_PACKAGE)
    with tempfile.TemporaryDirectory(dir=cache.parent) as folder:
        run("apt-get", "-o", "APT::Sandbox::User=root", "download", found[1], cwd=folder)
        (package,) = Path(folder).glob("*.deb")
        run("dpkg", "-x", package, Path(folder, "root"))
        kernel = next(Path(folder, "root", "boot").glob("vmlinuz-*"))
        run("depmod", "-b", Path(folder, "root"), version_of(kernel))
        shutil.rmtree(cache, ignore_errors=True)
        os.rename(Path(folder, "root"), cache)
    return cache / "boot" / kernel.name, cache


def version_of(kernel):
    return kernel.name.split("-", 1)[1]


def modules_of(kernel, root):
    """The files of MODULES and of what they need, in the order of loading."""
    found = []
    for module in MODULES:
        lines = run("modprobe", "-d", root, "-S", version_of(kernel), "--show-depends", module)
        for line in lines.splitlines():
            word, *rest = line.split()
            if word == "insmod" and rest[0] not in found:
                found.append(rest[0])
    return [Path(path) for path in found]


# ---- the parts of the disk ----


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def add_busybox(tree):
    for name in ("bin", "sbin", "dev", "proc", "sys", "root", "tmp", "etc"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(BUSYBOX, tree / "bin" / "busybox")
    for applet in run(BUSYBOX, "--list-full").split():
        link = tree / ("bin" if "sbin" not in applet else "sbin") / Path(applet).name
        if not os.path.lexists(link):
            link.symlink_to("/bin/busybox")


def make_initramfs(folder, kernel, root):
    tree = folder / "initramfs"
    add_busybox(tree)
    write_program(tree / "init", INIT)
    names = []
    for module in modules_of(kernel, root):
        shutil.copy(module, tree)
        names.append(module.name)
    (tree / "modules").write_text("\n".join(names) + "\n")
    script = "find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 > ../initrd"
    run("sh", "-c", script, cwd=tree)
    return folder / "initrd"


def make_boot(disk, folder, kernel, initrd):
    """The FAT partition with syslinux, written into the disk where it belongs."""
    config = folder / "syslinux.cfg"
    config.write_text("DEFAULT linux\nPROMPT 0\nLABEL linux\n KERNEL vmlinuz\n"
                      " INITRD initrd\n APPEND %s\n" % CMDLINE)
    at = "%s@@%d" % (disk, BOOT_START)
    run("mformat", "-i", at, "-T", str(BOOT_SIZE // SECTOR), "-h", "255", "-s", "63",
        "-H", str(BOOT_START // SECTOR), "::")
    for source, name in ((kernel, "vmlinuz"), (initrd, "initrd"), (config, "syslinux.cfg")):
        run("mcopy", "-i", at, source, "::" + name)
    run("syslinux", "--offset", str(BOOT_START), "--install", disk)


def pick_files():
    """Programs and libraries of this machine, FILES_SIZE of them."""
    taken = 0
    for folder in ("/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/share/perl", "/usr/sbin"):
        for path in sorted(Path(folder).rglob("*")):
            if taken >= FILES_SIZE:
                return
            if path.is_symlink() or not path.is_file() or path.stat().st_size > FILE_MAX:
                continue
            taken += path.stat().st_size
            yield path


def make_root(folder):
    """The ext4 file system: busybox, and files whose hashes are in /manifest."""
    tree = folder / "root"
    add_busybox(tree)
    write_program(tree / "etc" / "rc", RC)
    (tree / "etc" / "inittab").write_text(INITTAB)
    (tree / "etc" / "passwd").write_text("root::0:0:root:/:/bin/sh\n")
    (tree / "etc" / "group").write_text("root:x:0:\n")
    manifest = []
    for path in pick_files():
        target = tree / "files" / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        target.write_bytes(data)
        manifest.append("%s  /%s\n" % (hashlib.sha256(data).hexdigest(), target.relative_to(tree)))
    (tree / "manifest").write_text("".join(manifest))
    image = folder / "root.ext4"
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, image, "%dk" % (ROOT_SIZE >> 10))
    return image


def partition_entry(kind, start, size, active):
    entry = bytearray(16)
    entry[0] = 0x80 if active else 0
    entry[1:4] = entry[5:8] = b"\xfe\xff\xff"  # no CHS: the sectors below are what counts
    entry[4] = kind
    entry[8:12] = (start // SECTOR).to_bytes(4, "little")
    entry[12:16] = (size // SECTOR).to_bytes(4, "little")
    return bytes(entry)


def make_mbr():
    entries = partition_entry(0x0E, BOOT_START, BOOT_SIZE, True)
    entries += partition_entry(0x83, ROOT_START, ROOT_SIZE, False)
    return MBR.read_bytes()[:440].ljust(446, b"\0") + entries.ljust(64, b"\0") + b"\x55\xaa"


def make_disk(path, folder):
    kernel, root = fetch_kernel(FOLDER / "kernel")
    with open(path, "wb") as disk:
        disk.truncate(DISK_SIZE)
    make_boot(path, folder, kernel, make_initramfs(folder, kernel, root))
    file_system = make_root(folder)
    with open(path, "r+b") as disk:
        disk.write(make_mbr())
    run("dd", "if=%s" % file_system, "of=%s" % path, "bs=1M", "conv=notrunc,sparse",
        "seek=%d" % (ROOT_START // MIB), "status=none")


def missing():
    """What is not installed, as text; "" when all is."""
    names = [package for program, package in NEEDED.items() if not find_program(program)]
    names += [] if BUSYBOX.exists() else ["busybox-static"]
    names += [] if MBR.exists() else ["syslinux-common"]
    return ", ".join(names)


def find_program(name):
    return shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")


def guest_disk():
    """The raw disk, made when it is not there yet; read it only.  Raises Unavailable."""
    if missing():
        raise Unavailable("no %s here" % missing())
    key = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    disk = FOLDER / ("disk-%s.raw" % key)
    FOLDER.mkdir(exist_ok=True)
    with open(FOLDER / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not disk.exists():
            for old in FOLDER.glob("disk-*.raw"):
                old.unlink()
            with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
                make_disk(Path(folder, "disk"), Path(folder))
                os.rename(Path(folder, "disk"), disk)
    return disk


# ---- a guest that runs ----


KVM_LIMIT = 20  # seconds in which a guest under KVM is expected to boot


def boots_under_kvm(disk):
    """Whether a guest boots under KVM: some hosts have a /dev/kvm that runs no such guest."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        try:
            with Guest(folder, drive(disk, readonly="on"), accel="kvm") as guest:
                guest.wait_for("guest login: ", KVM_LIMIT)
        except AssertionError:
            return False
    return True


@functools.cache
def accelerator():
    """The best one that works here; found out once after each start of this machine."""
    disk = guest_disk()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    found = FOLDER / ("accelerator-%s" % boot)
    with open(FOLDER / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            for old in FOLDER.glob("accelerator-*"):
                old.unlink()
            found.write_text("kvm" if boots_under_kvm(disk) else "tcg")
    return found.read_text()


BOOT_LIMIT = 400  # seconds; under TCG beside much else


def drive(path, format="raw", **options):
    """Arguments of qemu for a virtio disk; options are those of -drive."""
    number = drive.count = getattr(drive, "count", -1) + 1
    words = ["if=none", "id=disk%d" % number, "file=%s" % path, "format=%s" % format]
    words += ["%s=%s" % (name.replace("_", "-"), value) for name, value in options.items()]
    return ["-drive", ",".join(words), "-device", "virtio-blk-pci,drive=disk%d" % number]


class Guest:
    """A guest whose first serial port is talked to; ends with the block."""

    def __init__(self, folder, *drives, memory=128, accel=None, extra=()):
        self.socket = Path(tempfile.mkdtemp(prefix="guest-", dir=folder)) / "tty"
        self.console = b""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.fspath(self.socket))
        listener.listen()
        self.log = self.socket.with_name("log")
        command = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-m", str(memory), "-accel", accel or accelerator(),
            "-chardev", "socket,id=tty,path=%s" % self.socket, "-serial", "chardev:tty",
            *(word for words in drives for word in words), *extra,
        ]  # fmt: skip
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log)
        listener.settimeout(20)
        try:
            self.tty, _ = listener.accept()
        except OSError:
            self.end()
            raise AssertionError("qemu did not start: %s" % self.said()) from None
        finally:
            listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.end()

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        with contextlib.suppress(AttributeError):
            self.tty.close()

    def said(self):
        """What qemu said."""
        return self.log.read_text(errors="replace")

    def receive(self, limit):
        """More of the console; False when the guest is gone."""
        end = time.monotonic() + limit
        while not select.select([self.tty], [], [], 0.2)[0]:
            if time.monotonic() < end and "KVM internal error" not in self.said():
                continue
            raise AssertionError("nothing more on the console: %s\n%s" % (
                self.console.decode(errors="replace")[-3000:], self.said()))
        data = b""
        with contextlib.suppress(ConnectionResetError):
            data = self.tty.recv(65536)
        self.console += data
        return bool(data)

    def wait_for(self, text, limit=None):
        """All that the console had before @text, which is taken off with it."""
        end = time.monotonic() + (limit or BOOT_LIMIT)
        while text.encode() not in self.console:
            if not self.receive(end - time.monotonic()):
                raise AssertionError("the guest ended before %r: %s\n%s" % (
                    text, self.console.decode(errors="replace")[-3000:], self.said()))
        before, self.console = self.console.split(text.encode(), 1)
        return before.decode(errors="replace")

    def wait_login(self):
        before = self.wait_for("guest login: ")
        assert CHECKED in before, before[-3000:]

    def login(self):
        self.wait_login()
        self.tty.sendall(b"root\n")
        self.wait_for("# ")

    def do(self, command):
        """Run a command in the guest: its output; it has to end well."""
        # What the terminal echoes is not what the shell prints.
        self.tty.sendall(b'echo be""gin=; %s; echo st""atus=$?=\n' % command.encode())
        self.wait_for("begin=")
        output = self.wait_for("status=").replace("\r", "")
        status = int(self.wait_for("="))
        self.wait_for("# ")
        assert status == 0, "%s: status %d: %s" % (command, status, output)
        return output.strip()

    def power_off(self):
        self.tty.sendall(b"poweroff -f\n")
        end = time.monotonic() + BOOT_LIMIT
        while self.receive(end - time.monotonic()):
            pass
        status = self.process.wait(30)
        assert status == 0, "qemu: status %d: %s" % (status, self.said())


if __name__ == "__main__":
    try:
        print(guest_disk())
    except Unavailable as error:
        sys.exit("guest.py: %s" % error)
