// The account of a run: setup puts the configs and waits until they are in effect, teardown checks that every event
// that was published came to something. A run whose account does not close fails.

import { sleep } from 'k6';
import { Counter, Gauge, Trend } from 'k6/metrics';
import { countInLog, deleteConfig, pauseConfig, putConfig } from './admin.js';
import { runName } from './events.js';
import { finalCount, isOwn, mark } from './published.js';
import { beginDelays, readStats } from './receivers.js';
import { HEALTHY, KEEP_CONFIGS, SETTLE_SECONDS, TOKEN } from './settings.js';

const PROBES = 20;
const WHOLE_BURSTS = 3;
const EFFECT_SECONDS = 20;

// Counters add up over the endpoints of a run, trends keep the worst of them.
const missing = new Counter('deliveries_missing');
const unexpected = new Counter('deliveries_unexpected');
const duplicates = new Counter('deliveries_duplicate');
const attempts = new Counter('attempts_failed');
const accepted = new Counter('deliveries_accepted');
const waiting = new Counter('deliveries_waiting');
const failed = new Counter('deliveries_failed');
const closed = new Counter('accounts_closed');
const closing = new Gauge('settle_seconds');
const p50 = new Trend('e2e_p50_ms');
const p95 = new Trend('e2e_p95_ms');
const p99 = new Trend('e2e_p99_ms');
const longest = new Trend('e2e_max_ms');

// What every script demands; `more` adds to it. A metric that nothing was added to reads 0,
// hence `accounts_closed`.
export function thresholds(more) {
  return {
    dropped_iterations: ['count==0'],
    events_unconfirmed: ['count==0'],
    accounts_closed: ['count==1'],
    deliveries_missing: ['count==0'],
    deliveries_unexpected: ['count==0'],
    // Always true: k6 keeps a metric by tag only where a threshold names it, and the report shows these.
    ...Object.fromEntries(['p50', 'p95', 'p99', 'max'].map((name) => [`e2e_${name}_ms{kind:healthy}`, ['max>=0']])),
    ...more,
  };
}

export function options(scenarios, demands, more) {
  return {
    scenarios,
    thresholds: thresholds(demands),
    setupTimeout: '60s',
    teardownTimeout: `${SETTLE_SECONDS + 60}s`,
    summaryTrendStats: ['count', 'avg', 'min', 'med', 'max', 'p(90)', 'p(95)', 'p(99)'],
    ...more,
  };
}

export function healthy(fields) {
  return HEALTHY.map((url) => ({ url, kind: 'healthy', fields: fields || {} }));
}

// `append(type, count)` publishes the way that the run does. Healthy receivers come last: changes of configs are
// followed in their order, so that what holds for the last holds for all.
export async function open(script, endpoints, append) {
  if (TOKEN === '') {
    throw new Error('POSTRIDER_TOKEN is not set: make one with postrider token create --role admin');
  }
  const type = runName(script);
  const probe = `${type}.probe`;
  const ordered = [...endpoints].sort((a, b) => (a.kind === 'healthy') - (b.kind === 'healthy'));
  const opened = ordered.map((endpoint) => {
    const events = endpoint.kind === 'healthy' ? [type, probe] : [type];
    return { ...endpoint, id: putConfig(endpoint.url, events, endpoint.fields).id };
  });
  await waitForEffect(opened.filter((endpoint) => endpoint.kind === 'healthy'), probe, append);
  for (const endpoint of opened) {
    endpoint.before = beginDelays(endpoint.url);
  }
  return { type, endpoints: opened, marker: mark() };
}

// Whole bursts have to arrive at every healthy receiver, some in a row: one replica may know of a config before another.
async function waitForEffect(receivers, probe, append) {
  const until = Date.now() + EFFECT_SECONDS * 1000;
  for (let whole = 0; whole < WHOLE_BURSTS;) {
    const before = receivers.map((one) => readStats(one.url).verified);
    if ((await append(probe, PROBES)) !== PROBES) {
      throw new Error('the probes could not be published');
    }
    const burstEnd = Math.min(Date.now() + 2000, until);
    const isThere = () => receivers.every((one, at) => readStats(one.url).verified - before[at] >= PROBES);
    let there = isThere();
    while (!there && Date.now() < burstEnd) {
      sleep(0.02);
      there = isThere();
    }
    whole = there ? whole + 1 : 0;
    if (Date.now() >= until) {
      throw new Error(`after ${EFFECT_SECONDS} s probes do not arrive at ${receivers.map((one) => one.url)}: is `
        + "ORGANISATION the token's, RECEIVER_SECRET the receiver's, and may deliveries go there (--allow-target)?");
    }
  }
}

