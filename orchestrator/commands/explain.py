"""How the command explains itself: groups of commands, an example of each, and what was typed wrong."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from orchestrator.errors import UnknownName, UserError

SECTIONS = {
    "Run": {
        "demo": "orchestrator demo",
        "plan": "orchestrator plan dogs search.trials=8 params.epochs=5",
        "run": "orchestrator run dogs data=photos search.trials=8",
        "resume": "orchestrator resume dogs search.trials=64",
        "stop": "orchestrator stop dogs t0003",
        "retry": "orchestrator retry dogs t0003",
    },
    "Look": {
        "ps": "orchestrator ps",
        "show": "orchestrator show dogs",
        "logs": "orchestrator logs dogs t0003 --follow",
        "leaderboard": "orchestrator leaderboard dogs",
        "report": "orchestrator report dogs",
        "ui": "orchestrator ui --port 5001",
        "track": "orchestrator track dogs",
        "compare": "orchestrator compare dogs dogs-2",
        "simulate": "orchestrator simulate dogs --scheduler median",
    },
    "Choose and write": {
        "studies": "orchestrator studies",
        "tasks": "orchestrator tasks",
        "data": "orchestrator data list",
        "data list": "orchestrator data list --json",
        "data get": "orchestrator data get imagewoof --to /data",
        "new": "orchestrator new my_task",
    },
    "Machines": {
        "doctor": "orchestrator doctor dogs data=photos",
        "cluster": "orchestrator cluster up cluster.yaml",
        "cluster up": "orchestrator cluster up cluster.yaml --wait 30",
        "cluster status": "orchestrator cluster status cluster.yaml",
        "cluster down": "orchestrator cluster down cluster.yaml",
        "attach": "orchestrator attach dogs --cluster cluster.yaml",
        "version": "orchestrator version",
    },
}
EXAMPLES = {name: example for section in SECTIONS.values() for name, example in section.items()}
_REST = "More"
_HINT = """
orchestrator COMMAND --help          all about one, with an example
orchestrator --install-completion    the Tab key offers commands and names
"""
# typer does not name the base of its errors about what was typed
UsageError: type[Exception] = typer.BadParameter.__bases__[0]


class Grouped(TyperGroup):
    """Lists its commands under the headings of `SECTIONS`, without more than the screen holds."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:  # asked for nothing: told what there is
            typer.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None and (example := EXAMPLES.get(self._path(ctx, cmd_name))):
            command.epilog = f"Example: {example}"
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not args[0].startswith("-") and args[0] not in self.commands:
            visible = [name for name, command in self.commands.items() if not command.hidden]
            raise UnknownName("command", self._path(ctx, args[0]), [self._path(ctx, name) for name in visible])
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        left = [name for name, command in commands.items() if not command.hidden]
        formatter.write("\n")
        for title, known in (*SECTIONS.items(), (_REST, left)):
            names = [name for path in known for name in left if path in (name, self._path(ctx, name))]
            left = [name for name in left if name not in names]
            if names:
                formatter.write(f"{title if self._is_top(ctx) else 'Commands'}:\n")
            for name in names:
                formatter.write(f"  {name:12}  {commands[name].get_short_help_str(formatter.width - 16)}\n")

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self._is_top(ctx):
            formatter.write(_HINT)
        else:
            super().format_epilog(ctx, formatter)

    def _is_top(self, ctx: Any) -> bool:
        return ctx.parent is None

    def _path(self, ctx: Any, name: str) -> str:
        """A command as it is typed after the program's name."""
        return name if self._is_top(ctx) else f"{ctx.info_name} {name}"


def explained(error: Any) -> UserError:
    """What typer says of what was typed, as all our errors are: what, where, and what to type."""
    words = error.format_message().rstrip(".")
    where = error.ctx.command_path if error.ctx is not None else "orchestrator"
    example = EXAMPLES.get(where.partition(" ")[2], "orchestrator demo")
    return UserError(f"{where}: {words[:1].lower()}{words[1:]}", f"for example: {example}; all of it: {where} --help")
