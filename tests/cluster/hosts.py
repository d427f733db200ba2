"""Real hosts on one machine: what Ray's cluster launcher, or anything else that speaks SSH, is tested against.

Each host is a network namespace with a cable into one bridge, and within it an own process table, host name,
``/tmp/ray``, ``/dev/shm``, ``/run`` and home, with an SSH server as process 1. All else of the file system is this
machine's: to a cluster it is what the hosts have in common; `Host.hide` and `Host.overlay_file` make one host differ.
The test itself stands in the machine's own network, which reaches the hosts over the bridge: a laptop beside a cluster.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import itertools
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 60.0
PACKAGE_OF = {"ip": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync"}
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What becomes process 1 of a host. In its own mount namespace, so nothing here shows outside.
# An own passwd, not $HOME alone: `~`, rsync's working directory and getpwuid() must all mean the host's home.
# A name server that does not answer would hold up every look-up of a name; an empty list fails at once.
BOOT = """
folder=$1 name=$2
echo "$name" > /proc/sys/kernel/hostname
for file in passwd shadow hosts resolv.conf; do
    [ ! -e /etc/$file ] || mount --bind "$folder/etc/$file" /etc/$file
done
mount -t tmpfs -o size=1g,mode=1777 tmpfs /tmp/ray
mount -t tmpfs -o size=512m,mode=1777 tmpfs /dev/shm
mount -t tmpfs -o size=16m,mode=755 tmpfs /run
mkdir /run/sshd
exec /usr/sbin/sshd -D -e -f "$folder/sshd_config"
"""
SSHD_CONFIG = """
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {key}.pub
PidFile none
StrictModes no
UsePAM no
UseDNS no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
MaxSessions 100
PrintMotd no
PrintLastLog no
Subsystem sftp internal-sftp
"""


def skip_reason() -> str | None:
    """Why no hosts can be made here, or None where they can."""
    if not sys.platform.startswith("linux"):
        return "hosts are made of Linux namespaces"
    if os.geteuid() != 0:
        return "making hosts needs root"
    missing = {package for tool, package in PACKAGE_OF.items() if not shutil.which(tool, path=SYSTEM_PATH)}
    if missing:
        return f"missing Debian packages: {' '.join(sorted(missing))}"
    for words in (
        ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--uts", "--ipc", "true"],
        ["unshare", "--net", "ip", "link", "add", "veth-try", "type", "veth", "peer", "name", "veth-peer"],
        ["unshare", "--net", "ip", "link", "add", "bridge-try", "type", "bridge"],
    ):
        tried = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        if tried.returncode != 0:
            return f"not allowed here: {' '.join(words)}: {tried.stderr.strip()}"
    return None


class Host:
    """One host of a lab. It runs until it is killed or its lab ends."""

    def __init__(self, lab: Lab, name: str, address: str, cable: str) -> None:
        self.lab, self.name, self.address = lab, name, address
        self.cable = cable
        """The bridge's end of its network cable; the name of its network namespace too."""
        self.folder = lab.root / name
        self.home = self.folder / "home"
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._pid_namespace = ""

    def run(self, *words: str, timeout: float = 120.0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the host over SSH, as a user's ``ssh host …`` would.

        Args:
            words: the command and its arguments; they arrive as they are given, whatever characters they hold
            timeout: seconds until `subprocess.TimeoutExpired`
            environment: variables for the command

        Returns:
            what it printed and its exit status; 255 where SSH itself failed
        """
        settings = ["env", *(f"{key}={value}" for key, value in environment.items())] if environment else []
        return subprocess.run(
            [*self.lab.ssh, f"root@{self.address}", shlex.join([*settings, *words])],
            capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def kill(self) -> None:
        """The power goes: SIGKILL to process 1, and with it to all that runs on the host."""
        if self._process is None:
            return
        if self.alive:
            os.kill(self._pid, signal.SIGKILL)
        else:  # it died before, or never came to be; what would have become its parent may be there
            self._process.kill()
        self._process.wait(PATIENCE_SECONDS)  # process 1 ends after all others of its namespace, and this after it

    def cut(self) -> None:
        """Pull the network cable. What runs on the host runs on."""
        _run("ip", "link", "set", self.cable, "down")

    def heal(self) -> None:
        """Plug the network cable in again."""
        _run("ip", "link", "set", self.cable, "up")

    @property
    def alive(self) -> bool:
        return _pid_namespace(self._pid) == self._pid_namespace != ""

    def processes(self, pattern: str = "") -> dict[int, str]:
        """What runs on the host: process numbers, as this machine counts them, with their command lines.

        ``pattern`` is a regular expression that is searched in the command line. Works on a host that is cut off too.
        """
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and self._pid_namespace and _pid_namespace(int(entry.name)) == self._pid_namespace:
                with contextlib.suppress(OSError):  # it ended meanwhile
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    if re.search(pattern, line):
                        found[int(entry.name)] = line
        return found

    def hide(self, path: str | Path) -> None:
        """Let a directory be empty on this host alone."""
        self._mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path))

    def overlay_file(self, path: str | Path, content: str) -> None:
        """Let a file that exists have another content on this host alone.

        Nothing on the host can replace that file then, rsync included: it is written to, or revealed.
        """
        layers = self.folder / "overlays"
        layers.mkdir(exist_ok=True)
        other = layers / f"{len(list(layers.iterdir()))}-{Path(path).name}"
        other.write_text(content)
        other.chmod(Path(path).stat().st_mode & 0o7777)
        self._mount("--bind", str(other), str(path))

    def reveal(self, path: str | Path) -> None:
        """Take away what `hide` or `overlay_file` put there last."""
        self._inside("umount", "--lazy", str(path))

    def _mount(self, *words: str) -> None:
        self._inside("mount", *words)

    def _inside(self, *words: str) -> None:
        """Not over SSH: for a host that is cut off too. The process table as well, or its /proc would not know us."""
        _run("nsenter", "--target", str(self._pid), "--mount", "--pid", *words)

    def _boot(self) -> None:
        """Start it and wait until it can be logged into."""
        # Whoever makes a lab may be killed: its hosts then die too, since each process here dies with its parent.
        # The parent is the thread that runs this, so it has to be one that lasts as long as the lab.
        self._process = subprocess.Popen(
            [
                "setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.cable,
                "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--ipc",
                "sh", "-ec", BOOT, "sh", str(self.folder), self.name,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(self.folder / "log").open("wb"),
            start_new_session=True, env={"PATH": SYSTEM_PATH},
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_SECONDS
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        while True:
            with contextlib.suppress(OSError):
                self._pid = int((children.read_text().split() or ["0"])[0])
                self._pid_namespace = _pid_namespace(self._pid)
            if self._pid and self.run("true", timeout=PATIENCE_SECONDS).returncode == 0:
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"host {self.name} did not come up: {(self.folder / 'log').read_text()}")
            time.sleep(0.05)


class Lab:
    """A handful of hosts on one network. A context manager; what it made is gone when it ends, however it ends.

    Args:
        root: a new folder for homes, keys and logs; it stays, for whoever looks into a failure
        count: how many hosts there are from the start
        environment: variables that every login on a host has. The interpreter that runs the tests comes first in
            their PATH, and this checkout in their PYTHONPATH.
    """

    def __init__(self, root: Path, count: int = 3, environment: dict[str, str] | None = None) -> None:
        self.root = root
        self.hosts: list[Host] = []
        self.prefix = f"lab{secrets.token_hex(3)}"
        """Begins the name of every interface and namespace made here; new each time."""
        self.network = ipaddress.ip_network("10.77.0.0/24")  # until it is entered
        self.key, self.known_hosts = root / "key", root / "known_hosts"
        self.laptop = root / "laptop"
        """The test's own home: with the token, without the user's files."""
        self.token = secrets.token_hex(32)
        """What ``~/.ray/auth_token`` holds on every host and on the laptop."""
        self.variables = {
            "PATH": f"{Path(sys.executable).parent}:{SYSTEM_PATH}", "PYTHONPATH": str(CHECKOUT), **(environment or {}),
        }  # fmt: skip
        self._count = count

    def __enter__(self) -> Lab:
        self.root.mkdir(parents=True, exist_ok=True)
        Path("/tmp/ray").mkdir(exist_ok=True, mode=0o1777)  # hosts mount their own over it
        _make_home(self.laptop, self.token, {})
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "laptop", "-f", str(self.key))
        try:
            self._make_network()
            for _ in range(self._count):
                self.add_host()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def head(self) -> Host:
        return self.hosts[0]

    @property
    def address(self) -> str:
        """The test's own address, by which hosts reach it."""
        return str(self.network[1])

    @property
    def ssh(self) -> list[str]:
        """``ssh`` with all the options it needs to log in to a host without a question."""
        options = {
            "BatchMode": "yes", "ConnectTimeout": "5", "IdentitiesOnly": "yes", "LogLevel": "ERROR",
            "ServerAliveInterval": "5", "ServerAliveCountMax": "3",
            "StrictHostKeyChecking": "yes", "UserKnownHostsFile": str(self.known_hosts),
        }  # fmt: skip
        flags = itertools.chain.from_iterable(("-o", f"{key}={value}") for key, value in options.items())
        return ["ssh", "-F", "/dev/null", "-i", str(self.key), *flags]

    @property
    def environment(self) -> dict[str, str]:
        """For commands of the laptop: its home, and a temporary folder of its own, where ``ray up`` keeps its state."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "TMPDIR"}
        temporary = str(self.laptop / "tmp")
        return {**kept, **self.variables, "HOME": str(self.laptop), "TMPDIR": temporary, "RAY_TMPDIR": temporary}

    def add_host(self) -> Host:
        """One more host; it is up, and has its address, when this returns."""
        number = len(self.hosts) + 1
        host = Host(self, f"host{number}", str(self.network[number + 1]), f"{self.prefix}-{number}")
        self.hosts.append(host)  # first of all: what is half made is torn down too
        self._make_files(host)
        inside = f"{self.prefix}p{number}"  # until it is moved in and becomes eth0
        _run("ip", "netns", "add", host.cable)
        _run("ip", "link", "add", host.cable, "type", "veth", "peer", "name", inside)
        _run("ip", "link", "set", host.cable, "master", self.prefix, "up")
        _run("ip", "link", "set", inside, "netns", host.cable, "name", "eth0")
        # Without a default route Ray takes 127.0.0.1 for the address of its node.
        for words in (
            "link set lo up",
            f"address add {host.address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {self.address}",
        ):
            _run("ip", "-n", host.cable, *words.split())
        host._boot()
        return host

    def close(self) -> None:
        """Take down what was made. May be called at any time, and again."""
        for host in self.hosts:
            host.kill()
        interfaces, namespaces = _run("ip", "-o", "link").splitlines(), _run("ip", "netns", "list").splitlines()
        # Cables before namespaces: a namespace goes when the kernel finds the time, and its cable with it.
        for line in interfaces:
            name = line.split(": ")[1].split("@")[0]
            if name.startswith(self.prefix) and not name.startswith(f"{self.prefix}p"):
                _run("ip", "link", "delete", name)
        for line in namespaces:
            if line.startswith(f"{self.prefix}-"):
                _run("ip", "netns", "delete", line.split()[0])

    def _make_network(self) -> None:
        """The bridge, with the first address of a free 10.77.x.0/24."""
        with _locked():
            used = re.findall(r"\b10\.77\.(\d+)\.", _run("ip", "-4", "route", "show", "table", "all"))
            octet = next(n for n in range(256) if str(n) not in used)
            self.network = ipaddress.ip_network(f"10.77.{octet}.0/24")
            # A bridge with no address of its own takes the lowest of its ports', which changes when a host joins.
            own = f"02:{secrets.token_bytes(5).hex(':')}"
            _run("ip", "link", "add", self.prefix, "address", own, "type", "bridge")
            _run("ip", "address", "add", f"{self.address}/24", "dev", self.prefix)
            _run("ip", "link", "set", self.prefix, "up")

    def _make_files(self, host: Host) -> None:
        etc = host.folder / "etc"
        etc.mkdir(parents=True)
        _make_home(host.home, self.token, self.variables)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", host.name, "-f", str(host.folder / "host_key"))
        with self.known_hosts.open("a") as file:
            file.write(f"{host.address} {(host.folder / 'host_key.pub').read_text()}")
        (host.folder / "sshd_config").write_text(SSHD_CONFIG.format(folder=host.folder, key=self.key))
        (etc / "passwd").write_text(_with_root(Path("/etc/passwd"), f"root:x:0:0:root:{host.home}:/bin/bash"))
        (etc / "shadow").write_text(_with_root(Path("/etc/shadow"), "root:*:20000:0:99999:7:::"))
        (etc / "shadow").chmod(0o600)
        (etc / "resolv.conf").write_text("")
        names = "".join(f"{each.address} {each.name}\n" for each in self.hosts)
        for each in self.hosts:  # written in place: a file that is mounted somewhere cannot be replaced
            (each.folder / "etc" / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} laptop\n{names}")


def _make_home(home: Path, token: str, variables: dict[str, str]) -> None:
    (home / ".ray").mkdir(parents=True)
    (home / "tmp").mkdir()
    (home / ".ray" / "auth_token").write_text(token)
    (home / ".ray" / "auth_token").chmod(0o600)
    (home / ".bashrc").write_text("".join(f"export {key}={shlex.quote(value)}\n" for key, value in variables.items()))
    (home / ".profile").write_text(". ~/.bashrc\n")


def _with_root(path: Path, line: str) -> str:
    """A file of accounts with another line for root."""
    return "".join(f"{old}\n" if not old.startswith("root:") else f"{line}\n" for old in path.read_text().splitlines())


def _pid_namespace(pid: int) -> str:
    """Its name, or nothing where there is no such process."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Held by one lab of this machine at a time."""
    folder = os.open("/run", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _run(*words: str) -> str:
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=PATIENCE_SECONDS, stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": SYSTEM_PATH},
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
