"""Common parts of our commands: the dump behind a program, and how a command of drgn gets another option.

drgn's crash commands are a private package of it, with an argparse parser and a function each. We add options to that
parser, so that there is one help text, and put a function of ours before theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

from drgn.commands import CommandError, argument, command, custom_command, parse_shell_command
from drgn.commands._crash import common  # its __init__ registers all of drgn's crash commands

if TYPE_CHECKING:
    import argparse

    from drgn import Object, Program

    from kdump.kernel.kernel import Kernel
    from kdump.kernel.task import Task
    from kdump.report.context import Context

KEY: Final = "kdump"  # in Program.config
NAMESPACE: Final = common.CRASH_COMMAND_NAMESPACE
EXTENDED: set[str] = set()  # commands of drgn's that `extend` gave options
Run = Callable[["Session", "argparse.Namespace"], None]
Instead = Callable[["Session", "argparse.Namespace", Callable[..., Any]], Any]


class Session:
    """A program and the dump that it is of."""

    def __init__(self, program: Program, kernel: Kernel) -> None:
        self.program, self.kernel = program, kernel

    @cached_property
    def context(self) -> Context:
        """What the report's sections share; imported when a command asks, for a shell should start at once."""
        from kdump.report.context import Context

        return Context(self.kernel)

    def task(self, found: Object) -> Task:
        """Our task of drgn's struct task_struct *; its CPU is where it ran."""
        struct = self.kernel.objects.struct("task_struct", found.value_())
        task = self.context.tasks.describe(struct)
        for cpu, running in self.context.tasks.running().items():
            if running == struct:
                return task._replace(cpu=cpu, running=True)
        return task

    def tasks(self, chosen: Iterable[Any]) -> list[Object]:
        """struct task_struct * of arguments of type `pid_or_task`; of the current context without any."""
        return list(common._TaskSelector(self.program, list(chosen) or [None]).tasks())

    def address(self, text: str) -> int:
        """An address: hexadecimal, a symbol, or symbol+offset. Raises CommandError."""
        name, plus, offset = text.partition("+")
        try:
            start: int = self.program.symbol(name).address
            return start + (int(offset, 0) if plus else 0)
        except (LookupError, ValueError):
            pass
        try:
            return int(text, 16)
        except ValueError:
            raise CommandError(f"{text}: neither a symbol nor a hexadecimal address") from None

    def name(self, address: int, *, base: int = 10, plain: bool = False) -> str:
        """`schedule+5` of an address in a symbol, "" if it is in none; `plain`: without the offset."""
        found = self.kernel.symbolizer.at(address)
        if found is None or not found.name:
            return ""
        offset = address - found.address
        shown = "" if plain or not offset else f"+{offset:#x}" if base == 16 else f"+{offset}"
        return f"{found.name}{shown}"

    @property
    def base(self) -> int:
        """In which base `set radix` wants numbers."""
        return int(self.program.config.get("crash_radix", 10))


def _ours(program: Program) -> bool:
    return KEY in program.config


def add(name: str, description: str, *arguments: argument, long: str = "") -> Callable[[Run], Run]:
    """A command that drgn lacks; it is there on programs of `install` only."""

    def decorator(run: Run) -> Run:
        def function(program: Program, _: str, args: argparse.Namespace, **kwargs: Any) -> None:
            run(program.config[KEY], args)

        command(
            name=name, description=description, long_description=long or None, arguments=arguments, enabled=_ours,
            namespace=NAMESPACE,
        )(function)  # fmt: skip
        return run

    return decorator


def add_words(name: str, description: str, usage: str, long: str) -> Callable[[Callable[..., Any]], Any]:
    """A command that gets its words as they are: `run(session, words)`."""

    def decorator(run: Callable[[Session, list[str]], Any]) -> Any:
        def function(program: Program, _: str, words: Sequence[str], /, **kwargs: Any) -> Any:
            return run(program.config[KEY], list(words))

        custom_command(
            name=name, description=description, usage=usage, long_description=long, parse=parse_shell_command,
            enabled=_ours, namespace=NAMESPACE,
        )(function)  # fmt: skip
        return run

    return decorator


def extend(name: str, *options: argument, exclusive: bool = False, each: bool = False) -> Callable[[Instead], Instead]:
    """Options for a command of drgn's: `instead(session, args, theirs)` runs before it, and may call `theirs()`.

    `exclusive` if only one of them may be there, of those that drgn's command has too; `each` if `foreach` has the
    command: `args.tasks` are then what it chose.
    """

    def decorator(instead: Instead) -> Instead:
        EXTENDED.add(name)
        known: Any = NAMESPACE._commands[name]
        theirs = known._argparse_func

        def function(program: Program, called: str, args: argparse.Namespace, **kwargs: Any) -> Any:
            run = partial(theirs, program, called, args, **kwargs)
            return instead(program.config[KEY], args, run) if _ours(program) and not args.drgn else run()

        _options(known._parser, options, exclusive)
        known._argparse_func = function
        if each:
            subcommand = common._CRASH_FOREACH_SUBCOMMANDS[name]

            def every(selector: Any, args: argparse.Namespace) -> Any:
                program = selector.prog
                run = partial(subcommand.func, selector, args)
                if not _ours(program) or args.drgn:
                    return run()
                args.tasks = [("task", task.value_()) for task in selector.tasks()]
                return instead(program.config[KEY], args, run) if args.tasks else None

            _options(subcommand.parser, options, exclusive)
            common._CRASH_FOREACH_SUBCOMMANDS[name] = subcommand._replace(func=every)
        return instead

    return decorator


def each(name: str, *options: argument) -> Callable[[Callable[..., Any]], Any]:
    """A command that `foreach` lacks: `run(tasks, args)` with the tasks that it chose."""

    def decorator(run: Callable[..., Any]) -> Any:
        def function(selector: Any, args: argparse.Namespace) -> Any:
            if not _ours(selector.prog):
                raise CommandError(f"foreach {name}: a command of kdump shell, which did not open this program")
            return run(selector.tasks(), args)

        common._crash_foreach_subcommand(name=name, arguments=options)(function)
        return run

    return decorator


def _options(parser: argparse.ArgumentParser, options: Iterable[argument], exclusive: bool) -> None:
    groups: Any = parser._mutually_exclusive_groups
    where = groups[0] if exclusive else parser
    for option in options:
        where.add_argument(*option.args, **option.kwargs)
