// A jump to SPIKE times the rate and back: nothing is lost, and the backlog is gone soon after the end.

import { close, healthy, open, options as demand } from './lib/account.js';
import { load, spiking } from './lib/load.js';
import { produce } from './lib/producing.js';
import { number } from './lib/settings.js';
import { append } from './lib/stream.js';
import { summarise } from './lib/summary.js';

const what = load(300, '60s');

export const options = demand({ producers: spiking(what, number('SPIKE', 5)) }, {
  'e2e_p99_ms{kind:healthy}': [`max<${number('P99_MS', 5000)}`],
  // From the last event on, at the rate, for half of the run: the spike's backlog has to be gone by then.
  settle_seconds: [`value<${number('SETTLED_SECONDS', 5)}`],
});

export const setup = () => open('spike', healthy(), append);
export default (run) => produce(run.type, what.batch);
export const teardown = (run) => close(run);
export const handleSummary = summarise('spike');
