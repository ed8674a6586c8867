"""Have the programs that exports are for read them: torchvision, timm, TensorBoard, pyarrow, and MLflow in both directions.

    cargo build
    python3 -m venv /tmp/exports && /tmp/exports/bin/pip install torch torchvision timm tensorboard pyarrow mlflow
    /tmp/exports/bin/python scripts/check_exports.py [PART ..]        # weights, tables, tensorboard, hub, mlflow; or all

It trains a ResNet-18 for a few steps into a temporary registry and compares what the others read with what `sql` says, bit for
bit where their formats can. MLflow needs not be in the same environment: name only the parts that an environment has.
"""

import json
import math
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = ROOT / "target/debug/resnet-zoo"
FOLDER = pathlib.Path(tempfile.mkdtemp(prefix="exports-"))


def zoo(*arguments, registry="registry.sqlite3"):
    command = [BINARY, *map(str, arguments), "--registry", FOLDER / registry]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        sys.exit(f"{arguments}: {done.stderr}")
    return done.stdout


def values():
    """{(metric, step): value} of the run."""
    rows = json.loads(zoo("sql", "SELECT metric, step, value, is_nan FROM metrics", "--json"))
    return {(row["metric"], row["step"]): math.nan if row["is_nan"] else row["value"] for row in rows}


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


def weights():
    import timm
    import torch
    import torchvision
    from safetensors.torch import load_file

    file = FOLDER / "best.safetensors"
    zoo("export", "checked", "--weights", file)
    ours = load_file(file)
    for name, model in [
        ("torchvision", torchvision.models.resnet18(num_classes=10)),
        ("timm", timm.create_model("resnet18", num_classes=10)),
    ]:
        model.load_state_dict(ours)
        theirs = model.state_dict()
        assert all(torch.equal(theirs[key], value) for key, value in ours.items())
        missing = set(theirs) - set(ours)
        assert all(key.endswith("num_batches_tracked") for key in missing), missing
        print(f"weights: {name} {sys.modules[name].__version__} loads {len(ours)} tensors")


def tables():
    import pandas
    import pyarrow
    import pyarrow.parquet

    expected = values()
    for option in ["--csv", "--jsonl", "--parquet"]:
        zoo("export", "checked", option, FOLDER / f"table{option}")
    parquet = pyarrow.parquet.read_table(FOLDER / "table--parquet").to_pandas()
    csv = pandas.read_csv(FOLDER / "table--csv")
    lines = [json.loads(line) for line in open(FOLDER / "table--jsonl")]
    for name, rows in [("parquet", parquet.to_dict("records")), ("csv", csv.to_dict("records")), ("jsonl", lines)]:
        read = {(row["metric"], row["step"]): row["value"] for row in rows}
        assert read.keys() == expected.keys(), name
        assert all(same(read[key], expected[key]) for key in expected), name
        assert all(row["run_name"] == "checked" for row in rows), name
    print(f"tables: pyarrow {pyarrow.__version__} and pandas {pandas.__version__} read {len(expected)} values, bit for bit")


def tensorboard():
    import numpy
    import tensorboard as package
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    zoo("export", "checked", "--tensorboard", FOLDER / "logs")
    (run,) = (FOLDER / "logs").iterdir()
    events = EventAccumulator(str(run)).Reload()
    read = {
        (tag.replace("/", ".", 1), event.step): event.value
        for tag in events.Tags()["scalars"]
        for event in events.Scalars(tag)
    }
    expected = values()
    assert read.keys() == expected.keys()
    assert all(same(numpy.float32(read[key]), numpy.float32(expected[key])) for key in expected)
    (text,) = events.Tensors("experiment/text_summary")
    assert b"name: checked" in text.tensor_proto.string_val[0]
    print(f"tensorboard: {package.__version__} reads {len(read)} scalars")


