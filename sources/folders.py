"""Folders of images: CLASS/*, or train/CLASS/* and validation/CLASS/*, whatever is around them."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from runtime.messages import Refusal, join_some, one_line, problem_list
from sources.source import Entry, FileParts, Listing, digest

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
# These lie beside images and are not worth a note.
NOT_IMAGES = (".txt", ".md", ".csv", ".json", ".xml", ".html", ".db", ".ini", ".log")
# What archives and labelling tools call a split, with a prefix, number or ending or without:
# seg_train, train2017, TestImages.
SPLITS = {
    "train": "train|training",
    "validation": "validation|validate|valid|val|dev|eval|evaluation|holdout",
    "test": "test|testing|pred|prediction",
}

Parts = tuple[str, ...]  # the names of folders on the way from a root to one below it


def scan(root: str, left_out: Sequence[str] = ()) -> dict[Parts, tuple[list[str], list[str]]]:
    """Return of a folder and all below it the paths of images, and the extensions of other files.

    Hidden folders and those in `left_out` are passed over; the order is that of names. Raises
    Refusal that names all folders that cannot be read.
    """
    folders, errors = {}, []
    absent = set(map(os.path.realpath, left_out))
    for path, names, files in os.walk(root, onerror=errors.append, followlinks=True):
        # A link to a folder around it would never end.
        skipped = absent.union(map(os.path.realpath, [path, *Path(path).parents]))
        for found in (names, files):
            visible = (name for name in found if not name.startswith((".", "__MACOSX")))
            found[:] = sorted(visible, key=os.fsencode)
        names[:] = [n for n in names if os.path.realpath(os.path.join(path, n)) not in skipped]
        kinds = [os.path.splitext(name)[1].lower() for name in files]
        images = [
            os.path.join(path, n) for n, k in zip(files, kinds, strict=True) if k in EXTENSIONS
        ]
        others = [one_line(k) or "no-extension" for k in kinds if k not in EXTENSIONS + NOT_IMAGES]
        folders[Path(path).relative_to(root).parts] = images, others
    if errors:
        problems = [f"{one_line(e.filename)} cannot be read: {e.strerror}" for e in errors]
        raise Refusal(problem_list(one_line(root), problems))
    return folders


def list_folder(root: str, left_out: Sequence[str] = ()) -> Listing:
    """Return the images of CLASS/*, or of train/CLASS/* and validation/CLASS/*; raises Refusal.

    There may be folders around these. All else is noted; folders in `left_out` count as absent.
    """
    if not os.path.isdir(root):
        advice = "no such folder; --data takes digits, tfds:NAME or a folder"
        raise Refusal(f"{one_line(root)}: {advice}")
    folders = scan(root, left_out)
    sides = _find_sides({parts: len(images) for parts, (images, _) in folders.items() if images})
    inside = [parts for side in sides for parts in folders if parts and parts[:-1] == side]
    others = Counter(kind for parts in inside or folders for kind in folders[parts][1])
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
    notes = [f"{kinds} files are not read"] if kinds else []
    title = {parts: one_line(os.path.join(root, *parts)) for parts in {*folders, *sides}}
    rest = [parts for parts, (images, _) in folders.items() if images and parts not in inside]
    unused = join_some([f"{len(folders[parts][0])} in {title[parts]}" for parts in rest])
    if not sides:
        found = f"images are not in class folders: {unused}" if unused else "no images"
        needed = f"needed are CLASS/* or train/CLASS/* with {' '.join(EXTENSIONS)}"
        raise Refusal(f"{one_line(root)}: {'; '.join([found, *notes, needed])}")
    if unused or any(len(side) > 1 for side in sides):
        beside = f"; not in them, so not used: {unused}" if unused else ""
        used = " and ".join(title[side] for side in sides)
        notes.append(f"images are taken from the class folders in {used}{beside}")
    if empty := [title[parts] for parts in inside if not folders[parts][0]]:
        notes.append(f"folders without images of their own are not classes: {join_some(empty)}")
    images = [(parts, path) for parts in inside for path in folders[parts][0]]
    source, entries = FileParts([(path, 0, -1) for _, path in images]), []
    for ((*side, label), path), encoded in zip(
        images, source.read(range(len(images))), strict=True
    ):
        label, validation = one_line(label), sides[tuple(side)]
        key = f"{label}/".encode() + os.fsencode(os.path.basename(path))
        entries.append(Entry(one_line(path), label, digest(encoded), validation, key))
    classes = {name: name for name in sorted({entry.label for entry in entries})}
    name = one_line(os.path.basename(os.path.abspath(root)))
    return Listing(name, source, entries, classes, notes)


def _find_sides(images: dict[Parts, int]) -> dict[Parts, bool | None]:
    """Return {folder of class folders: its side, or None without a split}; {} if there is none.

    `images` is {folder: number of images directly in it}; of several folders the fullest counts.
    """
    classes = defaultdict(Counter)  # {folder of class folders: {class: images}}
    for parts in filter(None, images):
        classes[parts[:-1]][parts[-1]] = images[parts]
    splits, around = {}, {}  # the split that a folder belongs to, and where the splits are
    for group in sorted(classes, key=lambda group: (-classes[group].total(), len(group))):
        named = [depth for depth, name in enumerate(group) if _split(name)]
        splits[group] = _split(group[named[-1]]) if named else None
        around[group] = group[: named[0]] if named else group
    train = next((group for group in splits if splits[group] == "train"), None)
    if train is not None:
        inside, beside = classes[train].total(), classes[around[train]]
        loose = beside[train[len(around[train])]]
        plain = [count for name, count in beside.items() if not _split(name)]
        # A class named train is among other classes, or has its images directly in it.
        if inside > loose and (len(plain) < 2 or inside > sum(plain)):
            for wanted in ("validation", "test"):
                for group in splits:
                    is_beside = (splits[group], around[group]) == (wanted, around[train])
                    if is_beside and classes[group].keys() & classes[train].keys():
                        return {train: False, group: True}
            return {train: None}
    # Of two folders with classes of their own, neither is chosen for the user. Images that lie in
    # folders named as splits have no classes.
    whole = next(iter(splits), ())  # the fullest
    is_chosen = 2 * classes[whole].total() > sum(images.values())
    return {whole: None} if is_chosen and not all(map(_split, classes[whole])) else {}


def _split(name: str) -> str | None:
    """Return the split whose name a folder has."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    pattern = r"(?<![a-z])({})(set|data|images)?(?![a-z])"
    return next((key for key in SPLITS if re.search(pattern.format(SPLITS[key]), words)), None)
