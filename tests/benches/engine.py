#!/usr/bin/env python3
"""Figures of the whole engine on one checkpoint, through `hadal up` and `hadal bench serve`: ratios within one run.

    python tests/benches/engine.py CHECKPOINT                    streams, cache, memory, time to ready
    python tests/benches/engine.py CHECKPOINT --transformers     prefill and decode against Hugging Face transformers

The second needs torch and transformers. Rounds of both sides alternate, so that what else the machine does meets both;
of each figure the best round counts. Rates are given by the wall clock and by CPU time; the latter hardly moves when
others use the machine. Prompts are new in every round, so that no prefix cache helps where it is not meant to.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("checkpoint")
ap.add_argument("--hadal", default="target/release/hadal", help="the binary (built with --release)")
ap.add_argument("--threads", type=int, default=os.cpu_count())
ap.add_argument("--rounds", type=int, default=3)
ap.add_argument("--transformers", action="store_true")
ap.add_argument("--only", default="", help="streams, cache, memory or ready")
ap.add_argument("--contexts", type=lambda s: [int(n) for n in s.split(",")], default=[1024, 4096])
ap.add_argument("--decode-tokens", type=int, default=32)
ap.add_argument("--dtypes", type=lambda s: s.split(","), default=["float32", "bfloat16"], help="of transformers")
ap.add_argument("--json", action="store_true")
args = ap.parse_args()

KV_MEMORY = 512 << 20
LISTEN = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]


def say(*words):
    print(*words, file=sys.stderr, flush=True)


class Part:
    """One process of Hadal, started and ended with a `with`."""

    def __init__(self, *flags):
        command = [args.hadal, *flags, "--json", "--log-level", "error"]
        begun = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = self.process.stdout.readline()
        self.ready_s = time.perf_counter() - begun
        if not line:
            sys.exit(f"{' '.join(command)} ended")
        self.told = json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def cpu_s(self):
        """CPU time of its threads, in nanoseconds' resolution; they live as long as it does."""
        folder = f"/proc/{self.process.pid}/task"
        spent = lambda task: int(open(f"{folder}/{task}/schedstat").read().split()[0])
        return sum(map(spent, os.listdir(folder))) / 1e9

    def resident(self):
        """All, and what is no file's page: those of the checkpoint are the page cache's."""
        with open(f"/proc/{self.process.pid}/smaps_rollup") as f:
            fields = dict(line.split(":") for line in f if ":" in line)
        return [int(fields[name].split()[0]) << 10 for name in ("Rss", "Anonymous")]


def up():
    engine = ["--prefill", "0", "--decode", "1", "--threads", str(args.threads), "--kv-memory", str(KV_MEMORY)]
    return Part("up", args.checkpoint, *LISTEN, *engine)


def bench(part, *flags):
    """The report, with the CPU time that the server took."""
    command = [args.hadal, "bench", "serve", "--grpc", part.told["grpc"], "--json", *map(str, flags)]
    before = part.cpu_s()
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    report = json.loads(ran.stdout) | {"cpu_s": part.cpu_s() - before}
    if report["requests"]["failed"]:
        sys.exit(f"{' '.join(command)}: {report['failures']}")
    return report


def ours(part, context):
    """Tokens a second of a prompt and of what follows it, by the wall clock and by CPU time."""
    flags = ["--seed", random.randrange(2**32), "--requests", 1, "--input-tokens", context, "--output-tokens"]
    cold = bench(part, *flags, 1)
    # The prompt is cached from now on; what an answer costs is the difference between a long and a short one.
    short, long = bench(part, *flags, 1), bench(part, *flags, args.decode_tokens + 1)
    prefill = context / cold["ttft_ms"]["mean"] * 1e3, context / cold["cpu_s"]
    decode_s = long["cpu_s"] - short["cpu_s"]
    return prefill, (1e3 / long["tpot_ms"]["mean"], args.decode_tokens / decode_s)


