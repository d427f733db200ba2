"""The hosts of the lab are hosts of their own: nothing of one is the other's but the network and the common files."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from pathlib import Path

import hosts
import pytest

pytestmark = pytest.mark.cluster


def traces(prefix: str, root: Path) -> list[str]:
    """What is left of a lab on this machine: interfaces, namespaces, mounts and processes."""
    listings = [
        subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout
        for words in (["-o", "link"], ["netns", "list"])
    ]
    listings.append(Path("/proc/mounts").read_text())
    found = [line for text in listings for line in text.splitlines() if prefix in line or str(root) in line]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if f"{root}/" in line:
                found.append(f"process {entry.name}: {line}")
    return found


def printed(host: hosts.Host, *words: str) -> str:
    done = host.run(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_hosts_reach_each_other_and_the_laptop(hosts_lab):
    for one in hosts_lab.hosts:
        for address in (other.address for other in hosts_lab.hosts if other is not one):
            # The first words of any SSH server: no ping is needed for it.
            greeting = f"exec 3<>/dev/tcp/{address}/22; head -c 4 <&3"
            assert printed(one, "timeout", "10", "bash", "-c", greeting) == "SSH-"
        assert printed(one, "ip", "route", "get", "8.8.8.8").startswith(f"8.8.8.8 via {hosts_lab.address}")
        assert printed(one, "getent", "hosts", "host2").split()[0] == hosts_lab.hosts[1].address


def test_a_host_has_its_own_name_home_and_temporary_files(hosts_lab):
    for host in hosts_lab.hosts:
        assert printed(host, "hostname") == host.name
        assert printed(host, "bash", "-c", "echo $HOME; echo ~; pwd").split() == [str(host.home)] * 3
        assert printed(host, sys.executable, "-c", "import pathlib; print(pathlib.Path.home())") == str(host.home)
        assert printed(host, "cat", f"{host.home}/.ray/auth_token") == hosts_lab.token
        printed(host, "bash", "-c", f"for d in ~ /tmp/ray /dev/shm; do echo {host.name} > $d/mine-{host.name}; done")
    for host in hosts_lab.hosts:
        for folder in (str(host.home), "/tmp/ray", "/dev/shm"):
            assert printed(host, "sh", "-c", f"ls -d {folder}/mine-*") == f"{folder}/mine-{host.name}"
    assert not list(Path("/dev/shm").glob("mine-host*")) + list(Path("/tmp/ray").glob("mine-host*"))


def test_a_host_sees_its_own_processes_alone(hosts_lab):
    first, second = hosts_lab.hosts[:2]
    printed(first, "bash", "-c", "sleep 7654 > /dev/null 2>&1 &")
    assert list(first.processes("sleep 7654").values()) == ["sleep 7654"]
    assert second.processes("sleep 7654") == {}
    assert "sleep 7654" in printed(first, "ps", "-e", "-o", "args=")
    assert "sleep 7654" not in printed(second, "ps", "-e", "-o", "args=")
    assert "sshd" in printed(second, "ps", "-p", "1", "-o", "args=")


def test_words_and_variables_arrive_as_they_were_given(hosts_lab):
    words = ["a b", "$HOME", "'", '"; exit 9', "*", ""]
    show = "import os, sys; print(sys.argv[1:], os.environ['GIVEN'])"
    done = hosts_lab.head.run("python", "-c", show, *words, GIVEN="x $y 'z'")
    assert done.stdout == f"{words} x $y 'z'\n"
    assert hosts_lab.head.run("sh", "-c", "exit 7").returncode == 7


def test_a_cut_cable_isolates_a_host_that_runs_on(hosts_lab):
    host = hosts_lab.hosts[2]
    before = host.processes("sshd")
    host.cut()
    assert host.run("true").returncode == 255
    assert host.alive
    assert set(before) & set(host.processes("sshd")) != set()
    host.heal()
    assert printed(host, "hostname") == host.name


def test_what_is_hidden_or_changed_is_so_on_one_host(hosts_lab, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cats").write_text("many")
    (tmp_path / "version").write_text("1")
    first, second = hosts_lab.hosts[:2]
    first.hide(tmp_path / "data")
    first.overlay_file(tmp_path / "version", "2")
    assert printed(first, "ls", str(tmp_path / "data")) == ""
    assert printed(first, "cat", str(tmp_path / "version")) == "2"
    assert printed(second, "cat", str(tmp_path / "data" / "cats"), str(tmp_path / "version")) == "many1"
    assert (tmp_path / "version").read_text() == "1"
    first.reveal(tmp_path / "data")
    first.reveal(tmp_path / "version")
    assert printed(first, "cat", str(tmp_path / "data" / "cats"), str(tmp_path / "version")) == "many1"
    with pytest.raises(RuntimeError, match="no such thing"):
        first.hide(tmp_path / "no such thing")


def test_death_takes_all_of_a_host_and_nothing_else_and_a_lab_leaves_nothing(hosts_allowed, tmp_path):
    root = tmp_path / "lab"
    with hosts.Lab(root, 2) as lab:
        head, victim = lab.hosts
        for host in lab.hosts:
            printed(host, "bash", "-c", "setsid nohup sleep 7655 > /dev/null 2>&1 &")
        # A late joiner shares the network, and the others know its name.
        late = lab.add_host()
        assert printed(late, "hostname") == "host3"
        assert printed(head, "getent", "hosts", "host3").split()[0] == late.address
        assert traces(lab.prefix, root) != []
        victim.kill()
        assert not victim.alive
        assert victim.processes() == {}
        assert victim.run("true").returncode == 255
        assert head.alive
        assert len(head.processes("^sleep 7655")) == 1
        victim.kill()
        late.cut()
        head.hide(tmp_path)
    assert [host.alive for host in lab.hosts] == [False] * 3
    assert traces(lab.prefix, root) == []
    lab.close()


def test_two_labs_stand_side_by_side_and_an_error_takes_down_its_own(hosts_allowed, hosts_lab, tmp_path):
    other = hosts.Lab(tmp_path / "lab", 1)
    with contextlib.suppress(KeyboardInterrupt), other:
        assert other.network != hosts_lab.network
        assert printed(other.head, "hostname") == printed(hosts_lab.head, "hostname")
        raise KeyboardInterrupt
    assert not other.head.alive
    assert traces(other.prefix, other.root) == []
    assert all(host.alive for host in hosts_lab.hosts)


def test_a_lab_that_cannot_come_up_says_why_and_leaves_nothing(hosts_allowed, tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "SSHD_CONFIG", hosts.SSHD_CONFIG + "NoSuchOption yes\n")
    lab = hosts.Lab(tmp_path / "lab", 1)
    with pytest.raises(RuntimeError, match=r"host1 did not come up(.|\n)*NoSuchOption"):
        lab.__enter__()
    assert traces(lab.prefix, lab.root) == []


def test_hosts_die_with_whoever_made_them(hosts_allowed, tmp_path):
    script = (
        "import hosts, os, pathlib, signal, sys\n"
        "lab = hosts.Lab(pathlib.Path(sys.argv[1]), 1).__enter__()\n"
        "print(lab.prefix, lab.head._pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    maker = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "lab")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(hosts.__file__).parent)},
    )  # fmt: skip
    prefix, pid = maker.stdout.readline().split()
    watched = os.pidfd_open(int(pid))
    maker.kill()
    maker.communicate()
    leftover = hosts.Lab(tmp_path / "lab", 0)
    leftover.prefix = prefix
    try:
        assert select.select([watched], [], [], hosts.PATIENCE_SECONDS)[0] == [watched]
    finally:
        os.close(watched)
        leftover.close()
    assert traces(prefix, tmp_path / "lab") == []


def test_without_root_the_reason_is_given(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert hosts.skip_reason() == "making hosts needs root"


def test_without_its_packages_the_reason_names_them(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(hosts.shutil, "which", lambda tool, path: None if tool in ("sshd", "rsync") else tool)
    assert hosts.skip_reason() == "missing Debian packages: openssh-server rsync"
