"""The hooks of plugins are checked against `Plugin` by mypy and pyright, both strict."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from qpsmtpd.config import Config
from qpsmtpd.loader import bundled_names, find_plugin

HERE = Path(__file__).parent / "typing"
RIGHT, WRONG = HERE / "right_plugin.py", HERE / "wrong_plugin.py"
MARKED = [number for number, line in enumerate(WRONG.read_text().splitlines(), 1) if line.endswith("# wrong")]


def mypy(path):
    """The lines in which mypy finds errors."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--no-pretty", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=HERE)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert all(line.startswith((path.name, str(path))) for line in errors), done.stdout
    return sorted({int(line.split(":")[1]) for line in errors})


def pyright(path):
    """The lines in which pyright finds errors."""
    settings = path.parent / "pyrightconfig.json"
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    errors = [each for each in json.loads(done.stdout)["generalDiagnostics"] if each["severity"] == "error"]
    return sorted({each["range"]["start"]["line"] + 1 for each in errors if each["file"].endswith(path.name)})


@pytest.mark.timeout(180)
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_right_plugins_are_right_and_wrong_ones_are_found(checker):
    if importlib.util.find_spec(checker.__name__) is None:
        pytest.skip(f"{checker.__name__} is not installed")
    assert checker(RIGHT) == []
    assert checker(WRONG) == MARKED


@pytest.mark.parametrize("name", bundled_names())
def test_every_bundled_plugin_has_hooks_that_exist(name):
    assert find_plugin(Config(None), name).__doc__
