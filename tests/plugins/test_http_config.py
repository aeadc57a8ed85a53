"""What `http_config` asks, what it takes for an answer, and how seldom it asks."""

import contextlib
import http.server
import socket
import threading
import urllib.request

import pytest

from qpsmtpd import DECLINED, OK
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins import http_config

FILES = {"x": ("of the file",), "y": ("of the file",)}
HEADER = b"HTTP/1.1 200 OK\r\n"


class Web:
    """A web server on loopback: answers by path, and the paths that were asked for."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        self.meanwhile = lambda: None
        """Called before an answer is sent."""
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                web.asked.append(self.path)
                answer = web.answers.get(self.path, 404)
                web.meanwhile()
                if isinstance(answer, int):
                    self.send_error(answer)
                else:
                    self.wfile.write(answer)

            def log_message(self, *args):
                pass

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def answer(self, path, text, head=HEADER):
        """Answer a path with a text; `head` has no Content-Length, so the connection's end is the text's."""
        self.answers[path] = head + b"\r\n" + text

    def stop(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def web():
    web = Web()
    yield web
    web.stop()


@pytest.fixture
def other_web():
    web = Web()
    yield web
    web.stop()


@contextlib.contextmanager
def socket_url(*, listening):
    """The URL of a port where nobody listens, or where nobody ever answers."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if listening:
            held.listen()
        yield f"http://127.0.0.1:{held.getsockname()[1]}/"


def test_the_lines_of_an_answer_are_the_values(kit, web):
    web.answer("/x", b"# a remark\r\n  one \n\n\t# another\r\ntwo # three\nna\xc3\xafve\nna\xefve")
    stage = kit(f"http_config {web.url}", config=FILES)
    assert stage.site.config("x") == ("one", "two # three", "na\xefve", "na\udcefve")
    assert [call.code for call in stage.calls("config")[-1:]] == [OK]


@pytest.mark.parametrize("answer", [404, 403, 500, HEADER + b"\r\n", HEADER + b"\r\n# nothing\n\n"])
def test_without_an_answer_or_without_a_value_the_file_counts(kit, web, answer):
    web.answers["/x"] = answer
    stage = kit(f"http_config {web.url}", config=FILES)
    assert stage.site.config("x") == FILES["x"]
    assert stage.calls("config")[-1].code is DECLINED


@pytest.mark.parametrize("status", [b"201 Created", b"204 No Content", b"206 Partial Content", b"304 Not Modified"])
def test_only_200_is_an_answer(kit, web, status):
    web.answer("/x", b"one\n", head=b"HTTP/1.1 " + status + b"\r\n")
    assert kit(f"http_config {web.url}", config=FILES).site.config("x") == FILES["x"]


def test_the_servers_are_asked_in_order_until_one_has_values(kit, web, other_web):
    other_web.answer("/qp?name=x", b"of the other")
    stage = kit(f"http_config {web.url}dir/ {other_web.url}qp?name=", config=FILES)
    assert stage.site.config("x") == ("of the other",)
    assert (web.asked, other_web.asked) == (["/dir/x"], ["/qp?name=x"])
    web.answer("/dir/y", b"of the first")
    assert stage.site.config("y") == ("of the first",)
    assert "/qp?name=y" not in other_web.asked


def test_a_name_cannot_change_what_is_asked_for(kit, web):
    kit(f"http_config {web.url}a/").site.config("../b?c#d e")
    assert web.asked == ["/a/..%2Fb%3Fc%23d%20e"]


def test_an_answer_is_kept_for_300_seconds(kit, web):
    web.answer("/x", b"one")
    stage = kit(f"http_config {web.url}")
    assert stage.site.config("x") == stage.site.config("x") == ("one",)
    web.answer("/x", b"two")
    stage.clock.advance(299)
    assert stage.site.config("x") == ("one",)
    stage.clock.advance(1)
    assert stage.site.config("x") == ("two",)
    assert web.asked == ["/x", "/x"]


def test_that_there_is_no_answer_is_kept_as_long(kit, web):
    stage = kit(f"http_config {web.url} cache 10", config=FILES)
    for _ in range(3):
        assert stage.site.config("x") == FILES["x"]
    assert web.asked == ["/x"]
    web.answer("/x", b"one")
    stage.clock.advance(10)
    assert stage.site.config("x") == ("one",)


