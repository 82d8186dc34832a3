# A service that tries to leave what appfw put it into. Each way is tried by a process of its own; a line says what
# came of it: "kept" if the kernel or systemd refused, "OUT" if something got through. Its arguments are the host's
# address, and the names of the ways; without, it tries all. A process "sleep" is outside, of the same user, and with
# fewer capabilities.
import ctypes, errno, fcntl, mmap, os, platform, signal, socket, struct, subprocess, sys, time

FAR = "11.22.0.20"  # must not hear of it
OWN = sys.argv[1]
VICTIM = int(subprocess.run(["pidof", "-s", "sleep"], capture_output=True).stdout)
for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
    del os.environ[name]
libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
NR = {"ptrace": (101, 117), "mount": (165, 40), "umount2": (166, 39), "setns": (308, 268), "io_uring_setup": (425, 425), "pidfd_open": (434, 434),
      "pidfd_getfd": (438, 438), "process_vm_writev": (311, 271), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
      "bpf": (321, 280), "init_module": (175, 105), "iopl": (172, -1)}


class Kept(Exception):
    pass


def sys_(name, *args):
    r = libc.syscall(NR[name][0 if X86 else 1], *args)
    if r < 0:
        raise OSError(ctypes.get_errno(), name)
    return r


def connect(timeout=0.5):
    s = socket.socket()
    s.settimeout(timeout)
    s.connect((FAR, 80))


def shell(command, timeout=20):
    r = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=timeout)
    if r.returncode:
        raise Kept((r.stderr.strip() or str(r.returncode))[:160])


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


curl = f"/usr/bin/curl -sS -m 1 http://{FAR}/"


def beside():
    "connects as if it were free"
    connect()


def cgroup():
    "moves to another control group"
    for path in "/sys/fs/cgroup", "/sys/fs/cgroup/init.scope", "/sys/fs/cgroup/system.slice/dbus.service":
        try:
            write(path + "/cgroup.procs", str(os.getpid()))
            break
        except OSError as e:
            failed = e
    else:
        raise failed
    connect()


def new_cgroup():
    "makes a control group beside its own"
    os.mkdir("/sys/fs/cgroup/beside")
    write("/sys/fs/cgroup/beside/cgroup.procs", str(os.getpid()))
    connect()


def remount():
    "mounts the control groups anew"
    sys_("mount", None, b"/sys/fs/cgroup", None, 1 << 5, None)
    cgroup()


def mount_cgroup():
    "mounts the control groups elsewhere"
    sys_("mount", b"cgroup2", b"/mnt", b"cgroup2", 0, None)
    write("/mnt/cgroup.procs", str(os.getpid()))
    connect()


def user_namespace_cgroup():
    "mounts the control groups in a user namespace"
    shell("unshare -UrmC sh -c 'mount -t cgroup2 c /mnt && echo 0 > /mnt/../mnt/cgroup.procs && mkdir /mnt/x && echo 0 > /mnt/x/cgroup.procs && exec " + curl + "'")


def uncover():
    "takes away, in a user namespace, what covers a socket"
    shell("unshare -Urm sh -c 'umount /run/dbus /run/systemd/private; busctl --address=unix:path=/run/systemd/private list || busctl list'")


def setns():
    "enters the network namespace of process 1"
    sys_("setns", os.open("/proc/1/ns/net", os.O_RDONLY), 0)
    connect()


def setns_pidfd():
    "enters the network namespace of a process that it may see"
    sys_("setns", sys_("pidfd_open", VICTIM, 0), 0x40000000)
    connect()


def setns_container():
    "enters the user namespace of root's that is beside it"
    sys_("setns", os.open(f"/proc/{VICTIM}/ns/user", os.O_RDONLY), 0)


def packet():
    "sends a frame by a socket of its own"
    s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0x0800)
    udp = struct.pack("!HHHH", 9, 9, 9, 0) + b"?"
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton(OWN), socket.inet_aton(FAR))
    total = sum(struct.unpack("!10H", ip))
    total = (total & 0xffff) + (total >> 16)
    ip = ip[:10] + struct.pack("!H", ~total & 0xffff) + ip[12:]
    for _, name in socket.if_nameindex():
        if name != "lo":
            s.sendto(ip + udp, (name, 0x0800, 0, 0, gateway(name)))
            return
    raise Kept("no device")


def gateway(device):
    for line in open("/proc/net/arp").read().splitlines()[1:]:
        fields = line.split()
        if fields[5] == device and fields[3] != "00:00:00:00:00:00":
            return bytes.fromhex(fields[3].replace(":", ""))
    return b"\xff" * 6


def raw():
    "sends a datagram with a header of its own"
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    s.sendto(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20, 0, 0, 64, 200, 0, b"\0" * 4, socket.inet_aton(FAR)), (FAR, 0))


