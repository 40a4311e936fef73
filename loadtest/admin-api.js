// People and programs at the admin API: reading configs and logs, changing a config, at a steady rate, while a log exists
// to be read. The preset rate is below --admin-rate-limit's.

import { check } from 'k6';
import exec from 'k6/execution';
import { Counter } from 'k6/metrics';
import { close, healthy, open, options as demand } from './lib/account.js';
import { request } from './lib/admin.js';
import { constant, load } from './lib/load.js';
import { HEALTHY, number } from './lib/settings.js';
import { append } from './lib/stream.js';
import { summarise } from './lib/summary.js';

const what = load(5, '30s');
const logged = number('LOGGED', 500);
const conflicts = new Counter('put_conflicts');

export const options = demand({ people: constant(what) }, {
  'http_req_duration{route:configs}': [`p(99)<${number('CONFIGS_P99_MS', 300)}`],
  'http_req_duration{route:logs}': [`p(99)<${number('LOGS_P99_MS', 500)}`],
  'http_req_duration{route:log}': [`p(99)<${number('LOGS_P99_MS', 500)}`],
  'http_req_duration{route:put}': [`p(99)<${number('PUT_P99_MS', 500)}`],
  checks: ['rate==1'],
});

export async function setup() {
  const run = await open('admin', healthy(), append);
  run.logged = await append(run.type, logged);
  return run;
}

function readConfigs(run) {
  const answer = request('GET', '/configs', undefined, 'configs');
  check(answer, {
    'GET configs answers the configs': (got) => got.status === 200
      && run.endpoints.every((one) => got.json().some((config) => config.id === one.id)),
  });
}

function readLogs(run) {
  const id = run.endpoints[0].id;
  const answer = request('GET', `/logs?webhookConfigId=${id}&limit=50`, undefined, 'logs');
  check(answer, { 'GET logs answers a page': (got) => got.status === 200 && got.json('edges').length > 0 });
  if (answer.status === 200) {
    const delivery = answer.json('edges.0.deliveryId');
    const one = request('GET', `/logs/${delivery}`, undefined, 'log');
    check(one, { 'GET logs/{id} answers it': (got) => got.status === 200 && got.json('deliveryId') === delivery });
  }
}

function change(run) {
  const events = [run.type, `${run.type}.probe`];
  const maxRetries = exec.scenario.iterationInTest % 11;
  const answer = request('PUT', '/configs', { url: HEALTHY[0], events, maxRetries }, 'put');
  // Others changed the configs meanwhile: an answer, not a fault.
  conflicts.add(answer.status === 409 ? 1 : 0);
  check(answer, {
    'PUT answers what it stored': (got) => got.status === 409
      || (got.status === 200 && got.json('maxRetries') === maxRetries),
  });
}

// Of ten arrivals five read configs, four read logs, one changes a config.
export default function (run) {
  const turn = exec.scenario.iterationInTest % 10;
  if (turn < 5) {
    readConfigs(run);
  } else if (turn < 9) {
    readLogs(run);
  } else {
    change(run);
  }
}

export const teardown = (run) => close(run, () => run.logged);
export const handleSummary = summarise('admin-api');
