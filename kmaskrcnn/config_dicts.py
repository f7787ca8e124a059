"""Frozen dataclasses to and from dictionaries, with errors that name the key."""

import dataclasses
import typing

from kmaskrcnn.config_checks import ConfigError, holds_floats, nearest


def to_dict(config) -> dict:
    """Turn a configuration into plain dictionaries, lists and numbers."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(dataclasses.asdict(config))


def from_dict(cls: type, values: dict, where: str = ""):
    """Build the configuration `cls` from a dictionary; keys that are left out keep their defaults.

    Args:
        cls: `Recipe` or one of its parts.
        values: the dictionary, as `to_dict` gives or YAML reads.
        where: the dotted path of `cls` within the file, for error messages.

    Raises:
        ConfigError: on a key that `cls` does not have, or a value of the wrong type or range.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where or 'configuration'}: expected keys and values, got {values!r}")
    fields = typing.get_type_hints(cls)
    read = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in fields:
            raise ConfigError(f"unknown key {path!r}{nearest(str(key), fields)}")
        if dataclasses.is_dataclass(fields[key]):
            value = from_dict(fields[key], value, path)
        read[key] = _tuples(_numbers(value) if holds_floats(fields[key]) else value)
    return cls(**read)


def _numbers(value):
    """A number, or those of lists: YAML takes `1e-4`, which lacks a dot, for text."""
    if isinstance(value, list):
        return [_numbers(entry) for entry in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _tuples(value):
    """Lists, of lists too, as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def full_key(key: str, values: dict) -> str:
    """Complete `epochs` to `training.epochs`."""
    known = [f"{part}.{name}" for part, names in values.items() for name in names]
    matches = [path for path in known if key in (path, path.partition(".")[2])]
    if len(matches) != 1:
        hint = f"; it could be {' or '.join(matches)}" if matches else nearest(key, known)
        raise ConfigError(f"unknown key {key!r}{hint}")
    return matches[0]