class Transformers:
    def __init__(self, dtype):
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        torch.set_num_threads(args.threads)
        kind = dict(dtype=getattr(torch, dtype), attn_implementation="sdpa", experts_implementation="grouped_mm")
        self.model = AutoModelForCausalLM.from_pretrained(args.checkpoint, **kind).eval()
        self.measure(64)

    def measure(self, context):
        torch, model = self.torch, self.model
        clock = lambda: (time.perf_counter(), time.process_time())
        rates = lambda count, begun: tuple(count / (now - then) for now, then in zip(clock(), begun))
        with torch.no_grad():
            ids = torch.randint(3, model.config.vocab_size, (1, context))
            begun = clock()
            out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
            prefill = rates(context, begun)
            past, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
            begun = clock()
            for _ in range(args.decode_tokens):
                out = model(input_ids=token, past_key_values=past, use_cache=True)
                past, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
            return prefill, rates(args.decode_tokens, begun)


def against_transformers():
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    # Its threads must not spin while it is our turn.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch
    import transformers

    theirs = {dtype: Transformers(dtype) for dtype in args.dtypes}
    found = {}

    def keep(context, who, measured):
        for what, rates in zip(("prefill", "decode"), measured):
            for by, rate in zip(("wall", "cpu"), rates):
                found.setdefault((context, what, by), {}).setdefault(who, []).append(rate)
            say(f"  {context:6} {what:7} {who:9} {rates[0]:9.2f} tok/s, {rates[1]:9.2f} tok per CPU second")

    with up() as part:
        ours(part, 64)
        for _ in range(args.rounds):
            for context in args.contexts:
                keep(context, "hadal", ours(part, context))
                for dtype, model in theirs.items():
                    keep(context, dtype, model.measure(context))
    rows = []
    for (context, what, by), rates in found.items():
        top = {who: max(all) for who, all in rates.items()}
        rival = max(args.dtypes, key=top.get)
        row = {"context": context, "what": what, "by": by, "hadal": top["hadal"], rival: top[rival]}
        rows.append(row | {"ratio": top["hadal"] / top[rival]})
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "threads": args.threads}
    return {"tokens_per_s": rows, "versions": versions}


def streams():
    """Output tokens a second of 32 streams and of one, after prompts of 64 tokens."""
    answer = 128
    found = {1: [], 32: []}
    with up() as part:
        for _ in range(args.rounds):
            for count, all in found.items():
                flags = ["--input-tokens", 64, "--concurrency", count, "--requests", count, "--output-tokens"]
                # Prompts so short are not cached, so that the difference is what decoding costs.
                short, long = bench(part, *flags, 1), bench(part, *flags, answer + 1)
                of = {what: long[what] - short[what] for what in ("duration_s", "cpu_s")}
                all.append((count * answer / of["duration_s"], count * answer / of["cpu_s"]))
                say(f"  {count:2} streams: {all[-1][0]:8.1f} tok/s, {all[-1][1]:8.1f} tok per CPU second")
    (wall, cpu), (wall_32, cpu_32) = [[max(of) for of in zip(*found[count])] for count in found]
    by = lambda name, one, many: {"by": name, "one": one, "streams_32": many, "ratio": many / one}
    return [by("wall", wall, wall_32), by("cpu", cpu, cpu_32)]


