"""Extraction of very many faces by many devices from an object store: on paper, and simulated shard by shard.

python -m bench.simulate [--faces 1e9] [--gpus 64] [--single-jpegs] [--set NAME=NUMBER ...]

The paper multiplies; the simulation hands out every shard to the next free device, lets it read, decode, embed and
write with two shards in hand, counts requests against the rates of the store's prefixes, and loses devices. Where both
agree the paper may be believed, and where they do not the simulation says which resource the devices wait for.
Times are in seconds, sizes in bytes, money in dollars.
"""

import argparse
import dataclasses
import heapq
import random
from collections.abc import Mapping
from dataclasses import dataclass

MILLION, HOUR = 1e6, 3600.0
GROUP_SHARDS, MOVERS = 1000, 16  # shards of a manifest; marks that are read at once when they move into it
FILES_PER_GROUP = 3  # manifest, face digests, states
PUTS_PER_SHARD = 2 + FILES_PER_GROUP / GROUP_SHARDS  # embeddings, mark, and what the mark moves into
OBJECTS_PER_SHARD = 1 + FILES_PER_GROUP / GROUP_SHARDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What there is to do, what does it, and the measured rates. docs/scale.md has the source of each default."""

    faces: float = 1e9
    gpus: int = 64
    face_bytes: float = 4_000.0
    width: int = 768
    value_bytes: int = 2
    shard_rows: int = 4096
    archive_faces: int = 100_000  # in one archive; 0: every face is an object of its own
    faces_per_s: float = 3_376.0  # one device, the backbone alone
    decode_per_s: float = 3_500.0  # faces, one core
    overhead_s: float = 11e-6  # of one core per face, beside decoding
    cores_per_gpu: float = 4.0
    bytes_per_s: float = 1.25e9 / 8  # of the network, for one device
    get_s: float = 0.03
    put_s: float = 0.06
    streams_at_once: int = 32  # requests under way for one device
    gets_per_s: float = 5_500.0  # of one prefix
    puts_per_s: float = 3_500.0
    prefixes: int = 1
    driver_s: float = 0.0025  # of the one process that hands out shards, for one of them
    lifetime_hours: float = 24.0  # of a device, on average, before it is taken away; 0: never
    restart_s: float = 180.0
    gpu_dollars: float = 0.5  # an hour
    put_dollars: float = 5.0  # a million
    get_dollars: float = 0.4
    gb_month_dollars: float = 0.023

    @property
    def shards(self) -> int:
        return int(-(-self.faces // self.shard_rows))

    @property
    def gets_per_shard(self) -> float:
        """A range of an archive, and now and then of the next one; or every face."""
        return self.shard_rows if not self.archive_faces else 1 + self.shard_rows / self.archive_faces

    @property
    def shard_bytes(self) -> float:
        """Embeddings, half digests, states and the index."""
        return self.shard_rows * (self.width * self.value_bytes + 9) + 16 * self.shard_rows / 64

    @property
    def face_s(self) -> dict[str, float]:
        """Seconds of a device per face, by what it waits for where that is all it did."""
        per_shard = 1 / self.shard_rows
        read = self.gets_per_shard * self.get_s / self.streams_at_once
        return {
            "backbone": 1 / self.faces_per_s,
            "cores": (1 / self.decode_per_s + self.overhead_s) / self.cores_per_gpu,
            "network": self.face_bytes / self.bytes_per_s + self.shard_bytes / self.bytes_per_s * per_shard,
            "latency of reads": read * per_shard,
            "latency of writes": (PUTS_PER_SHARD * self.put_s + self.get_s / MOVERS) * per_shard,
        }

    @property
    def shared_s(self) -> dict[str, float]:
        """Seconds per face of what all devices share."""
        per_shard = 1 / self.shard_rows
        return {
            "GET rate of the prefixes": self.gets_per_shard / (self.gets_per_s * self.prefixes) * per_shard,
            "PUT rate of the prefixes": PUTS_PER_SHARD / (self.puts_per_s * self.prefixes) * per_shard,
            "driver": self.driver_s * per_shard,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """`waits` are the shares of the devices' time by what they waited for."""

    hours: float
    gpu_hours: float
    redone_shards: int
    waits: Mapping[str, float]


def on_paper(plan: Plan) -> Result:
    """The slowest of what a device does and of what all share; lost devices cost half a shard and a restart each."""
    own, shared = plan.face_s, plan.shared_s
    slowest = max(max(own.values()) / plan.gpus, *shared.values())
    seconds = plan.faces * slowest
    lost = plan.gpus * seconds / HOUR / plan.lifetime_hours if plan.lifetime_hours else 0.0
    seconds += lost * (plan.restart_s + 0.5 * plan.shard_rows * max(own.values())) / plan.gpus
    waits = {name: each / plan.gpus / slowest for name, each in own.items()}
    waits |= {name: each / slowest for name, each in shared.items()}
    return Result(hours=seconds / HOUR, gpu_hours=seconds / HOUR * plan.gpus, redone_shards=round(lost), waits=waits)