def test_an_answer_that_has_gone_leaves_the_file(kit, web):
    web.answer("/x", b"one")
    stage = kit(f"http_config {web.url}", config=FILES)
    assert stage.site.config("x") == ("one",)
    del web.answers["/x"]
    stage.clock.advance(300)
    assert stage.site.config("x") == FILES["x"]


def test_a_session_with_its_many_settings_asks_once_for_each(kit, web):
    web.answer("/rcpthosts", b"example.org")
    stage = kit(f"http_config {web.url}", "rcpt_ok")
    for _ in range(3):
        assert stage.connect().deliver()[-1].code == 250
        stage.clock.advance(2)
    assert "/rcpthosts" in web.asked
    assert len(web.asked) == len(set(web.asked))


@pytest.mark.parametrize("listening", [False, True])
def test_a_server_that_fails_is_left_alone_for_all_settings(kit, web, listening):
    web.answer("/x", b"of the second")
    with socket_url(listening=listening) as dead:
        stage = kit(f"http_config {dead} {web.url} timeout 0.05", config=FILES)
        assert stage.site.config("x") == ("of the second",)
        assert stage.site.config("y") == FILES["y"]
        assert len(stage.logged(f"error, x from {dead}: ")) == 1
        assert not stage.logged("error, y from ")
        stage.clock.advance(60)
        assert stage.site.config("y") == FILES["y"]
        assert len(stage.logged(f"error, y from {dead}: ")) == 1


def test_what_was_found_while_a_server_was_away_holds_until_it_is_asked_again(kit, web, other_web):
    other_web.answer("/x", b"of the second")
    web.answer("/x", b"of the first")
    stage = kit(f"http_config {web.url} {other_web.url} retry 30")
    (plugin,) = (plugin for plugin in stage.site.plugins if plugin.plugin_name == "http_config")
    plugin._left_alone[web.url] = 30.0
    assert stage.site.config("x") == ("of the second",)
    stage.clock.advance(29)
    assert stage.site.config("x") == ("of the second",)
    stage.clock.advance(1)
    assert stage.site.config("x") == ("of the first",)


def test_a_kept_answer_counts_while_its_server_is_away(kit, web):
    web.answer("/x", b"one")
    stage = kit(f"http_config {web.url}", config=FILES)
    assert stage.site.config("x") == ("one",)
    stage.site.plugins[0]._left_alone[web.url] = 1000.0
    assert stage.site.config("y") == FILES["y"]
    stage.clock.advance(299)
    assert stage.site.config("x") == ("one",)


@pytest.mark.parametrize(("args", "seconds"), [("", 2), ("timeout 0.5", 0.5)])
def test_a_server_has_two_seconds_to_answer_or_what_the_argument_says(kit, web, monkeypatch, args, seconds):
    given = []
    opened = urllib.request.OpenerDirector.open

    def watched(self, url, timeout):
        given.append(timeout)
        return opened(self, url, timeout=timeout)

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", watched)
    assert kit(f"http_config {web.url} {args}").site.config("x") == ()
    assert given == [seconds]


def test_an_answer_that_drips_is_given_up(kit, web):
    stage = kit(f"http_config {web.url}", config=FILES)
    web.answer("/x", b"one\n")
    web.meanwhile = lambda: stage.clock.advance(2.5)
    assert stage.site.config("x") == FILES["x"]
    assert stage.logged("more than 2 s; leaving it alone for 60 s")


@pytest.mark.parametrize(
    "answer",
    [HEADER + b"Content-Length: 100\r\n\r\nhalf of it\n", HEADER + b"Transfer-Encoding: chunked\r\n\r\n5\r\none\n", b"nonsense\r\n",
     b"", HEADER + b"A: " + b"x" * 70000 + b"\r\n\r\none"],
    ids=["cut short", "cut within a chunk", "not HTTP", "nothing", "endless field"],
)  # fmt: skip
def test_a_broken_answer_is_none_and_the_server_is_asked_for_other_settings(kit, web, answer):
    web.answers["/x"] = answer
    web.answer("/y", b"fine")
    stage = kit(f"http_config {web.url}", config=FILES)
    assert stage.site.config("x") == FILES["x"]
    assert stage.logged(f"error, x from {web.url}: ")
    if answer:  # a server that hangs up at once has failed altogether
        assert stage.site.config("y") == ("fine",)
    web.answer("/x", b"mended")
    stage.clock.advance(60)
    assert stage.site.config("x") == ("mended",)


