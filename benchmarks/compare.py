"""Ours and a peer's, run alternately in one go: the ratio of their times, and their peak memory.

    python benchmarks/compare.py --peer torchvision --peer-python ~/peers/bin/python --case infer-1x800x1216 \\
        --json compare.json --plot compare.png
    python benchmarks/compare.py --peer torchvision --peer-python ... --case infer-1x800x1216 --compiled --bf16
    python benchmarks/compare.py --peer model_garden --peer-python ... --case train-2x512x512

Every run is a process of its own, so that memory and start-up are its own. torchvision's script writes weights and
pictures first, and ours takes the same ones. Against torchvision a prediction includes masks pasted into the picture;
the TF Model Garden's ends, as ours does then, with masks in their boxes' frames, and both take pictures of the next
multiples of 64, which its pyramid wants. 1000 proposals, 100 detections. Not the same: torchvision's calls begin with a
resize that changes nothing, and the Model Garden has made its RPN's targets before the step; it trains all layers, with
batch norms that learn, which ours does with `--train-all`.

Ours runs as its commands do, with `keep_freed_memory`. `--tune-peer` gives the peer the same settings of the C library.
The peers' scripts stand in `../shared/peers`; `--peer-scripts` says where else.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What kmaskrcnn.allocation.keep_freed_memory sets, for programs that do not call it.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
CASES = ("infer-1x800x1216", "infer-2x512x512", "train-2x512x512", "train-1x800x1216")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", choices=("torchvision", "model_garden"), required=True)
    parser.add_argument("--peer-python", required=True, help="a Python that has the peer")
    parser.add_argument("--peer-scripts", type=Path, default=HERE.parents[1] / "shared" / "peers")
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--compiled", action="store_true", help="torchvision compiled as a whole")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 on our side")
    parser.add_argument("--peer-bf16", action="store_true", help="bfloat16 on the peer's side")
    parser.add_argument("--train-all", action="store_true", help="freeze nothing on our side")
    parser.add_argument(
        "--tune-peer", action="store_true", help="let the peer keep freed memory, as ours does"
    )
    parser.add_argument(
        "--pairs", type=int, default=5, help="how often both run (at least 5 count)"
    )
    parser.add_argument("--runs", type=int, default=3, help="timed calls a process")
    parser.add_argument(
        "--warmup", type=int, help="calls before them; by default 2, and 4 if compiled"
    )
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--plot", type=Path, help="draw the pairs into this PNG")
    args = parser.parse_args()
    if args.warmup is None:
        args.warmup = 4 if args.compiled else 2  # torch compiles again in the second
    if args.peer == "model_garden" and (args.compiled or args.peer_bf16):
        parser.error("--compiled, --peer-bf16: the TF Model Garden's script has neither")
    if args.train_all and args.case.startswith("infer"):
        parser.error("--train-all: a prediction trains nothing")
    if args.compiled and args.case.startswith("train"):
        parser.error("--compiled: torchvision's script compiles predictions alone")
    return args


def kind_and_shape(args):
    """`("infer", "1x800x1216")` of a case; beside the Model Garden in multiples of 64, which its pyramid wants."""
    kind, _, shape = args.case.partition("-")
    if args.peer == "model_garden":
        batch, *sides = map(int, shape.split("x"))
        shape = "x".join(map(str, (batch, *(-(-side // 64) * 64 for side in sides))))
    return kind, shape


def our_command(args, dumped):
    """The command that times one process of ours."""
    kind, shape = kind_and_shape(args)
    script = "inference.py" if kind == "infer" else "train_step.py"
    calls = ["--warmup", args.warmup, "--runs", args.runs]
    command = [sys.executable, HERE / script, "--case", shape, *calls]
    command += ["--bf16"] * args.bf16
    command += ["--train-all"] * args.train_all
    if dumped:
        command += ["--weights", f"{dumped}.weights.npz", "--images", f"{dumped}.images.npz"]
    if args.peer == "torchvision" and kind == "infer":
        command += ["--paste"]
    return command


def peer_command(args, dump=None):
    """The command that times one process of the peer; with `dump` it writes weights and pictures."""
    kind, shape = kind_and_shape(args)
    if args.peer == "model_garden":
        batch, height, width = shape.split("x")
        sizes = ["--batch", batch, "--height", height, "--width", width]
        script = [args.peer_scripts / "bench_mg.py", "--mode", kind, "--head", "2fc", *sizes]
        # With fewer than 4 it would not leave out the calls that others disturbed.
        calls = ["--warmup", args.warmup, "--iters", max(4, args.runs)]
        return [args.peer_python, *script, *calls, "--out", "/dev/null"]
    if dump:
        writes = ["--case", shape, "--dump", dump, "--warmup", 0, "--runs", 1]
        return [args.peer_python, args.peer_scripts / "bench_infer.py", *writes]
    script = "bench_infer.py" if kind == "infer" else "bench_train.py"
    command = [args.peer_python, args.peer_scripts / script, "--case", shape]
    # Ours, and the Model Garden's, have a first call before the warm-up.
    command += ["--warmup", args.warmup + 1, "--runs", args.runs]
    command += ["--threads", len(os.sched_getaffinity(0))]
    command += ["--bf16"] * args.peer_bf16
    return command + ["--variant", "compile_whole"] * args.compiled


def run(command, folder, **variables):
    """One process; the JSON of its last line, with the share of the machine that others took meanwhile."""
    before, start = cpu_seconds(), time.perf_counter()
    done = subprocess.run(
        [str(x) for x in command],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **variables},
    )
    passed, after = time.perf_counter() - start, cpu_seconds()
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stderr[-3000:]}")
    all_of_it, own = (b - a for a, b in zip(before, after))
    return {**json.loads(lines[-1]), "others": round((all_of_it - own) / passed, 2)}


def cpu_seconds():
    """Of the whole machine so far, and of the children of this process."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (user + nice + system) / os.sysconf("SC_CLK_TCK"), own.ru_utime + own.ru_stime


