#!/usr/bin/env python3
"""Measures resnet-zoo and other frameworks in turns, keeps what both said, and prints the ratio to their fastest variant.

    benches/alternate.py train resnet34 --batch 16 --size 224 --python VENV/bin/python
    benches/alternate.py train resnet34 --batch 32 --freeze backbone --variants head_eager_nhwc,head_compile_nhwc ..
    benches/alternate.py train resnet34 --variants candle
    benches/alternate.py startup resnet34 --image cat.jpg ..
    benches/alternate.py infer resnet50 --batch 1 --variants onnxruntime,compile_nhwc ..

VENV has what benches/peers/torch_bench.py needs; the variant `candle` is built from benches/peers/candle. Every measurement is
a process of its own, so that memory is its own; the other frameworks get the allocator settings that make them fastest. Close
everything else, and look at `others` afterwards.
"""
import argparse
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
VARIANTS = {
    "f32": {"train": "eager_nchw,eager_nhwc,compile_nhwc", "infer": "eager_nhwc,compile,compile_nhwc,onnxruntime", "startup": "eager,onnxruntime"},
    "bf16": {"train": "bf16_nhwc,bf16_compile", "infer": "bf16_nhwc,bf16_compile"},
}
# glibc keeps freed memory, in huge pages: PyTorch's step becomes a few per cent faster.
TUNED = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=68719476736:glibc.malloc.hugetlb=1"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", choices=VARIANTS["f32"])
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", choices=VARIANTS, default="f32")
    parser.add_argument("--image", help="of startup, which classifies it")
    parser.add_argument("--freeze", choices=["backbone"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", help="of the others, with commas between")
    parser.add_argument("--python", default=sys.executable, help="that has the other frameworks")
    parser.add_argument("--name", help="of the two files in benches/results; made of the work where not given")
    options = parser.parse_args()

    subprocess.run(["cargo", "build", "--quiet"], cwd=ROOT, check=True)
    program = [str(ROOT / "target/debug/resnet-zoo"), "bench"]
    ours = program + [options.bench, options.model, "--threads", str(options.threads), "--json"]
    script = [options.python, str(ROOT / "benches/peers/torch_bench.py"), options.bench, options.model]
    if options.bench == "startup":
        if not options.image:
            parser.error("startup needs --image")
        options.batch = 1
        ours += [options.image]
        shape = [options.image]
    else:
        ours += ["--batch", str(options.batch), "--size", str(options.size), "--precision", options.precision]
        shape = [str(options.batch), str(options.size)]
    if options.freeze:
        ours += ["--freeze", options.freeze]
    manifest = str(ROOT / "benches/peers/candle/Cargo.toml")
    candle = ["cargo", "run", "--release", "--quiet", "--manifest-path", manifest, "--", options.bench, options.model]
    variants = (options.variants or VARIANTS[options.precision][options.bench]).split(",")
    tuned = dict(os.environ, GLIBC_TUNABLES=TUNED, OMP_NUM_THREADS=str(options.threads), RAYON_NUM_THREADS=str(options.threads))

    head = "-head" if options.freeze else ""
    name = options.name or f"{options.bench}{head}-{options.model}-{options.batch}x{options.size}-{options.precision}"
    files = {side: ROOT / "benches/results" / f"{name}.{side}.jsonl" for side in ("ours", "peers")}
    with open(files["ours"], "w") as ours_file, open(files["peers"], "w") as peers_file:
        for _ in range(options.rounds):
            run(ours, ours_file, os.environ)
            for variant in variants:
                command = [*candle, *shape] if variant == "candle" else [*script, variant, *shape, str(options.threads)]
                run(command, peers_file, tuned)
    subprocess.run([*program, "compare", str(files["ours"]), "--against", str(files["peers"])], check=True)


def run(command, file, environment):
    """Appends the JSON lines of a command's output to `file`, and shows them."""
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {result.returncode}")
    for line in result.stdout.splitlines():
        if line.startswith("{"):
            print(line, flush=True)
            file.write(line + "\n")
            file.flush()


if __name__ == "__main__":
    main()
