// Standard input to standard output, in capitals.
'use strict';
const fs = require('node:fs');
fs.writeSync(1, fs.readFileSync(0, 'latin1').toUpperCase(), null, 'latin1');