// What one endpoint's share of the events came to, so far.
function state(endpoint) {
  const now = readStats(endpoint.url);
  const since = (name) => now[name] - endpoint.before[name];
  const log = { retrying: 0, pending: 0, failed: 0, isFloor: false };
  if (endpoint.kind !== 'healthy') {
    for (const status of endpoint.kind === 'failing' ? ['failed'] : ['pending', 'retrying', 'failed']) {
      const { count, isFloor } = countInLog(endpoint.id, status);
      log[status] = count;
      log.isFloor = log.isFloor || isFloor;
    }
  }
  return {
    accepted: since('accepted'), duplicates: since('duplicates'), failedAttempts: since('failed'),
    waiting: log.pending + log.retrying, failed: log.failed, isFloor: log.isFloor, delays: now.delayMs,
    sum: since('accepted') + log.pending + log.retrying + log.failed,
  };
}

// What the log can count of one status is bounded; where it says so, a smaller sum is no loss.
function isComplete(found, expected) {
  return found.sum === expected || (found.isFloor && found.sum < expected);
}

// Healthy and failing receivers have to have got everything (failing ones: or the log names it as failed). What slow and
// hung ones did not get has to wait or to be failed in the log; they are paused first, so that the sum can be read.
export function close(run, expectedOf) {
  if (!isOwn(run.marker)) {
    throw new Error("K6_API is another run's: give this one its own --address and K6_API");
  }
  const expected = expectedOf === undefined ? finalCount('events_published') : expectedOf();
  const uncertain = finalCount('events_unconfirmed');
  run.endpoints.filter((one) => one.kind === 'slow' || one.kind === 'hung').forEach((one) => pauseConfig(one.id));
  const begun = Date.now();
  const open = new Map(run.endpoints.map((one) => [one, null]));
  do {
    for (const [endpoint, found] of open) {
      if (found === null || !isComplete(found, expected)) {
        open.set(endpoint, state(endpoint));
      }
    }
    if ([...open.values()].every((found) => isComplete(found, expected))) {
      break;
    }
    sleep(0.2);
  } while (Date.now() - begun < SETTLE_SECONDS * 1000);
  closing.add((Date.now() - begun) / 1000);
  // A duplicate comes after its first: look once more when all is there.
  for (const endpoint of open.keys()) {
    record(endpoint, state(endpoint), expected, uncertain);
    if (!KEEP_CONFIGS) {
      deleteConfig(endpoint.id);
    }
  }
  closed.add(1);
}

function record(endpoint, found, expected, uncertain) {
  const tags = { kind: endpoint.kind };
  // What waits at a slow receiver may have been accepted by an attempt that timed out.
  const twice = endpoint.kind === 'slow' || endpoint.kind === 'hung' ? found.waiting + found.failed : 0;
  // An event that was not confirmed may be in the stream all the same.
  missing.add(found.isFloor ? 0 : Math.max(0, expected - found.sum), tags);
  unexpected.add(Math.max(0, found.sum - expected - uncertain - twice), tags);
  duplicates.add(found.duplicates, tags);
  attempts.add(found.failedAttempts, tags);
  accepted.add(found.accepted, tags);
  waiting.add(found.waiting, tags);
  failed.add(found.failed, tags);
  if (found.delays.count > 0) {
    p50.add(found.delays.p50, tags);
    p95.add(found.delays.p95, tags);
    p99.add(found.delays.p99, tags);
    longest.add(found.delays.max, tags);
  }
  console.log(`${endpoint.url} (${endpoint.kind}): ${found.accepted} of ${expected} accepted, ${found.waiting} waiting, `
    + `${found.failed} failed, ${found.duplicates} duplicates, ${found.failedAttempts} failed attempts; on their way `
    + `p50 ${found.delays.p50} ms, p95 ${found.delays.p95} ms, p99 ${found.delays.p99} ms, max ${found.delays.max} ms`);
}