def vsock():
    "has a socket to the hypervisor"
    socket.socket(40, socket.SOCK_STREAM).connect_ex((2, 80))


def vsock_32():
    "has it by 32-bit system calls"
    if not X86:
        raise Kept("none")
    pid = os.fork()
    if not pid:
        os._exit(32 if call32(359, 40, 1, 0) >= 0 else 0)  # socket
    if os.waitpid(pid, 0)[1] != 32 << 8:
        raise Kept("refused, or killed")


def socketcall_32():
    "has it by socketcall(2)"
    if not X86:
        raise Kept("none")
    pid = os.fork()
    if not pid:
        low = libc.mmap
        low.restype, low.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
        at = low(None, 4096, 3, 0x62, -1, 0)  # MAP_32BIT
        ctypes.memmove(at, struct.pack("III", 40, 1, 0), 12)
        os._exit(32 if call32(102, 1, at, 0) >= 0 else 0)
    if os.waitpid(pid, 0)[1] != 32 << 8:
        raise Kept("refused, or killed")


def call32(number, a, b, c):
    m = mmap.mmap(-1, 4096, prot=7)
    #         push rbx; mov eax,edi; mov ebx,esi; mov ecx,edx'; ... int 0x80; pop rbx; cdqe; ret
    m.write(bytes.fromhex("53" "89f8" "89f3" "4989c8" "89d1" "4489c2" "cd80" "5b" "4898" "c3"))
    at = ctypes.addressof(ctypes.c_char.from_buffer(m))
    return ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)(at)(number, a, b, c)


def io_uring():
    "has the kernel make sockets for it"
    sys_("io_uring_setup", 1, ctypes.create_string_buffer(120))


def odd_families():
    "has sockets of families that know no namespaces"
    for family in 31, 42, 29, 30, 39, 15:  # Bluetooth, Qualcomm, CAN, TIPC, NFC, PF_KEY
        for kind in 1, 2, 3, 5:
            try:
                socket.socket(family, kind)
            except OSError as e:
                if e.errno not in (errno.EAFNOSUPPORT, errno.EPERM, errno.ESOCKTNOSUPPORT, errno.EPROTONOSUPPORT):
                    raise
                failed = e
            else:
                return
    raise failed


def bus():
    "asks systemd by D-Bus"
    shell("systemd-run --wait " + curl)


def bus_path():
    "asks systemd by its own socket"
    shell("busctl --address=unix:path=/run/systemd/private call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager Reload")


def unit():
    "writes a unit, and signals systemd"
    for where in "/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/run/systemd/transient":
        try:
            write(where + "/default.target.wants.service", "")
            os.unlink(where + "/default.target.wants.service")
        except OSError as e:
            failed = e
            continue
        write(where + "/left.service", f"[Service]\nExecStart={curl}\n")
        os.makedirs(where + "/multi-user.target.wants", exist_ok=True)
        os.symlink("../left.service", where + "/multi-user.target.wants/left.service")
        os.kill(1, signal.SIGHUP)
        time.sleep(1)
        os.kill(1, signal.SIGRTMIN)
        time.sleep(1)
        return
    raise failed


def preload():
    "has every program of the host run a library of its own"
    write("/etc/ld.so.preload", "")
    os.unlink("/etc/ld.so.preload")


def core_pattern():
    "has the kernel start a program"
    open("/proc/sys/kernel/core_pattern", "a").close()


def remount_sys():
    "makes the kernel's settings writable"
    sys_("mount", None, b"/proc/sys", None, 1 << 5, None)
    open("/proc/sys/kernel/core_pattern", "a").close()


def user_namespace_proc():
    "has a /proc of its own"
    shell("unshare -Urmpf --mount-proc sh -c ': >> /proc/sys/kernel/core_pattern'")


def unmapped_proc():
    "has a /proc of its own, as nobody"
    if libc.unshare(0x10000000 | 0x20000 | 0x20000000):  # user, mount, pid
        raise OSError(ctypes.get_errno(), "unshare")
    if pid := os.fork():
        if os.waitpid(pid, 0)[1]:
            raise Kept("refused")
        return
    try:
        sys_("mount", b"proc", b"/mnt", b"proc", 0, None)
        open("/mnt/sys/kernel/core_pattern", "a").close()
    except OSError:
        os._exit(1)
    os._exit(0)


def modules():
    "loads a module"
    sys_("init_module", b"", 0, b"")


