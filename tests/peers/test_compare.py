"""`qpsmtpd compare` with real servers: all of them see the control, and what they say is understood."""

import contextlib
import json

import pytest
import servers

from qpsmtpd.cli import main


@contextlib.contextmanager
def started(name, files):
    """A server, and how it is named on the command line."""
    with contextlib.ExitStack() as stack:
        try:
            target = stack.enter_context(servers.comparable(name, files))
        except servers.MissingError as reason:
            pytest.skip(str(reason))
        yield target


@pytest.mark.parametrize("name", servers.COMPARABLE)
def test_a_real_server_is_played_to_and_its_mail_comes_to_light(name, files, tmp_path, capsys):
    report = tmp_path / "report.json"
    with started(name, files) as target:
        arguments = ["--only", "*p[li]*[an]*", "--probes", "0", "--discreet"]
        assert main(["compare", target, *arguments]) == 0, capsys.readouterr().out
        arguments = ["--only", "smuggling/crlf-dot-crlf", "--probes", "0", "--json", str(report)]
        assert main(["compare", target, *arguments]) == 0, capsys.readouterr().out
    (control,) = json.loads(report.read_text())["cases"]
    assert control["outcomes"][name]["framing"] == "2 messages"
    assert control["outcomes"][name]["codes"] == control["outcomes"]["qpsmtpd"]["codes"]
