"""A table of images, as on Kaggle: a column of files, one of labels, perhaps one of splits."""

import csv
import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from runtime.messages import Refusal, join_some, one_line, problem_list
from sources.folders import TABLES, Image, list_images, scan
from sources.layout import same_form, split_of
from sources.source import Listing

# Usual names of columns in small letters, without what is not a letter; the first ones win.
FILES = ("path", "filepath", "imagepath", "file", "filename", "image", "imagename", "imageid", "id")
LABELS = ("label", "labels", "class", "classname", "classid", "category", "target", "dx")
SPLITS = ("split", "set", "fold")
WAY_ON = "name them with --columns FILE,LABEL[,SPLIT]"


@dataclass(frozen=True)
class Table:
    """The content of a table."""

    title: str  # its path, for messages
    columns: list[str]
    lines: list[int]  # the number of each row's line, for messages
    rows: list[dict[str, str]]  # {column: cell}

    def cells(self, column: str) -> list[str]:
        """Return a column."""
        return [row[column] for row in self.rows]

    def select(self, chosen: Sequence[bool]) -> "Table":
        """Return a table of some of the rows."""
        lines, rows = (list(itertools.compress(each, chosen)) for each in (self.lines, self.rows))
        return replace(self, lines=lines, rows=rows)

    def refuse(self, problems: Sequence[str], advice: str = "") -> None:
        """Raise Refusal if there are problems."""
        if problems:
            raise Refusal(problem_list(self.title, problems, advice=advice))


def is_table(source: str) -> bool:
    """Whether --data names a table and not a folder."""
    return source.lower().endswith(TABLES) and not os.path.isdir(source)


def list_table(path: str, columns: str | None = None, left_out: Sequence[str] = ()) -> Listing:
    """Return the images that a table lists; raises Refusal.

    `columns` names those of files, labels and, if there is one, splits. Images, order and sides
    are those of class folders with the same names and the same split.
    """
    table, notes = _read_table(path), []
    file, label, split = _choose_columns(table, columns, notes)
    sides = {} if split is None else _choose_sides(table, split, notes)
    table = table.select([split is None or row[split] in sides for row in table.rows])
    labels = _read_one_hot(table, {file, split}) if label is None else table.cells(label)
    paths = _find_files(table, os.path.dirname(path), table.cells(file), left_out)
    splits = [None if split is None else sides[row[split]] for row in table.rows]
    images = _merge_lines(table, list(zip(paths, labels, splits, strict=True)))
    if len(images) < len(paths):
        notes.append(f"{len(paths) - len(images)} lines of {table.title} repeat an image")
    return list_images(os.path.splitext(os.path.basename(path))[0], images, notes)


def _merge_lines(table: Table, images: list[Image]) -> list[Image]:
    """Return each image once, in the order of class folders: by side, class and name."""
    seen, problems = {}, []
    for line, (path, *image) in zip(table.lines, images, strict=True):
        if not image[0]:
            problems.append(f"line {line} has no label")
        elif seen.setdefault(path, image) != image:
            problems.append(f"line {line}: {one_line(path)} has another label or split before")
    table.refuse(problems)

    def order(image: Image) -> tuple:
        path, label, side = image
        return bool(side), *map(os.fsencode, (label, os.path.basename(path), path))

    return sorted(set(images), key=order)


