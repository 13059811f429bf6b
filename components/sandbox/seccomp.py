"""The system calls that code in the sandbox may not make, as a filter for the kernel (seccomp BPF).

Namespaces hide the host; this closes what namespaces do not cover: kernel interfaces that are not namespaced (the
keyring, io_uring, BPF, AF_VSOCK, the clock), ways to enter new namespaces with fresh capabilities, looking into
another process, and memory that counts towards no limit of a process (memfd, System V shared memory).
Sources: linux/seccomp.h, linux/filter.h, linux/audit.h, the syscall tables of x86-64 and of asm-generic (arm64).
"""

import errno
import platform
import struct

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_NEW_NAMESPACES = 0x7E020080
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWTIME."""
_TERMINAL_REQUESTS = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX: typing into a terminal that others read."""
_SOCKET_FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6; of the others, AF_VSOCK for one reaches the host of a virtual machine."""

_TABLE = """
acct 163 89, add_key 248 217, bpf 321 280, chroot 161 51, clock_adjtime 305 266, clock_settime 227 112,
delete_module 176 106, fanotify_init 300 262, finit_module 313 273, fsconfig 431 431, fsmount 432 432, fsopen 430 430,
fspick 433 433, init_module 175 105, ioperm 173 -, iopl 172 -, io_uring_enter 426 426, io_uring_register 427 427,
io_uring_setup 425 425, kcmp 312 272, kexec_file_load 320 294, kexec_load 246 104, keyctl 250 219,
lookup_dcookie 212 18, memfd_create 319 279, memfd_secret 447 447, migrate_pages 256 238, mount 165 40,
mount_setattr 442 442, move_mount 429 429, move_pages 279 239, msgget 68 186, name_to_handle_at 303 264,
nfsservctl 180 42, open_by_handle_at 304 265, open_tree 428 428, perf_event_open 298 241, personality 135 92,
pidfd_getfd 438 438, pivot_root 155 41, process_madvise 440 440, process_vm_readv 310 270, process_vm_writev 311 271,
ptrace 101 117, quotactl 179 60, quotactl_fd 443 443, reboot 169 142, request_key 249 218, semget 64 190,
setdomainname 171 162, sethostname 170 161, setns 308 268, settimeofday 164 170, shmget 29 194, swapoff 168 225,
swapon 167 224, syslog 103 116, umount2 166 39, unshare 272 97, userfaultfd 323 282, vhangup 153 58,
clone 56 220, clone3 435 435, socket 41 198, ioctl 16 29
"""
_ABSENT = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register", "memfd_create", "memfd_secret")
"""Answered with ENOSYS, upon which libraries fall back to an older call: clone3 hides its flags from a filter."""


def denied_calls(machine: str = "") -> dict[str, int]:
    """Name -> number of the calls in the table, on this or the named machine (``x86_64``, ``aarch64``)."""
    column = 1 if (machine or platform.machine()) == "x86_64" else 2
    rows = (row.split() for row in _TABLE.replace("\n", " ").split(","))
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def filter_program(machine: str = "") -> bytes:
    """``struct sock_filter[]`` for this or the named machine; empty where the machine is unknown."""
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        return b""
    calls = denied_calls(machine)
    refuse = _ERROR | errno.EPERM
    program = [
        _step(_LOAD, _ARCHITECTURE), _step(_EQUAL, _ARCHITECTURES[machine], 1, 0), _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
    ]  # fmt: skip
    if machine == "x86_64":
        program += [_step(_AT_LEAST, _X32, 0, 1), _step(_RETURN, refuse)]
    conditional = {"clone", "socket", "ioctl"}
    for name, number in calls.items():
        if name not in conditional:
            answer = _ERROR | errno.ENOSYS if name in _ABSENT else refuse
            program += [_step(_EQUAL, number, 0, 1), _step(_RETURN, answer)]
    flags = [_step(_LOAD, _ARGUMENTS), _step(_ANY_BIT, _NEW_NAMESPACES, 0, 1), _step(_RETURN, refuse)]
    families = [_step(_LOAD, _ARGUMENTS)]
    for left, family in enumerate(_SOCKET_FAMILIES[::-1]):
        families.insert(1, _step(_EQUAL, family, left + 1, 0))
    families.append(_step(_RETURN, refuse))
    requests = [_step(_LOAD, _ARGUMENTS + 8)]
    for request in _TERMINAL_REQUESTS:
        requests += [_step(_EQUAL, request, 0, 1), _step(_RETURN, refuse)]
    for name, block in (("clone", flags), ("socket", families), ("ioctl", requests)):
        block.append(_step(_RETURN, _ALLOW))
        program += [_step(_EQUAL, calls[name], 0, len(block)), *block]
    program.append(_step(_RETURN, _ALLOW))
    return b"".join(program)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
