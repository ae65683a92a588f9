"""The command line of the simulation."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import msgspec

from tests.simulation._planted import PLANTED, hunt
from tests.simulation._universe import Verdict, run_universe

SHOWN = 20


def main(arguments: list[str]) -> int:
    """0: all well. 1: a universe is broken, or a planted bug was not found."""
    logging.lastResort = None
    options = _parse(arguments)
    if options.planted is not None:
        return _planted(options.planted, options.limit, options.first)
    if options.seed is not None:
        return _one(options.seed, trace=options.trace, nasty=options.nasty)
    return _many(options)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--universes", type=int, default=500, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="tell its story")
    parser.add_argument("--nasty", action="store_true", help="more of everything that fails")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--keep-going", action="store_true", help="don't stop after 20 broken ones")
    parser.add_argument("--planted", nargs="?", const="all", metavar="NAME", help="find planted bugs")
    parser.add_argument("--limit", type=int, default=2000, help="universes for each planted bug")
    return parser.parse_args(arguments)


def _one(seed: int, *, trace: bool, nasty: bool) -> int:
    verdict = run_universe(seed, nasty=nasty)
    if trace:
        for at, text in verdict.trace:
            print(f"{at:10.4f}  {text}")
        print(verdict.errors, end="")
    print(_line(verdict), f"digest {verdict.digest}")
    return 1 if verdict.broken else 0


def _line(verdict: Verdict) -> str:
    told = f"BROKEN {verdict.text}" if verdict.broken else "ok"
    return f"seed {verdict.seed}: {told} ({verdict.entries} entries, {verdict.virtual:.0f} s of virtual time)"


def _brief(seed: int, nasty: bool) -> Verdict:
    return msgspec.structs.replace(run_universe(seed, nasty=nasty), trace=[])


def _verdicts(seeds: Iterable[int], jobs: int, nasty: bool) -> Iterator[Verdict]:
    brief = partial(_brief, nasty=nasty)
    if jobs <= 1:
        yield from map(brief, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(brief, seeds, chunksize=10)


def _many(options: argparse.Namespace) -> int:
    first, count, nasty = int(options.first), int(options.universes), bool(options.nasty)
    began, broken = time.monotonic(), list[Verdict]()
    faults, names, runs, entries, cpu = Counter[str](), Counter[str](), 0, 0, 0.0
    done = 0
    for verdict in _verdicts(range(first, first + count), int(options.jobs), nasty):
        done += 1
        faults.update(verdict.faults)
        runs, entries, cpu = runs + verdict.runs, entries + verdict.entries, cpu + verdict.seconds
        if verdict.broken:
            broken.append(verdict)
            names[verdict.broken] += 1
            if len(broken) <= SHOWN:
                print(_line(verdict), flush=True)
                again = f"--seed {verdict.seed} --trace{' --nasty' if nasty else ''}"
                print(f"  again: .venv/bin/python -m tests.simulation {again}", flush=True)
            if len(broken) >= SHOWN and not options.keep_going:
                break
        if done % 100 == 0:
            print(f"{done} of {count}, {len(broken)} broken", file=sys.stderr, flush=True)
    wall = time.monotonic() - began
    print(f"{done} universes, {runs} runs, {entries} entries; {cpu:.1f} s of CPU, {wall:.1f} s")
    print("took effect: " + ", ".join(f"{count} × {what}" for what, count in faults.most_common()))
    if broken:
        print(f"BROKEN: {len(broken)}: " + ", ".join(f"{n} × {name}" for name, n in names.most_common()))
    return 1 if broken else 0


def _planted(which: str, limit: int, first: int) -> int:
    names = list(PLANTED) if which == "all" else [which]
    missed = 0
    for name in names:
        began = time.monotonic()
        verdict = hunt(name, limit, first)
        if verdict is None:
            missed += 1
            print(f"{name}: NOT FOUND in {limit} universes", flush=True)
            continue
        tries = verdict.seed - first + 1
        print(
            f"{name}: found after {tries} universes ({time.monotonic() - began:.1f} s): {verdict.text}",
            flush=True,
        )
    print(f"{len(names) - missed} of {len(names)} planted bugs found")
    return 1 if missed else 0
