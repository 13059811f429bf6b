"""Attacks on the sandbox as source text. One that succeeds prints ESCAPED.

Each finds ``secret`` (a file of the host), ``victim`` (a process of the host), ``port`` and ``abstract`` (a TCP and an
abstract Unix server of the host), ``calls`` (name -> system call number) and ``call(name, *arguments)``.
"""

PRELUDE = """
import ctypes, errno, os, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    return libc.syscall(calls[name], *arguments)
def escaped(if_true=True):
    if if_true: print('ESCAPED', flush=True)
def read(path, size=100):
    with open(path, 'rb') as file: return file.read(size)
def write(path, data=b'x'):
    with open(path, 'wb', buffering=0) as file: return file.write(data)
"""

NETWORK = {
    "tcp": "socket.create_connection(('1.1.1.1', 53)); escaped()",
    "tcp6": "socket.create_connection(('2606:4700:4700::1111', 53)); escaped()",
    "udp": "socket.socket(2, 2).sendto(b'x', ('8.8.8.8', 53)); escaped()",
    "name lookup": "socket.getaddrinfo('example.org', 80); escaped()",
    "loopback of the host": "socket.create_connection(('127.0.0.1', port)); escaped()",
    "abstract socket of the host": "s = socket.socket(1, 1); s.connect('\\0' + abstract); escaped()",
    "raw socket": "socket.socket(2, 3, 1); escaped()",
    "packet socket": "socket.socket(17, 3); escaped()",
    "netlink": "socket.socket(16, 3, 0); escaped()",
    "vsock": "socket.socket(40, 1); escaped()",
    "kernel crypto socket": "socket.socket(38, 5); escaped()",
    "bluetooth": "socket.socket(31, 3); escaped()",
    "other interfaces": "escaped(set(n for _, n in socket.if_nameindex()) - {'lo'})",
}
FILES = {
    "password file": "read('/etc/passwd'); escaped()",
    "shadow file": "read('/etc/shadow'); escaped()",
    "secret by name": "read(secret); escaped()",
    "secret by symlink": "os.symlink(secret, 'link'); read('link'); escaped()",
    "secret by parents": "read('../' * 40 + secret[1:]); escaped()",
    "secret through process 1": "read('/proc/1/root' + secret); escaped()",
    "secret through itself": "read('/proc/self/root' + secret); escaped()",
    "secret through the working folder": "read('/proc/self/cwd/../../..' + secret); escaped()",
    "secret through other processes": "[read(f'/proc/{n}/root{secret}') for n in os.listdir('/proc') if "
    "n.isdigit()]; escaped()",
    "hard link out": "os.link('/usr/bin/env', '/tmp/env'); escaped()",
    "home": "escaped(any(os.path.exists(p) for p in ('/home', '/root/.ssh', '/root/.bashrc', '/root/.cache', "
    "'/var/lib')))",
    "the checkout": "read(checkout + '/pyproject.toml'); escaped()",
    "write to a toolchain": "write('/usr/bin/evil'); escaped()",
    "write to the interpreter": "write(sys.base_prefix + '/lib/evil.py'); escaped()",
    "write to the root": "write('/evil'); escaped()",
    "write to devices": "write('/dev/evil'); escaped()",
    "overwrite the running program": "write('/proc/self/exe'); escaped()",
    "kernel settings": "write('/proc/sys/kernel/core_pattern', b'|/tmp/x'); escaped()",
    "host name setting": "write('/proc/sys/kernel/hostname', b'x'); escaped()",
    "system request": "write('/proc/sysrq-trigger', b'h'); escaped()",
    "kernel memory": "read('/dev/mem'); escaped()",
    "kernel log device": "read('/dev/kmsg'); escaped()",
    "disk": "[escaped() for d in ('vda', 'sda', 'nvme0n1') if os.path.exists('/dev/' + d)]",
    "make a device": "os.mknod('/tmp/disk', 0o60666, os.makedev(254, 0)); read('/tmp/disk'); escaped()",
    "sysfs": "escaped(os.path.exists('/sys/kernel'))",
    "cgroup release agent": "escaped(os.path.exists('/sys/fs/cgroup/memory'))",
    "docker socket": "escaped(os.path.exists('/var/run/docker.sock') or os.path.exists('/run'))",
    "environment": "escaped('QWENFORGE_SECRET' in str(os.environ) or 'sk-secret' in str(os.environ))",
    "environment of process 1": "escaped(read('/proc/1/environ', 9999))",
    "memory of process 1": "open('/proc/1/mem', 'r+b'); escaped()",
    "reply channel": "os.write(os.open('/proc/1/fd/200', os.O_WRONLY), b'[]'); escaped()",
    "inherited descriptors": "escaped(set(os.listdir('/proc/self/fd')) - set('01234'))",
}
PROCESSES = {
    "signal to the parent": "os.kill(os.getppid(), 9); time.sleep(0.2); escaped(os.getppid() != 1)",
    "interrupt process 1": "os.kill(1, signal.SIGINT); time.sleep(0.2)",
    "stop process 1": "os.kill(1, signal.SIGSTOP); time.sleep(0.2)",
    "terminate process 1": "[os.kill(1, n) for n in range(1, 65) if n not in (32, 33)]; time.sleep(0.2)",
    "kill everybody": "os.kill(-1, 9)",
    "kill the group": "os.kill(0, 9)",
    "kill the victim": "os.kill(victim, 9); escaped()",
    "slow the victim down": "os.setpriority(os.PRIO_PROCESS, victim, 19); escaped()",
    "see other processes": "escaped([n for n in os.listdir('/proc') if n.isdigit() and int(n) > 30])",
    "fork bomb": "while True: os.fork()",
    "fork bomb that catches": "while True:\n  try: os.fork()\n  except OSError: pass",
    "thread bomb": "while True: threading.Thread(target=time.sleep, args=(9,)).start()",
    "zombies": "while True:\n  if os.fork() == 0: os._exit(0)",
    "execution bomb": "while True:\n  os.fork(); os.execv('/usr/bin/env', ['env', 'sh', '-c', 'env sh & env sh'])",
    "ignore signals": "[signal.signal(n, signal.SIG_IGN) for n in range(1, 32) if n not in (9, 19)]\nwhile True: "
    "time.sleep(1)",
    "sleep": "time.sleep(99)",
    "spin": "while True: pass",
    "spin in all processes": "for _ in range(6): os.fork()\nwhile True: pass",
    "child left behind": "if os.fork() == 0:\n  os.setsid(); time.sleep(0.5)\n  if os.fork() == 0:\n    time.sleep(99)",
    "stopped child": "pid = os.fork()\nif pid == 0: time.sleep(99)\nos.kill(pid, signal.SIGSTOP)",
    "vfork loop": "while True: os.posix_spawn('/usr/bin/sleep', ['sleep', '9'], {})",
    "trace process 1": "escaped(call('ptrace', 16, 1, 0, 0) == 0)",
    "trace a child": "pid = os.fork()\nif pid == 0: time.sleep(9)\nescaped(call('ptrace', 16, pid, 0, 0) == 0)",
    "be traced": "escaped(call('ptrace', 0, 0, 0, 0) == 0)",
    "read another's memory": "escaped(call('process_vm_readv', 1, 0, 0, 0, 0, 0) >= 0)",
    "write another's memory": "escaped(call('process_vm_writev', 1, 0, 0, 0, 0, 0) >= 0)",
    "take a descriptor": "escaped(call('pidfd_getfd', libc.syscall(434, 1, 0), 200, 0) >= 0)",
    "compare processes": "escaped(call('kcmp', 1, os.getpid(), 0, 0, 0) >= 0)",
}
RESOURCES = {
    "memory": "x = bytearray(1 << 34); escaped()",
    "memory bit by bit": "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "memory of many processes": "for _ in range(3): os.fork()\nx = bytearray(100 << 20)\nfor i in range(0, "
    "len(x), 4096): x[i] = 1\ntime.sleep(9)\nescaped()",
    "shared memory mapping": "import mmap\nx = mmap.mmap(-1, 1 << 32); escaped()",
    "memory file": "escaped(call('memfd_create', b'x', 0) >= 0)",
    "secret memory": "escaped(call('memfd_secret', 0) >= 0)",
    "system v memory": "escaped(call('shmget', 0, 1 << 30, 0o1666) >= 0)",
    "system v semaphores": "escaped(call('semget', 0, 9, 0o1666) >= 0)",
    "system v messages": "escaped(call('msgget', 0, 0o1666) >= 0)",
    "message queue": "escaped(libc.mq_open(b'/x', 0o102, 0o600, 0) >= 0)",
    "locked memory": "escaped(libc.mlockall(3) == 0 and bool(bytearray(64 << 20)))",
    "deep recursion": "sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    "one large file": "with open('x', 'wb') as f:\n  while True: f.write(b'x' * (1 << 20))",
    "sparse file": "os.truncate(os.open('x', 66), 1 << 40); escaped()",
    "many files": "n = 0\nwhile True:\n  n += 1\n  with open(f'x{n}', 'wb') as f: f.write(b'x' * 500_000)",
    "empty files": "n = 0\nwhile True:\n  n += 1\n  open(f'x{n}', 'wb').close()",
    "files in shared memory": "n = 0\nwhile n < 40:\n  n += 1\n  with open(f'/dev/shm/x{n}', 'wb') as f: "
    "f.write(b'x' * 500_000)\nescaped()",
    "endless output": "while True: print('x' * 1000)",
    "endless errors": "while True: print('x' * 1000, file=sys.stderr)",
    "output of many processes": "for _ in range(3): os.fork()\nwhile True: os.write(1, b'x' * 65536)",
    "many descriptors": "x = []\nwhile True: x.append(os.open('/dev/null', 0))",
    "full pipes": "x = []\nwhile True:\n  r, w = os.pipe(); os.set_blocking(w, False); os.write(w, b'x' * 65536);"
    " x.append((r, w))",
    "raise the limits": "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (-1, -1)); escaped()",
    "lower nice": "os.nice(-5); escaped()",
    "real time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)); escaped()",
}
PRIVILEGES = {
    "become root": "os.setuid(0); escaped()",
    "become root by file system user": "libc.setfsuid(0); read('/etc/shadow'); escaped()",
    "set-user-id program": "escaped(any(os.system(f'{p} -c id 2>/dev/null | grep -q uid=0') == 0 for p in ('su', "
    "'sudo')))",
    "own set-user-id program": "os.chmod(os.open('x', 66), 0o4755); os.chown('x', 0, 0); escaped()",
    "raise capabilities": "h = (ctypes.c_uint32 * 2)(0x20080522, 0); d = (ctypes.c_uint32 * 6)(*[0xffffffff] * "
    "6)\nescaped(libc.capset(h, d) == 0)",
    "ambient capabilities": "escaped(libc.prctl(47, 2, 21, 0, 0) == 0)",
    "new user namespace": "escaped(call('unshare', 0x10000000) == 0)",
    "new mount namespace": "escaped(call('unshare', 0x20000) == 0)",
    "clone with a namespace": "pid = call('clone', 0x10000011, 0, 0, 0, 0)\nif pid == 0: os._exit(0)\nescaped(pid > 0)",
    "clone3 with a namespace": "pid = call('clone3', struct.pack('8Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0), 64)\n"
    "if pid == 0: os._exit(0)\nescaped(pid > 0)",
    "enter a namespace": "escaped(call('setns', os.open('/proc/self/ns/mnt', 0), 0) == 0)",
    "mount": "escaped(call('mount', b'x', b'/tmp', b'tmpfs', 0, 0) == 0)",
    "remount writable": "escaped(call('mount', b'x', b'/usr', 0, 4096 | 32, 0) == 0)",
    "unmount": "escaped(call('umount2', b'/proc', 2) == 0)",
    "new mount interface": "escaped(call('fsopen', b'tmpfs', 0) >= 0)",
    "open tree": "escaped(call('open_tree', -100, b'/', 1) >= 0)",
    "pivot root": "escaped(call('pivot_root', b'/tmp', b'/tmp') == 0)",
    "change root": "escaped(call('chroot', b'/tmp') == 0)",
    "open by handle": "escaped(call('open_by_handle_at', -100, b'x' * 200, 0) >= 0)",
    "name to handle": "escaped(call('name_to_handle_at', -100, b'/', ctypes.create_string_buffer(200), "
    "ctypes.byref(ctypes.c_int()), 0) == 0)",
    "host name": "escaped(call('sethostname', b'x', 1) == 0)",
    "clock": "escaped(call('settimeofday', struct.pack('2q', 0, 0), 0) == 0 or call('clock_settime', 0, "
    "struct.pack('2q', 0, 0)) == 0)",
    "swap": "escaped(call('swapon', b'/tmp/x', 0) == 0)",
    "accounting": "escaped(call('acct', b'/tmp/x') == 0)",
    "another personality": "escaped(call('personality', 0x0040000) >= 0)",
}
KERNEL = {
    "keyring": "escaped(call('keyctl', 0, -3, 1) >= 0)",
    "add a key": "escaped(call('add_key', b'user', b'x', b'x', 1, -3) >= 0)",
    "request a key": "escaped(call('request_key', b'user', b'x', 0, 0) >= 0)",
    "io_uring": "escaped(call('io_uring_setup', 8, ctypes.create_string_buffer(200)) >= 0)",
    "bpf": "escaped(call('bpf', 0, struct.pack('4I', 2, 4, 4, 1), 16) >= 0)",
    "performance events": "escaped(call('perf_event_open', struct.pack('2I', 1, 112) + bytes(104), 0, -1, -1, 0) >= 0)",
    "user faults": "escaped(call('userfaultfd', 1) >= 0)",
    "kernel module": "escaped(call('finit_module', os.open('/dev/null', 0), b'', 0) == 0 or call('init_module', "
    "b'x', 1, b'') == 0)",
    "another kernel": "escaped(call('kexec_load', 0, 0, 0, 0) == 0)",
    "kernel log": "escaped(call('syslog', 3, ctypes.create_string_buffer(99), 99) >= 0)",
    "file events": "escaped(call('fanotify_init', 0, 0) >= 0)",
    "quota": "escaped(call('quotactl', 0, 0, 0, 0) == 0)",
    "hang up": "escaped(call('vhangup') == 0)",
    "input-output ports": "escaped('iopl' in calls and call('iopl', 3) == 0)",
    "calls of the x32 table": "escaped(libc.syscall(0x40000000 + 39) > 0)",
    "type into the terminal": "import fcntl\nfcntl.ioctl(0, 0x5412, b'x'); escaped()",
    "type into a terminal of its own": "import fcntl\nm = os.open('/dev/ptmx', 2); fcntl.ioctl(m, 0x5412, b'x'); "
    "escaped()",
    "controlling terminal": "os.open('/dev/tty', 2); escaped()",
}
PYTHON_ATTACKS = {**NETWORK, **FILES, **PROCESSES, **RESOURCES, **PRIVILEGES, **KERNEL}

PROGRAM_ATTACKS = {
    "fork bomb of the shell": ("bash", "f() { f | f & }; f; wait"),
    "shell reads the secret": ("bash", "cat @secret && echo ESCAPED"),
    "shell with job control": ("bash", "set -m; (trap '' 1 2 3 15; sleep 99) & disown; sleep 99"),
    "shell opens a connection": ("bash", "exec 3<>/dev/tcp/127.0.0.1/@port && echo ESCAPED"),
    "compiler reads the secret": ("c", '__asm__(".data\\n.globl s\\ns: .incbin \\"@secret\\"\\n");\nextern char '
                                       's[];\nint puts(const char *);\nint main(void) { puts(s); return 0; }'),
    "compiler includes the secret": ("c", '#include "@secret"\nint main(void) { return 0; }'),
    "compiler writes without end": ("c", "char x[1 << 30] = {1};\nint main(void) { return 0; }"),
    "calls of the 32-bit table": ("c", '#include <stdio.h>\nint main(void) { long r = 20; __asm__ volatile("int '
                                       '$0x80" : "+a"(r)); if (r > 0) puts("ESCAPED"); return 0; }'),
    "perl reads the secret": ("perl", 'open(my $f, "<", "@secret") or die "$!"; print "ESCAPED";'),
    "database reads the secret": ("sql", "SELECT 'ESCAPED' WHERE length(readfile('@secret')) > 0;"),
}  # fmt: skip
