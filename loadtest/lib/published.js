// How much the run published, over all VUs: they share no memory, so the sum is asked of k6's own API.

import http from 'k6/http';
import { sleep } from 'k6';
import { Counter } from 'k6/metrics';
import { K6_API } from './settings.js';

// Events that Postrider or Redis confirmed.
export const published = new Counter('events_published');
// Events whose publishing was answered with an error, or not at all.
export const unconfirmed = new Counter('events_unconfirmed');
const marker = new Counter('run_marker');

export function metric(name) {
  const answer = http.get(`${K6_API}/v1/metrics/${name}`, { tags: { name: 'k6', route: 'k6' } });
  if (answer.status === 404) {
    return 0;
  }
  if (answer.status !== 200) {
    throw new Error(`k6's API at ${K6_API} does not answer: run k6 with --address and K6_API alike`);
  }
  return answer.json('data.attributes.sample.count');
}

// Called in setup: a number by which teardown knows that the API is this run's.
export function mark() {
  const number = 1 + Math.floor(Math.random() * 1e9);
  marker.add(number);
  return number;
}

export function isOwn(number) {
  return metric('run_marker') === number;
}

// The sum once it no longer grows: k6 gathers its samples every 50 ms.
export function finalCount(name) {
  let before = -1;
  let now = metric(name);
  while (now !== before) {
    sleep(0.3);
    before = now;
    now = metric(name);
  }
  return now;
}
