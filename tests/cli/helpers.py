"""What a command line means, without carrying it out."""

import yaml
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.registry import settings_class
from featcache.config import parse


def settings_of(*words):
    """Settings that a command line means, out of the YAML that it prints."""
    result = CliRunner().invoke(app, [*map(str, words), "--print-config"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    data = yaml.safe_load(result.stdout)
    return parse(settings_class(data["command"]), data)
