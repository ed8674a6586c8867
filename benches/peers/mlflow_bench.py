"""MLflow's side of `resnet-zoo bench registry`: one JSON line a result, under the same keys.

    mlflow_bench.py VARIANT FOLDER RUNS POINTS METRICS SETTINGS
    mlflow_bench.py process WORK FOLDER

VARIANT: store is MLflow's SqlAlchemyStore on SQLite as MLflow opens it, without a server, an HTTP request or a client in
between; store_wal the same on a file that was put into WAL mode; client is MlflowClient on such a file. FOLDER is new, or
empty. Points go in by log_batch, 1,000 entities a call, which is what MLflow allows. Where MLflow has two ways to read the
same, both are measured, and `api` says which it was. `process` is what `cli_ls` and `cli_compare` start.

Needs, in an environment outside of the repository: pip install mlflow
"""
import hashlib
import json
import math
import os
import sqlite3
import statistics
import struct
import subprocess
import sys
import time

from torch_bench import cpu_seconds

BATCH, PAGE, COMPARED = 1000, 50, 20
FILTER, SORT = "metrics.`val.m0` > 0.25 and params.s0 != '3'", ["metrics.`val.m0` DESC"]
# Milliseconds since 1970, of the first step.
BEGUN = 1_700_000_000_000


class Corpus:
    """src/cli/bench/corpus.rs."""

    def __init__(self, runs, points, metrics, settings):
        self.runs, self.points, self.metrics, self.settings = runs, points, metrics, settings
        self.steps = points // metrics

    def value(self, run, step, key):
        index = run * self.points + step * self.metrics + key
        return (index * 2_654_435_761 % 2**32) / 2**32

    def params(self, run):
        return {f"s{number}": str((run + number) % 10) for number in range(self.settings)}

    def sorted_keys(self):
        return sorted(range(self.metrics), key=lambda key: f"val.m{key}")

    def draws(self):
        stride = next(stride for stride in range(7919, 2**40) if math.gcd(stride, self.runs) == 1)
        drawn = 0
        while True:
            drawn = (drawn + stride) % self.runs
            yield drawn


class Store:
    """SqlAlchemyStore: what a tracking server calls."""

    def __init__(self, database, folder):
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        self.store = SqlAlchemyStore(f"sqlite:///{database}", os.path.join(folder, "artifacts"))
        self.get_run, self.log_batch = self.store.get_run, self.store.log_batch
        self.search_runs, self.get_metric_history = self.store.search_runs, self.store.get_metric_history

    def create_run(self, experiment, name):
        return self.store.create_run(experiment, "bench", BEGUN, [], name).info.run_id

    def end_run(self, run):
        from mlflow.entities import RunStatus

        self.store.update_run_info(run, RunStatus.FINISHED, BEGUN + 1, None)


class Client:
    """MlflowClient: what a training script calls."""

    def __init__(self, database, _folder):
        from mlflow import MlflowClient

        self.store = client = MlflowClient(f"sqlite:///{database}")
        self.get_run, self.get_metric_history = client.get_run, client.get_metric_history
        self.log_batch, self.search_runs, self.end_run = client.log_batch, client.search_runs, client.set_terminated

    def create_run(self, experiment, name):
        return self.store.create_run(experiment, start_time=BEGUN, run_name=name).info.run_id


