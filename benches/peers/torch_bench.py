"""PyTorch's and ONNX Runtime's side of `resnet-zoo bench`: one JSON line a result, under the same keys.

    torch_bench.py train|infer MODEL VARIANT BATCH SIZE [THREADS]
    torch_bench.py startup MODEL VARIANT IMAGE [THREADS]

VARIANT of train: eager_nchw, eager_nhwc, compile_nhwc, bf16_nhwc, bf16_compile, each also as head_.. (frozen backbone);
of infer the same, and onnxruntime; of startup eager and onnxruntime: a process that classifies an image, from its start to its
end, with random weights from a file. MODEL is one of torchvision's, for images or clips (of 16 frames).

Needs, in an environment outside of the repository: pip install torch torchvision onnxruntime onnx
"""
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

CLIPS, FRAMES = ("r3d_18", "mc3_18", "r2plus1d_18"), 16


def main(bench, name, variant, batch, size, threads=2):
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    step, context = (train if bench == "train" else infer)(torch, name, variant, batch, size, threads)
    with context:
        median, best, reps, noise = measure(step, seconds=3.0 if bench == "train" else 2.0)
    frames = {"frames": FRAMES} if name in CLIPS else {}
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({
        "bench": bench, "model": name, "variant": variant, "batch": batch, "size": size, **frames,
        "img_s": round(batch / median, 2), "best_img_s": round(batch / best, 2), "ms": round(median * 1e3, 2), "reps": reps,
        "rss_mib": round(rss), **noise, "threads": threads,
    }), flush=True)


def network(torch, name, variant, batch, size):
    """The model with its own number of classes, and a batch, in the variant's layout."""
    import torchvision

    clip = name in CLIPS
    classes = 400 if clip else 1000
    net = getattr(torchvision.models.video if clip else torchvision.models, name)(weights=None, num_classes=classes)
    x = torch.randn(batch, 3, *([FRAMES] if clip else []), size, size)
    if "nhwc" in variant or variant.startswith("bf16"):
        layout = torch.channels_last_3d if clip else torch.channels_last
        net, x = net.to(memory_format=layout), x.to(memory_format=layout)
    return net, x, torch.randint(0, classes, (batch,))


def autocast(torch, variant):
    return torch.autocast("cpu", dtype=torch.bfloat16) if "bf16" in variant else contextlib.nullcontext()


def train(torch, name, variant, batch, size, _threads):
    net, x, y = network(torch, name, variant, batch, size)
    net.train()
    if variant.startswith("head"):
        net.eval()
        net.requires_grad_(False)
        net.fc.requires_grad_(True)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01, fused=True)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    model = torch.compile(net) if "compile" in variant else net

    def step():
        with autocast(torch, variant):
            loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, contextlib.nullcontext()


def infer(torch, name, variant, batch, size, threads):
    net, x, _ = network(torch, name, variant, batch, size)
    net.eval()
    if variant == "onnxruntime":
        return onnx(torch, net, x, threads), contextlib.nullcontext()
    if "compile" in variant:
        # What PyTorch documents for inference on a CPU: folds batch norms and packs weights.
        import torch._inductor.config as inductor

        inductor.freezing = True
        net = torch.compile(net)
    context = contextlib.ExitStack()
    context.enter_context(torch.inference_mode())
    context.enter_context(autocast(torch, variant))
    return lambda: net(x), context


def onnx(torch, net, x, threads):
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "net.onnx")
        torch.onnx.export(net, (x,), path, dynamo=False, do_constant_folding=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)


def measure(step, seconds, warmup=3, reps=10, longest=60.0):
    """Median and best of at least `reps` repetitions, their number, and the cores that were busy with something else."""
    for _ in range(warmup):
        step()
    times, before, begun = [], cpu_seconds(), time.perf_counter()
    while True:
        start = time.perf_counter()
        step()
        end = time.perf_counter()
        times.append(end - start)
        spent = end - begun
        if (len(times) >= reps and spent >= seconds) or spent >= longest:
            busy, steal, own = (after - was for was, after in zip(before, cpu_seconds()))
            noise = {"others": round(max(0.0, busy - own) / spent, 2), "steal": round(steal / spent, 2)}
            return statistics.median(times), min(times), len(times), noise


def cpu_seconds():
    """Busy seconds of the whole machine, of them stolen by the host, and seconds of this process and those it waited for."""
    with open("/proc/stat") as stat:
        user, nice, system, _, _, irq, softirq, steal = (int(word) for word in stat.readline().split()[1:9])
    hz, own = os.sysconf("SC_CLK_TCK"), os.times()
    return (user + nice + system + irq + softirq + steal) / hz, steal / hz, own.user + own.system + own.children_user + own.children_system


def startup(name, variant, image, threads=2):
    import torch
    import torchvision

    net = getattr(torchvision.models, name)(weights=None).eval()
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "weights")
        if variant == "onnxruntime":
            torch.onnx.export(net, (torch.zeros(1, 3, 224, 224),), file, dynamo=False, do_constant_folding=True)
        else:
            torch.save(net.state_dict(), file)
        command = [sys.executable, __file__, "classify", name, variant, file, image, str(threads)]
        step = lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        median, best, reps, noise = measure(step, seconds=3.0)
    print(json.dumps({
        "bench": "startup", "model": name, "variant": variant, "batch": 1, "size": 224, "img_s": round(1 / median, 2),
        "best_img_s": round(1 / best, 2), "ms": round(median * 1e3, 2), "reps": reps, "rss_mib": None, **noise, "threads": threads,
    }), flush=True)


def classify(name, variant, file, path, threads):
    """What a script does that shows the classes of one image: as few imports as there can be."""
    import numpy
    from PIL import Image

    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = numpy.asarray(image.crop((left, top, left + 224, top + 224)), numpy.float32) / 255
    pixels = (pixels - numpy.float32([0.485, 0.456, 0.406])) / numpy.float32([0.229, 0.224, 0.225])
    x = numpy.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
    if variant == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        logits = session.run(None, {session.get_inputs()[0].name: x})[0][0]
    else:
        import torch
        import torchvision

        torch.set_num_threads(threads)
        with torch.device("meta"):
            net = getattr(torchvision.models, name)(weights=None)
        # The file stays where it is: its pages become the parameters.
        net.load_state_dict(torch.load(file, mmap=True, weights_only=True), assign=True)
        net.eval()
        with torch.inference_mode():
            logits = net(torch.from_numpy(x))[0]
    print(logits.tolist())


if __name__ == "__main__":
    if sys.argv[1:2] == ["startup"] and 5 <= len(sys.argv) <= 6:
        sys.exit(startup(*sys.argv[2:5], *map(int, sys.argv[5:])))
    if sys.argv[1:2] == ["classify"]:
        sys.exit(classify(*sys.argv[2:6], int(sys.argv[6])))
    if not 6 <= len(sys.argv) <= 7:
        sys.exit(__doc__)
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
