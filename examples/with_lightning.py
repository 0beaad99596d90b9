"""The trainer's task with Lightning: fine-tune a ResNet-18 on DIR/train/<class>/ and
DIR/val/<class>/.

    python -m launcher --nproc-per-node 2 examples/with_lightning.py DIR

Nothing in here knows of the launcher: Lightning takes ranks that are there already, as it does from
torchrun. Needs the package lightning.
"""

from __future__ import annotations

import argparse
import os

import lightning
import torch
import torchvision
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TO_NETWORK = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


class Classifier(lightning.LightningModule):
    """A ResNet-18 with a last layer for the classes at hand."""

    def __init__(self, num_classes: int, weights: str | None, lr: float) -> None:
        super().__init__()
        self.network = torchvision.models.resnet18(weights=weights)
        self.network.fc = torch.nn.Linear(self.network.fc.in_features, num_classes)
        self.lr = lr

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        images, labels = batch
        return F.cross_entropy(self.network(images), labels)

    def validation_step(self, batch: list[torch.Tensor], _: int) -> None:
        images, labels = batch
        logits = self.network(images)
        right = (logits.argmax(1) == labels).float().mean()
        figures = {"val_loss": F.cross_entropy(logits, labels), "val_accuracy": right}
        self.log_dict(figures, sync_dist=True, batch_size=len(labels))

    def configure_optimizers(self) -> tuple[list, list]:
        optimizer = torch.optim.SGD(self.network.parameters(), lr=self.lr, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)]


def main() -> None:
    """Train, and print the figures of the last epoch on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", metavar="DIR")
    parser.add_argument("--weights", help="IMAGENET1K_V1, say; without it, from nothing")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=4, help="of each rank")
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--image-size", type=int, default=224)
    args = parser.parse_args()

    lightning.seed_everything(0, verbose=False)
    size = args.image_size
    training = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *TO_NETWORK])
    validation = v2.Compose([v2.Resize(size * 256 // 224), v2.CenterCrop(size), *TO_NETWORK])
    train = ImageFolder(os.path.join(args.data, "train"), training)
    val = ImageFolder(os.path.join(args.data, "val"), validation)
    trainer = lightning.Trainer(
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", 1)),
        max_epochs=args.epochs,
        sync_batchnorm=torch.cuda.is_available(),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        Classifier(len(train.classes), args.weights, args.lr),
        DataLoader(train, args.batch_size, shuffle=True),
        DataLoader(val, args.batch_size),
    )
    if trainer.is_global_zero:
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        print(f"val loss {figures['val_loss']:.4f} accuracy {figures['val_accuracy']:.1%}")


if __name__ == "__main__":
    main()
