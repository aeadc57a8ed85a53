"""The pytest plugin, as pytest loads it: its fixtures work, and cost nobody anything who does not use them."""

import subprocess
import sys
from pathlib import Path

import pytest

AT_WORK = Path(__file__).with_name("fixtures_at_work.py")
PLUGIN = ("-p", "no:qpsmtpd", "-p", "qpsmtpd.testing.pytest_plugin")  # the same whether or not it is installed


def run_pytest(*arguments, cwd):
    command = [
        sys.executable,
        "-m",
        "pytest",
        *PLUGIN,
        "-p",
        "no:cacheprovider",
        "-q",
        "--strict-markers",
        "-W",
        "error",
    ]
    return subprocess.run([*command, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_fixtures_work(tmp_path):
    done = run_pytest("-c", "/dev/null", "--rootdir", str(tmp_path), "-p", "no:randomly", str(AT_WORK), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(".") >= AT_WORK.read_text().count("def test_"), done.stdout
    assert " passed in " in done.stdout
    assert "skipped" not in done.stdout


def test_a_marker_with_a_misspelt_option_is_an_error(tmp_path):
    test = tmp_path / "test_it.py"
    test.write_text("import pytest\n\n@pytest.mark.smtpd(plugin=['relay'])\ndef test_it(smtpd):\n    pass\n")
    done = run_pytest(cwd=tmp_path)
    assert done.returncode == 1
    assert "takes plugins=[...] and config={...}" in done.stdout


def test_a_plugin_that_cannot_be_loaded_is_an_error_with_its_cause(tmp_path):
    test = tmp_path / "test_it.py"
    test.write_text("import pytest\n\n@pytest.mark.smtpd(plugins=['no_such'])\ndef test_it(smtpd):\n    pass\n")
    done = run_pytest(cwd=tmp_path)
    assert done.returncode == 1
    assert "ConfigError" in done.stdout
    assert "no_such" in done.stdout


@pytest.mark.parametrize("heavy", ["hypothesis", "asyncio", "ssl", "qpsmtpd.protocol", "qpsmtpd.session"])
def test_the_plugin_itself_imports_nothing_heavy(heavy):
    code = "import sys, pytest; before = set(sys.modules); import qpsmtpd.testing.pytest_plugin; "
    code += f"print({heavy!r} in set(sys.modules) - before)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_entry_points_name_what_there_is():
    import importlib
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for group in ("pytest11", "hypothesis"):
        (module,) = project["entry-points"][group].values()
        importlib.import_module(module)
