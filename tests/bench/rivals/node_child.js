// One job of `node_server.js fork`.
'use strict';
process.once('message', ({ script, input }) => {
  const output = new Function('input', `return ${script}`)(input);
  process.send(output, () => process.exit());
});
