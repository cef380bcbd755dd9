"""Folders of images: CLASS/*, or train/CLASS/* and validation/CLASS/*, whatever is around them."""

import json
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime.messages import Refusal, join_some, one_line, problem_list
from sources.layout import Counts, Parts, explain, find_sides, same_form
from sources.source import Entry, FileParts, Listing, digest

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
TABLES = (".csv", ".tsv")
# These lie beside images and are not worth a note.
NOT_IMAGES = (".txt", ".md", ".json", ".xml", ".html", ".db", ".ini", ".log")
# Where storages and systems keep thumbnails and what was deleted, besides hidden folders: Synology,
# QNAP, Windows, Linux, macOS.
SYSTEM_FOLDERS = (
    *("@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb"),
    *("$recycle.bin", "recycler", "recycled", "system volume information", "lost+found"),
    *("__macosx", "network trash folder", "temporary items"),
)
NEEDED = f"needed are CLASS/* or train/CLASS/* with {' '.join(EXTENSIONS)}"
PREPARED = "dataset_info.json"  # TFDS writes it beside the files of a data set

Image = tuple[str, str, bool | None]  # path, class, and whether it is for validation


@dataclass
class Folder:
    """The paths of the files directly in a folder, in the order of their names."""

    images: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)  # what may be an image, but is not read


def scan(root: str, left_out: Sequence[str] = ()) -> dict[Parts, Folder]:
    """Return what is in a folder and in all below it.

    Hidden folders, those of systems and those in `left_out` are passed over; the order is that of
    names. Raises Refusal that names all folders that cannot be read, and links to none.
    """
    folders, errors, dead_links = {}, [], []
    absent = set(map(os.path.realpath, left_out))
    for path, names, files in os.walk(root, onerror=errors.append, followlinks=True):
        # A link to a folder around it would never end.
        skipped = absent.union(map(os.path.realpath, [path, *Path(path).parents]))
        for found in (names, files):
            found[:] = sorted(filter(_is_visible, found), key=os.fsencode)
        names[:] = [n for n in names if os.path.realpath(os.path.join(path, n)) not in skipped]
        folder = folders[Path(path).relative_to(root).parts] = Folder()
        for file in (os.path.join(path, name) for name in files):
            ending = _ending(file)
            if ending in EXTENSIONS:
                folder.images.append(file)
            elif ending in TABLES:
                folder.tables.append(file)
            elif ending not in NOT_IMAGES:
                is_dead = os.path.islink(file) and not os.path.exists(file)
                (dead_links if is_dead else folder.others).append(file)
    problems = [f"{one_line(e.filename)} cannot be read: {e.strerror}" for e in errors]
    for link in dead_links:
        target = f"{one_line(os.readlink(link))}, which does not exist; mount it or remove the link"
        problems.append(f"{one_line(link)} is a link to {target}")
    if problems:
        raise Refusal(problem_list(one_line(root), problems))
    return folders


def list_folder(root: str, left_out: Sequence[str] = ()) -> Listing:
    """Return the images of CLASS/*, or of train/CLASS/* and validation/CLASS/*; raises Refusal.

    There may be folders around these. All else is noted; folders in `left_out` count as absent.
    """
    if not os.path.isdir(root):
        advice = "no such folder; --data takes digits, tfds:NAME, a folder or a table.csv"
        raise Refusal(f"{one_line(root)}: {advice}")
    folders = scan(root, left_out)
    counts = {parts: len(folder.images) for parts, folder in folders.items() if folder.images}

    def title(parts: Parts) -> str:
        return one_line(os.path.join(root, *parts))

    sides = find_sides(counts)
    inside = [parts for side in sides for parts in folders if parts and parts[:-1] == side]
    others = [path for parts in inside or folders for path in folders[parts].others]
    notes = [describe_unread(others)] if others else []
    outside = [folder for parts, folder in folders.items() if parts not in inside]
    if tables := [one_line(path) for folder in outside for path in folder.tables]:
        notes.append(f"tables are not read ({join_some(tables)}); --data FILE.csv reads one")
    if not sides:
        reasons = [explain(counts, title), *notes, _describe_prepared(root) or NEEDED]
        raise Refusal(f"{one_line(root)}: {'; '.join(reasons)}")
    notes += _describe_choice(sides, inside, counts, title)
    if empty := [title(parts) for parts in inside if not folders[parts].images]:
        notes.append(f"folders without images of their own are not classes: {join_some(empty)}")
    images = {parts: folders[parts].images for parts in inside}
    _require_distinct(images, title)
    name = os.path.basename(os.path.abspath(root))
    listed = ((path, parts[-1], sides[parts[:-1]]) for parts in images for path in images[parts])
    return list_images(name, listed, notes)


