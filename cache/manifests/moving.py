"""Moving marks into the manifest of their group, and taking shards out of it.

`cache.manifests.manifest` has the order in which files are written, which a process killed at any moment leaves good.
Whoever calls has the group to itself, or adds marks to it at most.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from cache.manifests.groups import decode_digests, digests_key, encode_digests, encode_states, states_key
from cache.manifests.manifest import NONE, Manifest, encode_manifest, manifest_key, parse_manifest
from cache.marks import KEPT_DIGEST_BYTES, Mark, faces_digest, mark_key, single_marks
from cache.shards import Layout
from cache.storage.base import Storage

Check = Callable[[], None]  # raises where this process may write no more


def gather_marks(files: Storage, layout: Layout, group: int, check: Check) -> bool:
    """Moves the marks of a group into its manifest, if all its shards are marked and nothing of them is damaged;
    durable on return. Whether it is done.

    Of a group whose marks have moved before, it writes the files beside them anew. `check` is called before each
    change.
    """
    single = sorted(single_marks(files) & set(layout.group(group)))
    before = _manifest(files, layout, group)
    marks, first = dict(before.marks), layout.rows_of_group(group)[0]
    digests = np.zeros((layout.rows_of_group(group)[1] - first, KEPT_DIGEST_BYTES), np.uint8)
    old = next(files.get_many([digests_key(group)])) if len(single) < len(layout.group(group)) else None
    for shard, found in _read(files, single):
        if found is None or found[0].rows != layout.rows(shard):
            return False
        marks[shard], digests[slice(*(row - first for row in found[0].rows))] = found
    for shard in layout.group(group):
        if shard not in marks:
            return False
        if shard not in single:
            kept = decode_digests(old, layout, group, *layout.rows(shard))
            if kept is None or faces_digest(kept) != marks[shard].faces:
                return False
            digests[slice(*(row - first for row in layout.rows(shard)))] = kept
    made = {
        digests_key(group): encode_digests(digests, layout),
        states_key(group): encode_states(marks, layout, group),
        manifest_key(group): encode_manifest(marks, layout, group),
    }
    for key, data in made.items():  # also what is there already: it may not be durable yet
        check()
        files.put(key, data)
    check()
    files.delete([mark_key(shard) for shard in single])
    return True


def remove_marks(files: Storage, layout: Layout, shard_numbers: Iterable[int], check: Check) -> None:
    """From here on the shards count as not done, also after a crash; so do those of the same groups whose lines in the
    manifest are damaged. `check` is called before each change."""
    numbers = set(shard_numbers)
    for group in sorted({layout.group_of(shard) for shard in numbers}):
        manifest = _manifest(files, layout, group)
        if numbers & (manifest.marks.keys() | manifest.damaged):
            left = {shard: mark for shard, mark in manifest.marks.items() if shard not in numbers}
            check()
            _replace(files, layout, group, left)
    check()
    files.delete([mark_key(shard) for shard in sorted(numbers)])


def _replace(files: Storage, layout: Layout, group: int, left: dict[int, Mark]) -> None:
    """A manifest of fewer shards; none where none is left."""
    if not left:
        files.delete([manifest_key(group)])
        files.delete([digests_key(group), states_key(group)])
        return
    files.put(manifest_key(group), encode_manifest(left, layout, group))
    files.put(states_key(group), encode_states(left, layout, group))


def _manifest(files: Storage, layout: Layout, group: int) -> Manifest:
    data = next(files.get_many([manifest_key(group)]))
    return NONE if data is None else parse_manifest(data, layout, group)


def _read(files: Storage, single: Sequence[int]) -> Iterable[tuple[int, tuple[Mark, np.ndarray] | None]]:
    """Marks that lie in files of their own, with their face digests; None for one that is damaged or not there."""
    for shard, data in zip(single, files.get_many([mark_key(shard) for shard in single]), strict=True):
        try:
            yield shard, None if data is None else Mark.from_file(data)
        except ValueError:
            yield shard, None
