"""Completion in bash, zsh and fish: the scripts that the shells load, and the answers that they get.

A script passes the line up to the cursor, since bash splits words at ``=`` and ``:``. Scripts that click made for
earlier versions of this package pass ``COMP_WORDS``, and get the answers that they understand.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from supervisor.cli import table

__all__ = ["register"]

_LINE: Final = "SUPERVISOR_COMPLETE_LINE"
_MARK: Final = "\0"
_MENU_TYPES: Final = {"37", "42"}
"""``COMP_TYPE`` of bash where it inserts the values themselves, one after the other or all of them."""
_USUAL_WIDTH: Final = 80

_BASH: Final = r"""%(complete_func)s() {
    local type value
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            command) %(complete_func)s_of_command "$value" ;;
            plain)
                COMPREPLY+=("$value")
                [[ $value == *= ]] && compopt -o nospace ;;
        esac
    done < <(env SUPERVISOR_COMPLETE_LINE="${COMP_LINE:0:COMP_POINT}" \
        SUPERVISOR_COMPLETE_WORD="${COMP_WORDS[COMP_CWORD]}" SUPERVISOR_COMPLETE_TYPE="$COMP_TYPE" \
        SUPERVISOR_COMPLETE_WIDTH="$COLUMNS" %(complete_var)s=bash_complete "$1" 2>/dev/null)
}

# Complete a command line that begins $1 words before the cursor, as if it stood alone.
%(complete_func)s_of_command() {
    local first=$((COMP_CWORD - $1)) number word
    for ((number = 2; number < COMP_CWORD; number++)); do
        if [[ ${COMP_WORDS[number]} == -- ]]; then
            first=$((number + 1))
            break
        fi
    done
    word=${COMP_WORDS[COMP_CWORD]}
    if declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "$first"
    elif declare -F _command_offset >/dev/null; then
        _command_offset "$first"
    elif ((COMP_CWORD > first)) || [[ $word == */* ]]; then
        compopt -o default
    else
        while read -r word; do
            type -P -- "$word" >/dev/null && COMPREPLY+=("$word")
        done < <(compgen -c -- "$word" | sort -u)
    fi
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH: Final = r"""#compdef %(prog_name)s

%(complete_func)s() {
    local type value help
    local -a answer plain described
    answer=("${(@f)$(env SUPERVISOR_COMPLETE_LINE="${(j: :)words[1,CURRENT]}" \
        %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)}")
    for type value help in "${(@)answer}"; do
        case $type in
            plain)
                if [[ $help == _ ]]; then plain+=("$value"); else described+=("$value:$help"); fi ;;
            dir|file)
                [[ $PREFIX == --*=* ]] && compset -P '*='
                if [[ $type == dir ]]; then _path_files -/; else _path_files; fi ;;
            command)
                if (( value == 0 )); then
                    if [[ $PREFIX == */* ]]; then _path_files; else _command_names -e; fi
                else
                    words=("${(@)words[CURRENT-value,-1]}")
                    (( CURRENT = value + 1 ))
                    _normal
                fi ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U
    (( $#plain )) && compadd -U -V unsorted -a plain
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH: Final = r"""function %(complete_func)s
    set -l prefix (string match --regex -- '^--[^=]*=' (commandline -ct))
    for each in (env SUPERVISOR_COMPLETE_LINE=(commandline -cp) \
            %(complete_var)s=fish_complete %(prog_name)s 2>/dev/null)
        set -l parts (string split --max 1 "," -- $each)
        switch $parts[1]
            case dir
                string replace --regex '^' "$prefix" -- (__fish_complete_directories $parts[2])
            case file
                string replace --regex '^' "$prefix" -- (__fish_complete_path $parts[2])
            case command
                set -l words (string escape -- (commandline -opc))
                set -l first (math (count $words) - $parts[2] + 1)
                set -l line (string join " " -- $words[$first..-1] (commandline -ct))
                test $parts[2] = 0; and set line (commandline -ct)
                complete -C "$line"
            case plain
                echo $parts[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


class _Line(ShellComplete):
    """What the three shells have in common.

    Attributes:
        whole_words: whether the shell replaces the whole word, with the option in front of an ``=``.
    """

    whole_words: ClassVar[bool] = True
    _incomplete = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor's, and the beginning of that."""
        line = os.environ.get(_LINE)
        if line is None:
            return super().get_completion_args()
        # The mark makes the last word, whether it is empty or in quotes that are still open.
        *words, self._incomplete = split_arg_string(line + _MARK)
        self._incomplete = self._incomplete.removesuffix(_MARK)
        return words[1:], self._incomplete

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[Any]]:
        """Return the items; words after ``--`` are never taken for options of this program."""
        if "--" in args:
            first = args.index("--") + 1
            args = args[:first] + ["word"] * (len(args) - first)
        return super().get_completions(args, incomplete)

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Return the answer for one item."""
        option, equals, _ = self._incomplete.partition("=")
        if self.whole_words and equals and option.startswith("--") and item.type == "plain":
            item.value = f"{option}={item.value}"
        return super().format_completion(item)


class _Bash(_Line, BashComplete):
    source_template = _BASH
    whole_words = False

    def source(self) -> str:
        return ShellComplete.source(self)  # without a look at the version of bash, which takes a process

    def complete(self) -> str:
        """Return the answer: where bash only lists the values, each with its description."""
        items = self.get_completions(*self.get_completion_args())
        if _LINE not in os.environ:
            return "\n".join(map(self.format_completion, items))
        word = os.environ.get("SUPERVISOR_COMPLETE_WORD", "")
        typed = self._incomplete
        kept = typed if word in {"=", ":"} else typed.removesuffix(word) if word and typed.endswith(word) else ""
        for item in items:
            if item.type == "plain":
                item.value = item.value.removeprefix(kept)
        if len(items) > 1 and os.environ.get("SUPERVISOR_COMPLETE_TYPE") not in _MENU_TYPES:
            _describe(items)
        return "\n".join(map(self.format_completion, items))


def _describe(items: Sequence[CompletionItem[Any]]) -> None:
    """Put the descriptions behind the values, in lines that fit the terminal."""
    given = os.environ.get("SUPERVISOR_COMPLETE_WIDTH", "")
    most = int(given) if given.isdigit() and given.isascii() else _USUAL_WIDTH
    longest = max(table.width(item.value) for item in items)
    for item in items:
        if item.help and item.type == "plain":
            blanks = " " * (longest - table.width(item.value))
            item.value = table.cut(f"{item.value}{blanks}  ({item.help})", most - 1)


class _Zsh(_Line, ZshComplete):
    source_template = _ZSH


class _Fish(_Line, FishComplete):
    source_template = _FISH


def register() -> None:
    """Have click use these classes."""
    for made in (_Bash, _Zsh, _Fish):
        add_completion_class(made)