def list_images(name: str, images: Iterable[Image], notes: list[str]) -> Listing:
    """Return the listing of image files."""
    paths, labels, sides = zip(*images, strict=True)
    source, entries = FileParts([(path, 0, -1) for path in paths]), []
    contents = source.read(range(len(paths)))
    for path, label, side, encoded in zip(paths, labels, sides, contents, strict=True):
        label = printable_label(label)
        file = same_form(os.path.basename(path)).encode(errors="surrogateescape")
        key = f"{label}/".encode() + file
        entries.append(Entry(one_line(path), label, digest(encoded), side, key))
    classes = {label: label for label in sorted({entry.label for entry in entries})}
    return Listing(one_line(name), source, entries, classes, notes)


def printable_label(name: str) -> str:
    """Return the class that a name of a folder, or a cell of a table, stands for."""
    return unicodedata.normalize("NFC", one_line(name))


def describe_unread(paths: Iterable[str]) -> str:
    """Return a note that counts files that may be images but are not read."""
    kinds = Counter(one_line(_ending(path)) or "no-extension" for path in paths)
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"{counted} files are not read"


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in SYSTEM_FOLDERS


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _describe_choice(
    sides: dict[Parts, bool | None],
    inside: list[Parts],
    counts: Counts,
    title: Callable[[Parts], str],
) -> list[str]:
    """Return a note on which folders are used, unless they are all and the user named them."""
    unused = [f"{counts[parts]} in {title(parts)}" for parts in counts if parts not in inside]
    if not unused and all(len(side) < 2 for side in sides):
        return []
    used = f"images are taken from the class folders in {' and '.join(map(title, sides))}"
    return [f"{used}; not in them, so not used: {join_some(unused)}" if unused else used]


def _require_distinct(inside: Iterable[Parts], title: Callable[[Parts], str]) -> None:
    """Raise Refusal where several folders would become one class."""
    folders = defaultdict(list)
    for parts in inside:
        folders[printable_label(parts[-1])].append(parts)
    for label, same in folders.items():
        names = {same_form(parts[-1]) for parts in same}
        if len(names) > 1 or len({parts[:-1] for parts in same}) < len(same):
            listed = ", ".join(ascii(title(parts)) for parts in same)
            raise Refusal(f"folders {listed} would be one class, {label}; rename or merge them")


def _describe_prepared(root: str) -> str | None:
    """Return how to use data sets that TFDS prepared: DATA_DIR/NAME[/CONFIG]/VERSION or above."""
    data_dirs = {}
    patterns = ("*/" * depth + PREPARED for depth in range(4))
    for path in (path for pattern in patterns for path in Path(root).absolute().glob(pattern)):
        try:
            name = json.loads(path.read_text(encoding="utf-8"))["name"]
        except (OSError, ValueError, TypeError, KeyError):
            continue
        for parent in path.parents:
            if parent.name == name:
                data_dirs[name] = parent.parent
    if not data_dirs:
        return None
    names = " or ".join(f"--data tfds:{name}" for name in sorted(data_dirs))
    place = f"with TFDS_DATA_DIR={next(iter(data_dirs.values()))}"
    return one_line(f"it was prepared by TFDS; give {names} {place}")