def devices():
    "makes a block device, or finds one"
    for kind in 8, 7, 252, 253, 254, 259:
        try:
            os.mknod("/tmp/device", 0o60600, os.makedev(kind, 0))
            os.open("/tmp/device", os.O_RDWR)
            return
        except OSError as e:
            failed = e
        finally:
            try:
                os.unlink("/tmp/device")
            except OSError:
                pass
    for name in "mem", "port", "kmem", "vda", "sda", "loop0", "vsock", "vhost-vsock", "vhost-net", "net/tun", "uinput", "kvm":
        if os.path.exists("/dev/" + name):
            os.open("/dev/" + name, os.O_RDWR)
            return
    raise failed


def ports():
    "speaks to devices past the kernel"
    sys_("iopl", 3)


def ptrace():
    "traces a process outside"
    sys_("ptrace", 16, VICTIM, 0, 0)


def memory():
    "writes a process's memory"
    os.open(f"/proc/{VICTIM}/mem", os.O_RDWR)


def memory_call():
    "writes a process's memory by a system call"
    try:
        sys_("process_vm_writev", VICTIM, ctypes.create_string_buffer(16), 1, ctypes.create_string_buffer(16), 1, 0)
    except OSError as e:
        if e.errno not in (errno.EFAULT, errno.EINVAL):
            raise


def steal():
    "takes a socket from a process outside"
    fd = sys_("pidfd_open", VICTIM, 0)
    for n in range(3, 64):
        try:
            sys_("pidfd_getfd", fd, n, 0)
            return
        except OSError as e:
            failed = e
    if failed.errno == errno.EBADF:
        return
    raise failed


def root_of_1():
    "sees the files as process 1 does"
    os.stat("/proc/1/root/sys/fs/cgroup/cgroup.procs")
    write("/proc/1/root/sys/fs/cgroup/cgroup.procs", str(os.getpid()))


def unmapped():
    "is root of a user namespace in which it is nobody"
    if libc.unshare(0x10000000 | 0x20000 | 0x02000000 | 0x40000000):  # user, mount, cgroup, net
        raise OSError(ctypes.get_errno(), "unshare")
    failed = None
    for what in (lambda: sys_("mount", None, b"/sys/fs/cgroup", None, 1 << 5, None), lambda: sys_("umount2", b"/sys/fs/cgroup", 2),
                 lambda: sys_("umount2", b"/run/dbus", 2), lambda: sys_("umount2", b"/proc", 2), lambda: sys_("umount2", b"/run/systemd/private", 2),
                 lambda: sys_("mount", None, b"/proc", None, 1 << 5, None), lambda: sys_("mount", b"/", b"/mnt", None, 1 << 12, None),
                 lambda: sys_("mount", b"/run", b"/mnt", None, 1 << 12, None), lambda: write("/sys/fs/cgroup/cgroup.procs", "0")):
        try:
            what()
        except OSError as e:
            failed = e
        else:
            return
    # Of its own control group only what is below.
    sys_("mount", b"cgroup2", b"/mnt", b"cgroup2", 0, None)
    if "system.slice" in os.listdir("/mnt"):
        return
    raise failed


def handle():
    "opens a covered file by its number, through another mount"
    class Handle(ctypes.Structure):
        _fields_ = [("size", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]
    h, mount = Handle(128), ctypes.c_int()
    sys_("name_to_handle_at", -100, b"/run", ctypes.byref(h), ctypes.byref(mount), 0)
    through = os.open("/etc/resolv.conf", os.O_RDONLY)
    top = sys_("open_by_handle_at", through, ctypes.byref(h), os.O_RDONLY)
    os.stat("systemd/private", dir_fd=top)


def bpf():
    "loads a program that the kernel runs"
    sys_("bpf", 5, ctypes.create_string_buffer(128), 128)


def nat():
    "changes the network"
    shell("ip route add 203.0.113.0/24 dev lo")


def su():
    "has another user's manager start programs"
    shell("ls /run/user/*/bus /run/user/*/systemd/private")


def chroot():
    "leaves by a root of its own"
    os.chroot("/proc/1/root")
    write("/sys/fs/cgroup/cgroup.procs", str(os.getpid()))


WAYS = [beside, cgroup, new_cgroup, remount, mount_cgroup, user_namespace_cgroup, uncover, setns, setns_pidfd, setns_container, packet, raw, vsock,
        vsock_32, socketcall_32, io_uring, odd_families, bus, bus_path, unit, preload, core_pattern, remount_sys, user_namespace_proc, unmapped_proc, modules, devices,
        ports, ptrace, memory, memory_call, steal, root_of_1, unmapped, handle, bpf, nat, su, chroot]

for way in [w for w in WAYS if w.__name__ in sys.argv[2:]] or WAYS:
    sys.stdout.flush()
    if pid := os.fork():
        os.waitpid(pid, 0)
        continue
    try:
        way()
        print("OUT ", way.__name__, "-", way.__doc__)
    except (OSError, Kept, subprocess.SubprocessError) as e:
        print("kept", way.__name__, "-", e)
    sys.stdout.flush()
    os._exit(0)
