#!/usr/bin/env python3
"""Makes the golden files of tests/it/parity.rs and tests/it/curve.rs with torchvision, timm and PyTorch.

    python3 -m venv /tmp/golden && /tmp/golden/bin/pip install torch torchvision timm safetensors
    /tmp/golden/bin/python tests/golden/generate.py             # every file, about 15 minutes on 2 cores
    /tmp/golden/bin/python tests/golden/generate.py resnet18    # some of them

No weights are stored: a parameter's values are a function of its name and the flat index, in integer arithmetic and one
float32 multiplication and addition, which tests/it/formula.rs computes to the same bits. Inputs, labels and the places at
which tensors are sampled come from the same function.

How the figures stay comparable. The references are computed in float64, so that all of the difference that a test sees is
the tested code's own rounding. ReLU and max-pool have kinks, though: a unit that float64 puts at 1e-9 may land at -1e-9 in
float32, and then its whole gradient differs. Such a flip says nothing about the code and would need a tolerance of percents
in the deepest layers, which have few units. Two things avoid it:
* norms have gains around 0.5 and biases around +-1, so that few units lie near zero (some percent lie on the other side of
  it than their channel's bias, so that the ReLUs still do their work). Running variances around 0.25 make up for the small
  gains in evaluation, where otherwise the biases would drown the image;
* an input is accepted only if no unit of the training step lies within KINK_MARGIN times PyTorch's own float32 error (the
  rms over its layer) of a kink, and PyTorch in float32 agrees with float64 to a tenth of the tests' tolerances. Otherwise
  the next input is tried; its number, the salt, is stored with the golden.
"""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.numpy import save_file
from torch import nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

HERE = Path(__file__).parent
SMOOTHING = 0.1
# What the Rust tests allow, relative: logits and features, gradients and running statistics.
FORWARD_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
KINK_MARGIN = 4
MASK = (1 << 64) - 1


# ---------------------------------------------------------------- the formula

