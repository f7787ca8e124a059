"""What is wrong with a dataset, item by item."""

from dataclasses import dataclass

SHOWN_FAULTS = 20


@dataclass(frozen=True)
class Fault:
    """One faulty item of a dataset.

    Args:
        kind: str, a short name to count by, such as `"missing file"` or `"bad box"`.
        message: str, what is wrong, what was found and what is accepted.
        file: str or `None`, the picture or json that it concerns.
        image_id: int or `None`.
        annotation_id: int or `None`.
    """

    kind: str
    message: str
    file: str | None = None
    image_id: int | None = None
    annotation_id: int | None = None

    def __str__(self):
        places = {
            "file": self.file,
            "image id": self.image_id,
            "annotation id": self.annotation_id,
        }
        where = ", ".join(f"{name} {value}" for name, value in places.items() if value is not None)
        return f"{self.kind}: {self.message}" + (f" ({where})" if where else "")


class DatasetError(ValueError):
    """A dataset, or one of its pictures, that cannot be used as it is.

    The message lists the first 20 faults and how many there are in all.

    Args:
        faults: iterable of `Fault`, kept in `.faults` as a tuple.
        hint: str, a last line that says what to do.
    """

    def __init__(self, faults, hint=""):
        self.faults = tuple(faults)
        lines = [f"  {fault}" for fault in self.faults[:SHOWN_FAULTS]]
        if len(self.faults) > SHOWN_FAULTS:
            lines.append(f"  ... and {len(self.faults) - SHOWN_FAULTS} more")
        total = f"{len(self.faults)} fault" + ("s" if len(self.faults) != 1 else "")
        super().__init__("\n".join([f"{total} in the dataset:", *lines, *([hint] if hint else [])]))


class Rejected(ValueError):
    """Raised where an item is read, turned into a `Fault` where its ids are known.

    Args:
        kind: str, as in `Fault`.
        message: str, as in `Fault`.
    """

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind
