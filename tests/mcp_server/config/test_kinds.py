"""The kinds file: its values, and every mistake with its line, its key and the allowed values."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.admission.groups import change_group
from supervisor.engines import registry
from supervisor.errors import InvalidArguments, InvalidSettings, StateCorrupt
from supervisor.jobs.catalog import Catalog
from supervisor.mcp_server.access.guarded import load_kinds
from supervisor.mcp_server.config import kinds, kinds_file, templates
from supervisor.mcp_server.config.environment import environment_of
from supervisor.retry import Retry
from supervisor.settings import Settings
from supervisor.text.toml_lines import line_of


def parse(text: str) -> tuple[kinds.Kind, ...]:
    return kinds_file.parse(textwrap.dedent(text), "kinds.toml")


def kind(command: str) -> kinds.Kind:
    (made,) = parse(f'[kind.k]\ndescription = "K."\ncommand = {command}\nparameters.x = {{}}\n')
    return made


def test_the_whole_of_a_kind(tmp_path: Path) -> None:
    (made,) = parse(
        f"""
        [kind.review]
        description = "Reviews."
        command = ["claude", "-p", "--model={{model}}"]
        stdin = "{{prompt}}"
        interpret = "claude"
        deadline_seconds = 1800
        env_pass = ["ANTHROPIC_*"]
        env_set = {{ CLAUDE_CODE_MAX_RETRIES = "3" }}
        workspaces = ["{tmp_path}", "~/src"]
        read_only = true
        group = "agents"
        priority = -5
        start_within_seconds = 60
        on_end = ["notify", "ended"]
        webhook = "https://ops.example.com/jobs"
        retry = {{ maximum_attempts = 2, initial_interval = 5, retry_on = ["job_failed", 75], retry_lost = true }}

        [kind.review.parameters.prompt]
        type = "string"
        description = "What to do."
        max_length = 100

        [kind.review.parameters.model]
        enum = ["opus", "haiku"]
        default = "opus"
        """,
    )
    assert made.workspaces == (str(tmp_path.resolve()), os.path.realpath(os.path.expanduser("~/src")))
    assert (made.groups, made.priority, made.start_within_seconds) == (("agents",), -5, 60.0)
    assert (made.on_end, made.webhook) == (("notify", "ended"), "https://ops.example.com/jobs")
    assert made.retry == Retry(2, 5, retry_on=("job_failed", "75"), retry_lost=True)
    assert [each.required for each in made.parameters] == [True, False]
    assert made.request({"prompt": "hi", "model": "haiku"}, "python") == (("claude", "-p", "--model=haiku"), b"hi")


D = '[kind.k]\ndescription = "K."\n'
K = D + 'command = ["x"]\n'
P = K + "[kind.k.parameters.p]\n"
S = K + 'engine = "slurm"\n[kind.k.engine_options]\n'

BAD = [
    # (the file, the line in the message, and a part of the message)
    ("[kind.k", 1, "this is not TOML"),
    ('[kinds.k]\ncommand = ["x"]', 1, "there is no key 'kinds' here; allowed: one of kind"),
    ("[kind]\nk = 5", 2, "k is 5; allowed: a table: [kind.k]"),
    ('[kind."job_x"]\ncommand = ["x"]', 1, "the name 'job_x' cannot be that of a tool"),
    ('[kind."a b"]\ncommand = ["x"]', 1, "the name 'a b' cannot be that of a tool"),
    ('[kind.k]\ncommand = ["x"]', 1, "the key 'description' is missing"),
    (D, 1, "the key 'command' is missing"),
    ('[kind.k]\ndescription = ""\ncommand = ["x"]', 2, "text that tells a model what the tool does"),
    (
        D + 'comand = ["x"]',
        3,
        "there is no key 'comand' here; allowed: one of command, confirm",
    ),
    (D + 'command = "x y"', 3, "command is 'x y'; allowed: a list of strings"),
    (D + "command = []", 3, "allowed: a list of strings"),
    (D + 'command = ["x", 5]', 3, "allowed: a list of strings"),
    (D + 'command = ["{x}"]', 3, "the command, which is fixed"),
    (
        D + 'command = [\n  "x",\n  "{y}",\n]',
        3,
        "has {y}, but there is no such parameter",
    ),
    (D + 'command = ["x", "-{y}"]\nparameters.y = {}', 3, "only after '='"),
    (D + 'command = ["x", "a{b"]', 3, "belongs to no {name}"),
    (
        D + 'command = ["x", "--y", "{y}"]\nparameters.y = { required = false }',
        3,
        "the option '--y' would stand alone; allowed: --y={y} as one word",
    ),
    (K + "stdin = 5", 4, "stdin is 5; allowed: a string"),
    (K + 'stdin = "{p}"', 4, "has {p}, but"),
    (
        K + 'interpret = "xml"',
        4,
        "allowed: one of claude, codex, json, raw",
    ),
    (K + "deadline_seconds = 0", 4, "a number of seconds of more than 0"),
    (K + 'deadline_seconds = "1h"', 4, "a number of seconds of more than 0"),
    (K + "deadline_seconds = 1e10", 4, "at most 100 years"),
    (K + 'env_pass = "HOME"', 4, "a list of names of variables"),
    (K + 'env_pass = ["A B"]', 4, "a list of names of variables"),
    (K + "env_set = { A = 5 }", 4, "a table of names and strings"),
    (K + 'workspaces = ["src"]', 4, "absolute paths of directories"),
    (K + "group = []", 4, "group is []; allowed: the name of a group, or a list of at most 8"),
    (K + 'group = ""', 4, "allowed: the name of a group"),
    (K + 'group = "../agents"', 4, "allowed: the name of a group"),
    (K + 'group = ["a", 5]', 4, "allowed: the name of a group"),
    (K + f"group = {[f'g{number}' for number in range(9)]}", 4, "a list of at most 8"),
    (K + "priority = 1001", 4, "priority is 1001; allowed: a whole number from -1000 to 1000"),
    (K + "priority = 1.5", 4, "allowed: a whole number from -1000 to 1000"),
    (K + "start_within_seconds = 0", 4, "of more than 0 and at most 90 days"),
    (K + "on_end = []", 4, "a list of strings"),
    (K + 'on_end = "notify"', 4, "a list of strings"),
    (K + 'webhook = ""', 4, "an https URL"),
    (K + 'webhook = "http://example.com/"', 4, "an https URL"),
    (K + 'webhook = "https://user@example.com/"', 4, "an https URL"),
    (K + "start_within_seconds = 1e8", 4, "of more than 0 and at most 90 days"),
    (K + "retry = 3", 4, "retry is 3; allowed: a table, as in { maximum_attempts = 3 }"),
    (K + "[kind.k.retry]\nmaximum_attempts = 0", 5, "maximum_attempts is 0; allowed: from 1 to 1000"),
    (K + "[kind.k.retry]\njitter = 2", 5, "jitter is 2; allowed: a number from 0 to 1"),
    (K + '[kind.k.retry]\nretry_on = ["no such"]', 5, "retry_on has 'no such'; allowed: an error code, or an exit"),
    (K + '[kind.k.retry]\nretry_on = ["job_fialed"]', 5, "'job_fialed', with which no job of kind raw ends; allowed: "),
    (K + "[kind.k.retry]\nretry_on = 1.5", 5, "retry_on is 1.5; allowed: a list of codes"),
    (K + '[kind.k.retry]\nretry_on = ["job_lost"]', 5, "say retry_lost"),
    (K + "[kind.k.retry]\nattempts = 3", 5, "there is no key 'attempts' here; allowed: one of backoff_coefficient"),
    (K + "weight = 2", 4, "there is no key 'weight' here"),
    (K + "read_only = 1", 4, "read_only is 1; allowed: true or false"),
    (K + '[kind.k.parameters]\np = "string"', 5, "allowed: a table"),
    (K + "[kind.k.parameters.workspace]", 4, "taken are deadline_seconds"),
    (
        P + 'type = "text"',
        5,
        "one of string, integer",
    ),
    (P + 'type = ["string"]', 5, "type is ['string']; allowed: one of string, integer"),
    (
        P + "maximum = 5",
        5,
        "only for parameters of type",
    ),
    (P + 'pattern = "("', 5, "a regular expression"),
    (
        P + "enum = []",
        5,
        "a list of at least one value",
    ),
    (P + "enum = [5]", 5, "allowed: a string"),
    (
        P + 'type = "integer"\nmaximum = 5\ndefault = 6',
        7,
        "default of p is 6; allowed: a number of at most 5",
    ),
    (
        P + 'required = true\ndefault = "x"',
        6,
        "cannot have a default",
    ),
    (
        K + 'parameters.p = { kind = "string" }',
        4,
        "there is no key 'kind' here",
    ),
    (K + 'engine = "kubernetes"', 4, "engine is 'kubernetes'; allowed: one of local, slurm"),
    (K + "engine = 5", 4, "engine is 5; allowed: one of local, slurm"),
    (K + "engine_options = { cpus = 1 }", 4, 'is not allowed here; allowed: it only with engine = "slurm"'),
    (K + 'engine = "local"\nengine_options = { cpus = 1 }', 5, "engine_options is not allowed here"),
    (K + 'engine = "slurm"\nengine_options = 1', 5, "engine_options is 1; allowed: tables"),
    (K + 'engine = "slurm"', 4, "allowed: it with engine_options.shared_dir or SUPERVISOR_SHARED_DIR"),
    (S + 'shared_dir = "jobs"', 6, "shared_dir is 'jobs'; allowed: an absolute path"),
    (S + "shared_dir = 1", 6, "shared_dir is 1; allowed: the path of a directory"),
    (S + 'shared_dir = "/jobs"\ncpus = "many"', 7, "cpus is 'many'; allowed: a whole number of at least 1"),
    (S + 'shared_dir = "/jobs"\nmemory = "16 GB"', 7, "memory is '16 GB'; allowed: a number with K, M, G or T"),
    (S + 'shared_dir = "/jobs"\ngpus = true', 7, "gpus is True; allowed: a number"),
    (S + 'shared_dir = "/jobs"\npartition = "--wrap=x"', 7, "partition is '--wrap=x'; allowed: the name of"),
    (S + 'shared_dir = "/jobs"\ndeadline_from = "birth"', 7, "allowed: 'start' or 'submission'"),
    (S + 'shared_dir = "/jobs"\nnodes = 2', 7, "there is no key 'nodes' here; allowed: one of account, admission"),
    ('[kind.k]\ndescription = """\ncommand = no\n"""\ncommand = 5', 5, "command is 5"),
]


@pytest.mark.parametrize(("text", "line", "says"), BAD)
def test_a_mistake_is_reported_with_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        kinds_file.parse(text, "kinds.toml")
    message = caught.value.message
    assert says in message
    assert message.startswith("kinds.toml")
    if "not TOML" not in says:
        assert message.startswith(f"kinds.toml, line {line}")
        assert caught.value.details["line"] == line


def test_a_kind_that_runs_on_a_cluster() -> None:
    options = (
        'shared_dir = "~/jobs", partition = "gpu", account = "lab", qos = "high", cpus = 4, memory = "16G", '
        'gpus = "a100:2", constraint = "big&fast", deadline_from = "submission", admission = "engine"'
    )
    (made,) = parse(S + f"shared_dir = '/jobs'\n{options.replace(', ', chr(10)).partition(chr(10))[2]}")
    assert (made.engine, made.engine_options["cpus"], made.engine_options["gpus"]) == ("slurm", 4, "a100:2")
    assert set(made.engine_options) == set(registry.factory("slurm").accepted_options())
    (inline,) = parse(K + f'engine = "slurm"\nengine_options = {{ {options} }}')
    assert inline.engine_options == {**made.engine_options, "shared_dir": "~/jobs"}
    (local,) = parse(K + 'engine = "local"')
    assert (local.engine, local.engine_options) == (None, {})


def test_the_shared_directory_of_the_settings_is_enough() -> None:
    (made,) = kinds_file.parse(K + 'engine = "slurm"', "kinds.toml", shared_dir=Path("/jobs"))
    assert (made.engine, made.engine_options) == ("slurm", {})


def test_lines_of_quoted_and_dotted_keys() -> None:
    text = 'a.b = 1\n["c.d"]\n"e f" = [\n 1,\n]\ng = { h = 1, i = 2 }\n'
    assert line_of(text, ["a", "b"]) == 1
    assert line_of(text, ["c.d", "e f"]) == 3
    assert line_of(text, ["c.d", "g", "i"]) == 6
    assert line_of(text, ["c.d", "g", "nothing"]) == 6
    assert line_of(text, ["nothing"]) is None


class TestTrust:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "kinds.toml"
        path.write_text(K + "")
        path.chmod(0o644)
        return path

    def test_one_that_only_the_owner_can_write(self, file: Path) -> None:
        assert [each.name for each in kinds_file.load(file)] == ["k"]

    @pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
    def test_one_that_others_may_write(self, file: Path, mode: int) -> None:
        file.chmod(mode)
        with pytest.raises(InvalidSettings, match=f"others may write the kinds file {file} .mode 0{mode:o}") as caught:
            kinds_file.load(file)
        assert f"chmod go-w {file}" in caught.value.repair

    @pytest.mark.parametrize("mode", [0o775, 0o757])
    def test_one_in_a_directory_that_others_may_write(self, file: Path, mode: int) -> None:
        file.parent.chmod(mode)
        with pytest.raises(InvalidSettings, match="others may replace the kinds file"):
            kinds_file.load(file)
        file.parent.chmod(mode | 0o1000)  # as in /tmp: others cannot replace it there
        assert kinds_file.load(file)

    def test_a_link_to_one_that_others_may_write(self, file: Path) -> None:
        file.chmod(0o666)
        link = file.with_name("link.toml")
        link.symlink_to(file)
        with pytest.raises(InvalidSettings, match="others may write"):
            kinds_file.load(link)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    def test_one_of_another_user(self, file: Path) -> None:
        os.chown(file, 12345, -1)
        with pytest.raises(InvalidSettings, match="belongs to user 12345"):
            kinds_file.load(file)

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidSettings, match="Is a directory"):
            kinds_file.load(tmp_path)
        with pytest.raises(InvalidSettings, match="No such file or directory"):
            kinds_file.load(tmp_path / "nothing")
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        with pytest.raises(InvalidSettings, match="is not a regular file"):
            kinds_file.load(pipe)

    @pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
    def test_a_directory_does_not_stay_open(self, tmp_path: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(InvalidSettings):
            kinds_file.load(tmp_path)
        assert len(os.listdir("/proc/self/fd")) == before

    def test_one_that_is_not_text(self, file: Path) -> None:
        file.write_bytes(b"# fine\n\xff\xfe\n")
        with pytest.raises(InvalidSettings, match="line 2: this is not UTF-8"):
            kinds_file.load(file)


# ---------------------------------------------------------------- guarded paths


@pytest.mark.parametrize("place", ["/", ".", "state", "state/mcp-tokens", "work/link", "conf"])
def test_a_workspace_that_exposes_the_tokens_is_refused(
    state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "link").symlink_to(tmp_path)
    (tmp_path / "conf").mkdir()
    file = tmp_path / "conf" / "kinds.toml"
    monkeypatch.chdir(tmp_path / "work")
    for allowed, fine in (([tmp_path / "work"], True), ([tmp_path / "work", tmp_path / place], False)):
        file.write_text(K + f"workspaces = {[str(each) for each in allowed]}")
        file.chmod(0o600)
        if fine:
            assert [each.name for each in load_kinds(Settings(), file)] == ["k"]
            continue
        with pytest.raises(InvalidSettings, match=r"line 4.* (contains|lies in) the (state root|kinds file)"):
            load_kinds(Settings(config=file))
    assert state_dir.exists()


def test_a_group_of_a_kind_must_exist(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    file = tmp_path / "kinds.toml"
    file.write_text(K + 'read_only = true\ngroup = ["agents", "gpu"]')
    file.chmod(0o600)
    with pytest.raises(InvalidSettings) as refused:
        load_kinds(settings, file)
    assert f"{file}, line 5, in [kind.k]: there is no group 'agents'" in refused.value.message
    assert "`supervisor group set agents --limit N`" in refused.value.message
    assert not settings.state_dir.exists()
    with Catalog(settings) as catalog:
        change_group(catalog.index, "agents", lambda group: group, create=True)
        with pytest.raises(InvalidSettings, match="there is no group 'gpu'"):
            load_kinds(settings, file)
        change_group(catalog.index, "gpu", lambda group: group, create=True)
    assert [each.groups for each in load_kinds(settings, file)] == [("agents", "gpu")]
    (settings.state_dir / "groups" / "gpu.json").write_text("{", encoding="ascii")
    with pytest.raises(StateCorrupt, match="gpu"):
        load_kinds(settings, file)


# ---------------------------------------------------------------- schemas


SAME = [
    r"[a-z]+", r"\d{4}-\d\d", r"a|b", r"(?:ab)*?c", r"(a)\1", r"(?=a)a", r"(?!b).", r"(?<=a)b", r"(?<!a)b", r"\bx\b",
    r"[\w.+-]+@[\w-]+", r"[^/\]]*", r"\u00e9\x41", r"\/\.\{\}", r"a{2,}", r"a{2,5}?", r"^[A-Z]$", r"[\b\-]", "", r"é",
    r"(?:(?:a+b)|[0-9]{1,3})+",
]  # fmt: skip
OTHERWISE = [
    r"(?P<x>a)", r"(?P<x>a)(?P=x)", r"\Aa", r"a\Z", r"(?i)a", r"(?i:a)", r"(?s-i:a)", r"(?#c)a", r"(a)?(?(1)b|c)",
    r"a++", r"a*+", r"a?+", r"a{2}+", r"(?>a)", r"[]a]", r"[^]a]", r"a{,3}", r"a{x", "}", "]", r"\a", r"\'", r"\-",
    r"\U0001F600", r"\N{DASH}", r"\07", r"[\1]", r"[\B]", r"^*", r"(?=a)*", r"\b+", r"{2}", r"\_", r"\é",
    r"(?a)x", r"[\A]", r"[[:alpha:]]", r"[[a]", r"[a--b]", r"[a&&b]", r"[a||b]", r"[a~~b]",
]  # fmt: skip
NO_PATTERN = [r"(", r"[", r"*", r"(?<=a+)b", r"\8", r"[z-a]", "\\", r"(?<n>a)\k<n>", r"a**"]


@pytest.mark.parametrize("pattern", SAME)
def test_expressions_that_mean_the_same_to_hosts(pattern: str) -> None:
    (made,) = parse(K + "parameters.p = { pattern = " + json.dumps(pattern) + " }")
    assert made.parameters[0].schema()["pattern"] == f"^(?:{pattern})$"


@pytest.mark.parametrize("pattern", OTHERWISE + NO_PATTERN)
def test_expressions_that_do_not(pattern: str) -> None:
    with pytest.raises(InvalidSettings, match=r"line 4, in .*p\]: pattern is .* allowed: a regular"):
        parse(K + "parameters.p = { pattern = " + json.dumps(pattern) + " }")


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no JavaScript here")
def test_expressions_compile_in_javascript() -> None:
    program = "for (const p of JSON.parse(process.argv[1])) { new RegExp('^(?:' + p + ')$', 'u'); new RegExp(p) }"
    subprocess.run(["node", "-e", program, json.dumps(SAME)], check=True, timeout=30)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ('type = "integer", minimum = 5, maximum = 4', "minimum is 5 and maximum is 4"),
        ('type = "number", minimum = 0.5, maximum = -0.5', "minimum is 0.5 and maximum is -0.5"),
        ("min_length = 5, max_length = 4", "min_length is 5 and max_length is 4"),
        ("min_length = 200001", "min_length is 200001 and max_length is 200000"),
        ("max_length = -1", "a whole number of at least 0"),
        ("min_length = 1.5", "a whole number of at least 0"),
        (f"max_length = {10**400}", "a whole number of at least 0"),
        (f'type = "number", minimum = {10**400}', "allowed: a number"),
        ('type = "number", maximum = nan', "allowed: a number"),
        ('type = "number", maximum = inf', "allowed: a number"),
        (f'type = "integer", default = {10**309}', "a finite number"),
        ('type = "integer", minimum = 1.5, maximum = 1.6', "no whole number of 64 bits from 1.5 to 1.6"),
        (f'type = "integer", minimum = {1 << 63}', f"no whole number of 64 bits from {1 << 63} to any"),
        (f'type = "integer", maximum = {-1e30}', "no whole number of 64 bits from any to -1e+30"),
        ('type = "integer", minimum = 1, default = 0', "a number of at least 1"),
        ('type = "integer", enum = ["a"]', "a whole number"),
        ('type = "integer", enum = [true]', "a whole number"),
        ('type = "integer", enum = [1, 1]', "each value once"),
        ('type = "number", enum = [1, 1.0]', "each value once"),
        ('enum = ["a", 1]', "a string"),
        ('enum = ["a", "a"]', "each value once"),
        ('enum = ["a"], default = "b"', "one of a"),
        ('enum = ["a"], pattern = "b"', "a string that matches b"),
        ('enum = ["abc"], max_length = 2', "at most 2 characters"),
        ('pattern = "a", default = "b"', "a string that matches a"),
        ('type = "boolean", default = 1', "true or false"),
    ],
)
def test_schemas_that_fit_nothing(settings: str, says: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        parse(K + f"parameters.p = {{ {settings} }}")
    assert says in caught.value.message


@pytest.mark.parametrize("text", ["x = " + "9" * 5000, "x = " + "[" * 5000 + "]" * 5000])
def test_what_the_parser_of_toml_gives_up_on(text: str) -> None:
    with pytest.raises(InvalidSettings, match=r"kinds\.toml: this file cannot be read: "):
        parse(text)


def test_a_line_end_and_other_digits_do_not_match() -> None:
    (made,) = parse(K + 'parameters.p = { pattern = "[\\\\d]+$" }')
    assert made.parameters[0].check("12") == "12"
    for text in ("12\n", "\u0661"):
        with pytest.raises(InvalidArguments):
            made.parameters[0].check(text)


# ---------------------------------------------------------------- templates


def argv(words: list[str], **values: Any) -> list[str]:
    expanded = (templates.expand_word(word, values) for word in words)
    return [word for word in expanded if word is not None]


@pytest.mark.parametrize(
    "value",
    ["a b", "a;rm -rf /", "$(id)", "`id`", "'", '"', "a\nb", "*", "", "é", "{other}", "{{", "--x=y and more"],
)
def test_a_value_stays_one_word_as_it_is(value: str) -> None:
    assert argv(["tool", "at {x}!", "--y={x}"], x=value) == ["tool", f"at {value}!", f"--y={value}"]


@pytest.mark.parametrize("value", ["-x", "--exec=rm", "-", -5])
def test_a_value_never_becomes_an_option(value: Any) -> None:
    with pytest.raises(InvalidArguments, match="x must not begin with '-'"):
        argv(["tool", "{x}"], x=value)
    with pytest.raises(InvalidArguments, match="must not begin with '-'"):
        argv(["tool", "{empty}{x}"], empty="", x=value)
    assert argv(["tool", "--n={x}", "at {x}"], x=value) == ["tool", f"--n={value}", f"at {value}"]


@given(st.text(), st.text())
def test_there_are_as_many_words_as_the_template_has(one: str, two: str) -> None:
    words = ["tool", "--one={one}", "{two}", "both: {one}{two}"]
    try:
        made = argv(words, one=one, two=two)
    except InvalidArguments:
        assert two.startswith("-")
    else:
        assert made == ["tool", f"--one={one}", two, f"both: {one}{two}"]
        assert not two.startswith("-")


def test_a_word_without_a_value_is_left_out() -> None:
    assert argv(["tool", "--model={model}", "{x}"], model=None, x="y") == ["tool", "y"]
    assert templates.expand_text("[{model}] {{{x}}}", {"model": None, "x": True}) == "[] {true}"


def test_a_word_that_no_command_line_takes() -> None:
    with pytest.raises(InvalidArguments, match="x is longer than the 131071 bytes") as caught:
        argv(["tool", "{x}"], x="é" * 65536)
    assert "stdin" in caught.value.repair


def test_braces_of_a_json_argument() -> None:
    made = kind(command='["tool", \'{{"q": "{x}"}}\']')
    assert made.request({"x": "v"}, "python") == (("tool", '{"q": "v"}'), None)


def test_the_servers_own_interpreter() -> None:
    made = kind(command='["{python}", "-m", "tool", "{x}"]')
    assert made.request({"x": "v"}, "/usr/bin/python") == (("/usr/bin/python", "-m", "tool", "v"), None)


# ---------------------------------------------------------------- environment


def test_the_environment_is_the_small_set_and_what_the_kind_asks_for() -> None:
    server = {
        "HOME": "/h", "PATH": "/bin", "LC_ALL": "C", "USER": "me",
        "AWS_SECRET_ACCESS_KEY": "s", "ANTHROPIC_API_KEY": "k", "ANTHROPIC": "no", "LD_PRELOAD": "x", "PYTHONPATH": "p",
    }  # fmt: skip
    assert environment_of(server, ["ANTHROPIC_*"], {"LC_ALL": "C.UTF-8", "NEW": "1"}) == {
        "HOME": "/h",
        "PATH": "/bin",
        "LC_ALL": "C.UTF-8",
        "USER": "me",
        "ANTHROPIC_API_KEY": "k",
        "NEW": "1",
    }


# ---------------------------------------------------------------- the examples that are shipped


def test_the_shipped_examples_are_a_kinds_file() -> None:
    path = Path(kinds.__file__).with_name("examples.toml")
    found = {each.name: each for each in kinds_file.parse(path.read_text(encoding="utf-8"), str(path))}
    assert list(found) == ["review", "review_codex", "ask_claude", "run_tests", "claude_task", "codex_task"]
    values = {"scope": "staged", "base": None, "focus": None, "max_bytes": 1000}
    words, stdin = found["review"].request(values, "python")
    assert words[:6] == ("python", "-P", "-m", "supervisor.mcp_server.review", "--scope=staged", "--max-bytes=1000")
    assert words[6:8] == ("--", "claude")
    assert stdin is None
    assert found["run_tests"].request({"path": "."}, "python") == (("pytest", "-q", "-x", "."), None)
