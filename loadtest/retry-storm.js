// Receivers that fail a share of their events (--fail-rate 0.3) beside healthy ones: every event arrives in the end or is
// named as failed, and retries delay nobody else.
//
// FAILING_URLS: started with --fail-rate. Their configs retry each second, ten times, whatever the server's schedule is.

import { close, healthy, open, options as demand } from './lib/account.js';
import { constant, load } from './lib/load.js';
import { produce } from './lib/producing.js';
import { list, number } from './lib/settings.js';
import { append } from './lib/stream.js';
import { summarise } from './lib/summary.js';

const what = load(200, '30s');
const fields = { maxRetries: 10, retryPolicy: { mode: 'fixed', delaySeconds: 1 } };
const failing = list('FAILING_URLS').map((url) => ({ url, kind: 'failing', fields }));
if (failing.length === 0) {
  throw new Error('FAILING_URLS: expected at least one receiver');
}

export const options = demand({ producers: constant(what) }, {
  'e2e_p99_ms{kind:healthy}': [`max<${number('P99_MS', 1000)}`],
  // Else nothing was retried, and the run proved nothing.
  attempts_failed: ['count>0'],
});

export const setup = () => open('retry', [...failing, ...healthy()], append);
export default (run) => produce(run.type, what.batch);
export const teardown = (run) => close(run);
export const handleSummary = summarise('retry-storm');
