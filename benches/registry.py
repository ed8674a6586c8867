#!/usr/bin/env python3
"""Measures our registry and MLflow's store in turns, keeps what both said, and prints the ratios to MLflow's fastest way.

    benches/registry.py --python VENV/bin/python
    benches/registry.py --python VENV/bin/python --runs 1000 --variants store_wal --rounds 1

VENV has MLflow: python3 -m venv VENV && VENV/bin/pip install mlflow. Both write the same runs, points and settings on the same
disk, each batch durably, and read the same back: this program stops where what they read differs. Each side of a turn is a
process of its own, which opens its store before a clock starts. Close everything else, and look at `others` afterwards.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORKS = {
    "log": "log a run", "search": "search, 50 runs", "history": "one metric's history", "compare": "compare 20 runs",
    "curves": "all curves of 20 runs", "cli_ls": "search, as a process", "cli_compare": "compare, as a process",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="that has MLflow")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--points", type=int, default=960, help="of each run")
    parser.add_argument("--metrics", type=int, default=4, help="of each run")
    parser.add_argument("--settings", type=int, default=20, help="of each run")
    parser.add_argument("--variants", default="store,store_wal,client", help="of MLflow, with commas between")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="on the disk that is to be measured; a temporary one where not given")
    parser.add_argument("--name", help="of the two files in benches/results; made of the work where not given")
    options = parser.parse_args()

    subprocess.run(["cargo", "build", "--quiet"], cwd=ROOT, check=True)
    counts = [options.runs, options.points, options.metrics, options.settings]
    names = ["--runs", "--points", "--metrics", "--settings"]
    ours = [str(ROOT / "target/debug/resnet-zoo"), "bench", "registry", "--json"]
    ours += [str(word) for pair in zip(names, counts) for word in pair]
    script = [options.python, str(ROOT / "benches/peers/mlflow_bench.py")]
    name = options.name or f"registry-{options.runs}x{options.points}"
    files = {side: ROOT / "benches/results" / f"{name}.{side}.jsonl" for side in ("ours", "peers")}
    results = {"ours": [], "peers": []}
    with open(files["ours"], "w") as ours_file, open(files["peers"], "w") as peers_file:
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                results["ours"] += run([*ours, "--keep", os.path.join(folder, "ours")], ours_file)
            for variant in options.variants.split(","):
                with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                    results["peers"] += run([*script, variant, folder, *map(str, counts)], peers_file)
    compare(results["ours"], results["peers"])


def run(command, file):
    """Appends the JSON lines of a command's output to `file`, shows and returns them."""
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {result.returncode}")
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    for line in lines:
        print(line, flush=True)
        file.write(line + "\n")
        file.flush()
    return [json.loads(line) for line in lines]


def compare(ours, peers):
    """The median of our rounds over that of MLflow's fastest variant; both read the same."""
    print("\n| work | ours | MLflow | its way | ratio |\n|---|---|---|---|---|")
    for work, title in WORKS.items():
        if not work.startswith("cli"):
            read = {line["sha256"] for line in ours + peers if line["work"] == work}
            assert len(read) == 1, f"{work}: what was read differs"
        ways = {}
        for line in peers:
            if line["work"] == work:
                ways.setdefault((line["variant"], line.get("api", "log_batch")), []).append(line["ms"])
        (variant, api), theirs = min(ways.items(), key=lambda way: statistics.median(way[1]))
        mine, theirs = statistics.median(line["ms"] for line in ours if line["work"] == work), statistics.median(theirs)
        print(f"| {title} | {mine:.3g} ms | {theirs:.3g} ms | {variant}, {api} | {theirs / mine:.1f}x |")


if __name__ == "__main__":
    main()
