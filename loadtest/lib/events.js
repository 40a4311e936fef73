// Events as producers would make them, with the time at which they are published.

import { PAYLOAD_BYTES } from './settings.js';

const frame = '{"user":{"id":"load"},"note":""}'.length;
const data = { user: { id: 'load' }, note: 'x'.repeat(Math.max(0, PAYLOAD_BYTES - frame)) };
export const DATA_TEXT = JSON.stringify(data);

// A name for one run, part of its event types: two runs on one installation do not count each other's events.
export function runName(script) {
  const word = Math.floor(Math.random() * 36 ** 6).toString(36).padStart(6, '0');
  return `loadtest.${script}.${word}`;
}

export function timestamp() {
  return new Date().toISOString();
}

// For the publish endpoint.
export function item(type, nonce) {
  return { event: type, data, nonce, timestamp: timestamp() };
}
