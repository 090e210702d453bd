// PM2 and its daemon in one process: `node pm2_program.js PACKAGE FOLDER`.
// Reads one JSON array a line, an action and its arguments, and answers each with a line.
"use strict";
const readline = require("readline");
const { promisify } = require("util");
const [pack, folder] = process.argv.slice(2);
const answers = process.stdout.write.bind(process.stdout);
process.stdout.write = process.stderr.write.bind(process.stderr); // its log
const pm2 = require(pack);
const ends = new Map(); // how many ends of a name were told, and who awaits the next
let names = 0;

const call = (what, ...given) => promisify(pm2[what].bind(pm2))(...given);

function ended(name) {
  if (!ends.has(name)) ends.set(name, { told: 0, awaited: [] });
  return ends.get(name);
}

function nthEnd(name, count) {
  const of = ended(name);
  return of.told >= count ? Promise.resolve() : new Promise((done) => of.awaited.push({ count, done }));
}

async function start(argv, name = `job${names++}`) {
  const files = { out_file: `${folder}/${name}.out`, error_file: `${folder}/${name}.err` };
  const options = { name, script: argv[0], args: argv.slice(1), interpreter: "none", exec_mode: "fork", ...files };
  await call("start", { ...options, autorestart: false, kill_timeout: 1000 });
  return name;
}

const slots = new Map(); // of each command

async function runAll(argv, jobs, flight) {
  const key = JSON.stringify(argv);
  if (!slots.has(key)) slots.set(key, []);
  const mine = slots.get(key);
  let left = jobs;
  const work = async (place) => {
    while (left > 0) {
      left -= 1;
      if (mine[place] === undefined) {
        mine[place] = { name: `slot${names++}`, runs: 0 };
        await start(argv, mine[place].name);
      } else {
        await call("restart", mine[place].name);
      }
      mine[place].runs += 1;
      await nthEnd(mine[place].name, mine[place].runs);
    }
  };
  await Promise.all(Array.from({ length: flight }, (_, place) => work(place)));
}

async function answer(what, given) {
  switch (what) {
    case "run_all":
      return runAll(...given);
    case "start":
      return start(...given);
    case "wait":
      return nthEnd(given[0], 1);
    case "status":
      return (await call("describe", given[0]))[0].pm2_env.status;
    case "list":
      return (await call("list")).length;
    case "stop":
      await call("stop", given[0]);
      return null;
    case "close":
      await call("delete", "all").catch(() => null); // an error if there is none
      return null;
  }
  throw new Error(what);
}

async function main() {
  await call("connect", true);
  const bus = await call("launchBus");
  bus.on("process:event", (told) => {
    if (told.event !== "exit") return;
    const of = ended(told.process.name);
    if (told.process.name.startsWith("slot") && told.process.exit_code !== 0) process.exit(1);
    of.told += 1;
    of.awaited.filter((each) => each.count <= of.told).forEach((each) => each.done());
    of.awaited = of.awaited.filter((each) => each.count > of.told);
  });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [what, ...given] = JSON.parse(line);
    answers(JSON.stringify((await answer(what, given)) ?? null) + "\n");
    if (what === "close") process.exit(0);
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
