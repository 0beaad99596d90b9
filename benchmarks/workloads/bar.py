"""Show a progress bar of 200 steps, which is drawn anew with each."""

import time

from tqdm import tqdm

for _ in tqdm(range(200), mininterval=0):
    time.sleep(0.01)
