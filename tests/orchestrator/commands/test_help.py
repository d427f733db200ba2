"""What the command says of itself: one screen, grouped, with an example that is right; and what was typed wrong."""

from __future__ import annotations

import shlex

import pytest
import typer

from orchestrator import cli
from orchestrator.commands import explain

ROOT = typer.main.get_command(cli.app)


def commands(group=ROOT, above=()):
    """Every command as ``(words, command)``, groups too."""
    for name, found in group.commands.items():
        if not found.hidden:
            yield (*above, name), found
            if isinstance(found, explain.Grouped):
                yield from commands(found, (*above, name))


ALL = [" ".join(words) for words, _ in commands()]


def context_of(words, group=ROOT, parent=None):
    """The command that words lead to, with their arguments parsed as they are when it is run; nothing is run."""
    context = group.make_context(words[0], words[1:], parent=parent)
    if isinstance(group, explain.Grouped):
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        return context_of([name, *rest], command, context)
    return context


def test_every_command_has_an_example_and_no_example_is_without_its_command():
    assert set(explain.EXAMPLES) == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_every_example_parses_to_its_command(name):
    words = shlex.split(explain.EXAMPLES[name])
    assert words[0] == "orchestrator"
    path = context_of(words).command_path.split()[1:]
    assert path[: len(name.split())] == name.split()


def test_an_example_with_a_word_too_many_would_not_pass():
    for wrong in ("orchestrator logs dogs t0003 t0004", "orchestrator plan", "orchestrator run dogs --no-such"):
        with pytest.raises(explain.UsageError):
            context_of(shlex.split(wrong))


@pytest.mark.parametrize("name", ["", *ALL])
def test_help_fits_one_screen(command, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = command(*name.split(), "--help")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) <= (24 if name else 40)
    assert max(map(len, lines)) <= 80
    assert "..." not in out.replace("]...", "").replace("ARGS...", "")  # no sentence is cut off
    if name:
        assert f"Example: {explain.EXAMPLES[name]}" in out


def test_alone_it_shows_its_commands_in_groups(command):
    code, out, _ = command()
    assert code == 0
    places = [out.index(f"\n{title}:\n") for title in explain.SECTIONS]
    assert places == sorted(places)
    assert f"{explain._REST}:" not in out
    assert command("data")[0:2] == (0, command("data", "--help")[1])


@pytest.mark.parametrize(
    ("words", "what", "hint"),
    [
        ("rnu dogs", "there is no command 'rnu'", "did you mean 'run'?"),
        ("data gte mnist", "there is no command 'data gte'", "did you mean 'data get'?"),
        ("run", "orchestrator run: missing argument 'STUDY'", "for example: orchestrator run dogs"),
        ("logs x t0000 z", "orchestrator logs: got unexpected extra argument", "orchestrator logs --help"),
        ("ui --prot 3", "orchestrator ui: no such option: --prot", "for example: orchestrator ui --port 5001"),
        ("ui --port x", "orchestrator ui: invalid value for '--port'", "orchestrator ui --help"),
        ("--no-such", "orchestrator: no such option: --no-such", "orchestrator --help"),
    ],
)
def test_what_is_typed_wrong_is_said_as_every_error(command, runs, words, what, hint):
    code, out, err = command(*words.split())
    first, second = err.splitlines()
    assert (code, out) == (2, "")
    assert first.startswith(f"error: {what}")
    assert second.startswith("  → ")
    assert hint in second
    assert not runs.root.exists()
