// Runs jobs in one of the ways that Node offers, for clients on a Unix socket: `node node_server.js KIND JOB SOCKET`.
//
// A request and an answer are the same: four bytes of length, little-endian, then so many bytes.
'use strict';
const { fork } = require('node:child_process');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const [kind, job, socket] = process.argv.slice(2);

// The same script for all: what comes in is `input`, what it evaluates to goes out.
const scripts = {
  noop: () => '""',
  upper: () => 'input.toUpperCase()',
  transform: () => `JSON.stringify((${source('transform.js')})(JSON.parse(input)))`,
  compute: () => `JSON.stringify((${source('compute.js')})(JSON.parse(input)))`,
};
const script = scripts[job]();

function source(name) {
  // On a line of its own the comment in front of it would do no harm, but it may have none in front of it here.
  return fs.readFileSync(path.join(__dirname, name), 'utf8').replace(/^\/\/.*\n/, '');
}

const kinds = {
  // A process for each job, as Node makes them; nothing confines it.
  fork(input, answer) {
    const child = fork(path.join(__dirname, 'node_child.js'), [], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    child.once('message', answer);
    child.send({ script, input });
  },
  // A heap and a context for each job, in this process.
  'isolate-fresh'(input, answer) {
    const isolate = new ivm.Isolate({ memoryLimit: 128 });
    const context = isolate.createContextSync();
    answer(runIn(context, isolate.compileScriptSync(script), input));
    isolate.dispose();
  },
  // A context for each job, in one heap.
  'isolate-reused'(input, answer) {
    const context = reused.isolate.createContextSync();
    answer(runIn(context, reused.script, input));
    context.release();
  },
};
const ivm = kind === 'fork' ? null : require(process.env.ISOLATED_VM);
const reused = {};
if (kind === 'isolate-reused') {
  reused.isolate = new ivm.Isolate({ memoryLimit: 128 });
  reused.script = reused.isolate.compileScriptSync(script);
}

function runIn(context, compiled, input) {
  if (job !== 'noop') context.global.setSync('input', input);
  return compiled.runSync(context, { timeout: 10_000 });
}

net.createServer((connection) => {
  let pending = Buffer.alloc(0);
  connection.setNoDelay?.(true);
  connection.on('error', () => connection.destroy());
  connection.on('data', (part) => {
    pending = pending.length ? Buffer.concat([pending, part]) : part;
    while (pending.length >= 4 && pending.length >= 4 + pending.readUInt32LE(0)) {
      const length = pending.readUInt32LE(0);
      const input = pending.toString('latin1', 4, 4 + length);
      pending = pending.subarray(4 + length);
      kinds[kind](input, (output) => {
        const body = Buffer.from(output, 'latin1');
        const head = Buffer.alloc(4);
        head.writeUInt32LE(body.length);
        connection.write(Buffer.concat([head, body]));
      });
    }
  });
}).listen(socket);

// Whoever started this holds the other end.
process.stdin.resume().on('end', () => process.exit());
