"""Print lines that say whose they are and which. Argument: how many."""

import os
import sys

rank = os.environ.get("RANK") or os.environ["OMPI_COMM_WORLD_RANK"]
for number in range(int(sys.argv[1])):
    print(f"<rank {rank} line {number} {'x' * 70}>")
