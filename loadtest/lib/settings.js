// What a run is told by its environment. loadtest/README.md lists every variable.

export function text(name, preset) {
  const value = __ENV[name];
  return value === undefined || value === '' ? preset : value;
}

export function number(name, preset) {
  const value = Number(text(name, preset));
  if (!Number.isFinite(value)) {
    throw new Error(`${name}: expected a number, got '${__ENV[name]}'`);
  }
  return value;
}

export function list(name, preset) {
  return text(name, preset || '').split(',').map((word) => word.trim()).filter((word) => word !== '');
}

// Seconds of a duration such as 90s, 1m30s, 1h.
export function seconds(duration) {
  const units = { h: 3600, m: 60, s: 1, ms: 0.001 };
  const parts = [...String(duration).matchAll(/([0-9.]+)(ms|h|m|s)/g)];
  if (parts.length === 0 || parts.map((part) => part[0]).join('') !== String(duration)) {
    throw new Error(`'${duration}': expected a duration such as 90s or 1m30s`);
  }
  return parts.reduce((sum, part) => sum + Number(part[1]) * units[part[2]], 0);
}

export const POSTRIDER_URLS = list('POSTRIDER_URL', 'http://127.0.0.1:8080');
export const TOKEN = text('POSTRIDER_TOKEN', '');
// The token's organisation: entries of the stream have to name it.
export const ORGANISATION = text('ORGANISATION', 'org_load');
export const REDIS_URLS = list('REDIS_URL', 'redis://127.0.0.1:6379');
// `postrider shards list` prints them; events take turns.
export const STREAMS = list('STREAMS', 'postrider:{0}:events');
export const HEALTHY = list('RECEIVER_URLS', text('RECEIVER_URL', 'http://127.0.0.1:9000'));
export const SECRET = text('RECEIVER_SECRET', '');
export const PAYLOAD_BYTES = number('PAYLOAD_BYTES', 400);
// How long teardown waits for what was published to be accounted for.
export const SETTLE_SECONDS = seconds(text('SETTLE', '30s'));
// k6's own API, from which teardown learns how much was published.
export const K6_API = text('K6_API', 'http://localhost:6565');
export const SUMMARY = text('SUMMARY', '');
export const KEEP_CONFIGS = text('KEEP_CONFIGS', '') !== '';