def cache(tokens=8192):
    """Time to first token of a prompt, and of the same again."""
    cold, warm, again = [], [], 5
    line = {"timestamp": 0, "input_length": tokens, "output_length": 1, "hash_ids": list(range(tokens // 512))}
    with up() as part, tempfile.TemporaryDirectory() as folder:
        trace = os.path.join(folder, "again.jsonl")
        with open(trace, "w") as f:
            f.write(f"{json.dumps(line)}\n" * again)
        for _ in range(args.rounds):
            # Of one seed the first request finds nothing, and all of the second run find everything.
            seed = random.randrange(2**32)
            first = bench(part, "--trace", trace, "--seed", seed, "--limit", 1)
            more = bench(part, "--trace", trace, "--seed", seed)
            cold.append((first["ttft_ms"]["mean"], first["cpu_s"] * 1e3))
            warm.append((more["ttft_ms"]["p50"], more["cpu_s"] * 1e3 / again))
            cached = more["prompt_tokens"]["cached"] / again
            say(f"  cold {cold[-1][0]:.0f} ms (CPU {cold[-1][1]:.0f}), cached {warm[-1][0]:.1f} ms "
                f"(CPU {warm[-1][1]:.1f}), {cached:.0f} of {tokens} tokens")
    best = lambda all: [min(of) for of in zip(*all)]
    rows = zip(("wall", "cpu"), best(cold), best(warm))
    return [{"by": by, "cold_ms": c, "cached_ms": w, "ratio": w / c} for by, c, w in rows]


def metric(part, name, kind=""):
    with urllib.request.urlopen(f"http://{part.told['metrics']}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    mine = [line for line in lines if line.split("{")[0] == name and kind in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in mine)


def worker(coordinator):
    flags = ["--threads", str(args.threads), "--kv-memory", str(KV_MEMORY), "--metrics", "127.0.0.1:0"]
    return Part("worker", "--model", args.checkpoint, "--coordinator", coordinator.told["grpc"], *flags)


def memory():
    """Resident memory of a worker under load, beside weights and pools, MiB."""
    with Part("coordinator", "--grpc", "127.0.0.1:0") as coordinator:
        router = ["router", *LISTEN, "--coordinator", coordinator.told["grpc"]]
        with worker(coordinator) as part, Part(*router) as door:
            deadline = time.time() + 60
            asked = [args.hadal, "bench", "serve", "--grpc", door.told["grpc"], "--requests", "1"]
            while subprocess.run(asked, capture_output=True).returncode and time.time() < deadline:
                pass
            bench(door, "--input-tokens", 1000, "--output-tokens", 16, "--concurrency", 32, "--requests", 64)
            rss, anonymous = part.resident()
            kinds = [f'part="{kind}"' for kind in ("index", "latent")]
            every = lambda kind: metric(part, "hadal_worker_pages", kind)
            free = lambda kind: metric(part, "hadal_worker_pages", kind + ",state=\"free\"")
            page = lambda kind: metric(part, "hadal_worker_page_bytes", kind)
            # Pages that nothing was written to yet take no memory.
            pools = sum((every(kind) - free(kind)) * page(kind) for kind in kinds)
            weights = metric(part, "hadal_worker_weights_bytes")
    found = {"rss": rss, "anonymous": anonymous, "weights": weights, "pools": pools}
    found |= {"beyond": anonymous - weights - pools, "allowed": (64 << 20) + 0.05 * (weights + pools)}
    return [{name: round(value / 2**20, 1) for name, value in found.items()}]


def ready():
    """Seconds from the start of a worker's process to its word that it is ready, the checkpoint in the page cache."""
    with Part("coordinator", "--grpc", "127.0.0.1:0") as coordinator:
        times = []
        for _ in range(args.rounds + 1):
            with worker(coordinator) as part:
                times.append((part.ready_s, part.cpu_s()))
                say(f"  {times[-1][0]:.3f} s, CPU {times[-1][1]:.3f} s")
    best = [min(of) for of in zip(*times[1:])]
    return [{"wall_s": best[0], "cpu_s": best[1], "median_wall_s": statistics.median(t for t, _ in times[1:])}]


def main():
    if args.transformers:
        found = against_transformers()
    else:
        found = {}
        for figure in (streams, cache, memory, ready):
            if args.only in ("", figure.__name__):
                say(figure.__doc__)
                found[figure.__name__] = figure()
    if args.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        for row in value if isinstance(value, list) else [value]:
            shown = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
            print(f"{name}: {', '.join(shown)}")


main()
