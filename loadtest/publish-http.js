// Producers without a Redis client: POST /webhooks/events, in batches, all with nonces. One request in twenty is repeated
// as after a lost answer, and must not deliver anything twice. The preset rate is below --admin-rate-limit's.

import exec from 'k6/execution';
import { Counter } from 'k6/metrics';
import { close, healthy, open, options as demand } from './lib/account.js';
import { publish } from './lib/admin.js';
import { item } from './lib/events.js';
import { constant, load } from './lib/load.js';
import { published, unconfirmed } from './lib/published.js';
import { number } from './lib/settings.js';
import { summarise } from './lib/summary.js';

const what = load(300, '30s', 50);
const repeatEvery = number('REPEAT_EVERY', 20);
const notRecognised = new Counter('repeats_not_recognised');

export const options = demand({ producers: constant(what) }, {
  'e2e_p99_ms{kind:healthy}': [`max<${number('P99_MS', 1000)}`],
  'http_req_duration{route:publish}': [`p(99)<${number('ANSWER_P99_MS', 500)}`],
  'http_req_failed{route:publish}': ['rate==0'],
  repeats_not_recognised: ['count==0'],
});

function batch(type, count, prefix) {
  return Array.from({ length: count }, (_, number) => item(type, `${prefix}-${number}`));
}

function send(type, count, prefix) {
  const items = batch(type, count, prefix);
  const answer = publish(items, 'publish');
  return { items, events: answer.status === 202 ? answer.json('events') : [] };
}

export const setup = () => open('http', healthy(), (type, count) =>
  send(type, count, `${type}-${Date.now()}`).events.length);

export default function (run) {
  const iteration = exec.scenario.iterationInTest;
  const { items, events } = send(run.type, what.batch, `${run.type}-${iteration}`);
  published.add(events.length);
  if (events.length < items.length) {
    unconfirmed.add(items.length - events.length);
  } else if (iteration % repeatEvery === 0) {
    const again = publish(items, 'publish');
    const known = again.status === 202 ? again.json('events').filter((one) => one.duplicate === true).length : 0;
    notRecognised.add(items.length - known);
  }
}

export const teardown = (run) => close(run);
export const handleSummary = summarise('publish-http');
