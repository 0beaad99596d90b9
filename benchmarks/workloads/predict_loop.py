"""A plain loop over torchvision that names the class of each picture, one after the other.

Arguments: MODEL.PT FOLDER. One process, float32, a picture at a time.
"""

import os
import sys

import torch
from PIL import Image
from torchvision import models, transforms

prepare = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


def main() -> None:
    """Print a line for each picture below the folder."""
    content = torch.load(sys.argv[1], weights_only=True)
    model = models.resnet18(weights=None, num_classes=len(content["classes"]))
    model.load_state_dict(content["model"])
    model.eval()
    for folder, _, names in sorted(os.walk(sys.argv[2])):
        for name in sorted(names):
            try:
                picture = Image.open(os.path.join(folder, name)).convert("RGB")
            except OSError:  # no picture
                continue
            with torch.no_grad():
                chances = model(prepare(picture)[None]).softmax(1)[0]
            best = int(chances.argmax())
            print(f"{name}: {content['classes'][best]} {chances[best]:.1%}", flush=True)


if __name__ == "__main__":
    main()
