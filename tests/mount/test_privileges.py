# SPDX-License-Identifier: MIT
"""What store programs are given: no more than they need."""

import json
import os
import pwd
import stat

import pytest
from harness import run, wait_until

STORE = """#!/bin/sh
case $1 in
list)
	env >{folder}/environment
	id -u >{folder}/user
	id -G >{folder}/groups
	ls -l /proc/$$/fd >{folder}/descriptors
	# By the shell itself: to start a program it blocks its signals.
	while read -r line; do echo "$line"; done </proc/$$/status >{folder}/status
	cut -d' ' -f5 /proc/$$/stat >{folder}/group
	echo $$ >{folder}/pid
	echo '{{"name": "a", "id": "1", "size": 0}}' ;;
esac
"""


@pytest.fixture
def probe(folder):
    """A store that tells what it was given, and the folder where it does."""
    path = folder / "probe"
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    program = path / "imagefs-store-probe"
    program.write_text(STORE.format(folder=path))
    program.chmod(0o755)
    return path


def test_a_store_program_has_the_variables_that_it_needs(mounted, probe):
    env = {**os.environ, "LD_PRELOAD": "", "BASH_ENV": "/nowhere", "NOTIFY_SOCKET": "/x",
           "OS_TOKEN": "1", "CEPH_CONF": "2", "MY_SECRET": "3", "MINE": "4", "MINE_TOO": "5"}
    mounted("probe:", "env=MINE:MINE_*", store_path=str(probe), env=env)
    found = dict(line.split("=", 1) for line in (probe / "environment").read_text().splitlines()
                 if "=" in line)
    assert found["OS_TOKEN"] == "1" and found["CEPH_CONF"] == "2"
    assert found["MINE"] == "4" and found["MINE_TOO"] == "5"
    assert found["IMAGEFS_STORE_PROTOCOL"] == "1" and found["LC_ALL"] == "C.UTF-8"
    assert not {"LD_PRELOAD", "BASH_ENV", "NOTIFY_SOCKET", "MY_SECRET"} & set(found)


def test_a_store_program_has_three_descriptors_and_a_group_of_its_own(mounted, probe):
    read, write = os.pipe()
    os.set_inheritable(read, True)
    os.set_inheritable(write, True)
    mounted("probe:", store_path=str(probe))
    numbers = {line.split()[8] for line in (probe / "descriptors").read_text().splitlines()[1:]}
    assert {"0", "1", "2"} <= numbers <= {"0", "1", "2", "10", "11", "255"}  # the shell's own
    assert (probe / "group").read_text() == (probe / "pid").read_text()
    status = dict(line.split(":", 1) for line in (probe / "status").read_text().splitlines())
    assert status["NoNewPrivs"].strip() == "1"
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigIgn"], 16) == 0
    os.close(read)
    os.close(write)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")
@pytest.mark.parametrize("name", ["nobody", str(pwd.getpwnam("nobody").pw_uid)])
def test_store_programs_run_as_another_user(mounted, probe, name):
    mounted("probe:", "store_user=" + name, store_path=str(probe))
    nobody = pwd.getpwnam("nobody")
    assert (probe / "user").read_text().split() == [str(nobody.pw_uid)]
    assert (probe / "groups").read_text().split() == [
        str(g) for g in os.getgrouplist("nobody", nobody.pw_gid)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")
def test_another_user_reads_a_store_that_only_he_may_read(mounted, images, folder):
    image = images / "a"
    image.write_bytes(os.urandom(3 << 20))
    os.chown(image, pwd.getpwnam("nobody").pw_uid, -1)
    image.chmod(stat.S_IRUSR)
    mount = mounted(images, "store_user=nobody")
    assert (mount / "a").read_bytes() == image.read_bytes()


def test_a_user_that_is_none_is_said(images, folder):
    from harness import IMAGEFS, STORE_PATH
    done = run(IMAGEFS, "-f", "-o", "store_user=no-such-user,store_path=%s" % STORE_PATH,
               images, folder, check=False)
    assert done.returncode == 1
    assert done.stderr == "imagefs: store_user=no-such-user: no such user\n"