def _read_table(path: str) -> Table:
    title = one_line(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise Refusal(f"{title} is not a regular file")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
            cells = [(reader.line_num, list(map(_as_name, line))) for line in reader]
    except OSError as error:
        raise Refusal(f"{title}: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise Refusal(f"{title} is not a table in UTF-8: {error}") from None
    filled = [(line, cells) for line, cells in cells if any(cells)]
    if len(filled) < 2:
        raise Refusal(f"{title} has no lines below the names of its columns")
    (_, columns), *filled = filled
    lines, rows = zip(*filled, strict=True)
    if alike := [name for name, count in Counter(columns).items() if name and count > 1]:
        raise Refusal(f"{title} has several columns named {one_line(', '.join(alike))}")
    named = [dict(zip(columns, cells, strict=False)) for cells in rows]
    table = Table(title, columns, list(lines), named)
    wrong = [f"line {n} has {len(row)} cells" for n, row in filled if len(row) != len(columns)]
    table.refuse(wrong, f"; the first line has {len(columns)}")
    return table


def _as_name(cell: str) -> str:
    """Return a cell as Python gives names of files, which depends on the locale."""
    return os.fsdecode(cell.strip().encode())


def _choose_columns(
    table: Table, named: str | None, notes: list[str]
) -> tuple[str, str | None, str | None]:
    """Return the columns of files, labels and splits; that of labels is None if there are several.

    They are those that the user named; else those with usual names, with a note.
    """
    has = f"it has the columns {one_line(', '.join(table.columns))}"
    if named is not None:
        given = next(csv.reader([named]), [])
        if not 2 <= len(given) <= 3 or not set(given) <= set(table.columns):
            needed = f"--columns {one_line(named)} must be FILE,LABEL[,SPLIT]"
            raise Refusal(f"{table.title}: {needed}; {has}")
        return (*given, None)[:3]
    words = {re.sub(r"[\W\d_]", "", column.lower()): column for column in reversed(table.columns)}
    file, label, split = (
        next((words[name] for name in usual if name in words), None)
        for usual in (FILES, LABELS, SPLITS)
    )
    if file is None:
        raise Refusal(f"{table.title}: {has}, none of which is known to name files; {WAY_ON}")
    taken = [f"files are in the column {one_line(file)}"]
    taken.append("labels are one-hot" if label is None else f"labels in {one_line(label)}")
    taken += [f"splits in {one_line(split)}"] if split else []
    notes.append(f"of {table.title}, {', '.join(taken)}")
    return file, label, split


def _read_one_hot(table: Table, others: set[str | None]) -> list[str]:
    """Return the column that is 1 in each row, of those that hold only 0 and 1; raises Refusal."""
    ones = {"1", "1.0"}
    rest = [column for column in table.columns if column not in others]
    classes = [column for column in rest if {*table.cells(column)} <= ones | {"0", "0.0"}]
    if len(classes) < 2:
        has = f"it has the columns {one_line(', '.join(table.columns))}"
        raise Refusal(f"{table.title}: {has}, none of which is known to hold labels; {WAY_ON}")
    found = [[column for column in classes if row[column] in ones] for row in table.rows]
    wrong = [
        f"line {line} has {len(labels)} classes"
        for line, labels in zip(table.lines, found, strict=True)
        if len(labels) != 1
    ]
    columns = one_line(join_some(classes))
    table.refuse(wrong, f"; the columns {columns} are one-hot, and one must be 1 in each line")
    return [label for (label,) in found]


def _choose_sides(table: Table, split: str, notes: list[str]) -> dict[str, bool | None]:
    """Return {cell of the column of splits: side}, without what is not used, which is noted."""
    counts = Counter(table.cells(split))
    kinds = {cell: split_of(cell) for cell in sorted(counts)}
    present = set(kinds.values())
    if None in present or "train" not in present:
        found = f"its column {one_line(split)} holds {one_line(join_some(list(kinds)))}"
        needed = "needed are train, and validation or test; without it --columns FILE,LABEL"
        raise Refusal(f"{table.title}: {found}; {needed}")
    held_out = next((kind for kind in ("validation", "test") if kind in present), None)
    sides = {"train": False if held_out else None, held_out: True}
    unused = [f"{counts[cell]} {one_line(cell)}" for cell in kinds if kinds[cell] not in sides]
    if unused:
        notes.append(f"lines of {table.title} that are not used: {join_some(unused)}")
    return {cell: sides[kind] for cell, kind in kinds.items() if kind in sides}


def _find_files(table: Table, folder: str, names: list[str], left_out: Sequence[str]) -> list[str]:
    """Return the path of each file that a table names; raises Refusal.

    A name is relative to the table or to one folder below it, with its ending or without.
    """
    images = _index_images(folder, left_out)
    found = [_match(folder, name.replace("\\", "/"), images) for name in names]
    base = _choose_base(table, found)
    problems, paths = [], []
    for line, name, matches in zip(table.lines, names, found, strict=True):
        groups = list(matches.values()) if base is None else [matches[base]]
        places = [path for group in groups for path in group]
        if len(places) == 1:
            paths += places
        elif places:
            several = " or ".join(map(one_line, places))
            advice = "move the table into the folder of its images"
            problems.append(f"line {line}: {one_line(name)} may be {several}; {advice}")
        else:
            reason = f"no image {one_line(name)} is beside or below the table"
            problems.append(f"line {line}: {reason if name else 'it names no file'}")
    table.refuse(problems)
    return paths


def _choose_base(table: Table, found: list[dict[str, list[str]]]) -> str | None:
    """Return the folder that is meant where several hold files of the same names; None: no one.

    It holds all that the table names, and is of the same split: of train.csv in train/ and not in
    test/.
    """
    counts = Counter(base for matches in found for base in matches)
    whole = [base for base in counts if counts[base] == len(found)]
    split = split_of(os.path.basename(table.title))
    alike = [base for base in whole if split_of(base) == split]
    if "" in whole:
        return ""
    return next((bases[0] for bases in (alike, whole) if len(bases) == 1), None)


def _index_images(folder: str, left_out: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return {last part of a name: [(name, path)]}; names are with their ending and without."""
    index = defaultdict(list)
    for below in scan(folder or os.curdir, left_out).values():
        for path in map(os.path.normpath, below.images):
            name = same_form(os.path.relpath(path, folder or os.curdir).replace(os.sep, "/"))
            for form in (name, os.path.splitext(name)[0]):
                index[os.path.basename(form)].append((form, path))
    return index


def _match(
    folder: str, name: str, images: dict[str, list[tuple[str, str]]]
) -> dict[str, list[str]]:
    """Return {folder below the table: paths} of the images that a name may mean."""
    exact = os.path.normpath(os.path.join(folder, name))
    if os.path.isfile(exact):
        return {"": [exact]}
    name, found = same_form(name), defaultdict(list)
    for form, path in images.get(os.path.basename(name), ()):
        if f"/{form}".endswith(f"/{name}"):
            found[form.removesuffix(name)].append(path)
    return found
