"""SMTP as a protocol of Twisted: python examples/over_twisted.py FOLDER [SECONDS]."""

from twisted.internet import protocol, reactor
from twisted.protocols.policies import TimeoutMixin

from keeper import SECONDS, SILENT, answer, begin, keep
from qpsmtpd.protocol import CLOSED, NEED_DATA, OK, Signal, hooks


class Smtp(protocol.Protocol, TimeoutMixin):
    def connectionMade(self):
        self.server, self.content = begin()
        self.paused = False  # a client that reads too little has Twisted call `pauseProducing`
        self.transport.registerProducer(self, True)
        self.setTimeout(SECONDS)
        self.pump()

    def pump(self):
        event = None
        while not self.paused and event not in (NEED_DATA, CLOSED):
            match event := self.server.next_event():
                case hooks.Queue():
                    keep(self.content)  # what takes longer than a file belongs into deferToThread
                    self.server.answer(OK, "kept")
                case Signal():  # NEED_DATA, DRAIN or CLOSED
                    self.transport.write(self.server.data_to_send())
                case _:
                    answer(self.server, event, self.content)
        if event is CLOSED:
            self.setTimeout(None)
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def dataReceived(self, data):
        self.resetTimeout()
        self.server.receive_data(data)
        self.pump()

    def timeoutConnection(self):
        if self.paused:
            return self.transport.abortConnection()
        self.server.hang_up(SILENT)
        return self.pump()

    def pauseProducing(self):
        self.paused = True
        self.transport.pauseProducing()

    def resumeProducing(self):
        self.paused = False
        self.transport.resumeProducing()
        self.pump()

    def stopProducing(self):  # the client is gone
        self.setTimeout(None)


listening = reactor.listenTCP(0, protocol.Factory.forProtocol(Smtp), interface="127.0.0.1").getHost()
print(listening.host, listening.port, flush=True)
reactor.run()
