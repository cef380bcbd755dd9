"""Which folders are the classes: one rule, and a sentence for each layout that it refuses.

A folder of class folders is chosen only if no folder beside it, or beside a folder around it, holds
images; beside training images may be other splits. All of this follows from how many images lie
directly in which folder.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from runtime.messages import join_some

Parts = tuple[str, ...]  # the names of folders on the way from a root to one below it
Counts = dict[Parts, int]  # {folder: images directly in it}, without empty folders
Groups = dict[Parts, Counter[str]]  # {folder of class folders: {class: images}}, the fullest first

# What archives and labelling tools call a split, with a prefix, number or ending or without:
# seg_train, train2017, TestImages.
SPLITS = {
    "train": "train|training",
    "validation": "validation|validate|valid|val|dev|eval|evaluation|holdout",
    "test": "test|testing|pred|predict|predictions?|unlabell?ed",
}
SPLIT = r"(?<![a-z])({})(set|data|images)?(?![a-z])"
FILLERS = r"set|data|images?|photos?|\d|[^a-z]"  # what tells nothing beside the word for a split
IMAGES = re.compile(r"(jpe?g)?(images?|imgs?|photos?|originals?)")
MASKS = re.compile(r".*masks?|labels?|annotations?|segmentations?|ground.?truths?|gts?")
PARTS = re.compile(
    r"(?<![a-z])(part|batch|chunk|shard|fold|vol|volume|set|images?|archive)s?[ ._-]*\d+"
)


def find_sides(images: Counts) -> dict[Parts, bool | None]:
    """Return {folder of class folders: its side, or None without a split}; {} if none is chosen."""
    groups = _group_classes(images)
    if any(map(_have_masks, groups.values())):
        return {}
    return _find_splits(groups, images) or _find_whole(groups, images)


def explain(images: Counts, title: Callable[[Parts], str]) -> str:
    """Return why `find_sides` chose none; `title` names a folder for the user."""
    groups = _group_classes(images)
    for group, names in groups.items():
        if (len(names) > 1 or len(groups) == 1) and (reason := _explain_names(names)):
            return f"{reason}: {_join([(*group, name) for name in sorted(names)], title)}"
    sets = [group for group, names in groups.items() if len(names) > 1]
    train = next((group for group in sets if _split_place(group)[0] == "train"), None)
    if len(sets) > 1 and train is None:
        advice = "give one of them, or, if they are classes, put their images directly into them"
        return f"several folders hold class folders: {_join(sets, title)}; {advice}"
    whole = sets[0] if train is None and sets else train
    if sets and (others := _outside(whole, groups, images)):
        found = f"images lie beside the class folders in {title(whole)}: {_join(others, title)}"
        return f"{found}; give a folder without these, or put images directly into their class"
    counted = join_some([f"{count} in {title(parts)}" for parts, count in images.items()])
    if not sets and any(groups):
        return f"images lie below class folders, not directly in them: {counted}"
    return f"images are not in class folders: {counted}" if images else "no images"


def _explain_names(names: Iterable[str]) -> str | None:
    """Return why folders of images with these names are not classes, or None if they may be."""
    if _have_masks(names):
        return "images and masks lie side by side, where only images of one class should"
    if _are_parts(names):
        return "names equal but for a number are parts of one archive, not classes"
    return "splits hold images, but no class folders" if _are_splits(names) else None


def split_of(name: str) -> str | None:
    """Return the split whose name a folder has."""
    return next((key for key in SPLITS if re.search(SPLIT.format(SPLITS[key]), _words(name))), None)


def same_form(name: str) -> str:
    """Return the name of a file or folder as names are compared, under every locale.

    Archives packed on a Mac write é as two characters.
    """
    return unicodedata.normalize("NFC", os.fsencode(name).decode(errors="surrogateescape"))


def _join(folders: Iterable[Parts], title: Callable[[Parts], str]) -> str:
    return join_some([title(parts) for parts in folders])


def _group_classes(images: Counts) -> Groups:
    classes = defaultdict(Counter)
    for parts in filter(None, images):
        classes[parts[:-1]][same_form(parts[-1])] += images[parts]
    fullest_first = sorted(classes, key=lambda group: (-classes[group].total(), len(group)))
    return {group: classes[group] for group in fullest_first}


def _find_splits(groups: Groups, images: Counts) -> dict[Parts, bool | None]:
    """Return the class folders for training and for validation, as far as there are any."""
    train = next((group for group in groups if _split_place(group)[0] == "train"), None)
    if train is None or _outside(train, groups, images):
        return {}
    around = _split_place(train)[1]
    # A class named train has its images directly in it.
    if groups[train].total() <= images.get(train[: len(around) + 1], 0):
        return {}
    for wanted in ("validation", "test"):
        for group, names in groups.items():
            if _split_place(group) == (wanted, around) and names.keys() & groups[train].keys():
                return {train: False, group: True}
    return {train: None}


def _find_whole(groups: Groups, images: Counts) -> dict[Parts, bool | None]:
    """Return the class folders of images without a split, if they hold most of the images."""
    for group, names in groups.items():
        is_most = 2 * names.total() > sum(images.values())
        if is_most and not (_are_parts(names) or _are_splits(names)):
            return {} if _outside(group, groups, images) else {group: None}
    return {}


def _outside(group: Parts, groups: Groups, images: Counts) -> list[Parts]:
    """Return the folders of images beside class folders, or beside folders around them.

    Images in folders below a class are not beside it; nor are those in other splits.
    """
    return [parts for parts in images if _is_outside(parts, group, groups[group])]


def _is_outside(parts: Parts, group: Parts, classes: Counter[str]) -> bool:
    pairs = zip(parts, group, strict=False)
    depth = next((depth for depth, (one, other) in enumerate(pairs) if one != other), None)
    if depth is None:  # one is in the other
        return len(parts) > len(group) and same_form(parts[len(group)]) not in classes
    # Only training images may have other splits beside them.
    return split_of(group[depth]) != "train" or split_of(parts[depth]) in (None, "train")


def _split_place(group: Parts) -> tuple[str | None, Parts]:
    """Return the split that a folder belongs to, and the folder that the splits are in."""
    named = [depth for depth, name in enumerate(group) if split_of(name)]
    return (split_of(group[named[-1]]), group[: named[0]]) if named else (None, group)


def _have_masks(names: Iterable[str]) -> bool:
    """Whether these are folders of images, and of drawings that tell what is where in them."""
    words = [name.lower() for name in names]
    return any(map(IMAGES.fullmatch, words)) and any(map(MASKS.fullmatch, words))


def _are_parts(names: Iterable[str]) -> bool:
    """Whether several folders are parts of an archive, as HAM_images_part_1; class3 is not."""
    words = [name.lower() for name in names]
    same = {re.sub(r"\d+", "", word) for word in words}
    return len(words) > 1 and len(same) == 1 and all(map(PARTS.search, words))


def _are_splits(names: Iterable[str]) -> bool:
    """Whether these are splits and not classes.

    Classes that are named by a split's word have other words, by which they differ: test_positive
    and test_negative, train_station and test_tube.
    """
    splits = defaultdict(set)  # {other words: splits}
    for name in names:
        words, split = _words(name), split_of(name)
        if split is None:
            return False
        splits[re.sub(f"{SPLIT.format(SPLITS[split])}|{FILLERS}", "", words)].add(split)
    return "" in splits or any(len(same) > 1 for same in splits.values())


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
