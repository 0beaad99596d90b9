"""Trains for eight steps with hvd.elastic and commits every second one. `rank:step:how` makes a
rank fail there, once.
"""

import os
import signal
import sys

import horovod.torch as hvd
import torch

hvd.init()
torch.manual_seed(hvd.rank())
model = torch.nn.Linear(4, 1)
optimizer = hvd.DistributedOptimizer(
    torch.optim.SGD(model.parameters(), lr=0.01), named_parameters=model.named_parameters()
)


def fail_if_told(step):
    for number, text in enumerate(sys.argv[1:]):
        mark = f"failed_{number}"
        if text.startswith(f"{hvd.rank()}:{step}:") and not os.path.exists(mark):
            open(mark, "w").close()
            if text.endswith("kill"):
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("told to")


@hvd.elastic.run
def train(state):
    print(
        "begins at",
        state.step,
        "pid",
        os.getpid(),
        "restart",
        os.environ["TORCHELASTIC_RESTART_COUNT"],
        flush=True,
    )
    while state.step < 8:
        fail_if_told(state.step)
        optimizer.zero_grad()
        model(torch.full((2, 4), 1.0 + state.step)).sum().backward()
        optimizer.step()
        state.step += 1
        if state.step % 2 == 0:
            state.commit()


train(hvd.elastic.TorchState(model, optimizer, step=0))
print(f"ends as {hvd.rank()} of {hvd.size()} weights {model.weight.sum().item():.6f}")
