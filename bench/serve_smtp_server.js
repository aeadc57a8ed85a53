// Nodemailer's smtp-server on 127.0.0.1, taking every message and throwing it away.
//
//     node serve_smtp_server.js PORT [CERTIFICATE KEY]
const fs = require('fs');
const { SMTPServer } = require('smtp-server');

const [port, certificate, key] = process.argv.slice(2);
const tls = certificate ? { cert: fs.readFileSync(certificate), key: fs.readFileSync(key) } : {};

const server = new SMTPServer({
    ...tls,
    name: 'bench.example',
    authOptional: true,
    disabledCommands: certificate ? ['AUTH'] : ['AUTH', 'STARTTLS'],
    disableReverseLookup: true,
    onData(stream, session, done) {
        stream.on('end', () => done(null, 'queued'));
        stream.resume();
    },
});
server.on('error', () => {}); // clients that vanish at the end of a run
server.listen(Number(port), '127.0.0.1');
