"""What the documentation says is so: links lead on, configs load, commands exist, limits are the code's."""

import ast
import importlib
import re
import shlex
import socket
import ssl
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from twisted.python import usage
from twisted.scripts.twistd import ServerOptions

from rproxy.command import _parser
from rproxy.config.load import parse
from rproxy.config.schema import Configuration
from rproxy.errors import ConfigError
from tests.e2e.programs import PATIENCE, TWISTD, Program, Programs, environment, free_port
from tests.e2e.streams import all_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "bench").glob("*.md")])
EXAMPLES = DOCS / "examples"
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
OURS = r"(?<![\w/])(?:tests|rproxy|docs|bench)/[\w/.-]+\.(?:py|md|tac|toml)\b"
REFUSED = "<!-- refused -->"
UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "s": 1, "": 1}


def ids(pages):
    return [str(page.relative_to(ROOT)) for page in pages]


def prose(page):
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text())


def blocks(language):
    """Each code block in `language`: the page, its text without indentation, and what stands before it."""
    for page in PAGES:
        text = page.read_text()
        for found in FENCE.finditer(text):
            if found[1] == language:
                indent = len(found[0]) - len(found[0].lstrip(" "))
                code = "\n".join(line[indent:] for line in found[2].split("\n"))
                yield pytest.param(
                    page, code, text[: found.start()].rstrip(), id=f"{page.name}:{code[:20]!r}"
                )


def anchors(page):
    """The anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    for link in LINK.findall(prose(page)):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert target == ROOT or ROOT in target.parents
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_every_file_of_ours_that_is_named_exists(page):
    named = re.findall(OURS, page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(("page", "code", "before"), list(blocks("toml")))
def test_every_config_loads_or_is_marked_as_refused(page, code, before):
    if before.endswith(REFUSED):
        with pytest.raises(ConfigError) as caught:
            parse(code, "docs.toml")
        assert all("not supported yet" in problem.message for problem in caught.value.problems)
    else:
        config = parse(code, "docs.toml")
        assert config.listen_tls or config.listen_port_tls or config.l4


def accepts(words):
    """Whether the real parser takes a command line."""
    try:
        if words[0] == "rproxy":
            _parser().parse_args(["check" if word == "-t" else word for word in words[1:]])
        else:  # the user need not exist here
            ServerOptions().parseOptions([re.sub(r"^--([ug]id)=.*", r"--\1=0", word) for word in words[1:]])
    except usage.UsageError:
        return False
    except SystemExit as end:
        return end.code == 0  # --version, --help
    return True


def commands():
    """Every command of ours in shell blocks and in backquotes, with FILE and the like left as they are."""
    for block in blocks("sh"):
        page, code, _ = block.values
        for line in code.split("\n"):
            yield page, line
    for page in PAGES:
        for span in re.findall(r"`([^`\n]+)`", prose(page)):
            yield page, span


def our_commands():
    for page, line in commands():
        words = shlex.split(line, comments=True) if line.startswith(("rproxy ", "twistd ")) else []
        if len(words) > 2 or words[1:] == ["--version"]:
            yield pytest.param(words, id=f"{page.name}:{line[:40]}")


@pytest.mark.parametrize("words", list(our_commands()))
def test_every_command_is_one_that_the_parsers_take(words):
    assert accepts(words)


def test_the_commands_are_found_at_all():
    found = [param.values[0] for param in our_commands()]
    assert ["rproxy", "check", "FILE"] in found
    assert any(words[0] == "twistd" and "--uid=rproxy" in words for words in found)


@pytest.mark.parametrize(
    "words",
    [["rproxy", "serve"], ["rproxy", "run", "--port", "1"], ["twistd", "--nope"], ["twistd", "rprox"]],
)
def test_a_command_that_does_not_exist_would_be_noticed(words):
    assert not accepts(words)


def known_flags():
    """Every flag of our commands and twistd's, from their help, and those that other programs have."""
    asked = [[*TWISTD, "--help"], [*TWISTD, "rproxy", "--help"]]
    verbs = ([], ["run"], ["l4"], ["check"], ["certs"], ["ban"], ["status"], ["hostname"])
    asked += [[sys.executable, "-m", "rproxy.command", *verb, "--help"] for verb in verbs]
    asked.append([sys.executable, str(ROOT / "bench/bench.py"), "--help"])
    told = [
        subprocess.run(words, capture_output=True, text=True, env=environment()).stdout for words in asked
    ]
    others = {"--resolve", "--cacert", "--system", "--now", "--listen", "--path", "--check", "--strict"}
    return set(re.findall(r"--[a-z][a-z-]*", "\n".join(told))) | others


