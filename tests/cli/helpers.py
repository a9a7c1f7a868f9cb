"""Command lines in the process of the tests: what one means, and what comes of it."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from featcache.cli.main import app, main
from featcache.commands.registry import settings_class
from featcache.config import parse


def settings_of(*words):
    """Settings that a command line means, out of the YAML that it prints."""
    result = CliRunner().invoke(app, [*map(str, words), "--print-config"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    data = yaml.safe_load(result.stdout)
    return parse(settings_class(data["command"]), data)


def run_here(*arguments: object, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Carry out a command as its entry point does, but in this process, which has imported torch already."""
    words = ["featcache", *map(str, arguments)]
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            main()
    done = subprocess.CompletedProcess(words, int(stop.value.code or 0), out.getvalue(), err.getvalue())
    if check:
        assert done.returncode == 0, done.stderr
    return done
