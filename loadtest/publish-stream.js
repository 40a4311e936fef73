// Producers that XADD at a steady rate: what is published arrives, once, and soon.

import { close, healthy, open, options as demand } from './lib/account.js';
import { constant, load } from './lib/load.js';
import { produce } from './lib/producing.js';
import { number } from './lib/settings.js';
import { append } from './lib/stream.js';
import { summarise } from './lib/summary.js';

const what = load(500, '30s');

export const options = demand({ producers: constant(what) }, {
  'e2e_p99_ms{kind:healthy}': [`max<${number('P99_MS', 1000)}`],
});

export const setup = () => open('stream', healthy(), append);
export default (run) => produce(run.type, what.batch);
export const teardown = (run) => close(run);
export const handleSummary = summarise('publish-stream');
