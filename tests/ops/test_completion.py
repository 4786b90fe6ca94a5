# SPDX-License-Identifier: MIT
"""Completion in bash and zsh."""

import os
import pty
import re
import select
import shutil
import signal
import time

import pytest
from harness import IMAGEFS, LIMIT, SOURCE, run

OPTIONS = set(re.findall(r"(?m)^  ([a-z_]+=?)", run(IMAGEFS, "--help").stdout))

BASH = """
[ -z "$LIBRARY" ] || . "$LIBRARY"
. "$COMPLETION"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMP_LINE="$*"
COMP_POINT=${#COMP_LINE}
_imagefs "$1"
[ ${#COMPREPLY[@]} = 0 ] || printf '%s\\n' "${COMPREPLY[@]}"
"""
LIBRARY = "/usr/share/bash-completion/bash_completion"


@pytest.fixture(params=["", LIBRARY], ids=["bash alone", "bash-completion"])
def bash(request, folder):
    """bash(WORD, ...): how the last word is completed, as bash breaks a line into words."""
    if request.param and not os.path.exists(request.param):
        pytest.skip("no bash-completion here")
    (folder / "bin").mkdir()
    (folder / "bin/imagefs").symlink_to(IMAGEFS)
    (folder / "libexec/imagefs").mkdir(parents=True)

    def complete(*words):
        done = run("bash", "-c", BASH, "-", "imagefs", *words, cwd=folder, env={
            **os.environ, "LIBRARY": request.param, "PATH": "%s/bin:%s" % (folder, os.environ["PATH"]),
            "COMPLETION": str(SOURCE / "src/completion/imagefs.bash")})
        assert done.stderr == ""
        return set(done.stdout.splitlines())

    return complete


def test_bash_is_told_whom_to_ask():
    done = run("bash", "-c", ". %s; complete -p imagefs" % (SOURCE / "src/completion/imagefs.bash"))
    assert done.stdout == "complete -F _imagefs imagefs\n"


def test_every_mount_option_is_completed(bash):
    assert bash("-o", "") == OPTIONS
    assert bash("list", "-o", "st") == {"stall=", "store_path=", "store_user="}


def test_options_behind_a_comma_are_completed(bash):
    assert bash("-o", "allow_other,rea") == {"allow_other,readahead="}


def test_letters_and_long_options_are_completed(bash):
    assert bash("-") == {"-f", "-d", "-o", "--help", "--version"}
    assert bash("list", "--r") == {"--reverse"}
    assert {"--json", "--bytes", "--sort=", "--reverse"} < bash("list", "-")
    assert bash("list", "--j") == {"--json"}
    assert bash("verify", "-") == {"-o", "--json", "--help"}
    assert bash("stats", "-") == {"--once", "--json", "--help"}


def test_each_option_of_the_help_is_completed(bash):
    """In both shells, with the command that the help says it is of."""
    zsh = (SOURCE / "src/completion/_imagefs").read_text()
    found = re.findall(r"(?m)^  (?:(-\w), )?(-\w|--[a-z]+=?)\S* *(.*)", run(IMAGEFS, "--help").stdout)
    assert len(found) > 6
    for _, option, help in found:
        commands = re.match(r"(?:(?:list|verify|stats)(?:, |: |; )?)+", help)
        commands = re.findall("list|verify|stats", commands[0] + help[commands.end():]) \
            if commands else [""]
        for command in commands:
            assert option in bash(*([command] if command else []), "-"), (command, option)
        assert option in zsh, option


def test_folders_are_completed(bash, folder):
    for name in ("one", "two", "two/three"):
        (folder / name).mkdir()
    (folder / "file").touch()
    assert {"list", "verify", "stats", "one", "two"} < bash("")
    assert bash("ver") == {"verify"}
    assert bash("stats", "o") == {"one"}
    assert bash("stats", "one", "") == set()
    assert bash("verify", "o") == {"one"}
    assert bash("verify", "one", "") == set()
    assert bash("o") == {"one"}
    assert bash("list", "tw") == {"two"}
    assert bash("one", "tw") == {"two"}
    assert bash("-o", "ttl=5", "one", "two/") == {"two/three"}
    assert bash("one", "two", "") == set()
    assert bash("list", "one", "") == set()
    assert bash("f") == set()


def test_no_store_is_asked_for_its_images(bash):
    assert bash("one", "nosuch:x") == set()


# ---- zsh ----

class Zsh:
    """A zsh at a terminal."""

    def __init__(self, folder):
        functions = folder / "functions"
        functions.mkdir()
        shutil.copy(SOURCE / "src/completion/_imagefs", functions)
        (folder / "bin").mkdir()
        (folder / "bin/imagefs").symlink_to(IMAGEFS)
        self.pid, self.terminal = pty.fork()
        if not self.pid:
            os.chdir(folder)
            os.environ.update(PATH="%s/bin:%s" % (folder, os.environ["PATH"]), TERM="dumb",
                              COLUMNS="200", LINES="50", PS1="begin> ")
            os.execvp("zsh", ["zsh", "-f", "-i", "-o", "no_prompt_sp"])

    def begin(self, folder):
        self.wait_for("begin> ")
        self.say("PS1='ready> '; fpath=(%s $fpath); autoload -U compinit; compinit -u -D; "
                 "zstyle ':completion:*' list-prompt ''; setopt nobeep nolistbeep; "
                 "stty cols 300 rows 60\n" % (folder / "functions"))
        self.wait_for("\nready> ")

    def say(self, text):
        os.write(self.terminal, text.encode())

    def wait_for(self, what, quiet=None):
        """What is shown until @what is, or until nothing more comes for a while."""
        said, end = "", time.monotonic() + LIMIT
        while what not in said:
            assert time.monotonic() < end, "never shown: %r in %r" % (what, said)
            if select.select([self.terminal], [], [], 1)[0]:
                said += os.read(self.terminal, 65536).decode(errors="replace").replace("\r", "")
        return said

    def completions(self, line, wanted):
        """What is shown for a line when its choices are listed (Ctrl-D), up to @wanted."""
        self.say(line + "\x04")
        said = self.wait_for(wanted)
        self.say("\x15")
        return said

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


@pytest.fixture
def zsh(folder):
    if not shutil.which("zsh"):
        pytest.skip("no zsh here")
    shell = Zsh(folder)
    try:
        shell.begin(folder)
        yield shell
    finally:
        shell.end()


def test_zsh_shows_options_with_their_help(zsh):
    said = zsh.completions("imagefs -o ", "uid")
    assert re.search(r"allow_other +-- let other users in", said)
    assert re.search(r"stall +-- longest wait for a byte of the store", said)


def test_zsh_completes_what_there_is(zsh, folder):
    (folder / "pictures").mkdir()
    assert "newest" not in zsh.completions("imagefs list --sort=", "size")
    for line, whole in [("imagefs list --rev", "imagefs list --reverse"),
                        ("imagefs list pict", "imagefs list pictures/"),
                        ("imagefs pict", "imagefs pictures/"),
                        ("imagefs stats --on", "imagefs stats --once"),
                        ("imagefs stats pict", "imagefs stats pictures/"),
                        ("imagefs verify --js", "imagefs verify --json"),
                        ("imagefs -o allow_o", "imagefs -o allow_other")]:
        zsh.say(line + "\t")
        zsh.wait_for(whole)
        zsh.say("\x15")