def main(variant, folder, *counts):
    corpus = Corpus(*counts)
    os.makedirs(folder, exist_ok=True)
    database = os.path.join(folder, "mlflow.db")
    if variant != "store":
        # SQLite keeps the mode in the file.
        assert sqlite3.connect(database).execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    store = (Client if variant == "client" else Store)(database, folder)
    experiment = store.store.create_experiment("bench")

    def report(work, times, noise, sha256, api=None, **more):
        times.sort()
        print(json.dumps({
            "bench": "registry", "work": work, "variant": variant, **({"api": api} if api else {}),
            "runs": corpus.runs, "points": corpus.points, "metrics": corpus.metrics, "settings": corpus.settings,
            "ms": round(statistics.median(times) * 1e3, 3), "best_ms": round(times[0] * 1e3, 3),
            "p99_ms": round(times[-(-99 * len(times) // 100) - 1] * 1e3, 3), "reps": len(times), **noise, "sha256": sha256,
            **more,
        }), flush=True)

    begun, times, noise = time.perf_counter(), [], Noise()
    runs = []
    for run in range(corpus.runs):
        lap = time.perf_counter()
        runs.append(log(store, experiment, corpus, run))
        times.append(time.perf_counter() - lap)
    seconds, noise = time.perf_counter() - begun, noise.end()
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = os.path.getsize(database)
    journal = connection.execute("PRAGMA journal_mode").fetchone()[0]
    # A connection's own setting, which MLflow leaves as it is: that of any other.
    synchronous = str(connection.execute("PRAGMA synchronous").fetchone()[0])
    written = hashlib.sha256()
    for run in runs:
        rows = connection.execute("SELECT value FROM metrics WHERE run_uuid = ? ORDER BY key, step", (run,))
        written.update(b"".join(struct.pack("<d", value) for value, in rows))
    connection.close()
    points = corpus.runs * corpus.points
    report("log", times, noise, written.hexdigest(), points_s=round(points / seconds, 2), bytes=size,
           bytes_a_point=round(size / points, 2), journal_mode=journal, synchronous=synchronous)

    def read(work, api, once, sha256, **effort):
        draws = corpus.draws()
        times, noise = measure(lambda: once(draws), **effort)
        report(work, times, noise, sha256(once(corpus.draws())), api)

    some = lambda draws: [runs[next(draws)] for _ in range(COMPARED)]
    history = lambda ids, key: store.store.get_metric_history_bulk(ids, f"val.m{key}", corpus.steps * len(ids))
    keys = corpus.sorted_keys()
    of_runs = lambda found: sha256_of_runs(found, corpus)
    read("search", "search_runs", lambda _: search(store, experiment), of_runs)
    read("history", "get_metric_history", lambda draws: store.get_metric_history(runs[next(draws)], "val.m0"), sha256_of_points)
    read("compare", "get_run", lambda draws: [store.get_run(run) for run in some(draws)], of_runs)

    def compare(draws):
        ids = some(draws)
        listed = ", ".join(f"'{run}'" for run in ids)
        found = {run.info.run_id: run for run in store.search_runs([experiment], f"attributes.run_id IN ({listed})", 1, COMPARED)}
        return [found[run] for run in ids]

    read("compare", "search_runs", compare, of_runs)
    each = lambda draws: [point for run in some(draws) for key in keys for point in store.get_metric_history(run, f"val.m{key}")]
    read("curves", "get_metric_history", each, sha256_of_points)
    if variant != "client":
        read("history", "get_metric_history_bulk", lambda draws: history([runs[next(draws)]], 0), sha256_of_points)

        def curves(draws):
            ids = some(draws)
            found = {(run, key): [] for run in ids for key in keys}
            for key in keys:
                for point in history(ids, key):
                    found[point.run_id, key].append(point)
            return [point for run in ids for key in keys for point in found[run, key]]

        read("curves", "get_metric_history_bulk", curves, sha256_of_points)
        draws = corpus.draws()
        with open(os.path.join(folder, "compared.json"), "w") as file:
            json.dump(some(draws), file)
        for work in ("cli_ls", "cli_compare"):
            command = [sys.executable, __file__, "process", work, folder]
            output = lambda _: subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            read(work, "python", output, lambda output: hashlib.sha256(output).hexdigest(), warmup=1, reps=3)


def log(store, experiment, corpus, number):
    from mlflow.entities import Metric, Param

    run = store.create_run(experiment, f"run-{number}")
    params = [Param(name, value) for name, value in corpus.params(number).items()]
    first = 0
    while first < corpus.points:
        last = min(first + BATCH - len(params), corpus.points)
        metrics = []
        for index in range(first, last):
            step, key = divmod(index, corpus.metrics)
            metrics.append(Metric(f"val.m{key}", corpus.value(number, step, key), BEGUN + step, step))
        store.log_batch(run, metrics, params, [])
        first, params = last, []
    store.end_run(run)
    return run


def search(store, experiment):
    return list(store.search_runs([experiment], FILTER, 1, PAGE, SORT))


def sha256_of_runs(runs, corpus):
    digest = hashlib.sha256()
    for run in runs:
        params = [run.data.params[f"s{number}"] for number in range(corpus.settings)]
        last = [struct.pack(">d", run.data.metrics[f"val.m{key}"]).hex() for key in range(corpus.metrics)]
        digest.update((" ".join([run.info.run_name, *params, *last]) + "\n").encode())
    return digest.hexdigest()


def sha256_of_points(points):
    return hashlib.sha256(b"".join(struct.pack("<d", point.value) for point in points)).hexdigest()


class Noise:
    """Cores that were busy with something else."""

    def __init__(self):
        self.before, self.begun = cpu_seconds(), time.perf_counter()

    def end(self):
        spent = time.perf_counter() - self.begun
        busy, steal, own = (after - was for was, after in zip(self.before, cpu_seconds()))
        return {"others": round(max(0.0, busy - own) / spent, 2), "steal": round(steal / spent, 2)}


def measure(once, seconds=1.5, warmup=3, reps=10, longest=60.0):
    """The seconds that each of at least `reps` repetitions took."""
    for _ in range(warmup):
        once()
    times, noise, begun = [], Noise(), time.perf_counter()
    while True:
        start = time.perf_counter()
        once()
        end = time.perf_counter()
        times.append(end - start)
        if (len(times) >= reps and end - begun >= seconds) or end - begun >= longest:
            return times, noise.end()


def process(work, folder):
    """What a script does that prints runs: `runs ls` and `runs compare`."""
    store = Store(os.path.join(folder, "mlflow.db"), folder)
    if work == "cli_ls":
        found = search(store, store.store.get_experiment_by_name("bench").experiment_id)
    else:
        with open(os.path.join(folder, "compared.json")) as file:
            found = [store.get_run(run) for run in json.load(file)]
    print(json.dumps([run.to_dictionary() for run in found]))


if __name__ == "__main__":
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    if sys.argv[1:2] == ["process"] and len(sys.argv) == 4:
        sys.exit(process(*sys.argv[2:]))
    if len(sys.argv) != 7 or sys.argv[1] not in ("store", "store_wal", "client"):
        sys.exit(__doc__)
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