def test_every_flag_that_is_named_exists():
    known = known_flags()
    for page in PAGES:
        named = re.findall(r"(?<![\w-])--[a-z][a-z-]*", page.read_text())
        assert set(named) <= known, page.name


def limits():
    """The rows of the limits table."""
    section = (DOCS / "threat-model.md").read_text().partition("## Limits")[2].partition("\n## ")[0]
    for line in section.split("\n"):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 4 and cells[3] != "where":
            yield pytest.param(cells[1], cells[3], id=cells[3])


def number_of(where):
    """The value of a constant in a module, or the default of a config key."""
    if "." not in where:
        return Configuration.model_fields[where].default
    module, _, name = where.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize(("written", "where"), list(limits()))
def test_each_limit_has_the_number_that_the_table_says(written, where):
    amount, unit = re.match(r"([\d.]+) ?([A-Za-z]*)", written).groups()
    assert float(amount) * UNITS[unit] == number_of(where)


def test_the_limits_table_is_found_at_all():
    assert len(list(limits())) > 20


def test_the_decisions_are_numbered_without_a_gap():
    pages = sorted((DOCS / "adr").glob("*.md"))
    numbers = [int(page.name[:4]) for page in pages]
    assert all(after == before + 1 for before, after in pairwise([0, *numbers]))
    for page, number in zip(pages, numbers, strict=True):
        assert page.read_text().startswith(f"# {number}. ")


def test_each_dependency_has_its_reason():
    reasons = (DOCS / "adr" / "0002-dependencies.md").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"^(?:dependencies|test) = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    names = re.findall(r'^ *"([\w-]+(?:\[\w+\])?)', "\n".join(lists), re.MULTILINE)
    assert len(names) > 10
    assert [name for name in names if f"`{name}`" not in reasons] == []


def test_whatever_is_imported_is_among_the_reasons():
    reasons = (DOCS / "adr" / "0002-dependencies.md").read_text().lower().replace("-", "_")
    known = sys.stdlib_module_names | {"rproxy"}
    trees = [ast.parse(path.read_text()) for path in (ROOT / "rproxy").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {each.name for node in nodes if isinstance(node, ast.Import) for each in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    found = {name.partition(".")[0].lower() for name in names} - known
    assert {"twisted", "openssl", "cryptography"} <= found
    called = {"openssl": "`pyopenssl`", "zope": "`zope.interface`", "twisted": "`twisted[tls]`"}
    assert [name for name in sorted(found) if called.get(name, f"`{name}`") not in reasons] == []


@pytest.fixture
def programs(tmp_path):
    running = Programs(tmp_path)
    yield running
    running.end()


def tac(programs, name, **variables) -> Program:
    words = [*TWISTD, "-n", "--pidfile=", "-y", EXAMPLES / name]
    return programs.start(words, name, env=environment(**variables), cwd=programs.folder)


def answer_of(port):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="demo.localhost") as stream,
    ):
        stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return all_of(stream).decode()


def test_the_tac_examples_run(programs, tmp_path):
    first, second = free_port(), free_port()
    (tmp_path / "rproxy.toml").write_text(
        f'listen_tls = ["tcp:{first}:interface=127.0.0.1"]\n[apps.demo]\nserver_name = "demo.localhost"\n'
        'passthrough = { upstream = [{ location = "demo:" }], proxy_protocol = "v2" }\n'
    )
    tac(programs, "rproxy.tac").says("rproxy listens on")
    tac(
        programs, "relay.tac", LISTEN=f"tcp:{second}:interface=127.0.0.1", PEER=f"tcp:127.0.0.1:{first}"
    ).says("starting on")
    for port in (first, second):
        assert "name      demo.localhost" in answer_of(port)
