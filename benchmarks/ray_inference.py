"""Batch inference with Ray: a folder of pictures, a SavedModel, any number of workers; COCO results in shards.

    python benchmarks/ray_inference.py exported/ pictures/ results/ --workers 2
    python benchmarks/ray_inference.py exported/ pictures/ results/ --workers 2 --kill 3   # and kill three workers

Start it again after any interruption: finished shards are kept. On a cluster, `ray.init` finds the machines, and the
three paths lie on storage that all of them see. Each worker loads the model once. `--kill` is the test of it: that many
workers get SIGKILL in the midst of their work, and the result still holds every picture once.
"""

import argparse
import collections
import json
import os
import signal
import time

import ray

from kmaskrcnn.serving.shards import detect_shard, merge_shards, plan_shards


@ray.remote(max_restarts=-1, max_task_retries=-1)
class Worker:
    """Holds the model; Ray starts it again, and what it was doing, when it dies."""

    def __init__(self, model):
        from kmaskrcnn.serving.predictor import Predictor

        self.predictor = Predictor(model)

    def process(self):
        return os.getpid()

    def detect(self, shard):
        return detect_shard(self.predictor, shard)


def run(model, shards, workers, kill):
    """Detect all shards, kill some workers on the way; returns how many were killed."""
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    actors = [Worker.remote(model) for _ in range(workers)]
    waiting = [actors[i % workers].detect.remote(shard) for i, shard in enumerate(shards)]
    killed = 0
    while waiting:
        done, waiting = ray.wait(waiting, timeout=1.0)
        ray.get(done)
        if killed < kill and waiting and done:
            victim = ray.get(actors[killed % workers].process.remote())
            time.sleep(0.2)  # it has begun with the next shard by then
            os.kill(victim, signal.SIGKILL)
            killed += 1
    ray.shutdown()
    return killed


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a SavedModel's folder, or what else `Predictor` takes")
    parser.add_argument("pictures", help="a folder")
    parser.add_argument("output", help="a folder for shards and results.json")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard-size", type=int, default=64)
    parser.add_argument("--kill", type=int, default=0, help="workers to kill on the way")
    args = parser.parse_args()
    shards = plan_shards(args.pictures, args.output, args.shard_size)
    killed = run(os.path.abspath(args.model), shards, args.workers, args.kill)
    merged = os.path.join(args.output, "results.json")
    pictures, results, unreadable = merge_shards(shards, merged)
    planned = {i for shard in shards for i, _ in shard.pictures}
    ids = collections.Counter(
        image["id"] for shard in shards for image in json.loads(open(shard.path).read())["images"]
    )
    record = {
        "pictures": pictures,
        "doubled": sum(count > 1 for count in ids.values()),
        "lost": len(planned - set(ids)),
        "results": results,
        "unreadable": unreadable,
        "workers_killed": killed,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
