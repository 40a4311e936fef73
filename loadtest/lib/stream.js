// XADD, as a producer does it.

import redis from 'k6/experimental/redis';
import { DATA_TEXT, timestamp } from './events.js';
import { ORGANISATION, REDIS_URLS, STREAMS } from './settings.js';

const client = new redis.Client(
  REDIS_URLS.length > 1 ? { cluster: { nodes: REDIS_URLS, maxRedirects: 5 } } : REDIS_URLS[0],
);
let turn = Math.floor(Math.random() * STREAMS.length);

// Appends `count` events, all under way at once, and answers how many Redis confirmed.
export async function append(type, count) {
  const sent = [];
  for (let number = 0; number < count; number += 1) {
    turn = (turn + 1) % STREAMS.length;
    sent.push(client.sendCommand('XADD', STREAMS[turn], '*', 'organisationId', ORGANISATION, 'event', type,
      'timestamp', timestamp(), 'data', DATA_TEXT));
  }
  const ended = await Promise.allSettled(sent);
  const refused = ended.find((one) => one.status === 'rejected');
  if (refused) {
    console.error(`XADD: ${refused.reason}`);
  }
  return ended.filter((one) => one.status === 'fulfilled').length;
}
