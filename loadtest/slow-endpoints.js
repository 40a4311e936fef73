// Slow and hung receivers beside healthy ones, all wanting every event: the healthy ones must not notice. What the others
// did not get waits, or has failed, in the log.
//
// SLOW_URLS: started with --delay 2s; HUNG_URLS: started with --hang.

import { close, healthy, open, options as demand } from './lib/account.js';
import { constant, load } from './lib/load.js';
import { produce } from './lib/producing.js';
import { list, number } from './lib/settings.js';
import { append } from './lib/stream.js';
import { summarise } from './lib/summary.js';

const what = load(200, '30s');
const slow = list('SLOW_URLS').map((url) => ({ url, kind: 'slow' }));
const hung = list('HUNG_URLS').map((url) => ({ url, kind: 'hung' }));
if (slow.length + hung.length === 0) {
  throw new Error('SLOW_URLS or HUNG_URLS: expected at least one receiver');
}

export const options = demand({ producers: constant(what) }, {
  'e2e_p99_ms{kind:healthy}': [`max<${number('P99_MS', 1000)}`],
});

export const setup = () => open('slow', [...slow, ...hung, ...healthy()], append);
export default (run) => produce(run.type, what.batch);
export const teardown = (run) => close(run);
export const handleSummary = summarise('slow-endpoints');
