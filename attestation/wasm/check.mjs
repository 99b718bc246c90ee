// Judges the shared vectors with the module under Node, and compares each answer with what the same code says natively.
// Usage: node check.mjs MODULE NATIVE EVIDENCE. The module may import nothing: what is not there cannot be reached.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

const [module, native, evidence] = process.argv.slice(2);
const compiled = new WebAssembly.Module(readFileSync(module));
const imports = WebAssembly.Module.imports(compiled);
if (imports.length > 0) {
  console.error("FAIL the module asks its host for", imports.map((it) => `${it.module}.${it.name}`).join(", "));
  process.exit(1);
}
console.log("PASS the module imports nothing: no file, socket, clock or randomness");
const { put, judge, take } = new WebAssembly.Instance(compiled, {}).exports;

function ask(question) {
  for (const byte of Buffer.from(question)) put(byte);
  const answer = Buffer.alloc(judge());
  for (let at = 0; at < answer.length; at++) answer[at] = take(at);
  return answer.toString();
}

// Every folder of a platform with its expectations.
function folders(platform) {
  const parent = join(evidence, platform);
  if (!existsSync(parent)) return [];
  const read = (name) => join(parent, name, "expected.json");
  return readdirSync(parent)
    .filter((name) => existsSync(read(name)))
    .map((name) => ({ name, path: join(parent, name), expected: JSON.parse(readFileSync(read(name))) }));
}

const questions = [{ name: "test chip", verdict: "accept", question: { kind: "chip" } }];
for (const { name, path, expected } of folders("snp")) {
  const file = (key) => (expected[key] ? readFileSync(join(path, expected[key])).toString("hex") : "");
  const [report, vek, intermediate, crl] = ["report", "vek", "intermediate", "crl"].map(file);
  const now = Math.floor(Date.parse(expected.verify_at ?? "1970-01-01T00:00:00Z") / 1000);
  questions.push({ name: `snp/${name}`, verdict: expected.verdict, question: { kind: "snp", report, vek, intermediate, crl, now } });
}
for (const { name, path, expected } of folders("tdx")) {
  for (const [number, one] of (expected.cases ?? []).entries()) {
    const quote = readFileSync(join(path, expected.quote)).toString("hex");
    const collateral = readFileSync(join(path, one.collateral)).toString();
    questions.push({ name: `tdx/${name}/${number}`, question: { kind: "tdx", quote, collateral, now: one.verify_at_unix } });
  }
}

const lines = questions.map(({ question }) => JSON.stringify(question));
const machine = spawnSync(native, { input: `${lines.join("\n")}\n`, maxBuffer: 1 << 28 });
if (machine.status !== 0) throw new Error(`${native} ended with ${machine.status}: ${machine.stderr}`);
const expected = machine.stdout.toString().trimEnd().split("\n").map((line) => JSON.parse(line));
let [passed, failed, accepted] = [0, 0, 0];
for (const [at, { name, verdict }] of questions.entries()) {
  const found = ask(lines[at]);
  const word = found.slice(0, 6);
  // A plain `reject` is never accepted, whatever the policy; a plain `accept` is. Others depend on policies of their own.
  const contradicts = (verdict === "accept" || verdict === "reject") && verdict !== word;
  const good = found === expected[at] && !contradicts;
  good ? passed++ : failed++;
  if (word === "accept") accepted++;
  console.log(`${good ? "PASS" : "FAIL"} ${name}: ${found.split("\n")[0]}`);
  if (!good) console.log(`     natively: ${expected[at].split("\n")[0]}; expected: ${verdict ?? "the same"}`);
}
console.log(`${passed} passed, ${failed} failed, ${accepted} of them accepted`);
// Without vectors only the test chip was asked: no reason to be content where they must be there.
if (questions.length < 2) console.log("SKIP the shared evidence is missing");
process.exit(failed > 0 || accepted === 0 || (process.env.CI && questions.length < 2) ? 1 : 0);
