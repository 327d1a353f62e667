// Leads Node.js through the bottle's proxy: most of its versions read no proxy variables, and what they dial directly leads
// nowhere. Loopback stays direct, since it is the guest's own. Loaded into every Node.js of a guest by NODE_OPTIONS.
'use strict';

const http = require('http');
const https = require('https');
const net = require('net');
const tls = require('tls');

const DISPATCHER = Symbol.for('undici.globalDispatcher.1');
const LONGEST_REFUSAL = 4096;

/** A host without the brackets of an IPv6 address. */
function bare(host) {
    return String(host).replace(/^\[|\]$/g, '');
}

/** Whether a host is the guest itself. */
function isOwn(host) {
    const name = bare(host).toLowerCase();
    return name === 'localhost' || name.endsWith('.localhost') || name === '::1' || (net.isIPv4(name) && name.startsWith('127.'));
}

function authority(host, port) {
    const name = bare(host);
    return `${net.isIPv6(name) ? `[${name}]` : name}:${port}`;
}

function lead(proxy) {
    // Of Node.js's own class: a request to the proxy itself is not led anywhere.
    const plainly = new http.Agent();
    const via = { host: bare(proxy.hostname), port: Number(proxy.port) || 80 };

    /** A connection through the proxy; a refusal is an error with the proxy's own sentence. */
    function tunnel(host, port, done) {
        const to = authority(host, port);
        const request = http.request({ ...via, agent: plainly, method: 'CONNECT', path: to, headers: { host: to } });
        request.once('error', done);
        request.once('connect', (answer, socket, head) => {
            if (answer.statusCode === 200) {
                return done(null, socket);
            }
            let text = head;
            const length = Math.min(Number(answer.headers['content-length']) || 0, LONGEST_REFUSAL);
            const end = () => {
                socket.destroy();
                const said = text.toString('utf8').trim() || answer.statusMessage;
                done(new Error(`the bottle's proxy answered ${answer.statusCode} to CONNECT ${to}: ${said}`));
            };
            if (text.length >= length) {
                return end();
            }
            socket.on('data', (more) => {
                text = Buffer.concat([text, more]);
                if (text.length >= length) {
                    socket.removeAllListeners('end');
                    end();
                }
            });
            socket.once('end', end);
        });
        request.end();
    }

    class Tunnelling extends https.Agent {
        createConnection(options, done) {
            if (options.socketPath || isOwn(options.host)) {
                return super.createConnection(options, done);
            }
            tunnel(options.host, options.port, (error, socket) => {
                if (error) {
                    return done(error);
                }
                done(null, super.createConnection({ ...options, socket }));
            });
            return undefined;
        }
    }

    class Forwarding extends http.Agent {
        addRequest(request, options, ...rest) {
            if (options.socketPath || isOwn(options.host)) {
                return super.addRequest(request, options, ...rest);
            }
            request.path = `http://${authority(options.host, options.port).replace(/:80$/, '')}${request.path}`;
            return super.addRequest(request, { ...options, ...via }, ...rest);
        }
    }

    http.globalAgent = new Forwarding({ ...http.globalAgent.options });
    https.globalAgent = new Tunnelling({ ...https.globalAgent.options });

    /** As Node.js's own dispatcher of fetch, whose class is known only when it has made one. */
    function dispatcher(Agent) {
        const connect = ({ hostname, protocol, port, servername }, done) => {
            const host = bare(hostname);
            const ready = (event, socket) => {
                socket.once(event, () => done(null, socket)).once('error', (error) => done(error, null));
            };
            if (protocol !== 'https:') {
                return ready('connect', net.connect({ host, port: Number(port) || 80 }));
            }
            const to = { host, port: Number(port) || 443 };
            const secure = (way) => {
                const settings = { ...way, ALPNProtocols: ['http/1.1'], servername: servername || (net.isIP(host) ? '' : host) };
                ready('secureConnect', tls.connect(settings));
            };
            if (isOwn(host)) {
                return secure(to);
            }
            tunnel(to.host, to.port, (error, socket) => (error ? done(error, null) : secure({ socket })));
        };
        return new (class extends Agent {
            dispatch(options, handler) {
                const origin = new URL(options.origin);
                if (origin.protocol === 'https:' || isOwn(origin.hostname)) {
                    return super.dispatch(options, handler);
                }
                const own = options.headers;
                const headers = Array.isArray(own) ? [...own, 'host', origin.host] : { ...own, host: origin.host };
                return super.dispatch({ ...options, headers, origin: proxy.origin, path: origin.origin + options.path }, handler);
            }
        })({ connect });
    }

    // At its first call, since loading what is behind fetch takes a while.
    const fetch = globalThis.fetch;
    if (typeof fetch === 'function') {
        let isLed = false;
        const led = function (...given) {
            if (!isLed) {
                isLed = true;
                void globalThis.Response;
                const found = globalThis[DISPATCHER];
                // One that the program has set itself is its own.
                if (found && found.constructor.name === 'Agent') {
                    globalThis[DISPATCHER] = dispatcher(found.constructor);
                }
            }
            return fetch.apply(this, given);
        };
        Object.defineProperty(led, 'name', { value: 'fetch' });
        Object.defineProperty(globalThis, 'fetch', { value: led, writable: true, enumerable: true, configurable: true });
    }
}

try {
    // Node.js leads itself where it is told to and can.
    if (process.env.http_proxy && !process.env.NODE_USE_ENV_PROXY) {
        lead(new URL(process.env.http_proxy));
    }
} catch (error) {
    process.emitWarning(`not led through the bottle's proxy: ${error.message}`);
}
