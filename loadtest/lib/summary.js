// What a run leaves: a few lines for people, and all of k6's metrics as JSON where SUMMARY names a file.

import { SUMMARY } from './settings.js';

const SHOWN = [
  'events_published', 'events_unconfirmed', 'dropped_iterations', 'deliveries_accepted', 'deliveries_missing',
  'deliveries_unexpected', 'deliveries_duplicate', 'deliveries_waiting', 'deliveries_failed', 'attempts_failed', 'settle_seconds',
  'e2e_p50_ms{kind:healthy}', 'e2e_p95_ms{kind:healthy}', 'e2e_p99_ms{kind:healthy}', 'e2e_max_ms{kind:healthy}',
  'window_p99_ms', 'backlog_events', 'put_conflicts', 'repeats_not_recognised',
];

function value(metric) {
  const values = metric.values;
  if (metric.type === 'trend') {
    return values.count > 0 ? values.max : NaN;
  }
  return metric.type === 'counter' ? values.count : values.value;
}

export function summarise(script) {
  return function handleSummary(data) {
    const lines = [`\n${script}`];
    const known = SHOWN.filter((name) => data.metrics[name] && !Number.isNaN(value(data.metrics[name])));
    for (const name of known) {
      lines.push(`  ${name.padEnd(26)} ${Math.round(value(data.metrics[name]) * 10) / 10}`);
    }
    let crossed = 0;
    for (const [name, metric] of Object.entries(data.metrics)) {
      for (const [demand, result] of Object.entries(metric.thresholds || {})) {
        crossed += result.ok ? 0 : 1;
        lines.push(`  ${result.ok ? 'holds' : 'FAILS'}  ${name} ${demand}`);
      }
    }
    lines.push(crossed === 0 ? `${script}: every threshold holds\n` : `${script}: ${crossed} thresholds fail\n`);
    const files = { stdout: lines.join('\n') };
    if (SUMMARY !== '') {
      files[SUMMARY] = JSON.stringify({ script, ...data });
    }
    return files;
  };
}
