// How load comes: open models. Arrivals do not wait for answers; one for which no VU is free is a dropped iteration, and
// a dropped iteration fails the run.

import { number, seconds, text } from './settings.js';

// A VU for every arrival of two seconds, so that a stall of two seconds is borne and counted as latency. All are made
// before the start, for k6 drops arrivals while it makes more. At high rates a BATCH keeps them few.
function vus(perSecond) {
  const count = number('VUS', Math.min(1000, Math.max(200, 2 * perSecond)));
  return { preAllocatedVUs: count, maxVUs: count };
}

// Events a second, how many of them one arrival publishes, and for how long.
export function load(rate, duration, batch) {
  const found = { rate: number('RATE', rate), duration: text('DURATION', duration), batch: number('BATCH', batch || 1) };
  return { ...found, seconds: seconds(found.duration), arrivals: Math.max(1, Math.round(found.rate / found.batch)) };
}

export function constant(what) {
  return {
    executor: 'constant-arrival-rate', rate: what.arrivals, timeUnit: '1s', duration: what.duration,
    ...vus(what.arrivals),
  };
}

// A quarter of the time at the rate, a jump to `factor` times that for a quarter, and the rate again.
export function spiking(what, factor) {
  const quarter = `${Math.round(what.seconds * 250)}ms`;
  const half = `${Math.round(what.seconds * 500)}ms`;
  const peak = what.arrivals * factor;
  return {
    executor: 'ramping-arrival-rate', startRate: what.arrivals, timeUnit: '1s', ...vus(peak),
    stages: [
      { duration: quarter, target: what.arrivals },
      { duration: '0s', target: peak },
      { duration: quarter, target: peak },
      { duration: '0s', target: what.arrivals },
      { duration: half, target: what.arrivals },
    ],
  };
}