def devices_until(plan: Plan) -> dict[str, float]:
    """The number of devices at which each shared resource is all used, the first to break first."""
    slowest = max(plan.face_s.values())
    found = {name: slowest / each if each else float("inf") for name, each in plan.shared_s.items()}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def simulate(plan: Plan, seed: int = 0) -> Result:
    """Every shard by the device that is free first; each device reads ahead of its backbone and writes behind it."""
    rng = random.Random(seed)
    rows, own = plan.shard_rows, plan.face_s
    read_s = max(rows * own["network"], rows * own["latency of reads"])
    decode_s, embed_s, write_s = rows * own["cores"], rows * own["backbone"], rows * own["latency of writes"]
    prepare_s = max(read_s, decode_s)  # of different threads: a shard is ready when the slower of them is
    free: dict[str, float] = dict.fromkeys(plan.shared_s, 0.0)
    queue = [(0.0, index) for index in range(plan.gpus)]
    embedded, written = [0.0] * plan.gpus, [0.0] * plan.gpus
    dies = [_lifetime(plan, rng) for _ in range(plan.gpus)]
    waits = dict.fromkeys([*own, *plan.shared_s, "restart"], 0.0)
    todo, redone, end = plan.shards, 0, 0.0
    while todo:
        now, device = heapq.heappop(queue)
        begun = _served(free, waits, plan, "driver", now, rows)
        granted = _served(free, waits, plan, "GET rate of the prefixes", begun, rows)
        ready = max(granted, begun + prepare_s * rng.uniform(0.9, 1.1))
        start = max(ready, embedded[device], written[device] - embed_s)  # one shard is written while one is embedded
        done = start + embed_s
        stored = max(_served(free, waits, plan, "PUT rate of the prefixes", done, rows), written[device]) + write_s
        if stored > dies[device]:
            restarted = dies[device] + plan.restart_s
            waits["restart"] += plan.restart_s
            dies[device], redone = restarted + _lifetime(plan, rng), redone + 1
            embedded[device] = written[device] = restarted
            heapq.heappush(queue, (restarted, device))
            continue
        for name, each in zip(own, (embed_s, decode_s, rows * own["network"], read_s, write_s), strict=True):
            waits[name] += each
        embedded[device], written[device], todo = done, stored, todo - 1
        end = max(end, stored)
        heapq.heappush(queue, (start, device))  # it reads the next one once this one is being embedded
    total = end * plan.gpus
    return Result(
        hours=end / HOUR,
        gpu_hours=total / HOUR,
        redone_shards=redone,
        waits={name: each / total for name, each in waits.items()},
    )


def _lifetime(plan: Plan, rng: random.Random) -> float:
    return rng.expovariate(1 / (plan.lifetime_hours * HOUR)) if plan.lifetime_hours else float("inf")


def _served(free: dict[str, float], waits: dict[str, float], plan: Plan, name: str, now: float, rows: int) -> float:
    """When a shared resource has served a shard's share of it, one after the other."""
    start = max(now, free[name])
    free[name] = start + plan.shared_s[name] * rows
    waits[name] += free[name] - now
    return free[name]


def costs(plan: Plan, result: Result) -> dict[str, float]:
    """Objects, requests, bytes and dollars; the faces' own archives are put once."""
    archives = plan.faces if not plan.archive_faces else -(-plan.faces // plan.archive_faces)
    puts, gets = plan.shards * PUTS_PER_SHARD, plan.shards * (plan.gets_per_shard + 1)  # one of its mark
    face_bytes, stream_bytes = plan.faces * plan.face_bytes, plan.shards * plan.shard_bytes
    dollars = {
        "dollars for the devices": result.gpu_hours * plan.gpu_dollars,
        "dollars to put the faces": archives * plan.put_dollars / MILLION,
        "dollars to put the shards": (puts * plan.put_dollars + plan.shards * plan.get_dollars) / MILLION,
        "dollars to get the faces": plan.shards * plan.gets_per_shard * plan.get_dollars / MILLION,
        "dollars a month for the faces": face_bytes / 1e9 * plan.gb_month_dollars,
        "dollars a month for the stream": stream_bytes / 1e9 * plan.gb_month_dollars,
    }
    return {
        "objects of faces": archives,
        "objects of the stream": plan.shards * OBJECTS_PER_SHARD,
        "PUTs": puts + archives,
        "GETs": gets,
        "TB of faces": face_bytes / 1e12,
        "TB of the stream": stream_bytes / 1e12,
        **dollars,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description="A billion faces on paper.")
    parser.add_argument("--faces", type=float, default=Plan().faces)
    parser.add_argument("--gpus", type=int, default=Plan().gpus)
    parser.add_argument("--single-jpegs", action="store_true", help="every face is an object of its own")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="any field of Plan")
    given = parser.parse_args()
    plan = Plan(faces=given.faces, gpus=given.gpus, archive_faces=0 if given.single_jpegs else 100_000)
    for text in given.set:
        name, _, value = text.partition("=")
        known = {each.name: type(each.default) for each in dataclasses.fields(Plan)}
        if name not in known:
            parser.error(f"--set {text}: no such number; there: {', '.join(known)}")
        plan = dataclasses.replace(plan, **{name: known[name](float(value))})
    paper, found = on_paper(plan), simulate(plan)
    print(f"{plan.faces:,.0f} faces, {plan.gpus} devices, {plan.shards:,} shards of {plan.shard_rows:,}")
    print(f"{'':32} {'paper':>12} {'simulated':>12}")
    for name, one, other in (
        ("hours", paper.hours, found.hours),
        ("device hours", paper.gpu_hours, found.gpu_hours),
        ("shards done again", paper.redone_shards, found.redone_shards),
    ):
        print(f"{name:32} {one:>12,.2f} {other:>12,.2f}")
    for name, value in costs(plan, found).items():
        print(f"{name:32} {'':>12} {value:>12,.2f}")
    print(f"{'a device is limited by':32} {max(plan.face_s, key=plan.face_s.__getitem__)}")
    for name, devices in devices_until(plan).items():
        print(f"{name:32} is all used at {devices:,.0f} devices")


if __name__ == "__main__":
    main()
