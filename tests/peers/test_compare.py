"""`qpsmtpd compare` with real servers: all of them see where a message ends, and what they say is understood."""

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

    def outcomes(target, only):
        status = main(["compare", target, "--only", only, "--probes", "0", "--json", str(report)])
        assert status == 0, capsys.readouterr().out
        (case,) = json.loads(report.read_text())["cases"]
        return case["outcomes"]

    with started(name, files) as target:
        plain, control = outcomes(target, "plain"), outcomes(target, "smuggling/crlf-dot-crlf")
    assert plain[name]["framing"] == "1 message"
    assert plain[name]["replies"] == plain["qpsmtpd"]["replies"]
    # Exim and OpenSMTPD want to be asked before the next message comes: they refuse that, or both. Nobody sees one in
    # the other.
    assert control[name]["framing"] == "2 messages" or name in {"exim", "opensmtpd"}
    assert not any("outer" in each["content"] and "embedded" in each["content"] for each in control[name]["messages"])
