"""The training loop of PyTorch's transfer learning tutorial, one epoch: prints images/s of
training, in plain words of ours.

Arguments: DATA. One process, float32, four loader processes, batches of 4, ResNet-18 without
pretrained weights.
"""

import os
import sys
import time
import warnings

import torch
from torch import nn
from torchvision import datasets, models, transforms

normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
RECIPE = {
    "train": [
        transforms.RandomResizedCrop(224),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        normalise,
    ],
    "val": [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), normalise],
}


def main() -> None:
    """Train, then validate."""
    warnings.simplefilter(
        "ignore"
    )  # four loader processes are too many for a small machine, says torch
    sets = {
        split: datasets.ImageFolder(os.path.join(sys.argv[1], split), transforms.Compose(steps))
        for split, steps in RECIPE.items()
    }
    loaders = {
        split: torch.utils.data.DataLoader(s, batch_size=4, shuffle=True, num_workers=4)
        for split, s in sets.items()
    }
    model = models.resnet18(weights=None)
    model.fc = nn.Linear(model.fc.in_features, len(sets["train"].classes))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    for split, loader in loaders.items():
        model.train(split == "train")
        loss_sum, right, began = 0.0, 0, time.monotonic()
        for inputs, labels in loader:
            optimizer.zero_grad()
            with torch.set_grad_enabled(split == "train"):
                outputs = model(inputs)
                loss = criterion(outputs, labels)
                if split == "train":
                    loss.backward()
                    optimizer.step()
            loss_sum += loss.item() * inputs.size(0)
            right += int((outputs.argmax(1) == labels).sum())
        speed = len(sets[split]) / (time.monotonic() - began)
        print(
            f"{split} loss {loss_sum / len(sets[split]):.4f} accuracy"
            f" {right / len(sets[split]):.4f} images/s {speed:.2f}"
        )


if __name__ == "__main__":
    main()