def hub():
    import timm
    import torch

    folder = FOLDER / "published"
    zoo("publish", "checked", "--to-folder", folder)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    cfg = model.pretrained_cfg
    assert cfg["num_classes"] == 10 and cfg["label_names"][0] == "T-shirt/top", cfg
    assert list(cfg["input_size"]) == [3, 32, 32] and list(cfg["mean"]) == [0.286] * 3, cfg
    from PIL import Image

    image = FOLDER / "grey.png"
    Image.frombytes("L", (32, 32), bytes((7 * x) % 256 for x in range(1024))).save(image)
    pixels = torch.frombuffer(bytearray(Image.open(image).tobytes()), dtype=torch.uint8).reshape(1, 1, 32, 32) / 255
    with torch.no_grad():
        theirs = model(((pixels - 0.286) / 0.353).repeat(1, 3, 1, 1))[0]
    ours = json.loads(zoo("predict", "checked", image, "--logits", "--json"))[0]["logits"]
    worst = (theirs - torch.tensor(ours)).abs().max().item()
    assert worst < 1e-4, (worst, theirs, ours)
    print(f"hub: timm {timm.__version__} loads the folder and predicts the same within {worst:.1e}")


def mlflow():
    import mlflow as package

    file = FOLDER / "mlflow.db"
    zoo("export", "checked", "--mlflow", file)
    package.set_tracking_uri(f"sqlite:///{file}")
    (run,) = package.search_runs(experiment_names=["checked"], output_format="list")
    assert run.info.status == "FINISHED" and run.info.run_name == "checked", run.info
    assert run.data.params["optimizer.sgd.lr"] == "0.05", run.data.params
    client = package.MlflowClient()
    read = {
        (metric, point.step): point.value
        for metric in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, metric)
    }
    expected = values()
    assert read.keys() == expected.keys()
    assert all(same(read[key], expected[key]) for key in expected)
    # A run of MLflow's own, beside ours, and back.
    with package.start_run(run_name="theirs", tags={"team": "red", "mlflow.note.content": "a note"}):
        package.log_params({"lr": 0.25, "model": "vgg11"})
        for step, loss in enumerate([1.5, math.nan, math.inf, 0.1 + 0.2]):
            package.log_metric("loss", loss, step=step)
    zoo("export", "checked", "--mlflow", file)
    names = {run.info.run_name for run in package.search_runs(search_all_experiments=True, output_format="list")}
    assert names == {"checked", "theirs"}, names
    imported = json.loads(zoo("import", "--mlflow", file, "--json", registry="other.sqlite3"))
    assert sorted(one["name"] for one in imported) == ["checked", "theirs"] and all(one["imported"] for one in imported)
    again = json.loads(zoo("import", "--mlflow", file, "--json", registry="other.sqlite3"))
    assert not any(one["imported"] for one in again), again
    theirs = json.loads(zoo("runs", "show", "theirs", "--json", registry="other.sqlite3"))
    assert theirs["config"] == {"lr": 0.25, "model": "vgg11"} and theirs["model"] == "vgg11", theirs["config"]
    assert theirs["tags"] == ["team=red"] and theirs["note"] == "a note", theirs
    sql = "SELECT step, value, is_nan FROM metrics WHERE run_name = 'theirs' ORDER BY step"
    rows = json.loads(zoo("sql", sql, "--json", registry="other.sqlite3"))
    assert [row["is_nan"] for row in rows] == [0, 1, 0, 0] and rows[3]["value"] == 0.1 + 0.2, rows
    print(f"mlflow: {package.__version__} reads {len(read)} values, bit for bit, and both runs come back")


PARTS = {"weights": weights, "tables": tables, "tensorboard": tensorboard, "hub": hub, "mlflow": mlflow}

if __name__ == "__main__":
    experiment = FOLDER / "checked.yaml"
    experiment.write_text(
        "name: checked\nmodel: resnet18\ninput: 32\nweights: scratch\ndata: {source: {embedded: {train: 64, val: 32}}}\n"
        "augment:\n  train: [{random_crop: {padding: 4}}, {normalize: {mean: 0.286, std: 0.353}}]\n"
        "  eval: [{resize: {size: [32, 32]}}, {normalize: {mean: 0.286, std: 0.353}}]\n"
        "steps: 6\nbatch_size: 16\neval_batch_size: 16\noptimizer: {sgd: {lr: 0.05}}\nevaluate: {every: {steps: 2}}\n"
    )
    zoo("run", experiment)
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