def compare(args):
    """The record of one comparison."""
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        dumped = Path(folder) / "torchvision" if args.peer == "torchvision" else None
        if dumped:
            run(peer_command(args, dumped), folder)
        for pair in range(args.pairs):
            ours.append(run(our_command(args, dumped), folder))
            theirs.append(run(peer_command(args), folder, **(MALLOC if args.tune_peer else {})))
            seconds = ours[-1]["median_s"], theirs[-1]["median_s"]
            print(f"pair {pair + 1}: ours {seconds[0]} s, {args.peer} {seconds[1]} s", flush=True)
    ratios = [a["median_s"] / b["median_s"] for a, b in zip(ours, theirs)]
    return {
        "peer": args.peer + ", compiled" * args.compiled,
        "tuned_peer": args.tune_peer,
        "train_all": args.train_all,
        "case": args.case,
        "shape": kind_and_shape(args)[1],
        "bf16": args.bf16,
        "peer_bf16": args.peer_bf16,
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "pairs": len(ratios),
        "warmup": args.warmup,
        "ours_s": [record["median_s"] for record in ours],
        "peer_s": [record["median_s"] for record in theirs],
        "ours_peak_mb": max(record["peak_mb"] for record in ours),
        "peer_peak_mb": max(record["peak_rss_mb"] for record in theirs),
        "ours_build_s": statistics.median(record["build_s"] for record in ours),
        "ours_first_call_s": statistics.median(record["first_call_s"] for record in ours),
        "ours_import_s": statistics.median(record["import_s"] for record in ours),
        # How much there was to do: masks of a prediction, regions of the mask head in a step.
        "ours_detections": [record.get("detections") for record in ours],
        "peer_detections": [
            record.get("detections", record.get("num_detections")) for record in theirs
        ],
        "ours_mask_regions": [record.get("mask_regions") for record in ours],
        "peer_mask_regions": [record.get("mask_rois") for record in theirs],
        "ours_kernels": ours[-1]["kernels"],
        # Processors that others kept busy: a pair with more than some hundredths says little.
        "others_busy": [[a["others"], b["others"]] for a, b in zip(ours, theirs)],
    }


def plot(record, path):
    """Both systems' times, pair by pair."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.2))
    pairs = range(1, record["pairs"] + 1)
    axes.plot(pairs, record["peer_s"], "o-", color="0.6", label=record["peer"])
    axes.plot(pairs, record["ours_s"], "o-", color="tab:green", label="kmaskrcnn")
    axes.set(title=f"{record['case']}: ratio {record['ratio_median']}", xlabel="pair", ylabel="s")
    axes.set_xticks(list(pairs))
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    args = parse()
    record = compare(args)
    print(json.dumps(record, indent=2))
    if args.json:
        args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if args.plot:
        plot(record, args.plot)


if __name__ == "__main__":
    main()
