"""The trainer's task with Hugging Face's Trainer: fine-tune a ResNet-18 on DIR/train/<class>/ and
DIR/val/<class>/.

    python -m launcher --nproc-per-node 2 examples/with_transformers.py DIR

Nothing in here knows of the launcher: the Trainer takes ranks that are there already, as it does
from torchrun. Needs the packages transformers and accelerate.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from transformers import (
    EvalPrediction,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TO_NETWORK = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
RESNET18 = {
    "layer_type": "basic",
    "depths": [2, 2, 2, 2],
    "hidden_sizes": [64, 128, 256, 512],
    "embedding_size": 64,
}


def collate(pictures: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    """The batch under the names that the network's forward() has."""
    images, labels = zip(*pictures, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The part of the pictures whose class was found."""
    right = np.argmax(prediction.predictions, axis=1) == prediction.label_ids
    return {"accuracy": float(right.mean())}


def main() -> None:
    """Train, and print the figures of the last epoch on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", metavar="DIR")
    parser.add_argument("--weights", help="microsoft/resnet-18, say; without it, from nothing")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=4, help="of each rank")
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--output-dir", default="outputs")
    args = parser.parse_args()

    set_seed(0)
    size = args.image_size
    training = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *TO_NETWORK])
    validation = v2.Compose([v2.Resize(size * 256 // 224), v2.CenterCrop(size), *TO_NETWORK])
    train = ImageFolder(os.path.join(args.data, "train"), training)
    val = ImageFolder(os.path.join(args.data, "val"), validation)
    if args.weights:
        network = ResNetForImageClassification.from_pretrained(
            args.weights, num_labels=len(train.classes), ignore_mismatched_sizes=True
        )
    else:
        config = ResNetConfig(num_labels=len(train.classes), **RESNET18)
        network = ResNetForImageClassification(config)
    trainer = Trainer(
        network,
        TrainingArguments(
            args.output_dir,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=args.batch_size,
            learning_rate=args.lr,
            optim="sgd",
            optim_args="momentum=0.9",
            lr_scheduler_type="cosine",
            save_strategy="no",
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            ddp_find_unused_parameters=False,
        ),
        train_dataset=train,
        eval_dataset=val,
        data_collator=collate,
        compute_metrics=accuracy,
    )
    trainer.train()
    figures = trainer.evaluate()
    if trainer.is_world_process_zero():
        print(f"val loss {figures['eval_loss']:.4f} accuracy {figures['eval_accuracy']:.1%}")


if __name__ == "__main__":
    main()
