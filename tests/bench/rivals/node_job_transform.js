// Standard input to standard output, through transform.js.
'use strict';
const fs = require('node:fs');
const path = require('node:path');
const transform = new Function(`return ${script()}`)();
fs.writeSync(1, JSON.stringify(transform(JSON.parse(fs.readFileSync(0, 'latin1')))));

function script() {
  // The comment in front of it would end the statement.
  return fs.readFileSync(path.join(__dirname, 'transform.js'), 'utf8').replace(/^\/\/.*\n/, '');
}
