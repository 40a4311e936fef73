// How load comes: open models. Arrivals do not wait for answers; one for which no VU is free is a dropped iteration, and
// a dropped iteration fails the run.

import { number, seconds, text } from './settings.js';

// VUs for so many arrivals a second: each is busy for a few milliseconds, and stalls of a fifth of a second are borne.
function vus(perSecond) {
  const count = Math.min(1000, Math.max(20, Math.ceil(perSecond / 5)));
  return { preAllocatedVUs: number('VUS', count), maxVUs: number('VUS_MAX', 2 * number('VUS', count)) };
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