def fnv1a(name: str) -> int:
    """FNV-1a, 64 bits."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    return state


def bits(name: str, count: int) -> np.ndarray:
    """u64[count]: SplitMix64 started at the name's hash."""
    z = np.uint64(fnv1a(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def units(name: str, count: int) -> np.ndarray:
    """f32[count] in (-1, 1), each exact: an odd multiple of 2^-24."""
    odd = (bits(name, count) >> np.uint64(40)).astype(np.int64) * 2 + 1 - (1 << 24)
    return (odd / (1 << 24)).astype(np.float32)


def parameter(name: str, shape: tuple) -> np.ndarray:
    """The values of a parameter or buffer of that name."""
    u = units(name, math.prod(shape))
    if name.endswith("running_mean"):
        values = np.float32(0.125) * u
    elif name.endswith("running_var"):
        values = np.float32(0.25) + np.float32(0.0625) * u
    elif len(shape) > 1:
        values = np.float32(math.sqrt(3 * shape[0] / math.prod(shape))) * u  # variance 1 / fan_in
    elif name.endswith(".weight"):
        values = np.float32(0.5) + np.float32(0.125) * u
    else:
        values = np.copysign(np.float32(1), u) + np.float32(0.25) * u
    return values.reshape(shape)


def labels(name: str, count: int, classes: int) -> torch.Tensor:
    return torch.from_numpy((bits(name, count) % np.uint64(classes)).astype(np.int64))


def summary(name: str, tensor: torch.Tensor, samples: int) -> np.ndarray:
    """f32[3 + min(samples, n)]: the norm, two random projections, and some values.

    The projections differ by about |a - b| / sqrt(3) where tensors differ anywhere, the values say where."""
    flat = tensor.detach().double().numpy().ravel()
    probes = [np.dot(flat, units(f"{name}/probe{i}", flat.size).astype(np.float64)) for i in range(2)]
    picks = np.arange(flat.size) if flat.size <= samples else bits(f"{name}/pick", samples) % np.uint64(flat.size)
    return np.concatenate([[np.linalg.norm(flat)], probes, flat[picks]]).astype(np.float32)


# ---------------------------------------------------------------- the models

class CifarBlock(nn.Module):
    """He et al. 2015, section 4.2, with shortcut option A of section 3.3: subsample, pad channels with zeros."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU()
        self.stride, self.pad = stride, (c_out - c_in) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return self.relu(x + y)


class CifarResNet(nn.Module):
    def __init__(self, depth):
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(*[CifarBlock(16, 16, 1) for _ in range(blocks)])
        self.layer2 = nn.Sequential(*[CifarBlock(32 if i else 16, 32, 1 if i else 2) for i in range(blocks)])
        self.layer3 = nn.Sequential(*[CifarBlock(64 if i else 32, 64, 1 if i else 2) for i in range(blocks)])
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


def fpn():
    return resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5)


# Odd and not square. The more units, the more lie near a kink, so the deeper nets get small images; their last
# stages still normalise over 8 to 18 values a channel.
IMAGE, SMALL, CLIP, TINY = (3, 3, 65, 49), (2, 3, 41, 33), (2, 3, 8, 33, 25), (4, 3, 17, 13)
TORCHVISION = {
    "resnet18": IMAGE, "resnet34": IMAGE, "resnet50": IMAGE, "resnet101": SMALL, "resnet152": SMALL,
    "resnext50_32x4d": SMALL, "resnext101_32x8d": SMALL, "wide_resnet50_2": SMALL,
    "r3d_18": CLIP, "mc3_18": CLIP, "r2plus1d_18": CLIP,
}
TIMM = {"resnet50d": IMAGE, "resnet26t": SMALL, "seresnet50": SMALL, "ecaresnet50t": SMALL}
MODELS = {
    **{name: (lambda name=name: torchvision.models.get_model(name), shape) for name, shape in TORCHVISION.items()},
    **{name: (lambda name=name: timm.create_model(name), shape) for name, shape in TIMM.items()},
    **{f"cifar_resnet{depth}": (lambda depth=depth: CifarResNet(depth), TINY) for depth in [20, 32, 44, 56, 110]},
    "resnet50_fpn": (fpn, IMAGE),
}


def with_formula_weights(build, dtype):
    with torch.device("meta"):
        model = build()
    state = {name: torch.from_numpy(parameter(name, tuple(tensor.shape))) if tensor.is_floating_point()
             else torch.zeros_like(tensor, device="cpu") for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model.requires_grad_().to(dtype)


def forward(model, x):
    """The output, and every stage's: c2.., p2.. of a neck."""
    features, body = {}, getattr(model, "body", model)
    hooks = [body.get_submodule(f"layer{i}").register_forward_hook(
        lambda _module, _inputs, output, name=f"c{i + 1}": features.update({name: output}))
        for i in range(1, 5) if hasattr(body, f"layer{i}") or f"layer{i}" in dict(body.named_children())]
    output = model(x)
    for hook in hooks:
        hook.remove()
    if isinstance(output, dict):
        output = {"p6" if name == "pool" else f"p{int(name) + 2}": value for name, value in output.items()}
        return {**features, **output}
    return {**features, "logits": output}


def loss_of(name, outputs, salt):
    if "logits" in outputs:
        logits = outputs["logits"]
        return F.cross_entropy(logits, labels(f"{name}/labels{salt}", len(logits), logits.shape[1]),
                               label_smoothing=SMOOTHING)
    return sum(outputs[f"p{i}"].square().mean() for i in range(2, 7))  # a backbone: the neck's maps


def distances(module, x):
    """How far each unit of a kinked layer's input is from the kink, signed: to zero, or to the window's runner-up."""
    if isinstance(module, nn.ReLU):
        return x.flatten()
    x = F.pad(x, [module.padding] * 4)  # behind a ReLU: zero is as good as minus infinity
    windows = F.unfold(x.flatten(0, 1)[:, None], module.kernel_size, stride=module.stride)
    first, second = windows.topk(2, dim=1).values.unbind(1)
    return (first - second)[first > 0].flatten()


def kink_margin(name, models, salt):
    """The smallest distance to a kink in a training forward pass, in float32 errors (rms over the layer)."""
    found = []
    for model in models:
        kinks = []
        hooks = [module.register_forward_pre_hook(
            lambda layer, x, kinks=kinks: kinks.append(distances(layer, x[0].detach().clone())))
            for module in model.modules() if isinstance(module, (nn.ReLU, nn.MaxPool2d))]
        with torch.no_grad():
            model.train()(inputs(name, salt, next(model.parameters()).dtype))
        for hook in hooks:
            hook.remove()
        found.append(kinks)
    return min((exact.abs().min() / (exact - rounded.double()).square().mean().sqrt()).item()
               if exact.shape == rounded.shape else 0 for exact, rounded in zip(*found, strict=True))


def inputs(name, salt, dtype):
    shape = MODELS[name][1]
    return torch.from_numpy(units(f"{name}/input{salt}", math.prod(shape)).reshape(shape)).to(dtype) * 2


def reference(name, dtype, salt):
    """What the tests compare: evaluation outputs, then one training step's loss, gradients and running statistics."""
    x, model = inputs(name, salt, dtype), with_formula_weights(MODELS[name][0], dtype)
    found = {}
    with torch.no_grad():
        for output, value in forward(model.eval(), x).items():
            found[f"eval/{output}"] = value
    loss = loss_of(name, forward(model.train(), x), salt)
    loss.backward()
    found["train/loss"] = loss.detach()
    for parameter_name, value in model.named_parameters():
        found[f"grad/{parameter_name}"] = value.grad
    for buffer_name, value in model.named_buffers():
        if value.is_floating_point():
            found[f"running/{buffer_name}"] = value
    return found


def disagreement(exact, rounded):
    """Per entry |a - b| / |a| over its tolerance; 1 is the most that a test allows."""
    return {name: ((exact[name] - rounded[name].double()).norm() / exact[name].norm()).item()
            / (FORWARD_TOLERANCE if name.startswith(("eval/", "train/")) else GRADIENT_TOLERANCE) for name in exact}


def generate_model(name):
    models = [with_formula_weights(MODELS[name][0], dtype) for dtype in [torch.float64, torch.float32]]
    salt = next(salt for salt in itertools.count() if kink_margin(name, models, salt) > KINK_MARGIN)
    del models
    exact, rounded = (reference(name, dtype, salt) for dtype in [torch.float64, torch.float32])
    worst, where = max((value, key) for key, value in disagreement(exact, rounded).items())
    print(f"{name}: salt {salt}, float32 uses {worst:.3f} of the tolerance ({where})", flush=True)
    assert worst < 0.1, "a golden that float32 cannot follow measures nothing"
    golden = {
        "input": np.array(MODELS[name][1], dtype=np.int64),
        "salt": np.array([salt], dtype=np.int64),
        "params": np.array([sum(v.numel() for k, v in exact.items() if k.startswith("grad/"))], dtype=np.int64),
    }
    for key, value in exact.items():
        golden[key] = summary(key, value, 64 if key.startswith("eval/") else 8)
    save_file(golden, HERE / f"{name}.safetensors")


# ---------------------------------------------------------------- training curves

STEPS, BATCHES = 20, 4
CURVES = {  # model, batch, optimizer, whether norms and biases decay too, steps of warm-up
    "cifar_resnet20/sgd": ("cifar_resnet20", 8, dict(lr=0.01, momentum=0.9, weight_decay=5e-4), True, 0),
    "cifar_resnet20/nesterov": (
        "cifar_resnet20", 8, dict(lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4), False, 4),
    # A larger epsilon, since a step of AdamW is a sign where gradients are near zero, and float32 cannot follow those.
    "cifar_resnet20/adamw": ("cifar_resnet20", 8, dict(lr=1e-3, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.05), True, 0),
    "resnet18/sgd": ("resnet18", 16, dict(lr=0.005, momentum=0.9, weight_decay=1e-4), False, 0),
    "resnet18/adamw": ("resnet18", 16, dict(lr=2e-4, eps=1e-6, weight_decay=0.05), False, 4),
}


def curve(case, dtype):
    """f64[STEPS + 1]: the smoothed loss of each training step, then of the first batch in evaluation."""
    name, batch, options, decays_all, warmup = CURVES[case]
    build = (lambda: CifarResNet(20)) if name == "cifar_resnet20" else (
        lambda: torchvision.models.get_model(name, num_classes=10))
    model = with_formula_weights(build, dtype).train()
    decayed = [p for n, p in model.named_parameters() if decays_all or p.ndim > 1]
    others = [p for n, p in model.named_parameters() if not (decays_all or p.ndim > 1)]
    groups = [dict(params=decayed)] + ([dict(params=others, weight_decay=0.0)] if others else [])
    optimizer = (torch.optim.SGD if "momentum" in options else torch.optim.AdamW)(groups, **options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS - warmup)
    if warmup:
        rise = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1, warmup)
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, schedule], [warmup])

    def loss_of_batch(index):
        shape = (batch, 3, 32, 32)
        x = torch.from_numpy(units(f"curve/input{index}", math.prod(shape)).reshape(shape)).to(dtype) * 2
        return F.cross_entropy(model(x), labels(f"curve/labels{index}", batch, 10), label_smoothing=SMOOTHING)

    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of_batch(step % BATCHES)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        losses.append(loss_of_batch(0).item())
    return np.array(losses)


def generate_curves():
    golden = {}
    for case in CURVES:
        exact, rounded = curve(case, torch.float64), curve(case, torch.float32)
        worst = np.max(np.abs(exact - rounded) / exact)
        print(f"{case}: {exact[0]:.3f} to {exact[-2]:.3f}, evaluated {exact[-1]:.3f}; float32 differs by {worst:.1e}", flush=True)
        assert worst < 1e-4, "a curve that float32 cannot follow measures nothing"
        golden[case] = exact
    save_file(golden, HERE / "curves.safetensors")


def main():
    torch.set_num_threads(2)
    for name in sys.argv[1:] or [*MODELS, "curves"]:
        generate_curves() if name == "curves" else generate_model(name)


if __name__ == "__main__":
    main()
