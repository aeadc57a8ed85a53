"""A DNS server on loopback, with answers and with everything that goes wrong with name servers."""

import contextlib
import socket
import struct
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

DROP, SERVFAIL, REFUSED, GARBAGE, TRUNCATED, STRANGE = "drop", "servfail", "refused", "garbage", "truncated", "strange"
"""What a name may do instead of having records: no answer; two refusals; an answer that is no DNS; one that is too
long for UDP, so that the records come by TCP; the records of another name."""


class NameServer:
    """Records as in a zone file by name and type: `{"example.org": {"MX": ["10 mx.example.org."]}}`.

    A name may have one of the words above instead of a mapping. A name that is nowhere does not exist.
    """

    def __init__(self, records=None):
        self.records = {}
        self.set(records or {})
        self.asked = []
        self._udp, self._tcp = _bound_pair()
        self.address = self._udp.getsockname()
        self._threads = [threading.Thread(target=serve, daemon=True) for serve in (self._serve_udp, self._serve_tcp)]
        self._stopping = False

    def set(self, records):
        """Add records, or replace those of a name."""
        self.records |= {name.lower().rstrip("."): value for name, value in records.items()}

    @property
    def config(self):
        """The setting `nameservers` that leads here."""
        return [f"127.0.0.1:{self.address[1]}"]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopping = True
        with contextlib.suppress(OSError):
            self._tcp.shutdown(socket.SHUT_RDWR)  # wakes accept
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self.address)
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._tcp.close()

    def _serve_udp(self):
        while True:
            query, client = self._udp.recvfrom(4096)
            if self._stopping:
                return
            answer = self._answer(query, tcp=False)
            if answer is not None:
                with contextlib.suppress(OSError):
                    self._udp.sendto(answer, client)

    def _serve_tcp(self):
        while not self._stopping:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError, struct.error):
                connection.settimeout(5)
                (length,) = struct.unpack("!H", connection.recv(2, socket.MSG_WAITALL))
                answer = self._answer(connection.recv(length, socket.MSG_WAITALL), tcp=True)
                if answer is not None:
                    connection.sendall(struct.pack("!H", len(answer)) + answer)

    def _answer(self, wire, *, tcp):
        query = dns.message.from_wire(wire)
        (question,) = query.question
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        entry = self.records.get(name)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        match entry:
            case "drop":
                return None
            case "garbage":
                return wire[:2] + b"\xff" * 40
            case "servfail":
                answer.set_rcode(dns.rcode.SERVFAIL)
            case "refused":
                answer.set_rcode(dns.rcode.REFUSED)
            case "truncated" if not tcp:
                answer.flags |= dns.flags.TC
            case "truncated":
                answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "TXT", '"came by TCP"'))
            case "strange":
                answer.answer.append(dns.rrset.from_text("elsewhere.example.", 60, "IN", kind, *_SAMPLES[kind]))
            case None:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            case {"CNAME": [target, *_]} if kind != "CNAME":
                answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "CNAME", target))
                values = self.records.get(target.lower().rstrip("."), {}).get(kind, [])
                if values:
                    answer.answer.append(dns.rrset.from_text(target, 60, "IN", kind, *values))
            case _:
                values = entry.get(kind, [])
                if values:
                    answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *values))
        return answer.to_wire()


_SAMPLES = {
    "A": ["192.0.2.99"], "AAAA": ["2001:db8::99"], "CNAME": ["x.example."], "MX": ["10 x.example."],
    "NS": ["x.example."], "PTR": ["x.example."], "TXT": ['"x"'],
}  # fmt: skip


def _bound_pair():
    """A UDP and a TCP socket on the same port of loopback."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        tcp = socket.socket()
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            continue
        tcp.listen(50)
        return udp, tcp
