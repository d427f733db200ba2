"""MLflow's server: for this machine alone, or with a login and a list of hosts."""

from __future__ import annotations

import configparser
import os
import stat

import pytest

from orchestrator.errors import EnvironmentProblem
from orchestrator.history.folder import Runs
from orchestrator.tracker.server import make_server

OUTSIDE = ["../x", "..", "a/../../x", "/etc/x", "."]


def test_on_this_machine_the_server_asks_for_nothing_and_serves_nobody_else(runs):
    runs.root.mkdir()
    runs.tracker.touch()
    for host in ("127.0.0.1", "localhost", "::1"):
        server = make_server(runs, host, 5000)
        assert server.command[server.command.index("--host") + 1] == host
        assert "--allowed-hosts" not in server.command  # MLflow's own list: this machine
        assert not runs.login.root.exists()


def test_on_the_network_the_server_asks_for_a_password(runs, monkeypatch):
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "from elsewhere")
    server = make_server(runs, "127.0.0.2", 5000, ["tracker.example"])
    assert server.command[-2:] == ["--app-name", "basic-auth"]
    password = runs.login.password.read_text().strip()
    assert len(password) >= 32
    told = [*server.command, *server.words, *server.environment.values()]
    assert not any(password in text for text in told)
    assert str(runs.login.password) in " ".join(server.words)
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" not in server.environment
    assert len(server.environment["MLFLOW_FLASK_SERVER_SECRET_KEY"]) == 64
    assert stat.S_IMODE(runs.login.root.stat().st_mode) == 0o700
    for path in (runs.login.password, runs.login.settings, runs.login.users):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    hosts = server.command[server.command.index("--allowed-hosts") + 1].split(",")
    assert {"tracker.example", "tracker.example:5000", "127.0.0.2", "127.0.0.2:5000"} <= set(hosts)
    assert not any("*" in host for host in hosts)
    origins = server.command[server.command.index("--cors-allowed-origins") + 1].split(",")
    assert {"http://tracker.example:5000", "https://tracker.example", "http://127.0.0.2:5000"} <= set(origins)
    make_server(runs, "0.0.0.0", 5000)  # noqa: S104 - it only says how
    assert runs.login.password.read_text().strip() == password
    assert {path.name for path in runs.login.root.iterdir()} == {"password", "login.ini", "users.db"}


def test_the_settings_of_the_login_say_what_they_should(tmp_path):
    runs = Runs(tmp_path / "100 % odd")
    make_server(runs, "10.0.0.1", 5000)
    settings = configparser.ConfigParser()
    settings.read(runs.login.settings)
    assert settings["mlflow"]["database_uri"] == f"sqlite:///{runs.login.users}"
    assert settings["mlflow"]["admin_password"] == runs.login.password.read_text().strip()


def test_a_folder_that_was_open_to_all_is_closed(runs):
    runs.login.root.mkdir(parents=True, mode=0o755)
    runs.login.settings.write_text("x")
    runs.login.settings.chmod(0o644)
    old = os.umask(0)
    try:
        make_server(runs, "10.0.0.1", 5000)
    finally:
        os.umask(old)
    assert stat.S_IMODE(runs.login.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(runs.login.settings.stat().st_mode) == 0o600


def test_without_a_login_the_server_says_what_that_means(runs):
    server = make_server(runs, "10.0.0.1", 5000, login=False)
    assert "--app-name" not in server.command
    assert "warning" in " ".join(server.words)
    assert "--allowed-hosts" in server.command
    assert not runs.login.root.exists()


def test_a_lost_password_is_not_replaced_behind_the_users_back(runs):
    make_server(runs, "10.0.0.1", 5000)
    runs.login.password.unlink()
    with pytest.raises(EnvironmentProblem, match="is gone") as error:
        make_server(runs, "10.0.0.1", 5000)
    assert str(runs.login.users) in error.value.hint


@pytest.mark.parametrize(
    "words",
    [("--host", "x y"), ("--host", ""), ("--host", "10.0.0.1", "--allowed-host", "*"), ("--host", "--workers"),
     ("--host", "10.0.0.1", "--allowed-host", "a,*"), ("--host", "10.0.0.1", "--allowed-host", "http://a")],
)  # fmt: skip
def test_what_is_no_host_is_refused(command, runs, words):
    code, _, err = command("ui", *words)
    assert code == 2
    assert "is no" in err
    assert not runs.root.exists()
