#!/usr/bin/env python3
"""Makes transforms.safetensors: what torchvision's v2 transforms make of two small images of bytes.

    python3 -m venv venv && venv/bin/pip install torch torchvision safetensors
    venv/bin/python tests/golden/transforms.py

Made with torch 2.15.0, torchvision 0.29.2, Pillow 13.0.0. A tensor's name says what was done; images are u8[H, W, C].
"""

from pathlib import Path

import PIL.Image
import torch
from safetensors.torch import save_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2 import RandAugment, TrivialAugmentWide

torch.manual_seed(0)
H, W = 23, 31
y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
smooth = torch.stack([y * 11 % 256, x * 8, 128 + 100 * torch.sin(x / 4.0) * torch.cos(y / 3.0)])
rgb = (smooth * 0.6 + torch.rand(3, H, W) * 102).to(torch.uint8)
grey = (torch.rand(1, H, W) * 90 + y * 4).to(torch.uint8)
MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
out = {}


def put(name, image):
    out[name] = image.permute(1, 2, 0).contiguous().clone()


for color, image in [("rgb", rgb), ("grey", grey)]:
    put(color, image)
    for mode, interpolation in MODES.items():
        for h, w in [(11, 15), (8, 8), (23, 15), (10, 31), (46, 62), (40, 37), (9, 50), (2, 3)]:
            put(f"{color}.resize.{mode}.{h}.{w}", F.resize(image, [h, w], interpolation, antialias=True))
        for top, left, h, w, size in [(3, 5, 17, 13, 16), (0, 0, 9, 31, 20), (20, 28, 3, 3, 8)]:
            crop = F.resized_crop(image, top, left, h, w, [size, size], interpolation, antialias=True)
            put(f"{color}.resized_crop.{mode}.{top}.{left}.{h}.{w}.{size}", crop)
    for h, w in [(11, 15), (40, 37)]:
        pil = F.to_pil_image(image).resize((w, h), PIL.Image.NEAREST)
        put(f"{color}.resize.nearest.{h}.{w}", F.pil_to_tensor(pil))
    for size in [12, 13, 25, 28, 40]:
        put(f"{color}.center_crop.{size}", F.center_crop(image, [size, size]))
    put(f"{color}.pad.constant", F.pad(image, [4], fill=7))
    put(f"{color}.pad.edge", F.pad(image, [4], padding_mode="edge"))
    put(f"{color}.pad.reflect", F.pad(image, [4], padding_mode="reflect"))
    put(f"{color}.flip", F.horizontal_flip(image))
    for factor in [0.0, 0.3, 1.0, 1.7]:
        put(f"{color}.brightness.{factor}", F.adjust_brightness(image, factor))
        put(f"{color}.contrast.{factor}", F.adjust_contrast(image, factor))
        put(f"{color}.saturation.{factor}", F.adjust_saturation(image, factor))
        put(f"{color}.sharpness.{factor}", F.adjust_sharpness(image, factor))
    for factor in [-0.5, -0.2, 0.1, 0.35]:
        put(f"{color}.hue.{factor}", F.adjust_hue(image, factor))
    put(f"{color}.posterize.3", F.posterize(image, 3))
    put(f"{color}.solarize.100", F.solarize(image, 100.0))
    put(f"{color}.autocontrast", F.autocontrast(image))
    put(f"{color}.equalize", F.equalize(image))
    space = TrivialAugmentWide()
    for mode in ["nearest", "bilinear"]:
        for op, strengths in {
            "ShearX": [0.3, -0.99],
            "ShearY": [0.165, -0.3],
            "TranslateX": [9.0, -31.0],
            "TranslateY": [3.0, -5.0],
            "Rotate": [4.5, -30.0, 90.0, 135.0],
        }.items():
            for strength in strengths:
                moved = space._apply_image_or_video_transform(image, op, strength, InterpolationMode(mode), {})
                put(f"{color}.affine.{mode}.{op}.{strength}", moved)

# Every operation and every strength that the two automatic augmentations can take, as the numbers that they pass on.
for name, policy in [("trivial", TrivialAugmentWide()), ("rand", RandAugment())]:
    for op, (strengths, signed) in policy._AUGMENTATION_SPACE.items():
        table = strengths(31, H, W)
        table = torch.zeros(0) if table is None else table.double()
        out[f"table.{name}.{op}.{'signed' if signed else 'plain'}"] = table

mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
put("rgb.normalize", F.normalize(F.to_dtype(rgb, torch.float32, scale=True), mean, std))
out["shorter"] = torch.tensor(
    [
        [h, w, side, *F.resize(torch.zeros(1, h, w, dtype=torch.uint8), [side]).shape[-2:]]
        for h, w, side in [(23, 31, 10), (31, 23, 10), (100, 37, 37), (3, 100, 7), (224, 224, 232), (333, 500, 256)]
    ]
)
save_file(out, Path(__file__).with_suffix(".safetensors"))
