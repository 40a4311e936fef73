// The admin API as the scripts use it: configs, what the log counts, publishing.

import http from 'k6/http';
import { POSTRIDER_URLS, SECRET, TOKEN } from './settings.js';

let turn = 0;

// Requests of one VU take turns among the replicas.
function address(path) {
  turn += 1;
  return `${POSTRIDER_URLS[turn % POSTRIDER_URLS.length]}/api/v2/admin/webhooks${path}`;
}

export function request(method, path, body, route) {
  return http.request(method, address(path), body === undefined ? null : JSON.stringify(body), {
    headers: { Authorization: `Bearer ${TOKEN}`, 'Content-Type': 'application/json' },
    // One name per route: k6 would otherwise keep a series for every address.
    tags: { name: route || `${method} ${path.split('?')[0]}`, route: route || 'other' },
    timeout: '30s',
  });
}

function demand(answer, status, what) {
  if (answer.status !== status) {
    throw new Error(`${what}: HTTP ${answer.status} ${answer.error || answer.body}`);
  }
  return answer;
}

// Makes or updates the config of a URL. A single object: other configs of the organisation stay as they are.
export function putConfig(url, events, fields) {
  const config = { url, events, active: true, ...(SECRET === '' ? {} : { secret: SECRET }), ...fields };
  return demand(request('PUT', '/configs', config, 'setup'), 200, `PUT the config of ${url}`).json();
}

export function pauseConfig(id) {
  demand(request('POST', `/configs/${id}/pause`, undefined, 'teardown'), 200, 'pause a config');
}

export function deleteConfig(id) {
  demand(request('DELETE', `/configs/${id}`, undefined, 'teardown'), 204, 'delete a config');
}

// How many deliveries of a config have this status, and whether there may be more.
export function countInLog(id, status) {
  const path = `/logs?webhookConfigId=${id}&status=${status}&limit=1`;
  const answer = demand(request('GET', path, undefined, 'teardown'), 200, `count ${status} in the log`).json();
  return { count: answer.totalCount, isFloor: answer.totalCountIsFloor };
}

export function publish(events, route) {
  return request('POST', '/events', events, route);
}
