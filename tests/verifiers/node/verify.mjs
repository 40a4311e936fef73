// Checks the requests of a file (see capture.py) with the published verifier. Arguments: the requests, the secrets
// by path: {"/path": {"secret": "...", "raw": whether the secret's own bytes are the key}}.
import { readFileSync } from "node:fs";
import { Webhook } from "standardwebhooks";

const [requestsFile, secretsFile] = process.argv.slice(2);
const secrets = JSON.parse(readFileSync(secretsFile, "utf8"));
const requests = readFileSync(requestsFile, "utf8").trim().split("\n").map((line) => JSON.parse(line));

function accepts(verifier, body, headers) {
  try {
    verifier.verify(body, headers, { jsonParse: false });
    return true;
  } catch {
    return false;
  }
}

let checked = 0;
function expect(wanted, given, what) {
  checked += 1;
  if (given !== wanted) throw new Error(`${what}: accepted is ${given}`);
}

for (const { path, headers, body } of requests) {
  const { secret, raw } = secrets[path];
  const verifier = new Webhook(secret, raw ? { format: "raw" } : undefined);
  const bytes = Buffer.from(body, "base64");
  const changed = Buffer.from(bytes);
  changed[changed.length - 2] ^= 1;
  expect(true, accepts(verifier, bytes, headers), `${path} as it arrived`);
  expect(false, accepts(verifier, changed, headers), `${path}, body changed`);
  expect(false, accepts(verifier, bytes, { ...headers, "webhook-id": "dlv_0" }), `${path}, id changed`);
  expect(false, accepts(verifier, bytes, { ...headers, "webhook-signature": "" }), `${path}, no signature`);
  expect(false, accepts(new Webhook("whsec_b3RoZXI="), bytes, headers), `${path}, another secret`);
}
console.log(`node: ${requests.length} deliveries, ${checked} checks`);
