// What the scripts that publish to the stream have in common.

import { append } from './stream.js';
import { published, unconfirmed } from './published.js';

export async function produce(type, count) {
  const confirmed = await append(type, count);
  published.add(confirmed);
  if (confirmed < count) {
    unconfirmed.add(count - confirmed);
  }
}
