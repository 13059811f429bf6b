"""Enters Linux namespaces and starts a command there. A program: ``python -I -S launcher.py REQUEST COMMAND...``.

What the command sees: a read-only copy of the folders named in the request, an empty writable ``/tmp`` of limited
size, ``/dev/null`` and its kin, no network, no other process, no environment. The command is the supervisor, which
gives up the rights that are left. A user enters a user namespace first (where the host allows those).
"""

# ruff: noqa: PTH102, PTH103, PTH110, PTH112, PTH114, PTH115, PTH120, PTH123, PTH211

import ctypes
import json
import os
import signal
import sys

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG = 1


def main() -> None:
    request = json.loads(sys.argv[1])
    uid, gid = os.geteuid(), os.getegid()
    root_user = uid == 0
    _check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    spaces = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    _check(libc.unshare(spaces if root_user else spaces | CLONE_NEWUSER))
    if not root_user:
        _map_user(uid, gid)
    child = os.fork()
    if child:  # the child is process 1 of the new namespace
        os.close(0)
        os.close(1)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    _check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    _build_root(request)
    os.execve(sys.argv[2], sys.argv[2:], {})


def _map_user(uid: int, gid: int) -> None:
    """Be an ordinary user inside: starting a program then drops every capability."""
    for file, text in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
        with open(f"/proc/self/{file}", "w") as stream:
            stream.write(text)


def _build_root(request: dict) -> None:
    root, hidden = request["root"], MS_NOSUID | MS_NODEV
    _mount("none", "/", None, MS_REC | MS_PRIVATE)  # nothing done here is seen outside
    _mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for source in request["read_only"]:
        _bind(source, root + source)
    for device in ("null", "zero", "full", "random", "urandom"):
        _bind(f"/dev/{device}", f"{root}/dev/{device}", flags=0)
    for folder, size in (("/tmp", request["tmp_mb"]), ("/dev/shm", 4)):
        os.mkdir(root + folder)
        options = f"size={size}m,mode=1777,nr_inodes={request['tmp_files']}"
        _mount("tmpfs", root + folder, "tmpfs", hidden, options)
    os.mkdir(root + "/proc")
    _mount("proc", root + "/proc", "proc", hidden)
    for name in ("sys", "sysrq-trigger", "irq", "bus"):  # root's to write, and not namespaced
        if os.path.exists(f"{root}/proc/{name}"):
            _mount(f"{root}/proc/{name}", f"{root}/proc/{name}", None, MS_BIND)
            _mount("none", f"{root}/proc/{name}", None, MS_REMOUNT | MS_BIND | MS_RDONLY | hidden)
    _mount("none", root, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir(root)
    _check(libc.syscall(155 if os.uname().machine == "x86_64" else 41, b".", b"."))  # pivot_root
    _check(libc.umount2(b".", 2))  # MNT_DETACH: the old root, now stacked on the new one, is gone
    os.chdir("/tmp")


def _bind(source: str, target: str, flags: int = MS_RDONLY) -> None:
    if os.path.islink(source):  # /lib -> usr/lib on merged systems
        os.symlink(os.readlink(source), target)
        return
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "w").close()
    _mount(source, target, None, MS_BIND | MS_REC)
    if flags:
        _mount("none", target, None, MS_REMOUNT | MS_BIND | flags | MS_NOSUID | MS_NODEV)


def _mount(source: str, target: str, kind: "str | None", flags: int, options: str = "") -> None:
    _check(
        libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, options.encode()), target
    )


def _check(result: int, what: str = "") -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), what)


if __name__ == "__main__":
    main()
