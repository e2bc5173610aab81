"""From an instruction of a compiled program to the line of code that it is from."""

import pathlib
import re

from cvmae.planning.hlo import Instruction

PACKAGE = str(pathlib.Path(__file__).parent.parent)


class Lines:
    """The tables at the head of a program's text: files, places in them, and call stacks."""

    def __init__(self, text: str):
        head = text.split("\n%", 1)[0].split("\nENTRY", 1)[0]
        self.files = {int(n): name for n, name in re.findall(r'^(\d+) "([^"]*)"$', _table(head, "FileNames"), re.M)}
        places = re.findall(r"^(\d+) \{file_name_id=(\d+) .*?line=(\d+)", _table(head, "FileLocations"), re.M)
        self.places = {int(n): (self.files.get(int(file), ""), int(line)) for n, file, line in places}
        frames = re.findall(r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?", _table(head, "StackFrames"), re.M)
        self.frames = {int(n): (int(place), int(parent or 0)) for n, place, parent in frames}

    def of(self, instruction: Instruction) -> str:
        """`cvmae/models/vit.py:104`: of the innermost function of this package, or else of all; '' where nobody says."""
        frame = re.search(r"stack_frame_id=(\d+)", instruction.rest)
        stack = self._stack(int(frame[1])) if frame else re.findall(r'source_file="([^"]*)" source_line=(\d+)', instruction.rest)
        if not stack:
            return ""
        file, line = next((place for place in stack if place[0].startswith(PACKAGE)), stack[0])
        return f"{short(file)}:{line}"

    def _stack(self, frame: int) -> list[tuple[str, int]]:
        found, seen = [], set()
        while frame in self.frames and frame not in seen:
            seen.add(frame)
            place, frame = self.frames[frame]
            found.append(self.places.get(place, ("", 0)))
        return found


def short(file: str) -> str:
    """A file of this or another package by its path from the package on."""
    if file.startswith(PACKAGE):
        return pathlib.Path("cvmae", pathlib.Path(file).relative_to(PACKAGE)).as_posix()
    return file.rpartition("/site-packages/")[2]


def _table(head: str, name: str) -> str:
    found = re.search(rf"^{name}\n(.*?)(?:\n\n|\Z)", head, re.S | re.M)
    return found[1] if found else ""