@pytest.mark.parametrize("head", [HEADER, HEADER + b"Content-Length: %d\r\n" % (http_config._SIZE_LIMIT + 1)])
def test_an_answer_has_a_largest_size(kit, web, head):
    web.answer("/x", b"x" * http_config._SIZE_LIMIT, head=HEADER)
    web.answer("/y", b"y" * (http_config._SIZE_LIMIT + 1), head=head)
    stage = kit(f"http_config {web.url}", config=FILES)
    assert len(stage.site.config("x")[0]) == http_config._SIZE_LIMIT
    assert stage.site.config("y") == FILES["y"]
    assert stage.logged("more than 1048576 octets")


def test_chunks_and_a_length_are_understood(kit, web):
    web.answer("/x", b"4\r\none\n\r\n3\r\ntwo\r\n0\r\n\r\n", head=HEADER + b"Transfer-Encoding: chunked\r\n")
    web.answer("/y", b"one\ntwo, and what does not belong to it", head=HEADER + b"Content-Length: 7\r\n")
    stage = kit(f"http_config {web.url}")
    assert stage.site.config("x") == stage.site.config("y") == ("one", "two")


@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "file"])
def test_no_redirect_is_followed(kit, web, scheme):
    web.answer("/y", b"one")
    target = web.url.replace("http:", f"{scheme}:").encode()
    web.answer("/x", b"one", head=b"HTTP/1.1 302 Found\r\nLocation: " + target + b"y\r\n")
    assert kit(f"http_config {web.url}", config=FILES).site.config("x") == FILES["x"]
    assert web.asked == ["/x"]


def test_no_proxy_is_asked(kit, web, monkeypatch):
    web.answer("/x", b"one")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    monkeypatch.delenv("no_proxy", raising=False)
    assert kit(f"http_config {web.url}").site.config("x") == ("one",)


def test_what_is_kept_has_a_bound(kit, web):
    stage = kit(f"http_config {web.url}")
    plugin = stage.site.plugins[0]
    plugin._left_alone[web.url] = 1e9
    for number in range(3 * http_config._MOST_SETTINGS):
        assert stage.site.config(f"made-up-{number}") == ()
    assert len(plugin._known) <= http_config._MOST_SETTINGS


@pytest.mark.parametrize(
    ("args", "message"),
    [("", "the address of a web server is missing"),
     ("cache 10", "the address of a web server is missing"),
     ("localhost/x", "'localhost/x' is left over"),
     ("ftp://localhost/", "ftp://localhost/ is no address of a web server"),
     ("file:///etc/", "is no address"),
     ("data://x,y", "is no address"),
     ("http:///x", "is no address"),
     ("http://user:secret@localhost/", "is no address"),
     ("http://localhost:0/", "is no address"),
     ("http://localhost:port/", "Port could not be cast"),
     ("http://localhost/\u00e4/", "is no address"),
     ("http://localhost/ ftp://localhost/", "is no address"),
     ("http://localhost/ cach 10", "unknown argument 'cach'; did you mean cache?"),
     ("http://localhost/ cache 10 http://localhost/y", "'http://localhost/y' is left over"),
     ("http://localhost/ cache often", "cache 'often' is no number of seconds above 0"),
     ("http://localhost/ retry 0", "retry '0' is no number"),
     ("http://localhost/ timeout nan", "timeout 'nan' is no number"),
     ("http://localhost/ timeout inf", "timeout 'inf' is no number")],
)  # fmt: skip
def test_bad_arguments_are_seen_at_load(kit, args, message):
    with pytest.raises(ConfigError) as caught:
        kit(f"http_config {args}")
    assert message in str(caught.value)


def test_a_host_name_that_cannot_be_one_fails_as_a_setting(kit):
    stage = kit("http_config http://a..b/", config=FILES)
    assert stage.site.config("x") == FILES["x"]
    assert stage.logged("error, x from http://a..b/: ")


def test_plugins_are_read_from_files_in_any_case(kit, web, directory):
    web.answer("/plugins", b"no_such_plugin")
    web.answer("/logging", b"no_such_plugin")
    (directory / "plugins").write_text(f"http_config {web.url}\nrcpt_ok\n")
    from qpsmtpd.config import Config
    from qpsmtpd.loader import load
    from qpsmtpd.site import Site

    site = Site(Config(directory))
    load(site)
    assert [plugin.plugin_name for plugin in site.plugins] == ["http_config", "rcpt_ok"]
