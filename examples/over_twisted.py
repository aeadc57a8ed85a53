"""SMTP as a protocol of Twisted: python examples/over_twisted.py FOLDER [SECONDS]."""

from keeper import SECONDS, SILENT, answer, begin, keep
from twisted.internet import protocol, reactor
from twisted.protocols.policies import TimeoutMixin

from qpsmtpd.protocol import CLOSED, NEED_DATA, OK, Signal, hooks


class Smtp(protocol.Protocol, TimeoutMixin):
    """One client. While it reads too little, Twisted has it paused, and no event is taken."""

    paused = False

    def connectionMade(self):
        self.server, self.content = begin()
        self.transport.registerProducer(self, True)
        self.setTimeout(SECONDS)
        self.pump()

    def pump(self):
        while not self.paused and (event := self.server.next_event()) is not NEED_DATA:
            match event:
                case hooks.Queue():
                    keep(self.content)  # what takes longer than a file belongs into deferToThread
                    self.server.answer(OK, "kept")
                case Signal():  # DRAIN or CLOSED
                    self.transport.write(self.server.data_to_send())
                    if event is CLOSED:
                        return self.transport.unregisterProducer() or self.transport.loseConnection()
                case _:
                    answer(self.server, event, self.content)
        self.transport.write(self.server.data_to_send())

    def dataReceived(self, data):
        self.resetTimeout()
        self.server.receive_data(data)
        self.pump()

    def timeoutConnection(self):
        if self.paused:
            self.transport.abortConnection()
        else:
            self.server.hang_up(SILENT)
            self.pump()

    def pauseProducing(self):
        self.paused = True
        self.transport.pauseProducing()

    def resumeProducing(self):
        self.paused = False
        self.transport.resumeProducing()
        self.pump()

    def stopProducing(self):
        self.paused = True

    def connectionLost(self, reason):
        self.setTimeout(None)


port = reactor.listenTCP(0, protocol.Factory.forProtocol(Smtp), interface="127.0.0.1")
print(port.getHost().host, port.getHost().port, flush=True)
reactor.run()
