"""Print the completion of commands and options for a shell.

bash: `kdump completion bash > /etc/bash_completion.d/kdump`

zsh: write the output to a file `_kdump` in a directory of $fpath

fish: `kdump completion fish > ~/.config/fish/completions/kdump.fish`
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable

from kdump.cli.parsers import Option, Page, pages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell to complete for")


def run(args: argparse.Namespace) -> int:
    """Print the script; returns the exit status."""
    known = list(pages())
    print({"bash": bash, "zsh": zsh, "fish": fish}[args.shell](known), end="")
    return 0


def words(page: Page) -> list[str]:
    """The words that may follow the command: its options, its subcommands and theirs, choices of its arguments."""
    every = [*page.options, *(option for options in page.actions.values() for option in options)]
    found = [*page.actions, *(flag for option in every for flag in option.flags)]
    return list(dict.fromkeys([*found, *(c for option in every if not option.flags for c in option.choices)]))


def choices(page: Page) -> dict[str, tuple[str, ...]]:
    """Options whose value is one of a few words."""
    every: list[Option] = [*page.options, *(option for options in page.actions.values() for option in options)]
    return {flag: option.choices for option in every if option.choices for flag in option.flags}


def bash(known: Iterable[Page]) -> str:
    """For bash: words from a table, files for everything else."""
    commands = list(known)
    cases = []
    for page in commands:
        inner = [
            f"        {page.command.name}:{flag}) words='{' '.join(each)}' ;;" for flag, each in choices(page).items()
        ]
        cases += [*inner, f"        {page.command.name}:*) words='{' '.join(words(page))}' ;;"]
    lines = [
        "_kdump() {",
        '    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" words',
        f"    if [ \"$COMP_CWORD\" -eq 1 ]; then words='{' '.join(page.command.name for page in commands)}'; else",
        '        case "${COMP_WORDS[1]}:$previous" in',
        *cases,
        "        esac",
        "    fi",
        '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        "complete -o default -F _kdump kdump",
    ]
    return "\n".join(lines) + "\n"


def zsh(known: Iterable[Page]) -> str:
    """For zsh: commands with their summaries, then options with their help."""
    commands = list(known)
    summaries = [shlex.quote(f"{page.command.name}:{page.command.summary}") for page in commands]
    # "words" is zsh's array of what is on the line.
    lines = ["#compdef kdump", "local -a commands", f"commands=({' '.join(summaries)})"]
    lines += [
        "if (( CURRENT == 2 )); then",
        "    _describe command commands",
        "    return",
        "fi",
        'case "$words[2]" in',
    ]
    for page in commands:
        listed = " ".join(shlex.quote(word) for word in words(page))
        lines.append(f"{page.command.name}) compadd -- {listed}; _files ;;")
    lines.append("esac")
    return "\n".join(lines) + "\n"


def fish(known: Iterable[Page]) -> str:
    """For fish: one line for each command and option."""
    lines = ["complete -c kdump -f -n __fish_use_subcommand"]
    for page in known:
        name = page.command.name
        lines.append(f"complete -c kdump -n __fish_use_subcommand -f -a {name} -d {shlex.quote(page.command.summary)}")
        condition = f"-n '__fish_seen_subcommand_from {name}'"
        for action in page.actions:
            lines.append(f"complete -c kdump {condition} -f -a {action}")
        for option in [*page.options, *(each for options in page.actions.values() for each in options)]:
            names = " ".join(f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in option.flags if len(f) > 1)
            values = (
                f" -x -a {shlex.quote(' '.join(option.choices))}" if option.choices else " -r" if option.value else ""
            )
            if names:
                lines.append(
                    f"complete -c kdump {condition} {names}{values} -d {shlex.quote(option.help.split('. ')[0])}"
                )
    return "\n".join(lines) + "\n"
