// The same for hours: the backlog does not grow, and the last window is as fast as the others.

import { Trend } from 'k6/metrics';
import { close, healthy, open, options as demand } from './lib/account.js';
import { constant, load } from './lib/load.js';
import { produce } from './lib/producing.js';
import { metric } from './lib/published.js';
import { beginDelays, readStats } from './lib/receivers.js';
import { number, seconds, text } from './lib/settings.js';
import { append } from './lib/stream.js';
import { summarise } from './lib/summary.js';

const what = load(300, '1h');
const window = seconds(text('WINDOW', '60s'));
const backlog = new Trend('backlog_events');
const windowP99 = new Trend('window_p99_ms');

export const options = demand({
  producers: { ...constant(what), exec: 'producers' },
  observer: {
    executor: 'constant-arrival-rate', rate: 1, timeUnit: `${window}s`, startTime: `${window}s`,
    duration: `${Math.max(1, what.seconds - window)}s`, preAllocatedVUs: 1, exec: 'observer',
  },
}, {
  // Of every window, not of all together: an hour's percentiles hide a bad minute.
  window_p99_ms: [`max<${number('P99_MS', 1000)}`],
  backlog_events: [`max<${number('BACKLOG_SECONDS', 5) * what.rate}`],
});

export const setup = () => open('soak', healthy(), append);
export const producers = (run) => produce(run.type, what.batch);

export function observer(run) {
  // Arrivals first: the backlog is then found too large rather than too small.
  const arrived = run.endpoints.map((one) => readStats(one.url).accepted - one.before.accepted);
  backlog.add(Math.max(0, metric('events_published') - Math.min(...arrived)));
  for (const one of run.endpoints) {
    windowP99.add(readStats(one.url).delayMs.p99);
    beginDelays(one.url);
  }
}

export const teardown = (run) => close(run);
export const handleSummary = summarise('soak');
