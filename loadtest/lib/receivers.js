// `postrider receive`: what it counted, and how long events were on their way by its clock.

import http from 'k6/http';

function ask(method, url) {
  const target = `${url.replace(/\/+$/, '')}/stats`;
  const answer = http.request(method, target, null, { tags: { name: `${method} /stats`, route: 'receiver' } });
  if (answer.status !== 200) {
    throw new Error(`${method} ${target}: HTTP ${answer.status} ${answer.error}; is this 'postrider receive'?`);
  }
  return answer.json();
}

export function readStats(url) {
  return ask('GET', url);
}

// Begins the percentiles anew; counts go on and are subtracted.
export function beginDelays(url) {
  return ask('DELETE', url);
}
