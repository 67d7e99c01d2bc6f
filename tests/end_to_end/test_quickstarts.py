"""The README's tour and the quickstarts: every block is run, in the page's order."""

import re
import shlex
from pathlib import Path

import matplotlib
import pytest

from fedsim.cli import main
from fedsim.runs.folder import read_metrics

REPOSITORY = Path(__file__).parents[2]
LOOP = re.compile(r"for (\w+) in ([^;\n]+); do\n((?:(?!\bfor\b).)*?)\ndone", re.DOTALL)
HERE = re.compile(r"^cat > (\S+) <<'END'\n(.*?)^END\n", re.DOTALL | re.MULTILINE)


def blocks(page):
    """The page's (language, content), in order."""
    text = (REPOSITORY / page).read_text()
    return re.findall(r"^```(sh|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(shell):
    """The lines of a shell block, its loops written out."""

    def repeat(loop):
        name, values, body = loop.groups()
        return "\n".join(re.sub(rf"\${name}\b", value, body) for value in values.split())

    shell = re.sub(r"^ +", "", shell, flags=re.MULTILINE)
    while LOOP.search(shell):
        shell = LOOP.sub(repeat, shell)
    return [line for line in shell.splitlines() if line]


def shortened(words):
    """The same command with two rounds: enough to see that it works."""
    if words[0] != "run" or "--help" in words:
        return words
    if "--rounds" not in words:
        return [*words, "--rounds", "2"]
    at = words.index("--rounds") + 1
    return [*words[:at], "2", *words[at + 1 :]]


def run_fedsim(words, pipe, capsys):
    """One command; its output has the word that the page looks for, its folder the rounds."""
    capsys.readouterr()
    assert main(words) == 0, words
    if pipe:
        grep, word = pipe.split()
        assert grep == "grep"
        assert word in capsys.readouterr().out
    if words[0] == "run" and "--out" in words:
        assert len(read_metrics(Path(words[words.index("--out") + 1]))) == 2


def run_shell(shell, capsys):
    """A block of commands; `make`, `source` and examples have tests of their own."""
    for name, content in HERE.findall(shell):
        Path(name).write_text(content)
    for line in commands(HERE.sub("", shell)):
        command, _, pipe = line.partition(" | ")
        program, *words = shlex.split(command, comments=True)
        if program == "fedsim":
            run_fedsim(shortened(words), pipe, capsys)
        elif program == "ls":
            assert all(Path(word).is_dir() for word in words)
        elif program == "python":
            assert (REPOSITORY / words[0]).exists()
        else:
            assert program in ("make", "source")


def test_loops_are_written_out():
    inner = "for b in x y; do\n    fedsim run $b --out r/$b-$a\n  done"
    shell = f"for a in 1 2; do\n  {inner}\ndone\nls r\n"
    assert commands(shell) == [
        "fedsim run x --out r/x-1",
        "fedsim run y --out r/y-1",
        "fedsim run x --out r/x-2",
        "fedsim run y --out r/y-2",
        "ls r",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", ["README.md", "docs/quickstart_command_line.md", "docs/quickstart_python.md"]
)
def test_the_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    names = {}
    for language, content in blocks(page):
        script = re.match(r"# (\w+\.py)\n", content)
        if language == "sh":
            run_shell(content, capsys)
        elif script:
            Path(script[1]).write_text(content)
        else:
            exec(compile(re.sub(r"rounds=\d+", "rounds=2", content), page, "exec"), names)
