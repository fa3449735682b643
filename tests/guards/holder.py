"""The worker process of the story: `python holder.py NAME`, with KEYLANE_URL set and the story's folder as its own.

It reads every target, renews its lease, looks whether it holds, and writes. The one named `first` is held up before it
writes, which is where a pause would hit anybody who looks: it says so and waits to be told to go on.
"""

import json
import sys
from pathlib import Path

import anyio.from_thread
from guards.targets import outcome, target

from keylane import Item, Worker

NAME = sys.argv[1]
worker = Worker(name=NAME, drain_s=1)


@worker.handler("deploy")
def deploy(item: Item[None]) -> dict[str, object]:
    places = json.loads(Path("places.json").read_text())
    targets = {name: target(name.split()[0], at, name.endswith("guarded")) for name, at in places.items()}
    read = {name: each.read() for name, each in targets.items()}
    anyio.from_thread.run(item.progress, {"read": sorted(read)})
    item.check()
    if NAME == "first":
        tell({"checked": NAME, "token": item.token})
        Path("go").read_text()  # a pipe: until the test opens it
    said = {
        name: outcome(lambda name=name, each=each: each.write(f"{read[name]} and {NAME}", item.token))  # type: ignore[misc]
        for name, each in targets.items()
    }
    if NAME == "first":
        tell({"late": said})
    return {"by": NAME, "token": item.token, "attempt": item.attempt, "said": said}


def tell(what: object) -> None:
    with Path("told").open("w") as told:
        told.write(json.dumps(what) + "\n")


if __name__ == "__main__":
    worker.run()
